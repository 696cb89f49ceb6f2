"""Tensors of the protocol and arrays: datatypes, JSON data, raw bytes (little-endian, row-major, BYTES with a length before each element)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, Malformed, shown

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}
DIMENSIONS = 16  # more, numpy would refuse in words of its own


def name_of(dtype: str) -> str:
    """The protocol's name of a manifest's dtype."""
    return NAMES[np.dtype(dtype)]


def check_shape(shape: object, field: str) -> tuple[int, ...]:
    """A shape as the client says it. Raises Malformed."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > DIMENSIONS:
        raise Malformed(f"{field}: shape: a list of at most {DIMENSIONS} whole numbers is needed", field=field)
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**31:
            raise Malformed(f"{field}: shape: {shown(size)} is not a whole number from 0 to {2**31 - 1}", field=field)
    return tuple(shape)


def dtype_of(datatype: object, field: str) -> np.dtype[Any]:
    """The array type of a datatype. Raises InvalidValue for one that no model here takes."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidValue(f"{field}: datatype {shown(datatype)} is not taken", field=field, valid=list(DTYPES))
    return DTYPES[datatype]


def from_bytes(content: bytes | memoryview, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    """An array on the bytes themselves. Raises Malformed where they are not as many as the shape says."""
    dtype = dtype_of(datatype, field)
    needed = math.prod(shape) * dtype.itemsize
    if len(content) != needed:
        raise Malformed(
            f"{field}: {len(content)} bytes, but {datatype}{list(shape)} has {needed}", field=field
        )  # fmt: skip
    array: Array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def from_values(values: object, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    """An array of JSON data or typed contents: nested as the shape, or flat. Raises Malformed, InvalidValue."""
    dtype = dtype_of(datatype, field)
    if datatype == "FP16":
        raise InvalidValue(f"{field}: FP16 goes as binary data alone", field=field)
    if str in _kinds(values):  # numpy would give each value the room of the longest text
        raise InvalidValue(f"{field}: data: not all values are {datatype}", field=field)
    try:
        array: Array = np.asarray(values)
    except ValueError:  # lists of different lengths
        raise Malformed(f"{field}: data: not nested as the shape {list(shape)} says", field=field) from None
    if array.size != math.prod(shape):
        raise Malformed(f"{field}: data: {array.size} values, but {list(shape)} has {math.prod(shape)}", field=field)
    if not _fits(array, dtype):
        raise InvalidValue(f"{field}: data: not all values are {datatype}", field=field)
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return array.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _kinds(values: object) -> set[type]:
    """Return the types of the values in lists within each other."""
    if not isinstance(values, list):
        return {type(values)}
    kinds = set(map(type, values))
    if list in kinds:
        kinds.discard(list)
        for each in values:
            kinds |= _kinds(each)
    return kinds


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether JSON's values are of that type: integers for integers and in their range, true and false for BOOL, numbers for floats."""
    if not array.size:
        return True
    if dtype.kind == "b":
        return array.dtype.kind == "b"
    if dtype.kind == "f":
        return array.dtype.kind in "iuf"
    limits = np.iinfo(dtype)
    return array.dtype.kind in "iu" and limits.min <= int(array.min()) and int(array.max()) <= limits.max


def to_bytes(array: Array) -> bytes:
    """Little-endian, row-major."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
