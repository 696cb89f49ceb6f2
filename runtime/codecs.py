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


def floats(values: Sequence[Any] | NDArray[Any], shape: tuple[int, ...], field: str, *, limit: float = 1e6) -> Float32:
    """Nested lists or an array to float32 (n, *shape), finite and at most `limit` in size. Raises InvalidValue naming the item."""
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
