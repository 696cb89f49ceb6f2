"""The variational bound of a diffusion model on the likelihood of images, from its artifact.

A chain of Gaussian steps z_k = a_k x + s_k e, k = 1 to T with growing noise, gives (Ho et al., 2020, arXiv 2006.11239; in this form
Kingma et al., 2021, arXiv 2107.00630)

    -log p(x) <= KL(q(z_T | x) || p(z_T)) + sum over k = 2..T of 1/2 (SNR_{k-1} - SNR_k) E |x - x̂(z_k)|² + E[-log p(x | z_1)],

with SNR = a² / s² and the network's prediction x̂ of the image. Flow matching has such a chain too, as its path mixes x and Gaussian noise. The
steps of the sum are drawn at random, so the result is an unbiased estimate of the bound, with a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from manifold.runtime.engine import Model
from manifold.runtime.manifest import Manifest
from manifold.runtime.schedules import STEPS, Objective, Schedule, signal

Array = NDArray[np.float64]
Predict = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]  # (B, ...), times (B,) to (B, ...)

# log SNR of the first and last step of the chain of flow matching; ddpm's linear chain goes from 9.2 to -10.1
FIRST, LAST = 9.2, -10.0


@dataclass(frozen=True)
class Chain:
    """The steps k = 1 to T of a chain: the times that the network sees, and the shares of data and noise."""

    objective: Objective
    time: Array  # (T,)
    data: Array  # (T,) a_k
    noise: Array  # (T,) s_k

    @property
    def snr(self) -> Array:
        """The signal-to-noise ratios (T,), decreasing."""
        return (self.data / self.noise) ** 2

    def restored(self, noisy: Array, predicted: Array, step: NDArray[np.int64]) -> Array:
        """Return the images x̂ in [-1, 1] that predictions (B, ...) at steps (B,) mean. Steps count from 0."""
        one = (-1, *[1] * (noisy.ndim - 1))
        a, s = self.data[step].reshape(one), self.noise[step].reshape(one)
        x = noisy + s * predicted if self.objective == "flow" else (noisy - s * predicted) / a
        return np.clip(x, -1, 1)


def chain_of(objective: Objective, schedule: Schedule, steps: int = STEPS) -> Chain:
    """Return the chain of a path: of ddpm the 1000 steps of its training, of flow matching `steps` with equal distances of log SNR."""
    if objective == "ddpm":
        a2 = signal(schedule)[1:]
        return Chain(objective, np.arange(1, len(a2) + 1) / STEPS, np.sqrt(a2), np.sqrt(1 - a2))
    t = 1 / (1 + np.exp(-np.linspace(FIRST, LAST, steps) / 2))
    return Chain(objective, t, t, 1 - t)


def bound(
    predict: Predict, images: NDArray[np.float32], levels: int, chain: Chain, generator: np.random.Generator, draws: int | None = 20
) -> Array:  # fmt: skip
    """Return unbiased estimates of the bound on -log p(x) in nats, (n,), for images (n, ...) in [0, 1] at `levels` levels.

    `draws` steps of the sum are drawn for each image, stratified, with independent noise; all of them if it is None.
    """
    x = 2 * images.astype(np.float64) - 1
    total = prior(x, chain) + decoding(x, levels, chain, generator)
    count = len(chain.time) - 1
    weights = 0.5 * (chain.snr[:-1] - chain.snr[1:])
    for k in range(count if draws is None else draws):
        if draws is None:
            step = np.full(len(x), k + 1)
        else:
            step = 1 + ((k + generator.random(len(x))) * count / draws).astype(np.int64)
        noisy = _noisy(x, chain, step, generator)
        predicted = predict(noisy.astype(np.float32), chain.time[step].astype(np.float32)).astype(np.float64)
        errors = ((x - chain.restored(noisy, predicted, step)) ** 2).reshape(len(x), -1).sum(axis=1)
        total += weights[step - 1] * errors * (1.0 if draws is None else count / draws)
    return total


def prior(x: Array, chain: Chain) -> Array:
    """Return KL(q(z_T | x) || N(0, (a_T² + s_T²) I)) in nats, (n,)."""
    a, s = chain.data[-1], chain.noise[-1]
    wide, size = a**2 + s**2, math.prod(x.shape[1:])
    squares = (x**2).reshape(len(x), -1).sum(axis=1)
    divergence: Array = 0.5 * (size * (s**2 / wide - 1 - math.log(s**2 / wide)) + a**2 * squares / wide)
    return divergence


def decoding(x: Array, levels: int, chain: Chain, generator: np.random.Generator) -> Array:
    """Return -log p(x | z_1) in nats, (n,), for one draw of z_1: each value has probabilities of its levels proportional to N(z_1; a_1 x, s_1²)."""
    noisy = _noisy(x, chain, np.zeros(len(x), np.int64), generator)
    known = np.linspace(-1, 1, levels)
    total = np.zeros(len(x))
    for place in range(len(x)):  # one at a time, as there are `levels` numbers for each value
        logits = -0.5 * ((noisy[place].reshape(-1, 1) - chain.data[0] * known) / chain.noise[0]) ** 2
        own = np.rint((x[place].ravel() + 1) / 2 * (levels - 1)).astype(np.int64)
        total[place] = (logsumexp(logits, axis=1) - np.take_along_axis(logits, own[:, None], axis=1)[:, 0]).sum()
    return total


def _noisy(x: Array, chain: Chain, step: NDArray[np.int64], generator: np.random.Generator) -> Array:
    one = (-1, *[1] * (x.ndim - 1))
    return chain.data[step].reshape(one) * x + chain.noise[step].reshape(one) * generator.standard_normal(x.shape)


def has_chain(manifest: Manifest) -> bool:
    """Return whether a model has a path from noise to data, and its network as a task."""
    return manifest.path is not None and "denoise" in manifest.tasks


def chain_of_model(manifest: Manifest) -> Chain:
    """Return the chain of a model that has one."""
    assert manifest.path is not None
    return chain_of(manifest.path.objective, manifest.path.schedule)


def predictions(model: Model) -> Predict:
    """Return the network of a model, without a class."""
    spec = model.manifest.tasks["denoise"]

    def predict(noisy: NDArray[np.float32], time: NDArray[np.float32]) -> NDArray[np.float32]:
        conditions = {
            tensor.role: np.zeros((len(noisy), *tensor.shape), np.float32)
            for tensor in spec.inputs
            if tensor.source == "condition"
        }
        made: NDArray[np.float32] = model.run("denoise", {"noisy": noisy, "time": time, **conditions})["prediction"]
        return made

    return predict
