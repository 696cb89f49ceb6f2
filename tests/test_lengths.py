"""Free lengths: a graph that masks its padding gives the same bits in every bucket, alone and in a batch."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from starlette.testclient import TestClient

from manifold.runtime import lengths, operations, repository
from manifold.runtime.conditions import ByText
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ArtifactError, GraphError, InvalidValue
from manifold.runtime.manifest import TaskSpec
from manifold.runtime.operations import infer
from manifold.runtime.runner import example_inputs
from manifold.service.http.app import create_app
from manifold.service.models.batcher import Batcher, Ran
from manifold.service.settings import Settings
from tests.conftest import wait_until_ready
from tests.gate import Gate
from tests.graphs import check, constant, folder, node, value, write

LONGEST = 20
TEXTS = ["a", "some words", "x" * LONGEST]
FREE = {"shape": [LONGEST], "free": [0]}


def graph(path: Path, *, axis: int | str = "T") -> None:
    """Write a graph of tokens, their mask, and noise of the same length.

    `picture` holds the sum of the tokens and the largest noise, both within the mask; `each` is the tokens plus the noise; `columns` is the length
    that the graph sees. All values are exact, so the order of summation has no effect.
    """
    nodes = [
        node("Cast", ["tokens"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "mask"], ["known"]),
        node("ReduceSum", ["known", "one"], ["sum"], keepdims=1),
        node("Mul", ["noise", "mask"], ["heard"]),
        node("Abs", ["heard"], ["loud"]),
        node("ReduceMax", ["loud", "one"], ["loudest"], keepdims=1),
        node("Concat", ["sum", "loudest", "sum", "loudest"], ["flat"], axis=1),
        node("Mul", ["flat", "scale"], ["scaled"]),
        node("Reshape", ["scaled", "image"], ["picture"]),
        node("Add", ["known", "heard"], ["each"]),
        node("Mul", ["mask", "nothing"], ["zeros"]),
        node("Add", ["zeros", "unit"], ["ones"]),
        node("ReduceSum", ["ones", "one"], ["columns"], keepdims=0),
    ]
    constants = [
        constant("one", np.asarray([1])), constant("scale", np.full((1, 4), 2.0**-14, np.float32)), constant("nothing", np.zeros(1, np.float32)),
        constant("image", np.asarray([-1, 1, 2, 2])), constant("unit", np.ones(1, np.float32)),
    ]  # fmt: skip
    inputs = [
        value("tokens", TensorProto.INT64, ["B", axis]),
        value("mask", shape=["B", "T"]),
        value("noise", shape=["B", "T"]),
    ]
    outputs = [value("picture", shape=["B", 1, 2, 2]), value("each", shape=["B", "T"]), value("columns", shape=["B"])]
    write(path, nodes, inputs, outputs, constants)


def manifest(**task: Any) -> dict[str, Any]:
    """Return a hand-written manifest."""
    inputs = [
        {"role": "tokens", "source": "tokens", "dtype": "int64", **FREE},
        {"role": "token_mask", "name": "mask", "source": "token_mask", **FREE},
        {"role": "noise", "source": "normal", **FREE},
    ]
    outputs = [
        {"role": "data", "name": "picture", "shape": [1, 2, 2]},
        {"role": "each", **FREE},
        {"role": "columns", "shape": []},
    ]
    return {
        "name": "tiny", "version": 1, "data": {"kind": "image", "height": 2, "width": 2, "channels": 1},
        "condition": {"kind": "text", "examples": TEXTS},
        "tasks": {"sample": {"graph": "g.onnx", "inputs": inputs, "outputs": outputs, "extra": ["each", "columns"], **task}},
    }  # fmt: skip


def artifact(root: Path, **task: Any) -> Path:
    """Write the artifact and return its folder."""
    made = folder(root, manifest(**task))
    graph(made / "g.onnx")
    return made


def run(model: Model, texts: list[str], seed: int = 3) -> dict[str, np.ndarray]:
    """Run the model on texts, and return all outputs."""
    steps = operations.sample(model.manifest, len(texts), seed=seed, condition=ByText(tuple(texts)))
    return model.run("sample", next(steps).inputs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return the model that always runs at the full length."""
    return load(artifact(tmp_path_factory.mktemp("whole"), buckets=[LONGEST]))


