"""Arrays of an .npz file within limits: the header of each array is read first, and no more is unpacked than it may have.

An .npz is a zip of .npy files, and zeros compress a thousand times: what is expected is compared before anything is unpacked.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import cut, shown

Array = NDArray[Any]
Shape = tuple[int, ...]
Check = Callable[[str, Shape, np.dtype[Any]], str | None]  # of an array's name, shape and dtype: what is wrong with it

LIMIT = 256 * 2**20  # bytes of all arrays of a file, where nothing else is said
HEADER_BYTES = 16 * 2**10
KINDS = "fiubU"  # numbers and texts, never objects
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of compression, that numpy writes


class Unreadable(ValueError):
    """An .npz file that is damaged, or that holds other arrays than it may."""


def names(path: Path) -> list[str]:
    """Return the names of the arrays. Raises Unreadable."""
    try:
        with zipfile.ZipFile(path) as held:
            return [name.removesuffix(".npy") for name in held.namelist()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Unreadable(cut(str(error), 200)) from None


def read(path: Path, wanted: Iterable[str], check: Check, *, limit: int = LIMIT) -> dict[str, Array]:
    """Return those of the arrays `wanted` that the file holds; others are not unpacked.

    Raises Unreadable where `check` objects to one of them, or where they have more than `limit` bytes in all.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as held:
            members = {info.filename.removesuffix(".npy"): info for info in held.infolist()}
            for name in wanted:
                if name in members:
                    if members[name].compress_type not in METHODS:
                        raise Unreadable(f"{shown(name)} is compressed in a way that numpy does not write")
                    with held.open(members[name]) as file:
                        arrays[name] = _array(name, file, check, limit)
                    limit -= arrays[name].nbytes
    except Unreadable:
        raise
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise Unreadable(cut(str(error), 200)) from None
    return arrays


def _array(name: str, file: IO[bytes], check: Check, limit: int) -> Array:
    head = io.BytesIO(file.read(HEADER_BYTES))  # not all of a header that claims gigabytes
    try:
        shape, fortran, dtype = header(head)
    except Unreadable:
        raise Unreadable(f"{shown(name)} is not a readable array") from None
    if dtype.kind not in KINDS or min(shape, default=0) < 0:
        raise Unreadable(f"{shown(name)} holds {cut(str(dtype))}, not numbers")
    size = math.prod(shape) * dtype.itemsize
    if problem := check(name, shape, dtype):
        raise Unreadable(f"{shown(name)} is {cut(str(dtype))}{cut(str(list(shape)))}, {problem}")
    if size > limit:
        raise Unreadable(f"{shown(name)} takes {size} bytes, and {limit} are left of what the file may hold")
    begun = head.read()[:size]
    content = begun + file.read(size - len(begun))
    if len(content) != size:
        raise Unreadable(f"{shown(name)} ends after {len(content)} of {size} bytes")
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if fortran else "C")


def header(file: IO[bytes]) -> tuple[Shape, bool, np.dtype[Any]]:
    """Read the header of a .npy file. Return shape, whether the order is Fortran's, and dtype. Raises Unreadable."""
    try:
        version = np.lib.format.read_magic(file)
        read_rest = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings(action="ignore"):  # numpy's, of headers that Python 2 might have written
            return read_rest(file)
    except Exception:  # the header is a Python literal, and numpy lets through whatever its tokenizer and parser raise
        raise Unreadable("not a readable header") from None
