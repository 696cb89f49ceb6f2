"""The likelihood of the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import InputSpec, Source
from manifold.runtime.tables.schema import NumericColumn
from manifold.training.likelihoods.pixels import HALF_LOG_TWO_PI
from manifold.training.likelihoods.unseen import Unseen, filled, pick


class Columns(nn.Module):
    """The likelihood of a row, by column: a Gaussian with learned variance (with a floor) in scaled units, or a categorical over a one-hot block.

    A category that did not occur in training (unseen) is encoded as a block of zeros. It is not part of the softmax and costs the nats of
    `Unseen`; in a score it costs at least as much as the least likely seen category. A missing value is NaN and costs nothing: the bound is on
    log p of the present values (as in Nazabal et al., 2020, arXiv 1807.03653).

    A column with a single category (a constant column) has probability 1 for this value, which costs nothing. The encoder does not receive
    such columns, because it cannot learn from them what another value means.
    """

    levels, reads_colours = 0, False
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

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._nats(parameters, x, bounded=False)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def bias(self, mean: Tensor) -> Tensor:
        raise NotImplementedError

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
