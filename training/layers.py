"""Building blocks that more than one family uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them (none after the last)."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def per_item(values: Tensor) -> Tensor:
    """Sum over all dimensions of an item: (B, ...) to (B,)."""
    return values.flatten(1).sum(1)
