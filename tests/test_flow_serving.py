"""Flows in the service: steps, guidance and "no class" on every interface, and runs that are shared by requests with equal steps."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from manifold.runtime import engine, operations
from manifold.runtime.engine import Model
from manifold.service.models import batcher as batching
from manifold.service.models.batcher import Batcher
from manifold.service.models.costs import RunCosts
from manifold.service.settings import Settings
from manifold.service.stubs import inference_pb2 as v2
from manifold.service.stubs import inference_pb2_grpc as v2_stubs
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold.training.data import Data
from tests import shared
from tests.conftest import tiny_run
from tests.gate import Gate
from tests.served import Served, served


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    root = tmp_path_factory.mktemp("flows")
    run = tiny_run(root / "run", "flow", digits, objective="flow")
    shared.export(run, "flow", root / "models", data=digits)
    return root / "models"


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Served]:
    with served(root, grpc=True, default_model="flow") as service:
        yield service


@pytest.fixture
def model(root: Path) -> Model:
    return engine.load(root / "flow", device="cpu", threads=1)


def sampled(service: Served, **fields: Any) -> np.ndarray[Any, Any]:
    answer = service.client.post("/sample", json={"encoding": "array", "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    return np.asarray(answer.json()["data"], np.float32)


def test_steps_and_guidance_are_fields_and_numbers(service: Served, model: Model) -> None:
    fields: dict[str, Any] = {"n": 2, "class": ["1", "2"], "steps": 2, "guidance": [1.0, 3.0]}
    expected = model.sample(2, seed=1, classes=["1", "2"], steps=2, guidance=[1.0, 3.0]).data
    assert np.array_equal(sampled(service, **fields), expected)
    by_name = {"n": 2, "class": ["1", "2"], "inputs": {"steps": 2, "guidance": [1.0, 3.0]}}
    assert np.array_equal(sampled(service, **by_name), expected)
    lines = service.client.post(
        "/sample", json={**fields, "seed": 1, "encoding": "array"}, headers={"Accept": "application/x-ndjson"}
    )
    streamed = [json.loads(line) for line in lines.text.splitlines()]
    items = [each["data"] for each in streamed if "data" in each]
    assert np.array_equal(np.asarray(items, np.float32).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"steps": 3}, "steps", "steps: 3 is not offered; give one of 2, 4"),
        ({"steps": 0}, "steps", "steps: 0 is not offered; give one of 2, 4"),
        ({"guidance": 21}, "guidance", "guidance: 21 is out of range; give a number from 0 to 20"),
        ({"n": 2, "guidance": [1, 2, 3]}, "guidance", "guidance"), ({"steps": 2, "inputs": {"steps": 2}}, "steps", "given twice"),
        ({"inputs": {"steps": 3}}, "inputs.steps", "inputs.steps: 3 is not offered"), ({"class": "nine"}, "class", "there is no class"),
        ({"class": {"1": 1, "none": -1}}, "class", "class"),
    ],
)  # fmt: skip
def test_wrong_fields_are_422(service: Served, fields: dict[str, Any], field: str, message: str) -> None:
    answer = service.client.post("/sample", json=fields)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["field"].startswith(field) and message in error["message"]


def test_no_class_and_mixtures_come_back(service: Served) -> None:
    for given, said in (("none", "none"), ({"3": 1, "none": 1}, {"3": 0.5, "none": 0.5}), ("4", "4")):
        answer = service.client.post("/sample", json={"class": given, "seed": 1}).json()
        assert answer["classes"] == [said]


def test_the_catalogue_lists_the_choices(service: Served) -> None:
    (listed,) = service.client.get("/models").json()["models"]
    steps = next(each for each in listed["inputs"] if each["name"] == "steps" and each["task"] == "sample")
    assert (steps["choices"], steps["default"], steps["kind"]) == ([2, 4], 4, "integer")
    assert isinstance(steps["default"], int)
    assert isinstance(steps["choices"][0], int)
    assert listed["conditioned"]["condition"]["optional"] is True
    assert {"sample", "encode", "reconstruct", "interpolate", "anomaly-score", "impute"} <= set(listed["endpoints"])


def test_the_metadata_of_the_protocol_states_choices_and_defaults(service: Served) -> None:
    inputs = service.client.get("/v2/models/flow").json()["inputs"]
    stated = {each["name"]: each["parameters"] for each in inputs}
    assert (stated["steps"]["choices"], stated["steps"]["default"]) == ("[2,4]", 4)
    assert {"default", "minimum", "maximum"} <= set(stated["guidance"])


@pytest.mark.parametrize("path", ["encode", "reconstruct", "anomaly-score"])
def test_endpoints_that_take_the_numbers_by_name_say_so(path: str, service: Served) -> None:
    image = service.client.post("/sample", json={"seed": 1}).json()["images"][0]
    for name in ("steps", "guidance"):
        error = service.client.post(f"/{path}", json={"images": [image], name: 2}).json()["error"]
        assert error["field"] == name
        assert f'takes it under inputs, as {{"inputs": {{"{name}": 4}}}}' in error["message"]


def test_a_score_takes_no_class_here(service: Served) -> None:
    image = service.client.post("/sample", json={"seed": 1}).json()["images"][0]
    error = service.client.post("/anomaly-score", json={"images": [image], "class": "1"}).json()["error"]
    assert error["message"].endswith("takes no condition here; remove it")


def test_items_need_no_class(service: Served) -> None:
    image = service.client.post("/sample", json={"seed": 1}).json()["images"][0]
    for path in ("/encode", "/reconstruct", "/anomaly-score"):
        answer = service.client.post(path, json={"images": [image]})
        assert answer.status_code == 200, answer.text
    answer = service.client.post(
        "/interpolate", json={"from": {"seed": 1}, "to": {"image": image}, "steps": 3, "inputs": {"steps": 2}}
    )
    assert answer.status_code == 200 and len(answer.json()["images"]) == 3
    assert (
        service.client.post(
            "/reconstruct", json={"images": [image], "class": "1", "inputs": {"guidance": 2}}
        ).status_code
        == 200
    )


def test_pixels_are_completed_with_guidance(service: Served) -> None:
    image = service.client.post("/sample", json={"seed": 1}).json()["images"][0]
    body = {"images": [image], "masks": [image], "seed": 3, "class": "1", "guidance": 2, "steps": 2}
    answer = service.client.post("/impute", json=body)
    assert answer.status_code == 200 and answer.json()["seed"] == 3
    refused = service.client.post("/impute", json={**body, "candidates": 4})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "candidates")


def test_grpc_gives_the_same_items(service: Served) -> None:
    expected = sampled(service, **{"class": "1", "steps": 2, "guidance": 3})
    with grpc.insecure_channel(service.target) as channel:
        request = pb.SampleRequest(seed=1, encoding="array", steps=2, guidance=pb.Numbers(values=[3.0]))
        request.MergeFrom(pb.SampleRequest(**{"class": pb.ClassChoice(name="1")}))
        answer = stubs.ManifoldStub(channel).Sample(request)
        assert np.array_equal(np.frombuffer(answer.data.content, "<f4").reshape(expected.shape), expected)
        inputs = [
            v2.ModelInferRequest.InferInputTensor(
                name="steps", datatype="INT64", shape=[1], contents=v2.InferTensorContents(int64_contents=[2])
            ),
            v2.ModelInferRequest.InferInputTensor(
                name="guidance", datatype="FP32", shape=[1], contents=v2.InferTensorContents(fp32_contents=[3.0])
            ),
        ]
        asked = v2.ModelInferRequest(model_name="flow.sample", inputs=inputs)
        asked.parameters["seed"].int64_param = 1
        asked.parameters["class"].string_param = "1"
        raw = v2_stubs.GRPCInferenceServiceStub(channel).ModelInfer(asked)
        names = [each.name for each in raw.outputs]
        found = np.frombuffer(raw.raw_output_contents[names.index("data")], "<f4").reshape(expected.shape)
        assert np.array_equal(found, expected)


def test_v2_takes_optional_inputs(service: Served) -> None:
    described = service.client.get("/v2/models/flow.sample").json()
    assert {"steps", "guidance"} <= {each["name"] for each in described["inputs"]}
    body: Any = {
        "parameters": {"seed": 1, "class": "1"},
        "inputs": [{"name": "steps", "datatype": "INT64", "shape": [1], "data": [2]}],
    }
    answer = service.client.post("/v2/models/flow.sample/infer", json=body)
    data = next(each["data"] for each in answer.json()["outputs"] if each["name"] == "data")
    assert np.array_equal(np.asarray(data, np.float32), sampled(service, **{"class": "1", "steps": 2}).ravel())
    other = {**body, "inputs": [{**body["inputs"][0], "data": [3]}]}
    wrong = service.client.post("/v2/models/flow.sample/infer", json=other)
    assert wrong.status_code == 400 and "give one of 2, 4" in wrong.json()["error"]


# --- runs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def batcher(model: Model, root: Path) -> Iterator[Batcher]:
    made = Batcher(model, Settings(models_dir=root).of_model("flow"))
    yield made
    made.close()


def ask(batcher: Batcher, seed: int, steps: int, n: int = 1, seconds: float = 60.0) -> asyncio.Task[Any]:
    use_case = operations.sample(batcher.model.manifest, n, seed=seed, condition="1", numbers={"steps": steps})
    return asyncio.get_running_loop().create_task(batcher.drive(use_case, n, time.monotonic() + seconds))


def test_requests_with_equal_steps_share_runs(root: Path, model: Model, batcher: Batcher) -> None:
    gate = Gate(model)

    async def scene() -> list[Any]:
        first = ask(batcher, 0, 2)
        await gate.running()
        others = [ask(batcher, seed, steps) for seed, steps in ((1, 2), (2, 4), (3, 2), (4, 4), (5, 2))]
        for _ in range(5):
            await asyncio.sleep(0)
        gate.go.set()
        return await asyncio.gather(first, *others)

    results = asyncio.run(scene())
    assert sorted(gate.batches) == [1, 2, 3]
    plain = engine.load(root / "flow", device="cpu", threads=1)
    for seed, steps in ((0, 2), (1, 2), (2, 4), (3, 2), (4, 4), (5, 2)):
        assert np.array_equal(results[seed][0].data, plain.sample(1, seed=seed, classes="1", steps=steps).data)


def test_runs_of_a_sampler_are_limited_by_their_time(batcher: Batcher) -> None:
    line = ("sample", None, 4.0)
    assert batcher._limit(line) == batching.FIRST_ROWS
    batcher.costs.add(line, 8, 8 * 0.02)
    assert batcher._limit(line) == 5
    batcher.costs.add(("sample", None, 2.0), 8, 80.0)
    assert (batcher._limit(line), batcher._limit(("sample", None, 2.0))) == (5, 1)
    assert batcher._limit("score") == batcher.model.manifest.tasks["score"].max_rows


def test_a_slow_first_run_does_not_make_later_runs_small(batcher: Batcher) -> None:
    line = ("sample", None, 4.0)
    batcher.costs.add(line, 8, 8.0)  # such as the first run on a busy machine
    assert batcher._limit(line) == 1
    for _ in range(40):
        rows = batcher._limit(line)
        batcher.costs.add(line, rows, rows * 0.005)
    assert batcher._limit(line) > 15


def test_the_time_of_new_steps_is_estimated_from_known_ones() -> None:
    costs = RunCosts()
    assert costs.a_row(("sample", None, 50.0)) is None and costs.of(("sample", None, 50.0), 4) is None
    costs.add(("sample", None, 4.0), 4, 0.08)
    costs.add(("score", 7), 4, 0.04)
    assert costs.a_row(("sample", None, 50.0)) == pytest.approx(0.02 * 12.5)
    assert costs.of(("sample", None, 8.0), 4) == pytest.approx(0.16)
    assert costs.a_row(("score", 9)) == pytest.approx(0.01)  # lengths share their costs
    assert costs.a_row(("decode", None, 4.0)) is None


@pytest.mark.parametrize("fields", [{"steps": 4}, {"guidance": 2.0}, {"guidance": [1, 2]}])
def test_a_huge_number_of_items_is_refused_before_anything_is_made(service: Served, fields: dict[str, Any]) -> None:
    for accept in ("application/json", "application/x-ndjson"):
        body = {"model": "flow", "n": 2 * 10**12, **fields}
        answer = service.client.post("/sample", json=body, headers={"Accept": accept})
        error = answer.json()["error"]
        assert error["type"] in ("too_large", "invalid_value"), error
        assert error["field"] in ("n", "guidance")


def test_a_large_request_leaves_room_for_a_small_one(model: Model, batcher: Batcher) -> None:
    """A request of one item waits for one run of a request of 64 items, not for all of them."""
    order: list[str] = []
    batcher.costs.add(("sample", None, 4.0), 8, 0.2)

    async def scene() -> None:
        large = ask(batcher, 0, 4, n=64)
        large.add_done_callback(lambda _: order.append("large"))
        await asyncio.sleep(0.01)
        small = ask(batcher, 1, 2)
        small.add_done_callback(lambda _: order.append("small"))
        await asyncio.gather(large, small)

    asyncio.run(scene())
    assert order == ["small", "large"]
