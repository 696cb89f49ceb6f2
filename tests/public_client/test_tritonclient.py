"""tritonclient's four clients against the service: all their methods that the service supports, one by one and many at once."""

from __future__ import annotations

import asyncio
import json
import queue
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from conftest import MODELS, Service
from tritonclient.utils import InferenceServerException

VERSION = max(path.name for path in (Path(__file__).parents[2] / "models/mnist-vae").iterdir())
Z = np.random.default_rng(1).standard_normal((64, 20)).astype(np.float32)


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, service: Service) -> Any:
    """Yield a module of tritonclient and its client."""
    if request.param == "http":
        with triton_http.InferenceServerClient(service.http, concurrency=8) as client:
            yield triton_http, client
    else:
        with triton_grpc.InferenceServerClient(service.grpc) as client:
            yield triton_grpc, client


def ask(client: Any, method: str, *arguments: Any) -> Any:
    """Call a method whose answer is JSON over both transports."""
    options = {"as_json": True} if isinstance(client, triton_grpc.InferenceServerClient) else {}
    return getattr(client, method)(*arguments, **options)


def tensor(module: Any, name: str, array: np.ndarray, **options: Any) -> Any:
    kinds = {"f4": "FP32", "i8": "INT64"}
    given = module.InferInput(name, list(array.shape), kinds[array.dtype.str[1:]])
    given.set_data_from_numpy(array, **options)
    return given


# --- metadata ---


def test_server(triton: Any) -> None:
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    said = ask(client, "get_server_metadata")
    assert said["name"] == "manifold"
    assert "model_repository" in said["extensions"]


def test_models(triton: Any) -> None:
    _, client = triton
    assert client.is_model_ready("mnist-vae")
    assert client.is_model_ready("mnist-vae.encode", VERSION)
    assert not client.is_model_ready("mnist-vae.nothing")
    said = ask(client, "get_model_metadata", "mnist-vae")
    assert [int(size) for size in said["inputs"][0]["shape"]] == [-1, 20]
    config = ask(client, "get_model_config", "mnist-vae")
    config = config.get("config", config)
    assert config["max_batch_size"] == 256
    index = ask(client, "get_model_repository_index")
    names = {each["name"] for each in (index["models"] if isinstance(index, dict) else index)}
    assert names == set(MODELS)
    with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
        client.get_model_metadata("nope")


def test_statistics(triton: Any) -> None:
    module, client = triton

    def count() -> int:
        return int(
            ask(client, "get_inference_statistics", "mnist-vae.decode")["model_stats"][0].get("inference_count", 0)
        )

    before = count()
    client.infer("mnist-vae", [tensor(module, "latent", Z[:3])])
    assert count() == before + 3


def test_every_task_by_its_example(triton: Any, service: Service) -> None:
    """The request in the metadata, built with the client's own objects, gives the outputs that the metadata states."""
    module, client = triton
    with triton_http.InferenceServerClient(service.http) as plain:
        targets = [
            f"{name}.{task}"
            for name in MODELS
            for task in plain.get_model_metadata(name)["parameters"]["tasks"].split()
        ]
        assert len(targets) > 25
        for target in targets:
            said = plain.get_model_metadata(target)
            example = json.loads(said["parameters"]["example"])
            inputs = []
            for each in example["inputs"]:
                dtype = {"FP32": np.float32, "INT64": np.int64}[each["datatype"]]
                inputs.append(tensor(module, each["name"], np.asarray(each["data"], dtype).reshape(each["shape"])))
            answer = client.infer(target, inputs, parameters=example.get("parameters"))
            for output in said["outputs"]:
                array = answer.as_numpy(output["name"])
                assert list(array.shape[1:]) == output["shape"][1:], target
                assert array.dtype == {"FP32": np.float32, "INT64": np.int64}[output["datatype"]]


# --- inference ---


def test_both_transports_and_forms_agree(service: Service) -> None:
    with (
        triton_http.InferenceServerClient(service.http) as http,
        triton_grpc.InferenceServerClient(service.grpc) as rpc,
    ):
        binary = http.infer("mnist-vae", [tensor(triton_http, "latent", Z)]).as_numpy("data")
        assert binary.shape == (64, 1, 28, 28)
        as_text = http.infer(
            "mnist-vae", [tensor(triton_http, "latent", Z, binary_data=False)],
            outputs=[triton_http.InferRequestedOutput("data", binary_data=False)],
        ).as_numpy("data")  # fmt: skip
        over_grpc = rpc.infer("mnist-vae", [tensor(triton_grpc, "latent", Z)]).as_numpy("data")
        assert np.array_equal(binary, as_text)
        assert np.array_equal(binary, over_grpc)
        for coding in ("gzip", "deflate"):
            packed = http.infer(
                "mnist-vae", [tensor(triton_http, "latent", Z)], request_compression_algorithm=coding, response_compression_algorithm=coding
            )  # fmt: skip
            assert np.array_equal(packed.as_numpy("data"), binary)
        packed = rpc.infer("mnist-vae", [tensor(triton_grpc, "latent", Z)], compression_algorithm="gzip")
        assert np.array_equal(packed.as_numpy("data"), binary)


