"""The splits of a data set: the protocol `Part`, arrays in memory, and a selection of another split. This file uses no torch and no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VALUES = 2**24  # largest number of values in a batch, unless one item has more: 64 MiB as float32


class Part(Protocol):
    """The items of one split. An implementation may keep them in memory, or read or generate them for each batch.

    Labels and factors are small and available as a whole. Items are only available in batches.
    """

    @property
    def labels(self) -> Array:
        """Return the class of each item, int64 (N,), -1 if it has none."""
        ...

    @property
    def factors(self) -> Array | None:
        """Return the generating factors of each item, float32 (N, F), if they are known."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Array) -> Arrays:
        """Return the items at these indices, in this order, with labels and factors. It must be thread-safe, as the evaluator uses threads."""
        ...


@dataclass(frozen=True)
class Arrays:
    """A split whose items are in memory."""

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
        """Return a whole split as arrays in memory."""
        return part if isinstance(part, Arrays) else part.batch(np.arange(len(part)))


class Subset:
    """A selection of items of another split, from which they are read in batches."""

    def __init__(self, part: Part, indices: Array) -> None:
        self.part, self.indices = part, indices
        self.labels: Array = part.labels[indices]
        self.factors: Array | None = None if part.factors is None else part.factors[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Array) -> Arrays:
        return self.part.batch(self.indices[indices])


def subset(part: Part, indices: Array) -> Part:
    """Return the items of a split at these indices, as a split."""
    return part.batch(indices) if isinstance(part, Arrays) else Subset(part, indices)


def first(part: Part, n: int) -> Arrays:
    """Return the first n items of a split, or all if it has fewer."""
    return part.batch(np.arange(min(n, len(part))))


def scattered(part: Part, n: int, seed: int = 0) -> Part:
    """Return n items of a split that are drawn at random, in order, or all if it has fewer.

    The items of a split can be ordered, such as by class, so that the first ones are no sample of it.
    """
    if n >= len(part):
        return part
    return subset(part, np.sort(np.random.Generator(np.random.Philox(seed)).choice(len(part), n, replace=False)))


def count(part: Part, most: int, values: int | None = None) -> int:
    """Return the number of items to read at once: `most`, or fewer if they would exceed `values` (default VALUES) values, but at least 1."""
    one = part.batch(np.arange(1)).items.size if len(part) else 1
    return max(1, min(most, (VALUES if values is None else values) // max(1, one)))


def batches(part: Part, size: int, limit: int | None = None) -> Iterator[Arrays]:
    """Yield the first `limit` items of a split, by default all, in order, `size` at a time or fewer if they are large (see `count`)."""
    stop = len(part) if limit is None else min(limit, len(part))
    size = count(part, size)
    for start in range(0, stop, size):
        yield part.batch(np.arange(start, min(start + size, stop)))
