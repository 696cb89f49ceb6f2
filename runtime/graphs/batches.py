"""Tests whether the output bits of a graph depend on the batch, and the search for a padding that prevents this.

Whether an item has the same bits in every batch depends on the matrix kernels, which are chosen by CPU type and batch size. So an export
searches the padding on the machine that exports, and the loader tests it again on the machine that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]

SIZES = (1, 2, 3, 5, 64)
ROWS = SIZES[-1]
STRIDE = 4  # distance of the positions in the large batch from which smaller batches are cut
WITHIN = 36  # index of the row that is run alone, of 64 rows
KEPT = 8  # number of rows that are kept, one in each run, while the others change
ROUNDING = 3e-5  # largest difference by rounding in float32, as a share of the largest value
HALF = 1e-3  # the same for graphs with float16
PADDINGS = (1, 2, 4, 8, 16, 32)  # multiples of rows to try; 16 was enough for all kernels seen so far


def dependence(run: Run, inputs: Mapping[str, Array], *, thorough: bool = True, tolerance: float = 0.0) -> list[str]:
    """Return the outputs whose bits differ between a batch and the same rows in smaller batches, one line each.

    Differences of at most `tolerance` times the largest value of an output with floats do not count. `inputs` have 64 rows, or fewer if the task runs fewer
    at once. With `thorough`, small batches are cut from many positions; else one of each size, five runs in total.
    """
    largest = len(next(iter(inputs.values())))
    whole = run(inputs)
    differing: dict[str, tuple[int, float]] = {}
    for size, rows in _cuts(largest, thorough):
        for role, array in run({role: array[rows] for role, array in inputs.items()}).items():
            allowed = tolerance * _size(whole[role]) if array.dtype.kind == "f" else 0
            if not np.array_equal(array, whole[role][rows]) and not _distance(array, whole[role][rows]) <= allowed:
                distance = max(_distance(array, whole[role][rows]), differing.get(role, (0, 0.0))[1])
                differing[role] = (size, distance)
    return [
        f"{role} differs by {distance:.2g} between {size} rows and {largest}"
        for role, (size, distance) in differing.items()
    ]


def padding(
    run: Callable[[int], Run], examples: Iterable[Mapping[str, Array]], *, least: int = 1, thorough: bool = True
) -> int | None:
    """Return the smallest of PADDINGS, at least `least`, with which no bits depend on the batch; None if there is none.

    `run(rows)` runs the task with its rows padded to a multiple of `rows`; `examples` are inputs for `dependence`.
    """
    examples = list(examples)
    for rows in PADDINGS:
        if rows >= least and not any(dependence(run(rows), inputs, thorough=thorough) for inputs in examples):
            return rows
    return None


def repeats(run: Run, inputs: Mapping[str, Array]) -> bool:
    """Return whether two runs of the same inputs give the same bits. They do not if the graph draws random numbers itself."""
    first, second = run(inputs), run(inputs)
    return all(np.array_equal(first[role], second[role], equal_nan=True) for role in first)


def influence(run: Run, inputs: Mapping[str, Array], others: Mapping[str, Array]) -> list[str]:
    """Return the outputs of a row that change if the other rows of its batch change, one line each. Such a graph mixes rows.

    The number of rows stays the same, so the same kernels run and the bits must be equal. `others` are other inputs with the same number of
    rows, at least two. Each run keeps another row, the first and the last among them, since rows may influence only some others.
    """
    whole = run(inputs)
    rows = len(next(iter(inputs.values())))
    changes: dict[str, float] = {}
    for kept in sorted(set(np.linspace(0, rows - 1, KEPT).round().astype(int).tolist())):
        mixed = {role: array.copy() for role, array in others.items()}
        for role, array in inputs.items():
            mixed[role][kept] = array[kept]
        for role, array in run(mixed).items():
            if not np.array_equal(array[kept], whole[role][kept], equal_nan=True):
                changes[role] = max(_distance(array[kept], whole[role][kept]), changes.get(role, 0.0))
    return [
        f"{role} of one row changes by {distance:.2g} if the other rows change" for role, distance in changes.items()
    ]


def place(run: Run, inputs: Mapping[str, Array]) -> list[str]:
    """Return the outputs of a row that change with its place in the batch, one line each, as by constants for each row.

    Kernels may round a row differently in another place, so small differences do not count.
    """
    whole = run(inputs)
    turned = run({role: np.roll(array, 1, axis=0) for role, array in inputs.items()})
    changes = {role: _distance(np.roll(array, -1, axis=0), whole[role]) for role, array in turned.items()}
    return [
        f"{role} of one row changes by {change:.2g} with its place in the batch"
        for role, change in changes.items()
        if not change <= HALF * _size(whole[role])
    ]


def _cuts(largest: int, thorough: bool) -> Iterator[tuple[int, slice]]:
    for size in (size for size in SIZES if size < largest):
        # a row in the middle, since in some graphs (a running sum) rows only influence later rows
        starts = range(0, largest - size + 1, STRIDE) if thorough else (WITHIN * largest // ROWS if size == 1 else 0,)
        for start in starts:
            yield size, slice(start, start + size)


def _size(array: Array) -> float:
    """Return the largest value of an array, regardless of its sign."""
    return float(np.abs(array.astype(np.float64)).max(initial=0))


def _distance(a: Array, b: Array) -> float:
    with np.errstate(invalid="ignore"):  # the difference of infinite values is NaN
        return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