def test_parameters(triton: Any) -> None:
    module, client = triton
    whole = client.infer("mnist-cvae", [], parameters={"n": 4, "seed": 7, "class": "3"}).as_numpy("data")
    for index in range(4):
        alone = client.infer("mnist-cvae", [], parameters={"seed": 7, "first": index, "class": "3"}).as_numpy("data")
        assert np.array_equal(alone[0], whole[index])
    cool = client.infer("mnist-vqvae", [], parameters={"n": 2, "seed": 7, "temperature": 0.5, "class": '["1", "8"]'})
    assert cool.as_numpy("codes").shape == (2, 7, 7)
    answer = client.infer(
        "mnist-vae", [tensor(module, "latent", Z[:1])], request_id="mine", priority=1, timeout=30_000_000, model_version=VERSION
    )  # fmt: skip
    said = answer.get_response()
    assert (said["id"] if isinstance(said, dict) else said.id) == "mine"


def test_errors(triton: Any) -> None:
    module, client = triton
    refused = [
        ("nope", [], {}, "there is no model"),
        ("mnist-vae", [], {"parameters": {"sed": 1}}, "sed is unknown (did you mean 'seed'?); use one of the valid parameters; valid: n, seed"),
        ("mnist-vae", [tensor(module, "latent", Z[:, :3].copy())], {}, "it must be float32"), ("mnist-vae", [], {"model_version": "9"}, "no version 9"),
        ("mnist-vae.encode", [], {}, "data: mnist-vae.encode needs this input"),
        ("mnist-vae", [tensor(module, "z", Z)], {}, "no such input; use one of the valid inputs; valid: latent"),
        ("mnist-vae", [], {"outputs": [module.InferRequestedOutput("x")]}, "has no output 'x'; use one of the valid names; valid: data"),
        ("mnist-vae", [], {"outputs": [module.InferRequestedOutput("data", class_count=3)]}, "is not supported"),
        ("mnist-vae", [], {"sequence_id": 5, "sequence_start": True}, "no state between requests"),
    ]  # fmt: skip
    for name, inputs, options, message in refused:
        with pytest.raises(InferenceServerException, match=re.escape(message)):
            client.infer(name, inputs, **options)


def test_load_and_unload(triton: Any) -> None:
    _, client = triton
    client.unload_model("mnist-vae-2d")
    assert not client.is_model_ready("mnist-vae-2d")
    with pytest.raises(InferenceServerException, match="unloaded"):
        client.infer("mnist-vae-2d", [])
    client.load_model("mnist-vae-2d")
    assert client.is_model_ready("mnist-vae-2d")
    assert client.infer("mnist-vae-2d", [], parameters={"seed": 1}).as_numpy("data").shape == (1, 1, 28, 28)
    with pytest.raises(InferenceServerException, match="models are loaded from their folder only"):
        client.load_model("mnist-vae-2d", config="{}")
    with pytest.raises(InferenceServerException, match="no version to serve"):
        client.load_model("nope")


def test_what_is_not_offered_is_an_error_and_not_a_hang(triton: Any) -> None:
    _, client = triton
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException):
            call()


# --- concurrent requests ---


def expected(service: Service) -> list[np.ndarray]:
    with triton_http.InferenceServerClient(service.http) as client:
        return [
            client.infer("mnist-vae", [], parameters={"n": 1 + index % 5, "seed": index}).as_numpy("data")
            for index in range(40)
        ]


def test_threads(service: Service) -> None:
    """Each thread has a client, over both transports. Each answer is the same as the answer to a single request."""
    alone = expected(service)

    def over_http(worker: int) -> None:
        with triton_http.InferenceServerClient(service.http) as client:
            for index in range(worker, 40, 4):
                found = client.infer("mnist-vae", [], parameters={"n": 1 + index % 5, "seed": index}).as_numpy("data")
                assert np.array_equal(found, alone[index])

    def over_grpc(worker: int) -> None:
        with triton_grpc.InferenceServerClient(service.grpc) as client:
            for index in range(worker, 40, 4):
                found = client.infer("mnist-vae", [], parameters={"n": 1 + index % 5, "seed": index}).as_numpy("data")
                assert np.array_equal(found, alone[index])

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(each, worker) for worker in range(4) for each in (over_http, over_grpc)]:
            done.result(120)