@pytest.mark.parametrize(
    ("buckets", "seen"), [(None, [1, 16, 20]), ([4, 12, LONGEST], [4, 12, 20]), ([LONGEST], [20, 20, 20])]
)
def test_outputs_are_the_same_in_every_bucket(
    tmp_path: Path, whole: Model, buckets: list[int] | None, seen: list[int]
) -> None:
    model = load(artifact(tmp_path, **({} if buckets is None else {"buckets": buckets})))
    for text, bucket in zip(TEXTS, seen, strict=True):
        made, expected = run(model, [text]), run(whole, [text])
        assert made["columns"].tolist() == [bucket]
        assert np.array_equal(made["data"], expected["data"]) and np.array_equal(made["each"], expected["each"])
        assert made["each"].shape == (1, len(text))
        assert made["data"][0, 0, 0, 0] == sum(text.encode()) * 2.0**-14


def test_an_item_does_not_depend_on_the_longer_texts_beside_it(whole: Model) -> None:
    together = run(whole, TEXTS)
    for place, text in enumerate(TEXTS):
        steps = operations.sample(whole.manifest, 1, seed=3, first=place, condition=ByText((text,)))
        alone = whole.run("sample", next(steps).inputs)
        assert np.array_equal(alone["data"][0], together["data"][place])
        assert np.array_equal(alone["each"][0], together["each"][place, : len(text)])
    samples = whole.sample(40, seed=5)  # the texts of these samples are drawn
    assert np.array_equal(whole.sample(3, seed=5, first=30).data, samples.data[30:33])


def test_requests_of_different_lengths_do_not_share_a_run(tmp_path: Path, whole: Model) -> None:
    model = load(artifact(tmp_path / "a", buckets=[8, LONGEST]))
    gate = Gate(model)
    batcher = Batcher(model, Settings(models_dir=tmp_path).of_model("tiny"))
    ran: list[Ran] = []
    batcher.listener = ran.append
    texts = ["ab", "x" * 12, "abcdefg", "y" * 20, "z"]

    async def scene() -> list[Any]:
        gate.go.set()
        inputs = [
            next(operations.sample(model.manifest, 1, seed=3, condition=ByText((text,)))).inputs for text in texts
        ]
        steps = [infer.infer(model.manifest, "sample", each, infer.Choices(), 1) for each in inputs]
        return await asyncio.gather(*(batcher.drive(each, 1, time.monotonic() + 60) for each in steps))

    try:
        done = asyncio.run(scene())
    finally:
        batcher.close()
    assert sorted((each.rows, each.requests) for each in ran) == [(2, 2), (3, 3)]
    for (answer, _), text in zip(done, texts, strict=True):
        expected = run(whole, [text])
        assert answer.outputs["columns"].tolist() == [8 if len(text) <= 8 else 20]
        assert np.array_equal(answer.outputs["each"], expected["each"]) and answer.outputs["each"].shape == (
            1,
            len(text),
        )
        assert np.array_equal(answer.outputs["data"], expected["data"])


def test_a_task_of_free_length_leaves_the_event_loop(whole: Model) -> None:
    assert not whole.runner.has_fixed_cost("sample")


