"""Examples of the inputs of a graph, for a trial run: rows of the file, pixels in the stated range, codes and classes in theirs, normal noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.foreign import guesses, inspection
from manifold.runtime.foreign.guesses import Wishes
from manifold.runtime.foreign.inspection import Seen

Array = NDArray[Any]


def example(seen: Seen, wishes: Wishes) -> Array:
    """Return an example of an input."""
    rows, whole = wishes.rows or inspection.ROWS, sized(seen, wishes)
    stated = wishes.numbers.get(seen.name, (wishes.constants.get(seen.name),))[0]
    if stated is not None:
        return inspection.example(whole, rows, value=stated)
    if guesses.reads(whole, wishes) and (items := _items(whole, wishes, rows)) is not None:
        return items
    high = wishes.levels or len(wishes.classes) or 2
    coded = wishes.inputs.get(seen.name) == "codes" or guesses.is_named_codes(seen, wishes)
    if coded and np.dtype(seen.dtype).kind == "f":
        return inspection.example(Seen(whole.name, "int64", whole.dims), rows, high=high).astype(seen.dtype)
    return inspection.example(whole, rows, high=high)


def _items(seen: Seen, wishes: Wishes, rows: int) -> Array | None:
    """Return items for an input that reads them; None if normal numbers or integers are as good."""
    generator, kind = np.random.Generator(np.random.Philox(0)), np.dtype(seen.dtype)
    shape = inspection.example(seen, rows).shape
    if wishes.spec is not None and kind.kind in "fiu":
        with np.errstate(over="ignore"):  # float16
            return wishes.spec.example(shape[0], generator).astype(kind)
    own = wishes.of_inputs
    if wishes.spec is not None or own.mean is not None or kind.kind != "f":
        return None
    black, white = own.range or (0.0, 1.0)
    return (black + (white - black) * generator.random(shape)).astype(kind)


def sized(seen: Seen, wishes: Wishes) -> Seen:
    """Return an input with the free axes of an image at the stated size, or those of rows at the number of columns."""
    if wishes.spec is not None and seen.dims is not None and len(seen.dims) == 2 == len(wishes.spec.shape) + 1:
        columns = seen.dims[1] if isinstance(seen.dims[1], int) else wishes.spec.shape[0]
        return Seen(seen.name, seen.dtype, (seen.dims[0], columns))
    if wishes.size is None or seen.dims is None or len(seen.dims) != 4 or not guesses.reads(seen, wishes):
        return seen
    of = dict(zip(wishes.layout or ("NHWC" if seen.dims[3] in guesses.FEW else "NCHW"), range(4), strict=True))
    dims = list(seen.dims)
    for letter, size in zip("HW", wishes.size, strict=True):
        dims[of[letter]] = dims[of[letter]] if isinstance(dims[of[letter]], int) else size
    return Seen(seen.name, seen.dtype, tuple(dims))
