"""The likelihoods p(x | parameters). Each one defines its width, its nll, its mean and its sample in one place.

All figures are in nats. `nll` returns one value for each pixel or column: callers sum them over an item, and use the single values in
explanations. Shapes: parameters (B, width), x (B, D). Noise for sampling is always an argument. Parameters of images are ordered by
parameter, then by pixel, as in the output of a convolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from manifold.runtime.errors import shown
from manifold.runtime.kinds import DataSpec
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest.figures import Form
from manifold.training.data import Arrays, Part
from manifold.training.data.parts import count, scattered
from manifold.training.errors import TrainingError
from manifold.training.likelihoods.base import DecoderLikelihood
from manifold.training.likelihoods.columns import Columns
from manifold.training.likelihoods.levels import Histogram, Logistic, LogisticByMean, LogisticLearned, LogisticMixture
from manifold.training.likelihoods.pixels import Bernoulli, Gaussian, GaussianLearned, Laplace
from manifold.training.likelihoods.unseen import Unseen, filled, pick, unseen_nats

__all__ = [
    "DISCRETE", "FITTED", "NAMES", "OBSERVED", "SEEN", "Bernoulli", "Columns", "DecoderLikelihood", "Gaussian", "GaussianLearned", "Histogram", "Laplace",
    "Logistic", "LogisticByMean", "LogisticLearned", "LogisticMixture", "Unseen", "build", "filled", "form_of", "pick", "start_at_mean",
    "unseen_nats",
]  # fmt: skip

OF_LEVELS = {
    "logistic": Logistic, "logistic-by-mean": LogisticByMean, "logistic-learned": LogisticLearned, "logistic-mixture": LogisticMixture,
    "histogram": Histogram,
}  # fmt: skip
NAMES = ("bernoulli", "gaussian", "gaussian-learned", "laplace", *OF_LEVELS, "columns")
# the meaning of x in log p(x). If it is DISCRETE, p(x) is a probability of levels instead of a density, and bits/dim are reported
OBSERVED = {
    "bernoulli": "grey values binarised at 1/2",
    "gaussian": "values in [0, 1], a density",
    "gaussian-learned": "values in [0, 1], a density",
    "laplace": "values in [0, 1], a density",
    **dict.fromkeys(OF_LEVELS, "levels"),
    "columns": "encoded columns, in scaled units",
}
FITTED = 20_000  # number of training items to which histograms are fitted
# the form of x in figures of a test split, as a protocol states it
SEEN = {
    "static": "pixels of two levels",
    "dynamic": "grey values binarised at random, one draw an item",
    "threshold": "grey values binarised at 1/2",
    "levels": "levels",
    "density": "values in [0, 1], a density",
    "columns": "encoded columns, in scaled units",
}
DISCRETE = ("bernoulli", *OF_LEVELS)


def form_of(name: str, spec: DataSpec, *, by_chance: bool) -> Form:
    """Return the form of x in the names of figures. `by_chance`: whether grey pixels are binarised at random, or at 1/2 as in graphs."""
    if name == "bernoulli":
        static = ImageSpec.of(spec, f"likelihood {name}").levels == 2
        return "static" if static else "dynamic" if by_chance else "threshold"
    return "columns" if name == "columns" else "levels" if name in OF_LEVELS else "density"


def build(
    name: str, spec: DataSpec, *, noise: float, floor: float, components: int = 5, train: Part
) -> DecoderLikelihood:
    """Return the likelihood with this name for data of `spec`. `train` is the training split."""
    if name not in NAMES:
        raise TrainingError(
            f"likelihood: unknown likelihood {shown(name)}; valid are {', '.join(spec.likelihoods)}",
            field="likelihood",
            valid=spec.likelihoods,
        )
    if name not in spec.likelihoods:
        valid = ", ".join(spec.likelihoods)
        raise TrainingError(
            f"likelihood: {name!r} cannot be used for {spec.noun}; valid are {valid}",
            field="likelihood",
            valid=spec.likelihoods,
        )
    dimensions = math.prod(spec.shape)
    match name:
        case "bernoulli":
            return Bernoulli(dimensions)
        case "gaussian":
            return Gaussian(dimensions, noise)
        case "gaussian-learned":
            return GaussianLearned(dimensions, floor)
        case "laplace":
            return Laplace(dimensions, noise)
        case "columns":
            table = TableSpec.of(spec, "likelihood columns")
            return Columns(table, floor, unseen_nats(table, train))
    image = ImageSpec.of(spec, f"likelihood {name}")
    match name:
        case "logistic-by-mean":
            return LogisticByMean(dimensions, image.levels, noise)
        case "logistic-learned":
            return LogisticLearned(dimensions, image.levels, noise)
        case "logistic-mixture":
            return LogisticMixture(dimensions, image.levels, noise, image.channels, components)
        case "histogram":
            return Histogram(dimensions, image.levels, noise)
    return Logistic(dimensions, image.levels, noise)


@torch.no_grad()
def start_at_mean(layer: Any, likelihood: DecoderLikelihood, part: Part) -> None:
    """Set the bias of a decoder's last layer so that it predicts each channel's mean over a thousand images of the split, or all of fewer.

    If most pixels are black and the decoder started at grey, all first steps would have the same direction, until the sigmoid has no gradient.
    """
    some = Arrays.of(scattered(part, count(part, 1000)))
    mean = torch.from_numpy(some.items / 255.0).float().mean((0, 2, 3)).clamp(0.01, 0.99)
    layer.bias.copy_(likelihood.bias(mean))
