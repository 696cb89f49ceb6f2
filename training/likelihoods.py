"""The likelihoods p(x | parameters). Each one defines its width, its nll, its mean and its sample in one place.

All figures are in nats. `nll` returns one value for each pixel or column: callers sum them over an item, and use the single values in
explanations. Shapes: parameters (B, width), x (B, D). Noise for sampling is always an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime.errors import shown
from manifold.runtime.kinds import DataSpec
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import InputSpec, Source
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data import Part
from manifold.training.data.parts import batches
from manifold.training.errors import TrainingError

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
LEAST_LOG_SCALE = -7.0  # smallest log scale of the logistic: a quarter of one of 256 levels
COUNTED = 5000  # number of training rows that are counted at a time


class DecoderLikelihood(Protocol):
    """The interface of a likelihood p(x | parameters). A decoder computes the parameters."""

    width: int  # number of parameters per item
    noise: tuple[InputSpec, ...]  # the noise arguments of `sample`, in order
    levels: int  # number of levels of a value that have a probability; 0 for a density

    @property
    def unseen(self) -> Unseen | None:
        """Return the module that finds values which did not occur in training; None if every value is possible."""
        ...

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the items x (B, D) in [0, 1] in the form used for training: binarised at random, or unchanged."""
        ...

    def settle(self, x: Tensor) -> Tensor:
        """Return the items x in the form used in graphs, without random numbers: binarised at 1/2, or unchanged."""
        ...

    def evidence(self, x: Tensor) -> Tensor:
        """Return the encoder's input for x: x itself, or x without values that contain no information."""
        ...

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p in nats for each pixel or column, (B, pixels or columns)."""
        ...

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the nats for a score, (B, pixels or columns): -log p, where an unseen value costs at least as much as any seen one."""
        ...

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return unnormalised log-probabilities of all levels of each value, (B, levels, D). Only a likelihood with levels has them.

        x (B, D) is read if the distribution of a value depends on earlier values of its pixel.
        """
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x], (B, D)."""
        ...

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        """Return x (B, D), drawn with the given noise."""
        ...


class _Pixels(nn.Module):
    """The common base of likelihoods of pixels. Every value is possible, and the encoder receives all pixels."""

    unseen: Unseen | None = None
    levels = 0

    def evidence(self, x: Tensor) -> Tensor:
        return x

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError("a density has no levels")

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.nll(parameters, x)


class Bernoulli(_Pixels):
    """The likelihood of binary pixels. Grey pixels are binarised first, as the cross-entropy of grey values is not a likelihood."""

    noise: tuple[InputSpec, ...] = ()
    levels = 2

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.width = dimensions

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.rand(x.shape, generator=generator, device=x.device) < x).to(x.dtype)

    def settle(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return softplus(parameters) - parameters * x

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(parameters), parameters], 1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)  # images show probabilities, as drawn binary pixels would only look noisy


class _Continuous(_Pixels):
    """The common base of likelihoods of real-valued pixels. Samples are shown as their mean."""

    noise: tuple[InputSpec, ...] = ()
    width: int

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def settle(self, x: Tensor) -> Tensor:
        return x

    def mean(self, parameters: Tensor) -> Tensor:
        # half precision (in training) is coarser than 256 levels
        exact = torch.promote_types(parameters.dtype, torch.float32)
        return torch.sigmoid(parameters[:, : self.dimensions].to(exact))

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)

    def __init__(self, dimensions: int, width: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.width = width


class Gaussian(_Continuous):
    """A Gaussian N(x; mean, sigma²) with fixed sigma: (x - mean)² / 2σ² + ½ log 2πσ²."""

    def __init__(self, dimensions: int, sigma: float) -> None:
        super().__init__(dimensions, dimensions)
        self.sigma = sigma

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.mean(parameters)) / self.sigma) ** 2 + math.log(self.sigma) + HALF_LOG_TWO_PI


