"""Do a graph's bits depend on its batch, and what padding stops that.

The promise that an item is the same in every batch rests on the matrix kernels, which are chosen by the CPU's type and the number of rows.
So an export finds the padding on the machine that exports, and the loader tries it again on the machine that serves.
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
STRIDE = 4  # between the places in the large batch that smaller ones are cut from
WITHIN = 36  # the place of the row that is tried by itself
PADDINGS = (1, 2, 4, 8, 16, 32)  # multiples of rows to try; 16 suffices for all kernels met so far


def dependence(run: Run, inputs: Mapping[str, Array], *, thorough: bool = True) -> list[str]:
    """Return the outputs whose bits differ between 64 rows at once and the same rows in smaller batches, one line each.

    `inputs` have 64 rows. Thorough: small batches from everywhere in the large one; else one of each size, five runs in all.
    """
    whole = run(inputs)
    differing: dict[str, tuple[int, float]] = {}
    for size, rows in _cuts(thorough):
        for role, array in run({role: array[rows] for role, array in inputs.items()}).items():
            if not np.array_equal(array, whole[role][rows]):
                distance = max(_distance(array, whole[role][rows]), differing.get(role, (0, 0.0))[1])
                differing[role] = (size, distance)
    return [
        f"{role} differs by {distance:.2g} between {size} rows and {ROWS}"
        for role, (size, distance) in differing.items()
    ]


def padding(
    run: Callable[[int], Run], examples: Iterable[Mapping[str, Array]], *, least: int = 1, thorough: bool = True
) -> int | None:
    """The smallest of PADDINGS, from `least` on, under which no bits depend on the batch; None where none does.

    `run(rows)` is the task with its rows padded to a multiple of `rows`; `examples` are inputs of 64 rows each.
    """
    examples = list(examples)
    for rows in PADDINGS:
        if rows >= least and not any(dependence(run(rows), inputs, thorough=thorough) for inputs in examples):
            return rows
    return None


def repeats(run: Run, inputs: Mapping[str, Array]) -> bool:
    """Return whether two runs of the same inputs give the same bits. A graph that draws random numbers itself does not."""
    first, second = run(inputs), run(inputs)
    return all(np.array_equal(first[role], second[role], equal_nan=True) for role in first)


def influence(run: Run, inputs: Mapping[str, Array], others: Mapping[str, Array]) -> list[str]:
    """Return the outputs of a row that change if the other rows of its batch change, one line each. Such a graph mixes rows.

    The number of rows stays the same, so that the choice of a kernel plays no part: the bits must be equal. `others` are other inputs of as
    many rows, at least two. The first row is kept in one run and the last in another, since influence may go one way alone.
    """
    whole = run(inputs)
    changes: dict[str, float] = {}
    for kept in (0, -1):
        mixed = {role: array.copy() for role, array in others.items()}
        for role, array in inputs.items():
            mixed[role][kept] = array[kept]
        for role, array in run(mixed).items():
            if not np.array_equal(array[kept], whole[role][kept], equal_nan=True):
                changes[role] = max(_distance(array[kept], whole[role][kept]), changes.get(role, 0.0))
    return [f"{role} of one row changes by {distance:.2g} with the other rows" for role, distance in changes.items()]


def _cuts(thorough: bool) -> Iterator[tuple[int, slice]]:
    for size in SIZES[:-1]:
        # one row from within, as some graphs (a running sum) only let rows influence those after them
        starts = range(0, ROWS - size + 1, STRIDE) if thorough else (WITHIN if size == 1 else 0,)
        for start in starts:
            yield size, slice(start, start + size)


def _distance(a: Array, b: Array) -> float:
    with np.errstate(invalid="ignore"):  # infinite values have no distance
        return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
