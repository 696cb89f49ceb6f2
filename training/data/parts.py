"""The items of a split: the protocol `Part`, arrays in memory, and a selection of another part. No torch, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VALUES = 2**24  # of a batch at most, unless one item has more: 64 MiB as float32


class Part(Protocol):
    """The items of one split. They may lie in memory, or be read or made when a batch asks for them.

    Labels and factors are small and are given whole; items only by batch.
    """

    @property
    def labels(self) -> Array:
        """Return the class of each item, int64 (N,), -1 if it has none."""
        ...

    @property
    def factors(self) -> Array | None:
        """Return the factors that made each item, float32 (N, F), if they are known."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Array) -> Arrays:
        """Return the items at these indices, in this order, with their labels and factors. It is thread-safe: the evaluator uses threads."""
        ...


@dataclass(frozen=True)
class Arrays:
    """A part whose items lie in memory."""

    items: Array  # uint8 (N, C, H, W) or float32 (N, D)
    labels: Array  # int64 (N,)
    factors: Array | None = None  # float32 (N, F)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: Any) -> Arrays:
        return Arrays(self.items[rows], self.labels[rows], None if self.factors is None else self.factors[rows])

    def batch(self, indices: Array) -> Arrays:
        return self[indices]

    @classmethod
    def of(cls, part: Part) -> Arrays:
        """Return a whole part as arrays, for what needs all items at once."""
        return part if isinstance(part, Arrays) else part.batch(np.arange(len(part)))


class Subset:
    """A selection of the items of another part, which gives them by batch."""

    def __init__(self, part: Part, indices: Array) -> None:
        self.part, self.indices = part, indices
        self.labels: Array = part.labels[indices]
        self.factors: Array | None = None if part.factors is None else part.factors[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Array) -> Arrays:
        return self.part.batch(self.indices[indices])


def subset(part: Part, indices: Array) -> Part:
    """Return the items of a part at these indices, as a part."""
    return part.batch(indices) if isinstance(part, Arrays) else Subset(part, indices)


def first(part: Part, n: int) -> Arrays:
    """Return the first n items of a part, or all if it has fewer."""
    return part.batch(np.arange(min(n, len(part))))


def count(part: Part, most: int, values: int | None = None) -> int:
    """Return how many items of a part to ask for at once: `most`, or fewer if these had more than `values` (VALUES) values. At least 1."""
    one = part.batch(np.arange(1)).items.size if len(part) else 1
    return max(1, min(most, (VALUES if values is None else values) // max(1, one)))


def batches(part: Part, size: int, limit: int | None = None) -> Iterator[Arrays]:
    """Yield a part in order, `size` items at a time, or fewer if they are large (`count`); at most its first `limit` items."""
    stop = len(part) if limit is None else min(limit, len(part))
    size = count(part, size)
    for start in range(0, stop, size):
        yield part.batch(np.arange(start, min(start + size, stop)))
