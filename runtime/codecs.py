"""Codecs for bytes and numbers in requests and responses: base64, numpy's .npy format, and nested lists."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from manifold.runtime import npz
from manifold.runtime.errors import InvalidValue, Malformed, cut

Float32 = NDArray[np.float32]

NPY = "application/x-npy"
Base64 = Annotated[str, Field(title="base64 string", json_schema_extra={"contentEncoding": "base64"})]
# the names in error messages of Python types that JSON is read into
NAMES = {
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "objects",
    list: "arrays",
    int: "integers",
    float: "numbers such as 4.0",
}


def from_base64(text: str, field: str) -> bytes:
    """Decode standard base64, with or without the prefix of a data: URL. Raises Malformed."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(
            f"{field}: is not valid base64; send the bytes of the file in standard base64", field=field
        ) from None


def to_base64(content: bytes) -> str:
    """Encode bytes as standard base64."""
    return base64.b64encode(content).decode("ascii")


def to_npy(array: NDArray[Any]) -> bytes:
    """Return an array in numpy's .npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(content: bytes, field: str) -> NDArray[Any]:
    """Read an array in numpy's .npy format. Pickles are never read, and the size in the header must match the size of the body.

    Raises Malformed if it cannot be read, InvalidValue for an array that does not hold numbers.
    """
    buffer = io.BytesIO(content)
    try:
        shape, fortran, dtype = npz.header(buffer)
    except npz.Unreadable:
        raise Malformed(
            f"{field}: is not a readable .npy body; write it with numpy.save from an array", field=field
        ) from None
    if dtype.kind not in "fiub":
        raise InvalidValue(f"{field}: the array has the type {cut(str(dtype))}; send an array of numbers", field=field)
    body = content[buffer.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise Malformed(
            f"{field}: the body has {len(body)} bytes, which do not match the type {dtype} and shape {cut(str(list(shape)))} in its header; "
            "send the whole file",
            field=field,
        )
    try:
        return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError):  # an empty body, or a dimension that is too large for an index
        raise Malformed(
            f"{field}: no array can have the shape {cut(str(list(shape)))}; send a valid .npy body", field=field
        ) from None


def types_of(values: object) -> set[type]:
    """Return the types of the values in nested lists, without a Python loop over the values."""
    if not isinstance(values, list | tuple):
        return {type(values)}
    types = set(map(type, values))
    if list in types or tuple in types:
        types -= {list, tuple}
        for each in values:
            types |= types_of(each) if isinstance(each, list | tuple) else set()
    return types


def check_types(values: object, field: str, *, whole: bool = False) -> None:
    """Raise InvalidValue for nested lists or an array with values that are not numbers. Texts, booleans and null are not converted.

    With `whole`, the numbers must be integers; 4.0 is not an integer.
    """
    if isinstance(values, np.ndarray | np.generic):
        wrong = {values.dtype.name} if values.dtype.kind not in ("iu" if whole else "iuf") else set()
    else:
        wrong = {
            NAMES.get(kind, kind.__name__)
            for kind in types_of(values)
            if not issubclass(kind, (int, np.integer) if whole else (int, float, np.number, np.ndarray)) or kind is bool
        }
    if wrong:
        needed = "integers" if whole else "numbers"
        raise InvalidValue(
            f"{field}: contains {' and '.join(sorted(wrong))}; send only {needed} (values are not converted)",
            field=field,
        )


def floats(values: Sequence[Any] | NDArray[Any], shape: tuple[int, ...], field: str, *, limit: float = 1e6) -> Float32:
    """Convert nested lists or an array to float32 (n, *shape).

    Raises InvalidValue, with the index of the item, for values that are not finite or whose absolute value is above `limit`.
    """
    check_types(values, field)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InvalidValue(
            f"{field}: is not a rectangular array of numbers; send the shape [n, {', '.join(map(str, shape))}]",
            field=field,
        ) from None
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise InvalidValue(
            f"{field}: shape {cut(str(list(array.shape)))}; send the shape [n, {', '.join(map(str, shape))}]",
            field=field,
        )
    if not (np.abs(array) <= limit).all():  # the comparison is also false for NaN
        bad = ~(np.abs(array) <= limit)
        item = int(np.argwhere(bad.reshape(len(array), -1).any(axis=1))[0, 0])
        raise InvalidValue(
            f"{field}[{item}]: contains NaN, or a value above {limit:g} in size; send finite numbers within that limit",
            field=f"{field}[{item}]",
        )
    return array.astype(np.float32)
