"""A graph that draws random numbers is served, and all its answers say that they are not reproducible. Answers of other models have no such field."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging, recipes
from manifold.runtime.engine import load
from manifold.runtime.errors import UnsupportedTask
from manifold.service.stubs import inference_pb2, inference_pb2_grpc, manifold_pb2, manifold_pb2_grpc
from manifold_client import Client
from tests import graphs
from tests.graphs import SIZE, given, node, task, value
from tests.served import Served, served

NOISE = [node("RandomNormalLike", ["z"], ["n"]), node("Add", ["z", "n"], ["x"])]
SCORE = {
    "graph": "s.onnx",
    "inputs": [given("z", "data", [1, 2, 2])],
    "outputs": [{"role": "nll", "name": "y", "shape": []}],
}
SCORING = {"score": "nll", "terms": [{"name": "nll", "kind": "nll"}]}


def artifact(root: Path, name: str, noise: bool) -> None:
    """Write a model with a decoder that draws random numbers if `noise`, and with an encoder and a score that do not."""
    encode = task([given("z", "data", [1, 2, 2])], [{"role": "mean", "name": "y", "shape": [SIZE]}], graph="e.onnx")
    content = {**graphs.manifest(decode=task(), encode=encode, score=SCORE), "scoring": SCORING, "name": name}
    made = root / name / "1"
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps(content))
    graphs.decoder(made / "g.onnx", NOISE if noise else [node("Identity", ["z"], ["x"])])
    image, flat = [value("z", shape=["B", 1, 2, 2])], graphs.constant("flat", np.asarray([-1, SIZE]))
    graphs.write(made / "e.onnx", [node("Reshape", ["z", "flat"], ["y"])], image, [value("y")], [flat])
    axes = graphs.constant("axes", np.asarray([1, 2, 3]))
    graphs.write(
        made / "s.onnx", [node("ReduceSum", ["z", "axes"], ["y"], keepdims=0)], image, [value("y", shape=["B"])], [axes]
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chance")
    artifact(root, "noisy", True)
    artifact(root, "quiet", False)
    return root


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Served]:
    with served(root, grpc=True, default_model="noisy") as service:
        yield service


def post(service: Served, path: str, accept: str = "application/json", **fields: Any) -> Any:
    answer = service.client.post(path, json=fields, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer


IMAGE = base64.b64encode(imaging.to_png(np.zeros((2, 2, 1), np.uint8))).decode()
CALLS: dict[str, dict[str, Any]] = {
    "/sample": {"n": 2, "seed": 5},
    "/reconstruct": {"images": [IMAGE]},
    "/interpolate": {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 3},
}


@pytest.mark.parametrize("path", CALLS)
def test_answers_of_a_graph_that_draws_say_so(service: Served, path: str) -> None:
    answers = [post(service, path, model="noisy", encoding="array", **CALLS[path]).json() for _ in range(9)]
    assert {answer["reproducible"] for answer in answers} == {False}
    # two answers alone may be equal: values below 0 are shown as 0
    assert len({str(answer["data"]) for answer in answers}) > 1
    assert post(service, path, "application/x-npy", model="noisy", **CALLS[path]).headers["x-reproducible"] == "false"
    assert post(service, path, "image/png", model="noisy", **CALLS[path]).headers["x-reproducible"] == "false"
    quiet = post(service, path, model="quiet", **CALLS[path])
    assert "reproducible" not in quiet.json()
    assert "x-reproducible" not in quiet.headers


@pytest.mark.parametrize("path", ["/encode", "/anomaly-score"])
def test_answers_of_other_graphs_of_the_same_model_do_not(service: Served, path: str) -> None:
    assert "reproducible" not in post(service, path, model="noisy", images=[IMAGE]).json()


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/event-stream"])
def test_streams_say_so_in_every_line(service: Served, media_type: str) -> None:
    for model, told in (("noisy", [False] * 4), ("quiet", [None] * 4)):
        text = post(service, "/sample", media_type, model=model, n=3, seed=1).text
        lines = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        assert [line.get("reproducible") for line in lines] == told
        assert "total" in lines[-1]


def test_the_list_of_models_and_each_models_page(service: Served) -> None:
    said = {each["name"]: each["reproducible"] for each in service.client.get("/models").json()["models"]}
    assert said == {"noisy": False, "quiet": True}
    assert service.client.get("/models/noisy").json()["reproducible"] is False


def test_messages_of_grpc_say_so(service: Served) -> None:
    with grpc.insecure_channel(service.target) as channel:
        stub = manifold_pb2_grpc.ManifoldStub(channel)
        for model, told in (("noisy", True), ("quiet", False)):
            request = manifold_pb2.SampleRequest(model=model, n=2, seed=1)
            for answer in (stub.Sample(request), *stub.SampleStream(request)):
                assert (answer.HasField("reproducible"), answer.reproducible) == (told, False)
            assert not stub.Encode(manifold_pb2.EncodeRequest(model=model, images=[base64.b64decode(IMAGE)])).HasField(
                "reproducible"
            )
        assert [each.reproducible for each in stub.ListModels(manifold_pb2.ListModelsRequest()).models] == [False, True]


def test_the_open_inference_protocol_says_so(service: Served) -> None:
    with grpc.insecure_channel(service.target) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, told in (("noisy", {"reproducible": False}), ("quiet", {})):
            answer = service.client.post(
                f"/v2/models/{model}.decode/infer", json={"inputs": [], "parameters": {"seed": 1}}
            ).json()
            assert {key: value for key, value in answer["parameters"].items() if key == "reproducible"} == told
            message = stub.ModelInfer(inference_pb2.ModelInferRequest(model_name=f"{model}.decode"))
            assert ("reproducible" in message.parameters) == bool(told)
            assert message.parameters["reproducible"].bool_param is False
            if told:
                assert message.parameters["reproducible"].WhichOneof("parameter_choice") == "bool_param"


def test_results_of_the_client_say_so(service: Served) -> None:
    with Client(service.url) as client:
        assert client.sample(2, seed=1, model="noisy").reproducible is False
        assert client.sample(2, seed=1, model="quiet").reproducible is True
        assert [each.reproducible for each in client.sample_stream(2, seed=1, model="noisy")] == [False, False]


@pytest.mark.parametrize(("model", "same"), [("noisy", False), ("quiet", True)])
def test_a_remake_says_that_it_is_another_picture(root: Path, tmp_path: Path, model: str, same: bool) -> None:
    runner, picture = CliRunner(), tmp_path / "a.png"
    made = runner.invoke(
        cli.app, ["sample", model, "-n", "4", "--seed", "1", "-o", str(picture), "--models", str(root)]
    )
    assert made.exit_code == 0, made.output
    assert ("these samples are not reproducible" in made.output) != same
    assert (imaging.read_recipe(picture.read_bytes()).get("reproducible") is False) != same
    again = runner.invoke(cli.app, ["remake", str(picture), "--models", str(root)])
    assert again.exit_code == 0, again.output
    found, *rest = again.output.splitlines()
    remade = tmp_path / "a.remade.png"
    assert found == f"{remade}: {recipes.difference(picture.read_bytes(), remade.read_bytes())}"
    if same:
        assert found.endswith(": the same bytes") and not rest
    else:
        assert rest[0] == "note: the graph of noisy draws random numbers, so its recipes are not reproducible"


def test_the_library_says_so_too(root: Path) -> None:
    from manifold.runtime import compression

    model = load(root / "noisy")
    assert model.manifest.drawing == {"decode"}
    with pytest.raises(UnsupportedTask):
        compression.compress(model, np.zeros((1, 1, 2, 2), np.float32))


def test_a_graph_that_fails_is_no_business_of_the_client(tmp_path: Path) -> None:
    """Latents above 9.99 exceed a table of 1000 rows. This is only known when the graph runs."""
    middle = [
        node("Mul", ["z", "hundred"], ["m"]), node("Abs", ["m"], ["a"]), node("Cast", ["a"], ["i"], to=graphs.INT64),
        node("Gather", ["table", "i"], ["x"]),
    ]  # fmt: skip
    made = graphs.folder(tmp_path, graphs.manifest())
    graphs.decoder(
        made / "g.onnx",
        middle,
        [graphs.constant("hundred", np.float32(100)), graphs.constant("table", np.zeros(1000, np.float32))],
    )
    with capture_logs() as logged, served(tmp_path, grpc=True) as service:
        fields = {"model": "tiny", "latents": [[20.0] * SIZE]}
        answers = [
            service.client.post("/sample", json=fields, headers={"accept": kind})
            for kind in ("application/json", "application/x-ndjson")
        ]
        tensor = {"name": "latent", "shape": [1, SIZE], "datatype": "FP32", "data": [20.0] * SIZE}
        answers.append(service.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}))
        assert [answer.status_code for answer in answers] == [500] * 3
        assert all("onnx" not in answer.text.lower() for answer in answers)
        with grpc.insecure_channel(service.target) as channel, pytest.raises(grpc.RpcError) as caught:
            array = manifold_pb2.Array(shape=[1, SIZE], content=np.full(SIZE, 20, np.float32).tobytes())
            manifold_pb2_grpc.ManifoldStub(channel).Sample(manifold_pb2.SampleRequest(model="tiny", latents=array))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "onnx" not in caught.value.details().lower()
    failures = [line for line in logged if line["event"] == "internal"]
    assert len(failures) == 4
    assert all(line["message"].startswith("g.onnx: ONNX Runtime cannot run it: ") for line in failures)
    assert not any("exc_info" in line for line in logged)
