"""A reader of .npz files with limits: the header of each array is checked before the array is unpacked.

An .npz file is a zip of .npy files, and zeros compress by a factor of a thousand. So shape, type and size are checked before unpacking.
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
Check = Callable[
    [str, Shape, np.dtype[Any]], str | None
]  # from name, shape and dtype of an array to its problem, if any

LIMIT = 256 * 2**20  # default limit for all arrays of a file, in bytes
HEADER_BYTES = 16 * 2**10
KINDS = "fiubU"  # numbers and texts; objects are never read
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the compression methods that numpy writes


class Unreadable(ValueError):
    """The error of an .npz file that is damaged or holds unexpected arrays."""


def names(path: Path) -> list[str]:
    """Return the names of the arrays in a file. Raises Unreadable."""
    try:
        with zipfile.ZipFile(path) as held:
            return [name.removesuffix(".npy") for name in held.namelist()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Unreadable(cut(str(error), 200)) from None


def read(path: Path | IO[bytes], wanted: Iterable[str], check: Check, *, limit: int = LIMIT) -> dict[str, Array]:
    """Return the arrays in `wanted` that the file, a path or an open file, contains. Other arrays are not unpacked.

    Raises Unreadable if `check` reports a problem, or if the arrays have more than `limit` bytes in total.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as held:
            members = {info.filename.removesuffix(".npy"): info for info in held.infolist()}
            for name in wanted:
                if name in members:
                    if members[name].compress_type not in METHODS:
                        raise Unreadable(f"{shown(name)} uses an unsupported compression; write the file with numpy")
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
    head = io.BytesIO(file.read(HEADER_BYTES))  # limited, since a header may claim to have gigabytes
    try:
        shape, fortran, dtype = header(head)
    except Unreadable:
        raise Unreadable(f"{shown(name)} is not a readable array") from None
    if dtype.kind not in KINDS or min(shape, default=0) < 0:
        raise Unreadable(f"{shown(name)} has the type {cut(str(dtype))}; only numbers are read")
    size = math.prod(shape) * dtype.itemsize
    if problem := check(name, shape, dtype):
        raise Unreadable(f"{shown(name)} is {cut(str(dtype))}{cut(str(list(shape)))}, {problem}")
    if size > limit:
        raise Unreadable(f"{shown(name)} has {size} bytes, more than the {limit} bytes left of the limit for the file")
    begun = head.read()[:size]
    content = begun + file.read(size - len(begun))
    if len(content) != size:
        raise Unreadable(f"{shown(name)} ends after {len(content)} of {size} bytes")
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if fortran else "C")


def header(file: IO[bytes]) -> tuple[Shape, bool, np.dtype[Any]]:
    """Read the header of a .npy file. Return the shape, whether the order is Fortran's, and the dtype. Raises Unreadable."""
    try:
        version = np.lib.format.read_magic(file)
        read_rest = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings(action="ignore"):  # numpy warns about headers that Python 2 might have written
            return read_rest(file)
    except Exception:  # the header is a Python literal, and numpy does not catch the errors of its tokenizer and parser
        raise Unreadable("not a readable header") from None
