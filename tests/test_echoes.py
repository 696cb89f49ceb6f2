"""Errors, warnings and explanations repeat at most a few dozen characters of a request's values, over every transport."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog

from manifold.runtime import errors
from manifold.runtime.errors import ArtifactError, InvalidValue, ManifoldError
from manifold.service.stubs import inference_pb2 as oip
from manifold.service.stubs import inference_pb2_grpc as oip_stubs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import tabled
from tests.served import Served, served
from tests.test_conditional import CONDITION, DATA, DATA_IN, LATENT, MEAN, artifact, task

LONG = "\u00e9" * 2_500_000  # 5 MB in UTF-8
MOST = 4096  # largest answer in bytes


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("echoes")
    tabled.write(root)
    artifact(root, encode=task([DATA_IN, CONDITION], MEAN), decode=task([LATENT, CONDITION], [DATA]))
    with served(root, grpc=True, default_model="fake", max_body_bytes=64 * 2**20) as service:
        yield service


ROW = {"price": 1, "kind": "small", "weight": 70}
BODIES: dict[str, tuple[str, Any]] = {
    "model": ("/sample", {"model": LONG}),
    "field": ("/sample", {LONG: 1}),
    "class": ("/sample", {"class": LONG}),
    "classes": ("/sample", {"n": 2, "class": ["cat", LONG]}),
    "weights": ("/sample", {"class": {LONG: 1.0}}),
    "prior": ("/sample", {"class": "cat", "prior": LONG}),
    "encoding": ("/sample", {"class": "cat", "encoding": LONG}),
    "number": ("/sample", {"n": LONG}),
    "digits": ("/sample", f'{{"n": {"9" * 5_000_000}}}'),
    "version": ("/sample", {"version": LONG}),
    "no JSON": ("/sample", f'{{"n": {LONG}'),
    "method": ("/interpolate", {"from": {"class": "cat", "seed": 1}, "to": {"class": "dog", "seed": 2}, "method": LONG}),
    "image": ("/encode", {"images": [LONG]}),
    "fit": ("/encode", {"images": ["AAAA"], "fit": LONG}),
    "cell": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, "price": LONG}]}),
    "big number": ("/anomaly-score", f'{{"model": "rows", "rows": [{{"price": 1{"0" * 5_000_000}, "kind": "small", "weight": 1}}]}}'),
    "column": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, LONG: 1}]}),
    "columns": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, **{f"{i}{'x' * 2000}": 1 for i in range(500)}}]}),
    "category": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, "kind": LONG}]}),
    "clipped": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, "weight": 10**18}]}),
    "list": ("/anomaly-score", {"model": "rows", "rows": [{**ROW, "price": ["x"] * 100_000}]}),
    "row": ("/anomaly-score", {"model": "rows", "rows": [LONG]}),
    "latents": ("/sample", {"class": "cat", "latents": [[LONG, 1, 2]]}),
    "infer: input": ("/v2/models/fake.decode/infer", {"inputs": [{"name": LONG, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}),
    "infer: datatype": ("/v2/models/fake.decode/infer", {"inputs": [{"name": "latent", "shape": [1, 3], "datatype": LONG, "data": [1, 2, 3]}]}),
    "infer: shape": ("/v2/models/fake.decode/infer", {"inputs": [{"name": "latent", "shape": [LONG], "datatype": "FP32", "data": [1]}]}),
    "infer: dimensions": ("/v2/models/fake.decode/infer", {"inputs": [{"name": "latent", "shape": [1] * 100_000, "datatype": "FP32", "data": [1]}]}),
    "infer: data": ("/v2/models/fake.decode/infer", {"inputs": [{"name": "latent", "shape": [1, 3], "datatype": "FP32", "data": [LONG, 1, 2]}]}),
    "infer: output": ("/v2/models/fake.decode/infer", {"outputs": [{"name": LONG}]}),
    "infer: parameter": ("/v2/models/fake.decode/infer", {"parameters": {LONG: 1}}),
    "infer: parameter's value": ("/v2/models/fake.decode/infer", {"parameters": {"seed": LONG}}),
    "infer: id": ("/v2/models/fake.decode/infer", {"id": LONG, "parameters": {"seed": 1, "class": "cat"}}),
    "infer: field": ("/v2/models/fake.decode/infer", {LONG: 1}),
    "infer: no JSON": ("/v2/models/fake.decode/infer", f'{{"n": {LONG}'),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_answers_repeat_little_of_a_body(service: Served, name: str) -> None:
    path, body = BODIES[name]
    answer = service.client.post(
        path, content=(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()
    )
    assert answer.status_code in (200, 400, 404, 409, 422), answer.text[:300]
    assert len(answer.content) < MOST
    assert sum(len(key) + len(value) for key, value in answer.headers.items()) < MOST


W = "w" * 50_000  # a request's head is limited to 64 KiB


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", f"/{W}", {}),
        ("PATCH", f"/{W}", {}),
        ("POST", f"/models/{W}", {}),
        ("GET", f"/models/{W}", {}),
        ("GET", f"/models/fake/versions/{W}", {}),
        ("GET", f"/v2/models/{W}", {}),
        ("GET", f"/v2/models/fake/versions/{W}", {}),
        ("GET", f"/v2/{W}", {}),
        ("PUT", f"/v2/models/{W}", {}),
        ("POST", f"/admin/models/{W}/load", {}),
        ("POST", f"/v2/repository/models/{W}/load", {}),
        ("POST", "/sample", {"Content-Type": W}),
        ("POST", "/sample", {"Content-Encoding": W}),
        ("POST", "/sample", {"Accept": W}),
        ("POST", "/sample", {"X-Request-ID": W}),
        ("POST", "/sample", {"X-Deadline-Ms": W}),
        ("POST", "/sample", {"Content-Type": f"multipart/form-data; boundary={W}"}),
        ("POST", "/sample", {"Content-Type": f"multipart/form-data; charset={W}; boundary=x"}),
        ("POST", f"/sample?{W}=1", {"Content-Type": "image/png"}),
        ("POST", f"/sample?model={W}", {"Content-Type": "image/png"}),
        ("POST", f"/sample?version={'9' * 4000}", {"Content-Type": "image/png"}),
        ("POST", "/anomaly-score", {"Content-Type": "text/csv", "Content-Encoding": W}),
        ("POST", "/admin/models/rows/calibrate", {"Content-Type": W}),
        ("POST", "/v2/models/fake.decode/infer", {"Inference-Header-Content-Length": W}),
        ("POST", "/v2/models/fake.decode/infer", {"Content-Encoding": W}),
    ],
)
def test_answers_repeat_little_of_a_head(service: Served, method: str, path: str, headers: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = service.client.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
    assert answer.status_code < 500, answer.text[:300]
    assert len(answer.content) < MOST
    assert sum(len(key) + len(value) for key, value in answer.headers.items()) < MOST
    assert len(json.dumps(logged, default=str)) < MOST


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Sample", pb.SampleRequest(model=LONG)),
        ("Sample", pb.SampleRequest(prior=LONG)),
        ("GetModel", pb.GetModelRequest(model=LONG)),
        ("AnomalyScoreFile", pb.ScoreFileRequest(kind=LONG)),
    ],
)
def test_calls_repeat_little(service: Served, name: str, message: Any) -> None:
    with channel(service) as found:
        given = iter([message]) if name == "AnomalyScoreFile" else message
        refused = pytest.raises(grpc.RpcError)
        with refused as error:
            answer = getattr(stubs.ManifoldStub(found), name)(given, timeout=60)
            list(answer)
        check(error.value)


@pytest.mark.parametrize(
    "request_",
    [
        oip.ModelInferRequest(model_name=LONG),
        oip.ModelInferRequest(model_name="fake.decode", model_version=LONG),
        oip.ModelInferRequest(model_name="fake.decode", id=LONG),
        oip.ModelInferRequest(model_name="fake.decode", parameters={LONG: oip.InferParameter(int64_param=1)}),
        oip.ModelInferRequest(model_name="fake.decode", parameters={"class": oip.InferParameter(string_param=LONG)}),
        oip.ModelInferRequest(model_name="fake.decode", parameters={"seed": oip.InferParameter(string_param=LONG)}),
        oip.ModelInferRequest(model_name="fake.decode", inputs=[{"name": LONG, "datatype": "FP32", "shape": [1]}]),
        oip.ModelInferRequest(model_name="fake.decode", inputs=[{"name": "latent", "datatype": LONG, "shape": [1]}], raw_input_contents=[b""]),
        oip.ModelInferRequest(model_name="fake.decode", outputs=[{"name": LONG}]),
    ],
)  # fmt: skip
def test_inferences_repeat_little(service: Served, request_: Any) -> None:
    with channel(service) as found:
        stub = oip_stubs.GRPCInferenceServiceStub(found)
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request_, timeout=60)
        check(error.value)
        (answer,) = stub.ModelStreamInfer(iter([request_]), timeout=60)
        assert answer.error_message
        assert answer.ByteSize() < MOST


def channel(service: Served) -> Any:
    return grpc.insecure_channel(service.target, options=[("grpc.max_send_message_length", -1)])


def check(error: Any) -> None:
    assert error.code() not in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ), error.details()[:300]
    trailers = error.trailing_metadata()
    assert trailers, "the error has lost its details"
    assert any(key == "grpc-status-details-bin" for key, _ in trailers)
    assert len(error.details().encode()) + sum(len(value) for _, value in trailers) < 2 * MOST


def test_explanations_and_warnings_repeat_little(service: Served) -> None:
    body = json.dumps({"model": "rows", "rows": [{**ROW, "kind": LONG}]}, ensure_ascii=False).encode()
    answer = service.client.post("/anomaly-score", content=body).json()
    (warning,) = answer["items"][0]["warnings"]
    assert warning.startswith("unknown_category: kind 'éé")
    assert len(warning) < 200


def test_no_error_is_long_whoever_writes_it() -> None:
    error = InvalidValue(LONG, field=LONG, valid=[LONG, *map(str, range(1000))])
    assert (len(error.message), len(error.field or "")) == (1000, errors.FIELD)
    assert len(str(error)) <= 1000 + errors.SHOWN_VALID + 20  # the valid values follow the message
    assert error.valid is not None
    assert len(str(error.valid[0])) == errors.ECHOED
    assert error.valid[-1] == "…"
    assert len(json.dumps(error.valid)) < 2 * errors.VALID
    assert len(ManifoldError(LONG).message) == 2000
    assert len(ArtifactError(LONG).message) == 8000
    assert InvalidValue("short", valid=("a", 1)).valid == ["a", 1]


def test_a_value_is_shown_in_80_characters() -> None:
    expected: list[tuple[object, str]] = [
        ("a" * 78, repr("a" * 78)),
        ("a" * 79, "'" + "a" * 37 + "..." + "a" * 38 + "'"),
        (b"a" * 79, "b'" + "a" * 36 + "..." + "a" * 38 + "'"),
        (10**79, "1" + "0" * 79),
        (10**80, "1" + "0" * 37 + "..." + "0" * 39),
        (-(10**5000), "<a number of 16610 bits>"),
        ([1, 2, 3, 4], "[1, 2, 3, 4]"),
        ([1, 2, 3, 4, 5], "[1, 2, 3, 4, ...]"),
        ((1, 2, 3, 4, 5), "(1, 2, 3, 4, ...)"),
        (dict.fromkeys("abcde"), "{'a': None, 'b': None, 'c': None, 'd': None, ...}"),
        ([[[1]]], "[[[...]]]"),
        ({"a": {"b": {"c": 1}}}, "{'a': {'b': {...}}}"),
        (["a" * 50, "b" * 50], "['" + "a" * 50 + "', '" + "b" * 23 + "…"),
    ]
    for value, said in expected:
        assert errors.shown(value) == said
        assert len(said) <= errors.ECHOED + 2


def test_the_last_line_of_a_script_s_error_is_repeated() -> None:
    said = "The following operation failed\nTraceback of TorchScript, serialized code:\n  File x\nRuntimeError:  no\tmatch\n"
    assert errors.reason(RuntimeError(said)) == "RuntimeError: no match"
    assert errors.reason(RuntimeError("two\nlines")) == "two lines"
    assert errors.reason(KeyError()) == "KeyError"
