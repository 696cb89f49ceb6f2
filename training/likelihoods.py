"""p(x | parameters): each likelihood owns its width, its nll, its mean and its sample together.

All figures are in nats. `nll` gives one value for every pixel or column, so that callers sum over all dimensions of an item and keep
the parts for explanations. Shapes: parameters (B, width), x (B, D). Sampling takes its noise as arguments; nothing here draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime.kinds import DataSpec
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import InputSpec, Source
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data import Part
from manifold.training.data.parts import batches
from manifold.training.errors import TrainingError

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
LEAST_LOG_SCALE = -7.0  # of the logistic: a quarter of a level of 256
COUNTED = 5000  # training rows that are counted at a time


class DecoderLikelihood(Protocol):
    """The likelihood p(x | parameters) of an item, whose parameters a decoder gives."""

    width: int  # parameters an item
    noise: tuple[InputSpec, ...]  # what `sample` takes, in order

    @property
    def unseen(self) -> Unseen | None:
        """Return what finds the values that training never saw; None if every value is possible."""
        ...

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what training sees of the item x (B, D) in [0, 1]: binarised at random, or x itself."""
        ...

    def settle(self, x: Tensor) -> Tensor:
        """Return what a graph makes of x, without chance: binarised at 1/2, or x itself."""
        ...

    def evidence(self, x: Tensor) -> Tensor:
        """Return what the encoder sees of the item: x itself, or x without what says nothing."""
        ...

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p in nats, (B, pixels or columns)."""
        ...

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the nats of a score, (B, pixels or columns): -log p, and for an unseen value no less than for any seen one."""
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x], (B, D)."""
        ...

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        """Return x drawn with the given noise, (B, D)."""
        ...


class _Pixels(nn.Module):
    """The parts that all likelihoods of pixels share: every value is possible, and the encoder sees all of them."""

    unseen: Unseen | None = None

    def evidence(self, x: Tensor) -> Tensor:
        return x

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.nll(parameters, x)


class Bernoulli(_Pixels):
    """Binary pixels. Grey pixels are binarised first: cross-entropy on grey values is not a likelihood."""

    noise: tuple[InputSpec, ...] = ()

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.width = dimensions

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.rand(x.shape, generator=generator, device=x.device) < x).to(x.dtype)

    def settle(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return softplus(parameters) - parameters * x

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)  # answers show probabilities: a picture of coin flips is of no use


class _Continuous(_Pixels):
    """Real-valued pixels; shown by their mean."""

    noise: tuple[InputSpec, ...] = ()
    width: int

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def settle(self, x: Tensor) -> Tensor:
        return x

    def mean(self, parameters: Tensor) -> Tensor:
        exact = torch.promote_types(parameters.dtype, torch.float32)  # half precision (training) is coarser than levels
        return torch.sigmoid(parameters[:, : self.dimensions].to(exact))

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)

    def __init__(self, dimensions: int, width: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.width = width


class Gaussian(_Continuous):
    """N(x; mean, sigma²) with sigma fixed: (x - mean)² / 2σ² + ½ log 2πσ²."""

    def __init__(self, dimensions: int, sigma: float) -> None:
        super().__init__(dimensions, dimensions)
        self.sigma = sigma

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.mean(parameters)) / self.sigma) ** 2 + math.log(self.sigma) + HALF_LOG_TWO_PI


class GaussianLearned(_Continuous):
    """N(x; mean, σ²) with σ = floor + softplus(s): the floor keeps a perfectly predicted pixel from an infinite density."""

    def __init__(self, dimensions: int, floor: float) -> None:
        super().__init__(dimensions, 2 * dimensions)
        self.floor = floor

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        sigma = self.floor + F.softplus(parameters[:, self.dimensions :])
        return 0.5 * ((x - self.mean(parameters)) / sigma) ** 2 + sigma.log() + HALF_LOG_TWO_PI


class Laplace(_Continuous):
    """Laplace(x; mean, b) with b fixed: |x - mean| / b + log 2b."""

    def __init__(self, dimensions: int, scale: float) -> None:
        super().__init__(dimensions, dimensions)
        self.scale = scale

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return (x - self.mean(parameters)).abs() / self.scale + math.log(2 * self.scale)


class Logistic(_Continuous):
    """Grey or colour levels v / (K - 1): a logistic law cut at the middles between levels, its ends open, so that it sums to one over them.

    Kingma et al., 2016, arXiv 1606.04934, eq. 14. The scale is one parameter for all pixels, learned with everything else (the "optimal"
    decoder of Rybkin et al., 2021, arXiv 2006.13202). -log p is of the levels themselves: over log 2 and pixels it is bits/dim.
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
        rate, half = torch.exp(-self.log_scale.clamp(min=LEAST_LOG_SCALE)), 0.5 / (self.levels - 1)
        centred = x - self.mean(parameters)
        upper, lower = (centred + half) * rate, (centred - half) * rate
        # σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u)); at the ends one of the two is open and only the other's factor is left
        below, above = (x < 1 - half).to(x.dtype), (x > half).to(x.dtype)
        between = -torch.log1p(-torch.exp(-2 * half * rate))
        return below * softplus(-upper) + above * softplus(lower) + below * above * between


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), written out: torch's own exports as log(1 - sigmoid), which overflows."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


