"""The items on which a detector is evaluated, and the training items for its peers. Items are read in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SCORED = 2048  # number of items in a batch
SCORED_VALUES = 2**24  # largest number of values in a batch, unless one item has more


class InputItems(Protocol):
    """A sequence of items as model inputs, such as an array (n, *shape). An implementation may read them on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Array:
        """Return the items of a slice, or at these indices."""
        ...


class JudgedItems:
    """The items on which a model is evaluated: held-out items, then known anomalies."""

    def __init__(self, test: InputItems, anomalies: InputItems | None = None) -> None:
        self.test, self.anomalies = test, test[:0] if anomalies is None else anomalies

    def __len__(self) -> int:
        return len(self.test) + len(self.anomalies)

    def items(self, start: int, stop: int) -> Array:
        """Return the items start .. stop - 1."""
        n = len(self.test)
        pieces = [
            part[first:last]
            for part, first, last in (
                (self.test, start, min(stop, n)),
                (self.anomalies, max(start - n, 0), min(stop, len(self)) - n),
            )
            if first < last
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def batches(self) -> Iterator[Array]:
        """Yield all items in order."""
        size = bounded(self.test, SCORED, SCORED_VALUES)
        for start in range(0, len(self), size):
            yield self.items(start, start + size)


def bounded(items: InputItems, most: int, values: int) -> int:
    """Return the number of items to read at once: `most`, or fewer if they would exceed `values` values, but at least 1."""
    return max(1, min(most, values // max(1, items[:1].size)))


def read_rows(items: InputItems, indices: NDArray[np.int64]) -> Array:
    """Return the items at these indices as rows (n, D), with NaN for a missing value. The items are read in batches."""
    one = items[:1]
    rows = np.empty((len(indices), one.size), one.dtype)
    size = bounded(items, SCORED, SCORED_VALUES)
    for start in range(0, len(indices), size):
        rows[start : start + size] = as_rows(items[indices[start : start + size]])
    return rows


def as_rows(items: Array) -> Array:
    """Return items as rows (n, D)."""
    return items.reshape(len(items), -1)