class GaussianLearned(_Continuous):
    """A Gaussian N(x; mean, σ²) with σ = floor + softplus(s). The floor prevents an infinite density of an exactly predicted pixel."""

    def __init__(self, dimensions: int, floor: float) -> None:
        super().__init__(dimensions, 2 * dimensions)
        self.floor = floor

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        sigma = self.floor + F.softplus(parameters[:, self.dimensions :])
        return 0.5 * ((x - self.mean(parameters)) / sigma) ** 2 + sigma.log() + HALF_LOG_TWO_PI


class Laplace(_Continuous):
    """A Laplace distribution (x; mean, b) with fixed b: |x - mean| / b + log 2b."""

    def __init__(self, dimensions: int, scale: float) -> None:
        super().__init__(dimensions, dimensions)
        self.scale = scale

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return (x - self.mean(parameters)).abs() / self.scale + math.log(2 * self.scale)


class Logistic(_Continuous):
    """A discretised logistic distribution over grey or colour levels v / (K - 1) (Kingma et al., 2016, arXiv 1606.04934, eq. 14).

    It is cut halfway between levels, with open ends, so that the probabilities of all levels sum to 1. The scale is one learned parameter
    for all pixels (the "optimal" decoder of Rybkin et al., 2021, arXiv 2006.13202). -log p is that of the levels: divided by log 2 and the
    number of pixels it is bits/dim.
    """

    def __init__(self, dimensions: int, levels: int, scale: float) -> None:
        super().__init__(dimensions, dimensions)
        self.levels = levels
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.settle(x)

    def settle(self, x: Tensor) -> Tensor:
        return torch.round(x * (self.levels - 1)) / (self.levels - 1)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(self.mean(parameters), x)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        every = torch.arange(self.levels, device=x.device, dtype=x.dtype) / (self.levels - 1)
        return -self._nats(self.mean(parameters)[:, None], every[:, None])

    def _nats(self, mean: Tensor, x: Tensor) -> Tensor:
        rate, half = torch.exp(-self.log_scale.clamp(min=LEAST_LOG_SCALE)), 0.5 / (self.levels - 1)
        centred = x - mean
        upper, lower = (centred + half) * rate, (centred - half) * rate
        # σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u)); at the ends one side is open, and only the other side's factor remains
        below, above = (x < 1 - half).to(x.dtype), (x > half).to(x.dtype)
        between = -torch.log1p(-torch.exp(-2 * half * rate))
        return below * softplus(-upper) + above * softplus(lower) + below * above * between


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)). torch's own softplus is not used, as it is exported as log(1 - sigmoid), which overflows."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


