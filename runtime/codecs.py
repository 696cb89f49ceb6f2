"""The codecs of bytes and numbers on the wire: base64, numpy's own format, and nested lists."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import npz
from manifold.runtime.errors import InvalidValue, Malformed, cut

Float32 = NDArray[np.float32]

NPY = "application/x-npy"
# what JSON calls the values that Python reads
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
    """Bytes of standard base64 (a data: URL's prefix is allowed). Raises Malformed."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{field}: not base64; send the file's bytes in standard base64", field=field) from None


def to_base64(content: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(content).decode("ascii")


def to_npy(array: NDArray[Any]) -> bytes:
    """The array in numpy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(content: bytes, field: str) -> NDArray[Any]:
    """An array in numpy's own format; never a pickle, and never more than the body holds, whatever its header claims.

    Raises Malformed, or InvalidValue for other than numbers.
    """
    buffer = io.BytesIO(content)
    try:
        shape, fortran, dtype = npz.header(buffer)
    except npz.Unreadable:
        raise Malformed(f"{field}: not a readable .npy body (numpy.save of an array)", field=field) from None
    if dtype.kind not in "fiub":
        raise InvalidValue(f"{field}: an array of numbers is needed, not {cut(str(dtype))}", field=field)
    body = content[buffer.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise Malformed(f"{field}: {len(body)} bytes do not make {dtype}{cut(str(list(shape)))}", field=field)
    try:
        return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError):  # nothing at all, or an extent beyond what an index may be
        raise Malformed(f"{field}: an array of shape {cut(str(list(shape)))} cannot be", field=field) from None


def types_of(values: object) -> set[type]:
    """Return the types of the values in lists within each other, without a step of Python for each value."""
    if not isinstance(values, list | tuple):
        return {type(values)}
    types = set(map(type, values))
    if list in types or tuple in types:
        types -= {list, tuple}
        for each in values:
            types |= types_of(each) if isinstance(each, list | tuple) else set()
    return types


def check_types(values: object, field: str, *, whole: bool = False) -> None:
    """Raise InvalidValue for nested lists, or an array, with anything but numbers: texts, true and false, and null are not converted.

    With `whole`, the numbers must be integers: 4.0 is not one.
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
            f"{field}: {needed} are needed, not {' or '.join(sorted(wrong))}; values are not converted", field=field
        )


def floats(values: Sequence[Any] | NDArray[Any], shape: tuple[int, ...], field: str, *, limit: float = 1e6) -> Float32:
    """Nested lists or an array to float32 (n, *shape), finite and at most `limit` in size. Raises InvalidValue naming the item."""
    check_types(values, field)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InvalidValue(
            f"{field}: a rectangular array of numbers of shape [n, {', '.join(map(str, shape))}] is needed", field=field
        ) from None
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise InvalidValue(
            f"{field}: shape {cut(str(list(array.shape)))}, but [n, {', '.join(map(str, shape))}] is needed",
            field=field,
        )
    if not (np.abs(array) <= limit).all():  # false of NaN too
        bad = ~(np.abs(array) <= limit)
        item = int(np.argwhere(bad.reshape(len(array), -1).any(axis=1))[0, 0])
        raise InvalidValue(
            f"{field}[{item}]: holds a value that is not finite or beyond {limit:g}", field=f"{field}[{item}]"
        )
    return array.astype(np.float32)
