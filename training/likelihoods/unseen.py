"""The detection and the cost of categories that did not occur in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import CategoricalColumn
from manifold.training.data import Part
from manifold.training.data.parts import batches

COUNTED = 5000  # number of training rows that are counted at a time


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