class Columns(nn.Module):
    """The likelihood of a row, by column: a Gaussian with learned variance (with a floor) in scaled units, or a categorical over a one-hot block.

    A category that did not occur in training (unseen) is encoded as a block of zeros. It is not part of the softmax and costs the nats of
    `Unseen`; in a score it costs at least as much as the least likely seen category. A missing value is NaN and costs nothing: the bound is on
    log p of the present values (as in Nazabal et al., 2020, arXiv 1807.03653).

    A column with a single category (a constant column) has probability 1 for this value, which costs nothing. The encoder does not receive
    such columns, because it cannot learn from them what another value means.
    """

    levels = 0
    usual: Tensor
    varying: Tensor

    def __init__(self, spec: TableSpec, floor: float, unseen: Sequence[float]) -> None:
        """Initialise. `unseen` contains the cost of an unseen category in nats for each categorical column, in order (see `unseen_nats`)."""
        super().__init__()
        self.spec, self.floor = spec, floor
        self.unseen: Unseen | None = Unseen(spec, unseen)
        self.costs = tuple(unseen)
        usual = torch.from_numpy(spec.constants)
        self.has_constants = bool(usual.any())
        self.register_buffer("usual", usual, persistent=False)
        self.register_buffer("varying", 1 - usual, persistent=False)
        self.numeric = [column for column in spec.columns if isinstance(column, NumericColumn)]
        self.width = spec.shape[0] + len(self.numeric)  # a mean and a scale for each number
        self.runs = list(_runs(spec))
        categorical = len(spec.columns) - len(self.numeric)
        noise: list[tuple[str, Source, int]] = [
            ("noise", "normal", len(self.numeric)),
            ("uniforms", "uniform", categorical),
        ]
        self.noise: tuple[InputSpec, ...] = tuple(
            InputSpec(role=role, source=source, shape=(n,)) for role, source, n in noise if n
        )

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def settle(self, x: Tensor) -> Tensor:
        """Return the rows x. A missing value of a constant column is replaced by the constant."""
        return filled(x, torch.where(self.usual > 0, self.usual, torch.nan)) if self.has_constants else x

    def evidence(self, x: Tensor) -> Tensor:
        """Return the rows with 0 for missing values and constant columns."""
        return filled(x) * self.varying if self.has_constants else filled(x)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logits (B, D), and scales (B, numeric columns)."""
        dimensions = self.spec.shape[0]
        return parameters[:, :dimensions], self.floor + F.softplus(parameters[:, dimensions:])

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError("the likelihood of columns has no levels")

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(parameters, x, bounded=False)

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(parameters, x, bounded=True)

    def _nats(self, parameters: Tensor, x: Tensor, bounded: bool) -> Tensor:
        """Return nats (B, columns). If `bounded`, an unseen category costs at least as much as the least likely seen one."""
        values, scales = self._split(parameters)
        there, x = (x == x).to(values.dtype), filled(x)
        parts, costs = [], iter(self.costs)
        for block, numbers in self.runs:
            if numbers is not None:
                scale = scales[:, numbers]
                nats = 0.5 * ((x[:, block] - values[:, block]) / scale) ** 2 + scale.log() + HALF_LOG_TWO_PI
                parts.append(nats * there[:, block])
            else:
                known, log_p, cost = x[:, block].sum(1, keepdim=True), values[:, block].log_softmax(1), next(costs)
                unseen = (-log_p.amin(1, keepdim=True)).clamp(min=cost) if bounded else cost
                nats = -(x[:, block] * log_p).sum(1, keepdim=True) + (1 - known) * unseen
                parts.append(nats * there[:, block.start : block.start + 1])
        return torch.cat(parts, 1)

    def mean(self, parameters: Tensor) -> Tensor:
        values, _ = self._split(parameters)
        return torch.cat(
            [values[:, block] if numbers is not None else values[:, block].softmax(1) for block, numbers in self.runs],
            1,
        )

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        values, scales = self._split(parameters)
        given = dict(zip((spec.source for spec in self.noise), noise, strict=True))
        parts, category = [], 0
        for block, numbers in self.runs:
            if numbers is not None:
                parts.append(values[:, block] + scales[:, numbers] * given["normal"][:, numbers])
            else:
                chosen = pick(values[:, block].softmax(1), given["uniform"][:, category])
                parts.append(F.one_hot(chosen, block.stop - block.start).to(values.dtype))
                category += 1
        return torch.cat(parts, 1)


def _runs(spec: TableSpec) -> Iterator[tuple[slice, slice | None]]:
    """Yield the encoded columns in runs: adjacent numeric columns together, with their slice of the numeric columns; each category alone."""
    for number, group in groupby(spec.placed, lambda column: isinstance(column[0], NumericColumn)):
        blocks = [block for _, block in group]
        if number:
            before = sum(
                isinstance(column, NumericColumn) and block.stop <= blocks[0].start for column, block in spec.placed
            )
            yield slice(blocks[0].start, blocks[-1].stop), slice(before, before + len(blocks))
        else:
            yield from ((block, None) for block in blocks)


class Unseen(nn.Module):
    """The detector of unseen categories: encoded rows (B, D) to (B, C), 1 for an unseen value of a categorical column, else 0 (also if missing).

    For each column, `nats` is the cost of an unseen value (see `unseen_nats`). `squares` is the amount to add to its squared distance from a
    row with a seen value, so that it is 2, as between two seen values: 1, or 2 for a constant column, which `evidence` removes.
    """

    nats: Tensor
    squares: Tensor

    def __init__(self, spec: TableSpec, nats: Sequence[float]) -> None:
        super().__init__()
        self.blocks = [block for column, block in spec.placed if isinstance(column, CategoricalColumn)]
        squares = [2.0 if block.stop - block.start == 1 else 1.0 for block in self.blocks]
        self.register_buffer("nats", torch.tensor(list(nats), dtype=torch.float32), persistent=False)
        self.register_buffer("squares", torch.tensor(squares), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # the maximum of a block instead of the sum, as the bits of a maximum do not depend on the order
        found = [(1 - x[:, block].amax(1, keepdim=True)).clamp(min=0) for block in self.blocks]
        return filled(torch.cat(found, 1)) if found else x[:, :0]


def unseen_nats(spec: TableSpec, train: Part) -> list[float]:
    """Return the cost of an unseen value for each categorical column: log(n + K + 1) nats for n training values of K categories.

    This is Laplace's rule of succession with one more category for all unseen values. After n values this category has the probability
    1 / (n + K + 1), and a category that was seen c times has (c + 1) / (n + K + 1). An unseen value is therefore never more likely than a
    seen one. For a constant column the probability is 1 / (n + 2), as in the original rule. Missing values are not counted.
    """
    places = [(column, block.start) for column, block in spec.placed if isinstance(column, CategoricalColumn)]
    counts = torch.zeros(len(places), dtype=torch.long)
    for held in batches(train, COUNTED):
        first = torch.as_tensor(held.items)[:, [start for _, start in places]]
        counts += (first == first).sum(0)
    return [math.log(n + column.width + 1) for (column, _), n in zip(places, counts.tolist(), strict=True)]


def filled(x: Tensor, by: Tensor | None = None) -> Tensor:
    """Replace missing values (NaN) of encoded columns (B, D) by `by` (D,), by default 0, which is the mean of a number and no category."""
    return torch.where(x == x, x, torch.zeros_like(x) if by is None else by)


def pick(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Invert a CDF: return the number of cumulative sums of (B, K) that are at most u (B,), clamped; int64 (B,)."""
    below = probabilities.cumsum(1) <= uniforms[:, None]
    return below.sum(1).clamp(max=probabilities.shape[1] - 1)


NAMES = ("bernoulli", "gaussian", "gaussian-learned", "laplace", "logistic", "columns")
# the meaning of x in log p(x). If it is DISCRETE, p(x) is a probability of levels instead of a density, and bits/dim are reported
OBSERVED = {
    "bernoulli": "grey values binarised at 1/2",
    "gaussian": "values in [0, 1], a density",
    "gaussian-learned": "values in [0, 1], a density",
    "laplace": "values in [0, 1], a density",
    "logistic": "levels",
    "columns": "encoded columns, in scaled units",
}
DISCRETE = ("bernoulli", "logistic")


def build(name: str, spec: DataSpec, *, noise: float, floor: float, train: Part) -> DecoderLikelihood:
    """Return the likelihood with this name for data of `spec`. `train` is the training split."""
    if name not in NAMES:
        raise TrainingError(
            f"likelihood: unknown likelihood {shown(name)}; valid are {', '.join(NAMES)}",
            field="likelihood",
            valid=NAMES,
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
        case "logistic":
            return Logistic(dimensions, ImageSpec.of(spec, "likelihood logistic").levels, noise)
    table = TableSpec.of(spec, "likelihood columns")
    return Columns(table, floor, unseen_nats(table, train))
