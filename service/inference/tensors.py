"""Conversion of the protocol's tensors to arrays and back: datatypes, JSON data, raw bytes (little-endian, row-major)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs
from manifold.runtime.errors import InvalidValue, Malformed
from manifold.runtime.problems import word

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip
NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}
# the types of JSON values that each kind of array accepts; no value is converted
TAKEN: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
DIMENSIONS = 16  # largest number; numpy would refuse more with its own message


def name_of(dtype: str) -> str:
    """Return the protocol's name of a dtype."""
    return NAMES[np.dtype(dtype)]


def check_shape(shape: object, field: str) -> tuple[int, ...]:
    """Return the shape that a client states. Raise Malformed."""
    if shape is None:
        raise Malformed(f"{field}: shape is missing; add it, such as [1, 20]", field=field)
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > DIMENSIONS:
        raise Malformed(
            f"{field}: shape: {word(shape)} is not valid; use a list of at most {DIMENSIONS} integers", field=field
        )
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**31:
            raise Malformed(
                f"{field}: shape: {word(size)} is not valid; use integers from 0 to {2**31 - 1}", field=field
            )
    return tuple(shape)


def dtype_of(datatype: object, field: str) -> np.dtype[Any]:
    """Return the array type of a datatype. Raise InvalidValue for a datatype that is not supported."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        wrong = f"{word(datatype)} is not supported; use" if datatype else "is missing; add"
        raise InvalidValue(
            f"{field}: datatype {wrong} one of the valid types",
            field=field,
            valid=list(DTYPES),
        )
    return DTYPES[datatype]


def from_bytes(content: bytes | memoryview, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    """Return an array that uses the bytes themselves. Raise Malformed if their number does not match the shape."""
    dtype = dtype_of(datatype, field)
    needed = math.prod(shape) * dtype.itemsize
    if len(content) != needed:
        raise Malformed(
            f"{field}: {len(content)} bytes, but {datatype}{list(shape)} needs {needed}; correct the data or the shape", field=field
        )  # fmt: skip
    array: Array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def from_values(values: object, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    """Return the array of JSON data or typed contents: one flat list, or lists nested exactly as the shape.

    No value is converted: BOOL takes true and false, integers take integers in their range, and floats take numbers. Raises Malformed for
    another form or number of values, and InvalidValue for other values.
    """
    dtype = dtype_of(datatype, field)
    if datatype == "FP16":
        raise InvalidValue(f"{field}: FP16 is supported as binary data only; send binary data", field=field)
    if (
        not codecs.types_of(values) <= TAKEN[dtype.kind]
    ):  # checked before numpy would allocate the size of the longest text for each value
        raise InvalidValue(f"{field}: data: not all values are {datatype}; send only values of this type", field=field)
    if not isinstance(values, list):
        raise Malformed(f"{field}: data: a list of values is needed, not {word(values)}", field=field)
    try:
        array: Array = np.asarray(values, np.float64 if dtype.kind == "f" else None)
    except ValueError:  # lists of different lengths
        raise Malformed(
            f"{field}: data: the nesting does not match the shape {list(shape)}; nest the lists as the shape, or send one flat list",
            field=field,
        ) from None
    if array.ndim == 1 and array.size != math.prod(shape):
        raise Malformed(
            f"{field}: data: {array.size} values, but the shape {list(shape)} needs {math.prod(shape)}; correct the data or the shape",
            field=field,
        )
    if array.ndim != 1 and array.shape != shape:
        raise Malformed(
            f"{field}: data: nested as {list(array.shape)}, but the shape is {list(shape)}; nest the lists as the shape, or send one flat list",
            field=field,
        )
    with np.errstate(over="ignore"):
        typed = array.reshape(shape).astype(dtype.newbyteorder("="), copy=False) if _fits(array, dtype) else None
    if typed is None:
        raise InvalidValue(
            f"{field}: data: not all values are {datatype}: some are out of range; use another datatype", field=field
        )
    if dtype.kind == "f" and (np.isinf(typed) & ~np.isinf(array.reshape(shape))).any():
        raise InvalidValue(
            f"{field}: data: not all values are {datatype}: some are too large to be finite; use another datatype",
            field=field,
        )
    return typed


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether all integers are in the range of an integer type."""
    if dtype.kind not in "iu" or not array.size:
        return True
    limits = np.iinfo(dtype)
    return array.dtype.kind in "iu" and limits.min <= int(array.min()) and int(array.max()) <= limits.max


def to_bytes(array: Array) -> bytes:
    """Return the bytes of an array: little-endian, row-major."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