def test_async_infer(service: Service) -> None:
    """The clients' own asynchronous calls give the same answers."""
    alone = expected(service)
    with triton_http.InferenceServerClient(service.http, concurrency=16) as client:
        waiting = [
            client.async_infer("mnist-vae", [], parameters={"n": 1 + index % 5, "seed": index}) for index in range(40)
        ]
        for index, request in enumerate(waiting):
            assert np.array_equal(request.get_result().as_numpy("data"), alone[index])
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(service.grpc) as client:
        for index in range(40):
            client.async_infer(
                "mnist-vae", [], lambda result, error, index=index: answers.put((index, result, error)),
                parameters={"n": 1 + index % 5, "seed": index},
            )  # fmt: skip
        for _ in range(40):
            index, result, error = answers.get(timeout=120)
            assert error is None
            assert np.array_equal(result.as_numpy("data"), alone[index])


def test_asyncio(service: Service) -> None:
    alone = expected(service)

    async def go() -> None:
        async with (
            triton_http_aio.InferenceServerClient(service.http) as http,
            triton_grpc_aio.InferenceServerClient(service.grpc) as rpc,
        ):
            assert await http.is_server_ready()
            assert await rpc.is_server_ready()
            assert (await http.get_model_metadata("mnist-vae"))["platform"] == "onnxruntime_onnx"
            assert (await rpc.get_model_metadata("mnist-vae")).platform == "onnxruntime_onnx"
            for module, client in ((triton_http, http), (triton_grpc, rpc)):
                found = await asyncio.gather(
                    *(
                        client.infer("mnist-vae", [], parameters={"n": 1 + index % 5, "seed": index})
                        for index in range(40)
                    )
                )
                for index, answer in enumerate(found):
                    assert np.array_equal(answer.as_numpy("data"), alone[index])
                given = await client.infer("mnist-vae", [tensor(module, "latent", Z)])
                assert given.as_numpy("data").shape == (64, 1, 28, 28)
                with pytest.raises(InferenceServerException, match="there is no model"):
                    await client.infer("nope", [])

            async def requests() -> Any:
                for index in range(8):
                    yield {"model_name": "mnist-vae", "inputs": [], "parameters": {"n": 1 + index % 5, "seed": index}}

            index = 0
            async for result, error in rpc.stream_infer(requests()):
                assert error is None
                assert np.array_equal(result.as_numpy("data"), alone[index])
                index += 1
            assert index == 8

    asyncio.run(go())


def test_a_stream_keeps_order_and_outlives_errors(service: Service) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(service.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for index in range(30):
            client.async_stream_infer(
                "nope" if index % 10 == 3 else "mnist-vae", [], request_id=str(index), parameters={"seed": index}
            )
        for index in range(30):
            result, error = answers.get(timeout=60)
            if index % 10 == 3:
                assert "there is no model" in str(error)
            else:
                assert error is None
                assert result.get_response().id == str(index)
        client.stop_stream()


def test_a_full_queue_is_an_error_that_clients_know(narrow: Service) -> None:
    """With more requests than the queue takes, some are refused as unavailable. The others are right, and the service continues."""
    with (
        triton_http.InferenceServerClient(narrow.http, concurrency=16) as http,
        triton_grpc.InferenceServerClient(narrow.grpc) as rpc,
    ):
        alone = rpc.infer("digits-pixelcnn", [], parameters={"n": 48, "seed": 1}).as_numpy("data")
        refused: list[str | None] = []

        def many(module: Any, client: Any) -> None:
            try:
                answer = client.infer("digits-pixelcnn", [], parameters={"n": 48, "seed": 1})
                assert np.array_equal(answer.as_numpy("data"), alone)
            except InferenceServerException as error:
                refused.append(error.status())

        with ThreadPoolExecutor(16) as pool:
            for done in [pool.submit(many, None, rpc) for _ in range(32)]:
                done.result(120)
        assert refused
        assert set(refused) == {"StatusCode.UNAVAILABLE"}
        refused.clear()
        waiting = [http.async_infer("digits-pixelcnn", [], parameters={"n": 48, "seed": 1}) for _ in range(32)]
        for request in waiting:
            try:
                assert np.array_equal(request.get_result().as_numpy("data"), alone)
            except InferenceServerException as error:
                refused.append(error.status())
        assert set(refused) <= {"503"}
        assert rpc.infer("digits-pixelcnn", [], parameters={"seed": 1}).as_numpy("data").shape == (1, 1, 8, 8)
