"""The Open Inference Protocol over both transports, as specified; tests/public_client tests it with a public client."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifold.runtime import repository
from manifold.service.stubs import inference_pb2 as pb
from manifold.service.stubs import inference_pb2_grpc as stubs
from tests import foreign
from tests.conftest import SHIPPED
from tests.open_inference import HEAD, Z, binary, by_sample, framed, infer, latent
from tests.served import Served, served

VERSION = repository.find("mnist-vae", SHIPPED).name
MODELS = (
    "mnist-vae",
    "mnist-cvae",
    "mnist-vqvae",
    "digits-classifier",
    "digits-pixelcnn",
    "nslkdd-cvae",
    "transactions-vae",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("inference")
    foreign.write(root)
    for name in MODELS:
        (root / name).symlink_to(SHIPPED / name)
    with served(root, grpc=True, max_items=64, max_body_bytes=200_000) as service:
        yield service


@pytest.fixture(scope="module")
def stub(service: Served) -> Iterator[Any]:
    with grpc.insecure_channel(service.target) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)


# --- metadata ---


def test_the_server_says_what_it_is(service: Served, stub: Any) -> None:
    said = service.client.get("/v2").json()
    assert said["name"] == "manifold"
    assert "binary_tensor_data" in said["extensions"]
    answer = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (answer.name, answer.version, list(answer.extensions)) == (said["name"], said["version"], said["extensions"])
    assert service.client.get("/v2/health/live").json() == {"live": True}
    assert service.client.get("/v2/health/ready").json() == {"ready": True}
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready


@pytest.mark.parametrize("name", [*MODELS, "foreign"])
def test_every_task_states_its_tensors_and_answers_its_own_example(service: Served, stub: Any, name: str) -> None:
    """The metadata agrees with the manifest over both transports. The example in it is valid and gives the stated outputs."""
    manifest = service.registry.find(name, None).manifest
    assert manifest is not None
    for target in (name, *(f"{name}.{task}" for task in manifest.served)):
        said = service.client.get(f"/v2/models/{target}").json()
        spec = manifest.tasks[said["parameters"]["task"]]
        assert (said["name"], said["versions"]) == (target, [str(manifest.version)])
        for side in ("inputs", "outputs"):
            assert [(each["name"], each["shape"][1:]) for each in said[side]] == [
                (each.role, list(each.shape)) for each in getattr(spec, side)
            ]
            assert all(each["shape"][0] == -1 for each in said[side])
        message = stub.ModelMetadata(pb.ModelMetadataRequest(name=target))
        assert dict(message.properties) == said["parameters"]
        for side in ("inputs", "outputs"):
            assert [(each.name, each.datatype, list(each.shape)) for each in getattr(message, side)] == [
                (each["name"], each["datatype"], each["shape"]) for each in said[side]
            ]
        config = service.client.get(f"/v2/models/{target}/config").json()
        message = stub.ModelConfig(pb.ModelConfigRequest(name=target)).config
        assert [(each.name, each.optional) for each in message.input] == [
            (each["name"], each["parameters"]["optional"]) for each in said["inputs"]
        ]
        assert message.max_batch_size == config["max_batch_size"] >= 1
        answer = infer(service, target, said["parameters"]["example"].encode())
        assert answer.status_code == 200, answer.text
        found = {each["name"]: each for each in answer.json()["outputs"]}
        assert list(found) == [each["name"] for each in said["outputs"]]
        for each in said["outputs"]:
            assert found[each["name"]]["datatype"] == each["datatype"]
            assert found[each["name"]]["shape"][1:] == each["shape"][1:]


def test_a_name_alone_is_the_task_that_the_model_is_there_for(service: Served) -> None:
    for name, task in (("mnist-vae", "decode"), ("mnist-vqvae", "sample"), ("digits-classifier", "features")):
        assert service.client.get(f"/v2/models/{name}").json()["parameters"]["task"] == task


def test_readiness_of_models(service: Served, stub: Any) -> None:
    for name in ("mnist-vae", "mnist-vae.encode"):
        answer = service.client.get(f"/v2/models/{name}/ready")
        assert (answer.status_code, answer.json()) == (200, {"name": name, "ready": True})
        assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=VERSION)).ready
    assert service.client.get("/v2/models/mnist-vae.nope/ready").status_code == 503
    assert service.client.get("/v2/models/nope/ready").status_code == 404


# --- inference ---


def test_json_and_binary_and_grpc_give_the_same(service: Served, stub: Any) -> None:
    expected = by_sample(service, model="mnist-vae", latents=Z.tolist())
    plain = infer(service, "mnist-vae", {"id": "a", "inputs": [latent()]})
    assert plain.headers["content-type"] == "application/json"
    body = plain.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("mnist-vae", VERSION, "a")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("data", "FP32", [2, 1, 28, 28])
    assert np.array_equal(np.asarray(output["data"], np.float32).reshape(2, 1, 28, 28), expected)

    raw = Z.tobytes()
    tensor = {"name": "latent", "shape": [2, 20], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    content, headers = framed(
        {"inputs": [tensor], "outputs": [{"name": "data", "parameters": {"binary_data": True}}]}, raw
    )
    head, tail = binary(infer(service, "mnist-vae.decode", content, **headers))
    assert head["outputs"][0]["parameters"] == {"binary_data_size": expected.nbytes}
    assert tail == expected.tobytes()

    message = pb.ModelInferRequest(model_name="mnist-vae", id="b", raw_input_contents=[raw])
    message.inputs.add(name="latent", datatype="FP32", shape=[2, 20])
    answer = stub.ModelInfer(message)
    assert (answer.id, list(answer.outputs[0].shape), answer.raw_output_contents[0]) == ("b", [2, 1, 28, 28], tail)
    typed = pb.ModelInferRequest(model_name="mnist-vae")
    typed.inputs.add(name="latent", datatype="FP32", shape=[2, 20]).contents.fp32_contents.extend(Z.ravel().tolist())
    assert stub.ModelInfer(typed).raw_output_contents[0] == tail
    assert binary(infer(service, "mnist-vae", raw, **{HEAD: "0"}))[1] == tail  # a body that consists of one tensor


def test_a_seed_fills_what_is_left_out(service: Served, stub: Any) -> None:
    """Omitted inputs give the same item as in /sample, over every way in; several in one request give the same as one by one."""
    for name, options in (("mnist-vae", {}), ("mnist-cvae", {"class": "3"}), ("mnist-vqvae", {"temperature": 0.8})):
        expected = by_sample(service, model=name, n=3, seed=7, **options)
        answer = infer(service, name, {"parameters": {"n": 3, "seed": 7, **options, "binary_data_output": True}})
        head, tail = binary(answer)
        size = head["outputs"][-1]["parameters"]["binary_data_size"]
        assert tail[-size:] == expected.tobytes()
        assert (head["parameters"]["seed"], head["parameters"]["first"]) == (7, 0)
        message = pb.ModelInferRequest(model_name=name)
        message.parameters["seed"].int64_param = 7
        message.parameters["first"].int64_param = 2
        for key, value in options.items():
            setattr(message.parameters[key], "double_param" if key == "temperature" else "string_param", value)
        message.outputs.add(name="data")
        assert stub.ModelInfer(message).raw_output_contents == [expected[2:].tobytes()]
    unsaid = infer(service, "mnist-vae", {}).json()["parameters"]["seed"]
    assert infer(service, "mnist-vae", {"parameters": {"seed": unsaid}}).json()["parameters"] == {
        "seed": unsaid,
        "first": 0,
    }


def test_classes_that_were_drawn_are_said(service: Served) -> None:
    expected = service.client.post("/sample", json={"model": "mnist-cvae", "n": 5, "seed": 3}).json()["classes"]
    said = infer(service, "mnist-cvae", {"parameters": {"n": 5, "seed": 3}}).json()["parameters"]
    assert json.loads(said["classes"]) == expected
    several = infer(service, "mnist-cvae", {"parameters": {"n": 2, "seed": 3, "class": '["1", "4"]'}}).json()[
        "parameters"
    ]
    assert json.loads(several["classes"]) == ["1", "4"]
    mixed = infer(service, "mnist-cvae", {"parameters": {"seed": 3, "class": '{"1": 3, "4": 1}'}}).json()["parameters"]
    weights = json.loads(mixed["classes"])[0]
    assert (weights[1], weights[4]) == (0.75, 0.25)


def test_outputs_are_those_that_are_asked_for(service: Served) -> None:
    image = {"name": "data", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}
    wanted = [{"name": "kl"}, {"name": "surprise", "parameters": {"binary_data": True}}]
    head, tail = binary(infer(service, "mnist-vae.score", {"inputs": [image], "outputs": wanted}))
    assert [each["name"] for each in head["outputs"]] == ["kl", "surprise"]
    assert len(head["outputs"][0]["data"]) == 1
    assert len(tail) == 784 * 4


def test_compression_both_ways(service: Served) -> None:
    body = json.dumps({"parameters": {"n": 4, "seed": 1, "binary_data_output": True}}).encode()
    expected = infer(service, "mnist-vae", body, **{"Accept-Encoding": "identity"}).content
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        answer = infer(service, "mnist-vae", pack(body), **{"Content-Encoding": coding, "Accept-Encoding": coding})
        assert answer.headers["content-encoding"] == coding
        assert answer.content == expected  # httpx has decompressed it
    bomb = gzip.compress(bytes(50_000_000))
    assert infer(service, "mnist-vae", bomb, **{"Content-Encoding": "gzip"}).status_code == 413
    for wrong in (body, gzip.compress(body)[:-4], gzip.compress(body) + b"x"):
        assert infer(service, "mnist-vae", wrong, **{"Content-Encoding": "gzip"}).status_code == 400
    assert infer(service, "mnist-vae", body, **{"Content-Encoding": "br"}).status_code == 415


def test_statistics_count_what_was_done(service: Served, stub: Any) -> None:
    def of(task: str) -> dict[str, Any]:
        answer = service.client.get(f"/v2/models/mnist-vae.{task}/stats").json()["model_stats"]
        found: dict[str, Any] = answer[0]
        return found

    before = of("decode")
    infer(service, "mnist-vae", {"parameters": {"n": 5}})
    infer(service, "mnist-vae", {"parameters": {"n": 5, "sed": 1}})
    after = of("decode")
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    counts = {
        name: each["count"] - before["inference_stats"][name]["count"]
        for name, each in after["inference_stats"].items()
    }
    assert counts == {"success": 1, "fail": 1, "queue": 1, "compute_input": 1, "compute_infer": 1, "compute_output": 1}
    spent = {
        name: each["ns"] - before["inference_stats"][name]["ns"] for name, each in after["inference_stats"].items()
    }
    parts = sum(spent[name] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0.5 * spent["success"] < parts < 1.5 * spent["success"]
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    message = stub.ModelStatistics(pb.ModelStatisticsRequest(name="mnist-vae.decode")).model_stats[0]
    assert (message.inference_count, message.inference_stats.success.ns) == (
        after["inference_count"], after["inference_stats"]["success"]["ns"],
    )  # fmt: skip
    names = {each["name"] for each in service.client.get("/v2/models/stats").json()["model_stats"]}
    assert {"mnist-vae.decode", "mnist-vqvae.sample", "foreign.decode"} <= names


# --- errors ---

LATENT = {"name": "latent", "shape": [1, 20], "datatype": "FP32", "data": [0.0] * 20}
BAD: list[tuple[Any, str]] = [
    (b"", "not JSON"), (b"[]", "a JSON object is needed"), (b"{", "not JSON"),
    ({"inputs": {}}, "inputs: not valid; use a list"), ({"inputs": [1]}, "inputs: not valid; use a list"), ({"inputs": [{}]}, "with a name"),
    ({"inputs": [{"name": "latent", "datatype": "FP32", "data": []}]}, "inputs[0]: shape is missing; add it"),
    ({"inputs": [{"name": "latent", "shape": [1, 20], "data": []}]}, "inputs[0]: datatype is missing; add one of the valid types; valid: BOOL"),
    ({"outputs": None, "inptus": []}, "inptus: unknown field (did you mean 'inputs'?)"),
    ({"inputs": [{**LATENT, "shape": "x"}]}, "shape"), ({"inputs": [{**LATENT, "shape": [1, -20]}]}, "shape"),
    ({"inputs": [{**LATENT, "shape": [True, 20]}]}, "shape"), ({"inputs": [{**LATENT, "shape": [1] * 17}]}, "at most 16"),
    ({"inputs": [{**LATENT, "shape": [2, 20]}]}, "20 values, but the shape [2, 20] needs 40"),
    ({"inputs": [{**LATENT, "datatype": "FP33"}]}, "datatype 'FP33'"),
    ({"inputs": [{**LATENT, "datatype": 3}]}, "datatype 3"), ({"inputs": [{**LATENT, "datatype": "BYTES"}]}, "datatype 'BYTES'"),
    ({"inputs": [{**LATENT, "datatype": "FP64"}]}, "float64[1, 20]; it must be float32"), ({"inputs": [{**LATENT, "datatype": "FP16"}]}, "as binary data only"),
    ({"inputs": [{**LATENT, "data": ["a"] * 20}]}, "not all values are FP32"), ({"inputs": [{**LATENT, "data": [True] * 20}]}, "not all values"),
    ({"inputs": [{**LATENT, "data": [[1, 2], [3]]}]}, "the nesting does not match"), ({"inputs": [{**LATENT, "data": None}]}, "not all values are FP32"),
    ({"inputs": [{**LATENT, "data": 1}]}, "a list of values is needed"),
    ({"inputs": [{**LATENT, "data": [1e300] * 20}]}, "too large to be finite"),
    ({"inputs": [LATENT, LATENT]}, "occurs twice"), ({"inputs": [{**LATENT, "name": "z"}]}, "no such input; use one of the valid inputs; valid: latent"),
    ({"inputs": [{"name": "latent", "shape": [1, 20], "datatype": "FP32"}]}, "data or binary_data_size"),
    ({"inputs": [{**LATENT, "parameters": {"binary_data_size": 80}}]}, "are both given"),
    ({"inputs": [{**LATENT, "parameters": {"shared_memory_region": "r"}}]}, "shared memory is not supported; send the data"),
    ({"inputs": [{**LATENT, "parameters": 3}]}, "an object is needed"), ({"parameters": []}, "an object is needed"),
    ({"outputs": [{"name": "x"}]}, "has no output 'x'; use one of the valid names; valid: data"),
    ({"outputs": [{"name": "data", "parameters": {"classification": 3}}]}, "classification is not supported"),
    ({"id": 3}, "id: a text"), ({"parameters": {"n": 0}}, "n: 0 is not valid; use an integer from 1 to"), ({"parameters": {"n": 65}}, "above the limit of 64"),
    ({"parameters": {"n": 2}, "inputs": [LATENT]}, "n: 2, but 1 rows"), ({"parameters": {"n": True}}, "n: true"), ({"parameters": {"n": 1.5}}, "n: 1.5"),
    ({"parameters": {"seed": -1}}, "seed: -1"), ({"parameters": {"seed": "x"}}, "seed: 'x'"), ({"parameters": {"seed": 2**63}}, "seed"),
    ({"parameters": {"temperature": "hot"}}, "temperature"), ({"parameters": {"temperature": 0}}, "temperature"), ({"parameters": {"prior": 3}}, "prior"),
    ({"parameters": {"class": "3"}}, "has no classes"), ({"parameters": {"class": "[1"}}, "class: the text is"), ({"parameters": {"class": 1.5}}, "class"),
    ({"parameters": {"class": '{"3": "a"}'}}, "class"), ({"parameters": {"class": "[[1]]"}}, "class"),
    ({"parameters": {"sequence_id": 5}}, "no state between requests"),
    ({"parameters": {"hello": 1}}, "hello is unknown; use one of the valid parameters; valid: n, seed"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD)
def test_what_is_wrong_is_said_in_the_protocols_shape(service: Served, body: Any, message: str) -> None:
    answer = infer(service, "mnist-vae", body)
    assert answer.status_code == (413 if "limit" in message else 400), answer.text
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_frames_that_do_not_add_up(service: Served) -> None:
    tensor = {"name": "latent", "shape": [1, 20], "datatype": "FP32", "parameters": {"binary_data_size": 80}}
    content, headers = framed({"inputs": [tensor]}, bytes(80))
    assert infer(service, "mnist-vae", content, **headers).status_code == 200
    assert "1 bytes follow the last" in infer(service, "mnist-vae", content + b"x", **headers).json()["error"]
    assert "80, but the body has 79 more bytes" in infer(service, "mnist-vae", content[:-1], **headers).json()["error"]
    for size in ("x", "-1", str(len(content) + 1), "9" * 30, "1.5", ""):
        assert infer(service, "mnist-vae", content, **{HEAD: size}).status_code == 400
    tensor["parameters"]["binary_data_size"] = 40  # type: ignore[index]
    content, headers = framed({"inputs": [tensor]}, bytes(40))
    assert "40 bytes, but FP32[1, 20] needs 80" in infer(service, "mnist-vae", content, **headers).json()["error"]
    assert "84 bytes, but" in infer(service, "mnist-vae", bytes(84), **{HEAD: "0"}).json()["error"]
    assert "has several inputs" in infer(service, "mnist-vqvae", bytes(80), **{HEAD: "0"}).json()["error"]


def test_paths_and_methods(service: Served) -> None:
    for method, path, status in (
        ("GET", "/v2/models/mnist-vae/infer", 405), ("POST", "/v2", 405), ("GET", "/v2/logging", 404), ("GET", "/v2/x", 404),
        ("POST", "/v2/models/nope/infer", 404), ("POST", "/v2/models/mnist-vae.nope/infer", 404), ("GET", "/v2/models/mnist-vae/versions/7", 404),
        ("GET", "/v2/models/mnist-vae/versions/x", 400), ("GET", "/v2x", 404), ("POST", "/v2/systemsharedmemory/region/a/register", 404),
    ):  # fmt: skip
        answer = service.client.request(method, path, content=b"{}" if method == "POST" else None)
        assert answer.status_code == status, (path, answer.text)
        said = answer.json()["error"]
        assert isinstance(said, str if path != "/v2x" else dict)
    assert service.client.get(f"/v2/models/mnist-vae/versions/{VERSION}").json()["name"] == "mnist-vae"


def test_errors_over_grpc(service: Served, stub: Any) -> None:
    def refused(**fields: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(pb.ModelInferRequest(**fields))
        error: Any = caught.value
        return error.code(), error.details()

    tensor: dict[str, Any] = {"name": "latent", "datatype": "FP32", "shape": [1, 20]}
    raw, invalid, missing = "raw_input_contents", grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    cases: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"model_name": "nope"}, missing, "valid: "), ({"model_version": "8"}, missing, "version"),
        ({"model_version": "x"}, invalid, "use an integer from 1 to"),
        ({"model_version": "0"}, invalid, "version: '0' is not valid; use an integer from 1 to"),
        ({raw: [b""]}, invalid, "1 for 0 inputs"), ({"inputs": [tensor], raw: [bytes(79)]}, invalid, "79 bytes"),
        ({"inputs": [{**tensor, "contents": {"fp32_contents": [1]}}], raw: [bytes(80)]}, invalid, "are both given"),
        ({"inputs": [{**tensor, "contents": {"int_contents": [1]}}]}, invalid, "use fp32_contents"),
        ({"inputs": [tensor]}, invalid, "0 values"), ({"inputs": [{**tensor, "datatype": ""}]}, invalid, "inputs[0]: datatype is missing; use a valid type"),
        ({"inputs": [{**tensor, "datatype": "BYTES"}]}, invalid, "BYTES"),
        ({"inputs": [{**tensor, "shape": [-1, 20]}]}, invalid, "shape"), ({"parameters": {"n": {"int64_param": 65}}}, invalid, "above the limit of 64"),
    ]  # fmt: skip
    for fields, code, message in cases:
        found, said = refused(**{"model_name": "mnist-vae", **fields})
        assert found is code, (fields, said)
        assert message in said
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelMetadata(pb.ModelMetadataRequest(name="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_stream_answers_in_order_and_outlives_errors(stub: Any) -> None:
    def requests() -> Iterator[pb.ModelInferRequest]:
        for name in ("mnist-vae", "nope", "mnist-vae"):
            message = pb.ModelInferRequest(model_name=name, id=name)
            message.parameters["seed"].uint64_param = 1
            yield message

    answers = list(stub.ModelStreamInfer(requests(), timeout=30))
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert answers[1].infer_response.id == "nope"
    assert answers[0].infer_response == answers[2].infer_response
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(requests(), timeout=30, metadata=(("triton_grpc_error", "true"),)))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


KEYS = (
    "inputs",
    "outputs",
    "parameters",
    "name",
    "shape",
    "datatype",
    "data",
    "id",
    "seed",
    "n",
    "class",
    "binary_data_size",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(("latent", "FP32")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=JSON, head=st.none() | st.text("0123456789-x", max_size=4), tail=st.binary(max_size=20))
def test_nothing_makes_a_500(service: Served, body: Any, head: str | None, tail: bytes) -> None:
    headers = {} if head is None else {HEAD: head}
    answer = infer(service, "mnist-vae", json.dumps(body).encode() + tail, **headers)
    assert answer.status_code in (200, 400, 413)
    assert answer.status_code == 200 or list(answer.json()) == ["error"]


def test_a_service_that_stops_is_alive_and_takes_no_more(
    service: Served, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.registry, "stopped", True)
    assert service.client.get("/v2/health/live").status_code == 200
    assert service.client.get("/v2/models/mnist-vae").status_code == 200
    assert infer(service, "mnist-vae", {}).status_code == 503
    assert service.client.post("/sample", json={"model": "mnist-vae"}).status_code == 503
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(pb.ModelInferRequest(model_name="mnist-vae"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