def test_the_service_answers_texts_of_any_length(tmp_path: Path, whole: Model) -> None:
    artifact(tmp_path)
    with TestClient(create_app(Settings(models_dir=tmp_path, default_model="tiny", grpc_port=0))) as client:
        wait_until_ready(client)
        for texts in (["a"], TEXTS):
            body = {"n": len(texts), "seed": 3, "encoding": "array", "conditions": {"condition": {"texts": texts}}}
            answer = client.post("/sample", json=body).json()
            assert np.allclose(answer["data"], np.clip(run(whole, texts)["data"], 0, 1))
        tokens = {"name": "tokens", "datatype": "INT64", "shape": [1, 3], "data": [97, 98, 99]}
        found = client.post("/v2/models/tiny/infer", json={"inputs": [tokens], "parameters": {"seed": 3}}).json()
        by_name = {each["name"]: each for each in found["outputs"]}
        assert by_name["each"]["shape"] == [1, 3] and by_name["columns"]["data"] == [4]
        assert np.allclose(by_name["each"]["data"], run(whole, ["abc"])["each"][0], rtol=1e-6)
        noise = {"name": "noise", "datatype": "FP32", "shape": [1, 4], "data": [0.0] * 4}
        both = client.post("/v2/models/tiny/infer", json={"inputs": [tokens, noise]})
        assert both.status_code == 400 and "the lengths differ (tokens 3, token_mask 3, noise 4)" in both.text
        long = {**tokens, "shape": [1, 21], "data": [97] * 21}
        refused = client.post("/v2/models/tiny/infer", json={"inputs": [long], "parameters": {"seed": 3}})
        assert "it must be int64[rows, 1..20]" in refused.text


def test_lengths_that_differ_or_are_too_long(whole: Model) -> None:
    inputs = example_inputs(whole.manifest.tasks["sample"], whole.manifest, 2)
    with pytest.raises(InvalidValue, match=r"the lengths differ .tokens 3, token_mask 20"):
        whole.run("sample", {**inputs, "tokens": inputs["tokens"][:, :3]})
    with pytest.raises(InvalidValue, match=r"input 'tokens' is int64\[2, 21\]; give int64\[n, 1\.\.20\] for n items"):
        whole.run("sample", {**inputs, "tokens": np.zeros((2, 21), np.int64)})
    with pytest.raises(InvalidValue, match="a text has 21 bytes; the limit is 20"):
        run(whole, ["x" * 21])


def test_golden_vectors_may_be_shorter(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    model = load(made)
    inputs = {
        role: array[:, :7] for role, array in example_inputs(model.manifest.tasks["sample"], model.manifest, 2).items()
    }
    outputs = model.run("sample", inputs)
    arrays: dict[str, Any] = {f"sample.in.{role}": array for role, array in inputs.items()}
    arrays |= {f"sample.out.{role}": array for role, array in outputs.items()}
    np.savez(made / "golden.npz", **arrays)
    content = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps({**content, "golden": {}}))
    assert check(made, "--seal") == (0, f"{made}: good: sample\n")
    np.savez(made / "golden.npz", **{**arrays, "sample.out.each": outputs["each"] + 1})
    repository.seal(made)
    with pytest.raises(ArtifactError, match=r"sample\.each: differs by"):
        load(made)


def test_a_graph_whose_axis_is_fixed_is_refused(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    graph(made / "g.onnx", axis=LONGEST)
    with pytest.raises(GraphError, match=r"'tokens' is int64\[B, 20\] in the graph: axis 0 after the batch is fixed"):
        load(made)


def test_padding_and_cutting_are_inverse(whole: Model) -> None:
    spec = whole.manifest.tasks["sample"].model_copy(update={"buckets": None})
    assert spec.lengths == (1, 2, 4, 8, 16, 20)
    inputs = {role: array[:, :5] for role, array in example_inputs(spec, whole.manifest, 3).items()}
    padded = lengths.padded(spec, inputs, 5)
    assert {array.shape for array in padded.values()} == {(3, 8)}
    assert all(not array[:, 5:].any() and np.array_equal(array[:, :5], inputs[role]) for role, array in padded.items())


def test_both_axes_of_a_tensor_have_one_length() -> None:
    square = {"role": "grid", "source": "normal", "shape": [8, 8], "free": [0, 1]}
    spec = TaskSpec.model_validate({"graph": "none", "inputs": [square], "outputs": [{"role": "data", "shape": [1]}]})
    assert lengths.of(spec, {"grid": np.zeros((1, 5, 5), np.float32)}) == 5
    with pytest.raises(InvalidValue, match="grid 3, grid 5"):
        lengths.of(spec, {"grid": np.zeros((1, 3, 5), np.float32)})
