"""Both transports of the Open Inference Protocol read values strictly: they refuse the same requests with the same type of error."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from manifold.runtime.errors import InvalidValue, Malformed, RequestError
from manifold.service.inference import core, http, rpc, tensors
from manifold.service.inference.core import flag
from manifold.service.stubs import inference_pb2 as pb

CONTENTS = {int: "int64_contents", float: "fp32_contents", bool: "bool_contents"}
PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def over_http(fields: dict[str, Any]) -> core.Asked:
    return http._read("m", "", orjson.dumps(fields), None)[0]


def over_grpc(**fields: Any) -> core.Asked:
    return rpc._read(pb.ModelInferRequest(model_name="m", **fields))


def error_of(read: Any, *arguments: Any, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(*arguments, **fields)
    return caught.value


# --- JSON data ---

LEGAL: list[tuple[str, list[int], Any]] = [
    ("FP32", [2, 2], [[1, 2], [3.5, 4]]), ("FP32", [2, 2], [1, 2, 3, 4]), ("FP64", [1, 2, 1], [[[1], [2]]]), ("INT64", [4], [1, 2, 3, 4]),
    ("INT8", [2], [-128, 127]), ("UINT8", [1, 2], [[0, 255]]), ("UINT64", [1], [2**64 - 1]), ("INT64", [1], [-(2**63)]), ("BOOL", [2], [True, False]),
    ("BOOL", [1, 1], [[True]]), ("FP32", [0, 3], []), ("FP32", [2, 0], [[], []]), ("FP32", [], [1.5]), ("FP32", [1], [16_777_217]),
]  # fmt: skip


@pytest.mark.parametrize(("datatype", "shape", "data"), LEGAL)
def test_data_is_nested_as_its_shape_or_flat(datatype: str, shape: list[int], data: Any) -> None:
    array = tensors.from_values(data, datatype, tuple(shape), "x")
    assert array.shape == tuple(shape) and array.dtype == tensors.DTYPES[datatype]
    assert np.array_equal(array.ravel(), np.asarray(data, array.dtype).ravel())


NESTED: list[tuple[list[int], Any]] = [
    ([4], [[1, 2], [3, 4]]), ([1, 4], [[1, 2], [3, 4]]), ([4, 1], [[1, 2], [3, 4]]), ([2, 2], [[1, 2, 3, 4]]), ([2, 2], [[[1, 2], [3, 4]]]),
    ([2, 2], [[1], [2], [3], [4]]), ([2, 2], [[1, 2], [3]]), ([2, 2], [[1, 2], 3, 4]), ([2, 2], [1, 2, [3, 4]]), ([2, 2], [[[1], 2], [3, 4]]),
    ([2, 2], [1, 2, 3]), ([2, 2], [1, 2, 3, 4, 5]), ([2, 2], []), ([0, 2], [1]), ([4], 4), ([1], 1), ([], 1),
    ([2, 0], [[]]), ([0, 2], [[]]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "data"), NESTED)
def test_another_nesting_or_count_is_malformed(shape: list[int], data: Any) -> None:
    fields = {"inputs": [{"name": "x", "shape": shape, "datatype": "INT64", "data": data}]}
    assert isinstance(error_of(over_http, fields), Malformed)


VALUES: list[tuple[str, Any]] = [
    ("BOOL", 1), ("BOOL", 0), ("BOOL", "true"), ("BOOL", 1.0), ("BOOL", None), ("INT64", True), ("INT64", "1"), ("INT64", 1.0), ("INT64", 1.5),
    ("INT64", None), ("INT64", 2**63), ("INT64", {}), ("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("INT32", 2**31), ("INT32", -(2**31) - 1),
    ("UINT8", 256), ("UINT8", -1), ("UINT16", 2**16), ("UINT32", 2**32), ("UINT64", -1), ("UINT64", 2.0**64), ("FP32", True), ("FP32", "1"),
    ("FP32", "NaN"), ("FP32", "Infinity"), ("FP32", None), ("FP32", 1e39), ("FP32", -1e300), ("FP64", False), ("FP64", "1e3"), ("FP64", {}),
]  # fmt: skip


@pytest.mark.parametrize(("datatype", "value"), VALUES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_value_of_another_type_or_range_is_invalid(datatype: str, value: Any, nested: bool) -> None:
    """One wrong value among right ones is enough: [true, 1] is not read as [1, 1]."""
    right: Any = True if datatype == "BOOL" else 1
    data = [[value, right]] if nested else [value, right]
    error = error_of(over_http, {"inputs": [{"name": "x", "shape": [1, 2], "datatype": datatype, "data": data}]})
    assert isinstance(error, InvalidValue) and error.field == "inputs[0]"
    assert f"not all values are {datatype}" in error.message


@pytest.mark.parametrize("data", [None, "1", True, {"0": 1}])
def test_data_that_is_no_list_is_invalid(data: Any) -> None:
    error = error_of(over_http, {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": data}]})
    assert isinstance(error, InvalidValue) and "not all values are INT64" in error.message


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_are_not_finite_are_no_json(text: str) -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [%s]}]}' % text.encode()
    with pytest.raises(Malformed, match="not JSON"):
        http._read("m", "", body, None)


# --- both transports ---

TENSOR: dict[str, Any] = {"name": "x", "datatype": "INT64", "shape": [2]}
BOTH: list[tuple[str, dict[str, Any], dict[str, Any], type[RequestError]]] = [
    ("count", {"data": [1]}, {"contents": {"int64_contents": [1]}}, Malformed),
    ("no data", {}, {}, Malformed),
    ("bytes", {"datatype": "BYTES", "data": ["a", "b"]}, {"datatype": "BYTES", "contents": {"bytes_contents": [b"a", b"b"]}}, InvalidValue),
    ("FP16", {"datatype": "FP16", "data": [1, 2]}, {"datatype": "FP16", "contents": {"fp32_contents": [1, 2]}}, InvalidValue),
    ("unknown datatype", {"datatype": "INT63", "data": [1, 2]}, {"datatype": "INT63", "contents": {"int64_contents": [1, 2]}}, InvalidValue),
    ("range of INT8", {"datatype": "INT8", "data": [1, 128]}, {"datatype": "INT8", "contents": {"int_contents": [1, 128]}}, InvalidValue),
    ("range of INT16", {"datatype": "INT16", "data": [1, -40000]}, {"datatype": "INT16", "contents": {"int_contents": [1, -40000]}}, InvalidValue),
    ("range of UINT8", {"datatype": "UINT8", "data": [1, 256]}, {"datatype": "UINT8", "contents": {"uint_contents": [1, 256]}}, InvalidValue),
    ("range of UINT16", {"datatype": "UINT16", "data": [1, 65536]}, {"datatype": "UINT16", "contents": {"uint_contents": [1, 65536]}}, InvalidValue),
    ("negative size", {"shape": [-1], "data": [1]}, {"shape": [-1], "contents": {"int64_contents": [1]}}, Malformed),
    ("many dimensions", {"shape": [1] * 17, "data": [1]}, {"shape": [1] * 17, "contents": {"int64_contents": [1]}}, Malformed),
    (
        "shared memory", {"data": [1, 2], "parameters": {"shared_memory_region": "r"}},
        {"contents": {"int64_contents": [1, 2]}, "parameters": {"shared_memory_region": {"string_param": "r"}}}, InvalidValue,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("json", "message", "kind"), [case[1:] for case in BOTH], ids=[case[0] for case in BOTH])
def test_tensors_are_refused_alike(json: dict[str, Any], message: dict[str, Any], kind: type[RequestError]) -> None:
    one = error_of(over_http, {"inputs": [{**TENSOR, **json}]})
    other = error_of(over_grpc, inputs=[{**TENSOR, **message}])
    assert type(one) is type(other) is kind
    assert one.field == other.field == "inputs[0]"


@pytest.mark.parametrize("datatype", list(rpc.CONTENTS))
def test_contents_of_another_datatype_are_refused(datatype: str) -> None:
    """Each datatype has one contents field. Other fields are refused, even beside the right one, and so are both forms of data at once."""
    values = {name: [1, 0] for name in set(rpc.CONTENTS.values())}
    own = rpc.CONTENTS[datatype]
    for name in values.keys() - {own}:
        for contents in ({name: values[name]}, {name: values[name], own: values[own]}):
            error = error_of(over_grpc, inputs=[{**TENSOR, "datatype": datatype, "contents": contents}])
            assert isinstance(error, Malformed) and f"does not belong into {name}; use {own}" in error.message
    asked = over_grpc(inputs=[{**TENSOR, "datatype": datatype, "contents": {own: values[own]}}])
    assert asked.inputs["x"].tolist() == [1, 0]
    raw = bytes(2 * tensors.DTYPES[datatype].itemsize)
    tensor = {**TENSOR, "datatype": datatype, "contents": {own: values[own]}}
    assert isinstance(error_of(over_grpc, inputs=[tensor], raw_input_contents=[raw]), Malformed)
    both = {**TENSOR, "datatype": datatype, "data": [1, 0], "parameters": {"binary_data_size": len(raw)}}
    assert isinstance(error_of(over_http, {"inputs": [both]}), Malformed)


WRONG: list[tuple[str, Any]] = [
    *((name, value) for name in ("n", "seed", "first", "timeout", "priority") for value in ("5", 5.0, True, "", -1)),
    *(("temperature", value) for value in ("1", True)), *(("prior", value) for value in (1, True, 1.5)),
    *(("class", value) for value in (True, 1.5)), *(("binary_data_output", value) for value in ("true", 1, 0, 1.0, "")),
    ("sequence_id", 3), ("sequence_start", True), ("sequence_end", "false"), ("sead", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_parameters_are_refused_alike(name: str, value: Any) -> None:
    """Each parameter has one type: a text or boolean is no number, and 5.0 is no integer."""

    def read_http() -> None:
        core._choices(over_http({"parameters": {name: value}}).parameters)

    def read_grpc() -> None:
        core._choices(over_grpc(parameters={name: {PARAMETERS[type(value)]: value}}).parameters)

    one, other = error_of(read_http), error_of(read_grpc)
    assert type(one) is type(other) is InvalidValue
    assert one.field == other.field == name


@pytest.mark.parametrize("value", ["true", "false", "", 1, 0, 1.0])
def test_binary_data_of_an_output_is_true_or_false(value: Any) -> None:
    one = error_of(over_http, {"outputs": [{"name": "y", "parameters": {"binary_data": value}}]})
    parameters = {"binary_data": {PARAMETERS[type(value)]: value}}
    other = error_of(over_grpc, outputs=[{"name": "y", "parameters": parameters}])
    assert type(one) is type(other) is InvalidValue and one.field == other.field == "outputs"
    assert "binary_data: true or false is needed" in one.message


def test_parameters_of_the_right_type_are_read() -> None:
    given = {
        "n": 2,
        "seed": 2**63 - 1,
        "first": 0,
        "class": "3",
        "temperature": 1,
        "prior": "normal",
        "timeout": 5000,
        "binary_data_output": False,
    }
    n, choices, timeout = core._choices(given)
    assert (n, choices.seed, choices.condition, choices.temperature, choices.prior, timeout) == (
        2,
        2**63 - 1,
        "3",
        1,
        "normal",
        5,
    )
    assert flag({"a": True}, "a") and not flag({"a": False}, "a", True) and flag({}, "a", True)


@pytest.mark.parametrize("field", ["input", "output", "parameter", "seed", "inptus"])
def test_an_unknown_field_of_a_request_is_refused(field: str) -> None:
    """Otherwise a misspelt input would silently be drawn from a seed."""
    error = error_of(over_http, {field: []})
    assert isinstance(error, InvalidValue) and error.field == field and "inputs" in (error.valid or [])
    assert over_http({"model_name": "m", "id": "1"}).id == "1"
