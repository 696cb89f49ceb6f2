"""The divergences and bounds on log p(x) of models with a Gaussian posterior, in nats."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from manifold.training.likelihoods import DecoderLikelihood
from manifold.training.networks.layers import per_item

ROWS = 10_000  # number of draws, over all items, that are decoded at once, so that memory is bounded
ACTIVE = 0.01  # variance of a unit's posterior mean over the data above which it is active


class Draws(Protocol):
    """Draws from posteriors (families.vae.Draws)."""

    @property
    def z(self) -> Tensor: ...

    @property
    def log_ratio(self) -> Tensor: ...


class Autoencoder(Protocol):
    """A model with q(z | x, c) and p(x | z, c). The condition c is optional."""

    @property
    def likelihood(self) -> DecoderLikelihood: ...

    @property
    def noise_size(self) -> int: ...

    def draws(self, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Draws: ...

    def encode(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]: ...

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor: ...


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, diag exp(log_variance)) || N(0, I)) of each dimension: ½ (σ² + μ² - 1 - log σ²)."""
    return 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance)


def active_units(mean: Tensor) -> int:
    """Return the number of dimensions whose posterior mean (N, L) has a variance above ACTIVE (Burda et al., 2016, arXiv 1509.00519, section 5.1)."""
    return int((mean.var(0) > ACTIVE).sum())


def iwae(model: Autoencoder, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the log of the mean of k importance weights, (B,), for noise (k, B, N). It is a lower bound on log p(x) that tightens with k."""
    return _weights(model, x, noise, c).logsumexp(0) - math.log(noise.shape[0])


def iwae_in_parts(model: Autoencoder, x: Tensor, noise: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the same bound with at most ROWS draws in memory at once. Graphs use `iwae`, as their batch size is not known."""
    parts = torch.split(noise, max(1, ROWS // x.shape[0]))
    return torch.cat([_weights(model, x, part, c) for part in parts]).logsumexp(0) - math.log(noise.shape[0])


def _weights(model: Autoencoder, x: Tensor, noise: Tensor, c: Tensor | None) -> Tensor:
    """Return the logs of the importance weights, (k, B)."""
    draws, k = model.draws(x, noise, c), noise.shape[0]
    nats = per_item(model.likelihood.nll(model.decode(draws.z, repeated(c, k)), x.repeat(k, 1))).view(k, -1)
    return draws.log_ratio - nats


def drawn(model: Autoencoder, x: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
    """Return the parameters of p(x | z) for one draw z from q(z | x) of each item x (B, D)."""
    noise = torch.randn((1, len(x), model.noise_size), generator=generator, device=x.device)
    return model.decode(model.draws(x, noise, c).z, c)


def fixed_draws(count: int, size: int, seed: int) -> Tensor:
    """Return `count` draws from N(0, I) that are fixed in an artifact, (count, 1, size), in pairs z and -z.

    As all items share them, their error does not average out over items. They are therefore scaled so that each dimension has mean 0 and
    variance 1 exactly (moment matching). An odd count gets one more draw without its pair, and is not matched.
    """
    half = torch.randn(((count + 1) // 2, 1, size), generator=torch.Generator().manual_seed(seed))
    if count % 2:
        return torch.cat([half, -half])[:count]
    matched = half / half.square().mean(0).sqrt()
    return torch.cat([matched, -matched])


def repeated(c: Tensor | None, times: int) -> Tensor | None:
    """Repeat the condition (B, C) for several draws: (times B, C)."""
    return None if c is None else c.repeat(times, 1)
