"""Tensors of the Open Inference Protocol as bytes and as values."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from manifold.runtime.errors import InvalidValue, Malformed
from manifold.service.inference import tensors


@pytest.mark.parametrize("datatype", tensors.DTYPES)
def test_bytes_and_values_agree(datatype: str) -> None:
    code = {
        "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
        "FP16": "e", "FP32": "f", "FP64": "d",
    }[datatype]  # fmt: skip
    flat = [False, True, True, True, False, True] if datatype == "BOOL" else [0, 1, 2, 3, 4, 5]
    values = [flat[:3], flat[3:]]
    packed = struct.pack(f"<6{code}", *flat)
    array = tensors.from_bytes(packed, datatype, (2, 3), "x")
    assert array.tolist() == values
    assert tensors.to_bytes(array) == packed
    if datatype != "FP16":
        for form in (values, flat):
            assert np.array_equal(tensors.from_values(form, datatype, (2, 3), "x"), array)


def test_values_out_of_range() -> None:
    for datatype, values in (
        ("UINT8", [256]),
        ("INT8", [-129]),
        ("INT64", [2**63]),
        ("INT32", [1.5]),
        ("BOOL", [1]),
        ("UINT64", [-1]),
    ):
        with pytest.raises(InvalidValue):
            tensors.from_values(values, datatype, (1,), "x")
    assert tensors.from_values([2**64 - 1], "UINT64", (1,), "x")[0] == 2**64 - 1
    assert tensors.from_values([], "FP32", (0, 3), "x").shape == (0, 3)
    with pytest.raises(Malformed):
        tensors.from_bytes(b"123", "FP32", (1,), "x")


def test_a_long_text_among_values_takes_no_room_for_each_of_them() -> None:
    values = ["x" * 10_000, *[0.5] * 10_000]  # 400 MB as an array of texts
    for data in (values, [values, values], [[values]], "x" * 10_000):
        tracemalloc.start()
        with pytest.raises(InvalidValue, match="not all values are FP32"):
            tensors.from_values(data, "FP32", (10_001,), "x")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