class Columns(nn.Module):
    """The likelihood of a row, column by column: a Gaussian with learned variance (and a floor) in scaled units, or a categorical over one-hot blocks.

    A category never seen in training arrives as a block of zeros. It has no place in the softmax and costs the nats of `Unseen`; in a score,
    no less than the least likely of the seen categories costs there. A missing value arrives as NaN and costs nothing: the bound is on
    log p of the values that are there (as in Nazabal et al., 2020, arXiv 1807.03653).

    A column with a single category is certain: the usual value costs nothing. The encoder does not see such columns, because training cannot
    teach it what another value means.
    """

    usual: Tensor
    varying: Tensor

    def __init__(self, spec: TableSpec, floor: float, unseen: Sequence[float]) -> None:
        """Make the likelihood; `unseen` has the nats of an unseen category for each categorical column, in order (see `unseen_nats`)."""
        super().__init__()
        self.spec, self.floor = spec, floor
        self.unseen: Unseen | None = Unseen(spec, unseen)
        self.costs = tuple(unseen)
        usual = torch.from_numpy(spec.constants)
        self.has_constants = bool(usual.any())
        self.register_buffer("usual", usual, persistent=False)
        self.register_buffer("varying", 1 - usual, persistent=False)
        self.numeric = [column for column in spec.columns if isinstance(column, NumericColumn)]
        self.width = spec.shape[0] + len(self.numeric)  # a scale beside each mean
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
        """Return the rows x; a missing value of a constant column is taken for its usual value."""
        return filled(x, torch.where(self.usual > 0, self.usual, torch.nan)) if self.has_constants else x

    def evidence(self, x: Tensor) -> Tensor:
        """Return the rows with 0 in the place of missing values and of constant columns."""
        return filled(x) * self.varying if self.has_constants else filled(x)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logits (B, D), and scales (B, numeric columns)."""
        dimensions = self.spec.shape[0]
        return parameters[:, :dimensions], self.floor + F.softplus(parameters[:, dimensions:])

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(parameters, x, bounded=False)

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(parameters, x, bounded=True)

    def _nats(self, parameters: Tensor, x: Tensor, bounded: bool) -> Tensor:
        """Return nats (B, columns). If `bounded`, an unseen category costs at least what the least likely seen one costs."""
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
    """Return neighbouring numeric columns in one piece, as their places among the encoded columns and among the numeric ones; each category alone."""
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
    """Encoded rows (B, D) to 1 for each categorical column whose value training never saw, 0 for others and for missing ones, (B, C).

    By column, `nats` is the cost of such a value (see `unseen_nats`), and `squares` what the squared distance to a row with a seen value adds
    to that of the blocks, as two seen values are at the squared distance 2: 1, or 2 for a constant column, which `evidence` leaves out.
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
        # the largest of a block, not the sum: its bits depend on no order
        found = [(1 - x[:, block].amax(1, keepdim=True)).clamp(min=0) for block in self.blocks]
        return filled(torch.cat(found, 1)) if found else x[:, :0]


def unseen_nats(spec: TableSpec, train: Part) -> list[float]:
    """Return the cost of an unseen value for each categorical column: log(n + K + 1) nats for n training values of K categories.

    This is Laplace's rule of succession with one more category, which stands for everything unseen: after n values it has the probability
    1 / (n + K + 1), and a category that was seen c times has (c + 1) / (n + K + 1). So no unseen value is likelier than a seen one. For a
    constant column it is the classical 1 / (n + 2). Missing values are not counted.
    """
    places = [(column, block.start) for column, block in spec.placed if isinstance(column, CategoricalColumn)]
    counts = torch.zeros(len(places), dtype=torch.long)
    for held in batches(train, COUNTED):
        first = torch.as_tensor(held.items)[:, [start for _, start in places]]
        counts += (first == first).sum(0)
    return [math.log(n + column.width + 1) for (column, _), n in zip(places, counts.tolist(), strict=True)]


def filled(x: Tensor, by: Tensor | None = None) -> Tensor:
    """Return encoded columns (B, D) with `by` (D,) where a value is missing (NaN). Without it 0: the mean of a number, no category."""
    return torch.where(x == x, x, torch.zeros_like(x) if by is None else by)


def pick(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Invert a CDF: return the number of cumulative sums of (B, K) that are at most u (B,), clamped; int64 (B,)."""
    below = probabilities.cumsum(1) <= uniforms[:, None]
    return below.sum(1).clamp(max=probabilities.shape[1] - 1)


NAMES = ("bernoulli", "gaussian", "gaussian-learned", "laplace", "logistic", "columns")
# what x is in log p(x); DISCRETE ones are a probability of levels rather than a density, and bits/dim follow
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
    """Return the likelihood called `name` for data of `spec`; `train` is the training part."""
    if name not in NAMES:
        raise TrainingError(
            f"likelihood: unknown {name!r}; valid are {', '.join(NAMES)}", field="likelihood", valid=NAMES
        )
    if name not in spec.likelihoods:
        valid = ", ".join(spec.likelihoods)
        raise TrainingError(
            f"likelihood: {name!r} does not fit {spec.noun}; valid are {valid}",
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
