"""Vectors in files: two-dimensional arrays in .npy files, and list columns of Parquet files. Each number of a vector is a column of the table.

The columns of a file without a model are called x0, x1, …; a model takes the numbers in the order of its columns. Vectors are float32, as
embeddings are; float16 is exact, and float64 is rounded. Pickled objects are never read. Rows with a number that is not finite are invalid.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import npz
from manifold.runtime.errors import Malformed, TooLarge, cut, shown
from manifold.runtime.tables.csv_files import MAX_COLUMNS

Float32 = NDArray[np.float32]

MAGIC = b"\x93NUMPY"
HEADER_BYTES = 4096  # limit for the header of a .npy file
STEM = "x"  # beginning of the names of columns
BLOCK_ROWS = 4096  # rows that are converted at once, if a file is read as a whole
SAVE = "save it with numpy.save(FILE, array.astype('float32'))"


def names(width: int) -> list[str]:
    """Return the names of the columns of vectors with `width` numbers."""
    return [f"{STEM}{place}" for place in range(width)]


@dataclass(frozen=True)
class Block:
    """Consecutive vectors of a file, with the invalid ones among them by index."""

    data: Float32  # (n, width)
    bad: dict[int, str]


def block(values: NDArray[Any]) -> Block:
    """Return vectors (n, width) of any floating-point type as a block."""
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and its row invalid
        data = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(data)
    bad = {}
    for at in np.flatnonzero(~finite.all(1)).tolist():
        place = int(np.flatnonzero(~finite[at])[0])
        bad[at] = (
            f"number {place + 1} of the vector is {values[at, place]:g}; replace it by a finite number, or remove the row"
        )
    return Block(data, bad)


class NpyFile:
    """A .npy file with an array of floating-point numbers (n, width). It is read in blocks, so that only one of them is in memory."""

    def __init__(self, source: IO[bytes]) -> None:
        """Read the header. Raises Malformed or TooLarge for anything that is not such an array."""
        self.source = source
        shape, self.in_columns, self.dtype = _header(source)
        if len(shape) != 2:
            raise Malformed(f"file: the array has {_dimensions(shape)}; {_reshaped(shape)}", field="file")
        self.n, self.width = shape
        checked_width(self.width)
        if not self.n or not self.width:
            raise Malformed(f"file: the array has the shape {shape}, so it has no vectors; add rows", field="file")
        self.start = source.tell()
        size = source.seek(0, os.SEEK_END) - self.start
        if size != (needed := self.n * self.width * self.dtype.itemsize):
            raise Malformed(
                f"file: has {size} bytes after its header, but an array of the shape {shape} has {needed}; the file is damaged: save it again",
                field="file",
            )

    def blocks(self, rows: int) -> Iterator[Block]:
        """Yield all vectors in order, at most `rows` at a time."""
        for first in range(0, self.n, rows):
            yield block(self._read(first, min(rows, self.n - first)))

    def _read(self, first: int, n: int) -> NDArray[Any]:
        size = self.dtype.itemsize
        if not self.in_columns:
            self.source.seek(self.start + first * self.width * size)
            return np.frombuffer(self.source.read(n * self.width * size), self.dtype).reshape(n, self.width)
        values = np.empty((n, self.width), self.dtype)
        for place in range(self.width):
            self.source.seek(self.start + (place * self.n + first) * size)
            values[:, place] = np.frombuffer(self.source.read(n * size), self.dtype)
        return values


def _header(source: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether the order is Fortran's, and the type of the array in a .npy file. Raises Malformed."""
    start = source.tell()
    begin = source.read(len(MAGIC))
    source.seek(start)
    if begin != MAGIC:
        what = "an .npz archive; load the array from it and" if begin.startswith(b"PK") else "not a .npy file;"
        raise Malformed(f"file: is {what} {SAVE}", field="file")
    head = io.BytesIO(source.read(HEADER_BYTES))  # limited, since a header may claim to have gigabytes
    try:
        shape, in_columns, dtype = npz.header(head)
    except npz.Unreadable:
        raise Malformed(f"file: cannot be read as npy: its header is not readable; {SAVE}", field="file") from None
    source.seek(start + head.tell())
    if min(shape, default=0) < 0:
        raise Malformed(f"file: the array has the impossible shape {cut(str(shape))}; {SAVE}", field="file")
    if dtype.hasobject:
        raise Malformed(f"file: the array holds Python objects (pickles), which are never read; {SAVE}", field="file")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise Malformed(
            f"file: the array has the type {shown(str(dtype))}; vectors are float16, float32 or float64: {SAVE}",
            field="file",
        )
    return shape, in_columns, dtype


def _dimensions(shape: Sequence[int]) -> str:
    return f"{len(shape)} dimension{'s' * (len(shape) != 1)} {tuple(shape)}"


def _reshaped(shape: Sequence[int]) -> str:
    """Return advice about an array that has not two dimensions."""
    how = "array.reshape(1, -1) is a single vector" if len(shape) < 2 else "array.reshape(len(array), -1) has this form"
    return f"one row for each vector is needed: {how}"


def checked_width(width: int) -> int:
    """Return the number of columns of a file with vectors. Raises TooLarge if there are too many."""
    if width > MAX_COLUMNS:
        raise TooLarge(f"file: has vectors of {width} numbers; the limit is {MAX_COLUMNS}", field="file")
    return width


def check_width(found: int, needed: int, where: str = "") -> None:
    """Raise Malformed if the vectors of a file have another width than a model."""
    if found != needed:
        raise Malformed(
            f"file: {where}has vectors of {found} numbers, but the model has {needed} columns; use the vectors of the model that made the training "
            "rows, or choose another model",
            field="file",
        )


# --- Parquet ------------------------------------------------------------------------------------------------------------------


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is that of vectors: lists of floating-point numbers."""
    from pyarrow import types

    lists = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return bool(lists and types.is_floating(kind.value_type))


def of_lists(column: Any, width: int) -> Block:
    """Return the vectors of a list column (n,). Rows without a vector, or with a vector of another width, are invalid."""
    from pyarrow import compute

    lengths = compute.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    fits = lengths == width
    data = np.zeros((len(column), width), np.float32)
    bad = {
        at: "has no vector; add it, or remove the row"
        if lengths[at] < 0
        else f"has a vector of {lengths[at]} numbers, but {width} are needed"
        for at in np.flatnonzero(~fits).tolist()
    }
    if fits.any():
        taken = column if fits.all() else column.filter(fits)
        found = block(taken.flatten().to_numpy(zero_copy_only=False).reshape(-1, width))
        places = np.flatnonzero(fits)
        data[places] = found.data
        bad |= {int(places[at]): reason for at, reason in found.bad.items()}
    return Block(data, dict(sorted(bad.items())))


def check_lengths(column: Any, width: int, name: str, before: int) -> None:
    """Raise Malformed if a vector of a list column (n,) has another width. `before` is the number of rows before the first one."""
    from pyarrow import compute

    lengths = compute.list_value_length(column).fill_null(width).to_numpy(zero_copy_only=False)
    for at in np.flatnonzero(lengths != width)[:1].tolist():
        raise Malformed(
            f"file: column {shown(name)} has vectors of different lengths: {width} numbers at first, but {lengths[at]} in row {before + at + 1}; write "
            f"vectors of the same length, or leave the column out with --column {cut(name)}=ignore",
            field="file",
        )


def width_of(column: Any) -> int | None:
    """Return the number of values of the first vector in a list column; None if it has none."""
    from pyarrow import compute

    lengths = compute.drop_null(compute.list_value_length(column))
    return int(lengths[0].as_py()) if len(lengths) else None
