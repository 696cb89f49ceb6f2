"""Kinds of data: what each kind defines for its items, and that one file adds a kind to every transport."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from manifold.runtime import kinds
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds import Kind, Reading
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from tests import copied, tabled
from tests.conftest import ROOT

IMAGES = ImageSpec(height=4, width=6, channels=3, range=(-1.0, 1.0))
ROWS = TableSpec.model_validate({"columns": tabled.COLUMNS})


@pytest.mark.parametrize("spec", [IMAGES, ROWS], ids=["image", "table"])
def test_examples_are_legal_items(spec: Kind) -> None:
    for item in (*spec.example(5, np.random.default_rng(0)), spec.plain()):
        assert item.shape == spec.shape and item.dtype == np.float32 and np.isfinite(item).all()
        if spec.limits is not None:
            assert spec.limits[0] <= item.min() and item.max() <= spec.limits[1]


@pytest.mark.parametrize("spec", [IMAGES, ROWS], ids=["image", "table"])
def test_items_that_are_written_are_read_as_the_same(spec: Kind) -> None:
    written = spec.write(np.stack([spec.plain()] * 2), "png", None, lambda png: png)[spec.wire.many]
    read = spec.read(written, Reading(), spec.wire.many)
    assert np.allclose(read.data, spec.plain(), atol=1e-6)
    assert len(read.warnings) == 2


def test_a_kind_refuses_the_spec_of_another() -> None:
    assert ImageSpec.of(IMAGES, "data") is IMAGES
    with pytest.raises(InvalidValue, match="a PixelCNN: the items are rows, but images are needed"):
        ImageSpec.of(ROWS, "a PixelCNN")


def test_errors_are_in_the_units_that_the_kind_names() -> None:
    dark, light = np.full((1, *IMAGES.shape), -1, np.float32), np.full((1, *IMAGES.shape), 0, np.float32)
    assert IMAGES.errors(dark, light).tolist() == [0.25]  # half of the distance from black to white
    assert ROWS.errors(np.zeros((2, 4)), np.asarray([[0, 0, 0, 0], [2, 0, 0, 0]])).tolist() == [0, 1]


SPECS = {kind.__name__ for kind in kinds.every} | {"Kind"}


def test_images_fit_a_model_with_another_range_or_number_of_levels() -> None:
    """A model that rounds to two levels is evaluated on the same grey images as others; images of another shape do not fit."""
    held = ImageSpec(height=2, width=2, channels=1)
    stored = np.array([[[[0, 51], [204, 255]]]], np.uint8)
    for spec, wanted in (
        (held.model_copy(update={"levels": 2}), [0.0, 0.2, 0.8, 1.0]),
        (held.model_copy(update={"range": (-1.0, 1.0)}), [-1.0, -0.6, 0.6, 1.0]),
    ):
        read = spec.reader_of(held)
        assert read is not None
        np.testing.assert_allclose(read(stored).ravel(), wanted, atol=1e-6)
    for other in ({"height": 3}, {"channels": 3}):
        assert held.reader_of(held.model_copy(update=other)) is None


def test_nobody_outside_asks_for_the_class_of_a_kind() -> None:
    for package in ("runtime", "service", "training", "evaluation", "cli", "client", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.parent != ROOT / "runtime/kinds":
                asked = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if _asks(node)]
                assert not asked, f"{path}: {asked[0]}"


def _asks(node: ast.AST) -> bool:
    """Return whether an expression compares the class or the name of a kind."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        return any(isinstance(part, ast.Name) and part.id in SPECS for part in ast.walk(node.args[1]))
    names = {kind.model_fields["kind"].default for kind in kinds.every}
    return (
        isinstance(node, ast.Compare)
        and any(isinstance(part, ast.Constant) and part.value in names for part in [node.left, *node.comparators])
        and ".kind" in ast.unparse(node)
    )


USE = """
import json, sys
from pathlib import Path
import grpc, httpx
from manifold_client import Client
from starlette.testclient import TestClient
from manifold.cli import app
from manifold.service.http.app import create_app
from manifold.service.rpc.servicer import Servicer
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb, manifold_pb2_grpc as stubs
from typer.testing import CliRunner


async def over_grpc(state):
    server, said = grpc.aio.server(), {}
    stubs.add_ManifoldServicer_to_server(Servicer(state.handling, state.registry, state.metrics, settings), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = stubs.ManifoldStub(channel)
        for name, call in {
            "Sample": lambda: stub.Sample(pb.SampleRequest(n=2)), "Encode": lambda: stub.Encode(pb.EncodeRequest()),
            "SampleStream": lambda: stub.SampleStream(pb.SampleRequest(n=2)).read(),
            "AnomalyScore": lambda: stub.AnomalyScore(pb.ScoreRequest()), "Classify": lambda: stub.Classify(pb.ClassifyRequest()),
        }.items():
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                said[name] = (error.code().name, error.details())
        array = pb.Array(type=pb.Array.FLOAT32, shape=[1, 5, 2], content=bytes(40))
        said["array"] = list((await stub.Encode(pb.EncodeRequest(array=array))).mean.shape)
    await server.stop(0)
    return said


settings = Settings(models_dir=Path(sys.argv[1]), default_model="waves", grpc_port=0)
answers = {}
with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
    while client.get("/health/ready").status_code != 200:
        pass
    series = client.post("/sample", json={"n": 2, "seed": 7}).json()["series"]
    answers["sample"] = series
    for name, body in {
        "encode": {"series": series}, "reconstruct": {"series": series}, "anomaly-score": {"series": series, "explain": True},
        "interpolate": {"from": {"one_series": series[0]}, "to": {"seed": 3}, "steps": 3}, "wrong": {"rows": [[1]]},
    }.items():
        answers[name] = client.post("/" + name.replace("wrong", "encode"), json=body).json()
    answers["models"] = client.get("/models").json()["models"][0]
    data = answers["models"]["data"]  # by which the page chooses
    accept = next((each for each in data["media_types"] if each.startswith("image/")), "application/json")
    answers["page"] = client.post("/sample", json={"n": 2, "seed": 7}, headers={"accept": accept}).json()[data["field"]]
    answers["grpc"] = client.portal.call(over_grpc, client.app.app.state)
    answers["counted"] = client.get("/metrics").text
    through = lambda asked: httpx.Response(200, content=client.request(asked.method, asked.url.path, content=asked.read(), headers=dict(asked.headers)).content)
    with Client(transport=httpx.MockTransport(through)) as typed:
        answers["client"] = [typed.sample(2, seed=7).values, [line.values for line in typed.sample_stream(2, seed=7)]]
    answers["request"] = list(client.get("/openapi.json").json()["components"]["schemas"]["EncodeRequest"]["properties"])
ran = CliRunner().invoke(app, ["sample", "waves", "-n", "2", "--seed", "7", "--models", sys.argv[1], "-o", sys.argv[1] + "/two.csv"])
answers["cli"] = (ran.output, Path(sys.argv[1], "two.csv").read_text().splitlines())
print(json.dumps(answers))
"""


def waves(root: Path) -> None:
    """Write an artifact of series on the fake backend."""
    data = {"role": "data", "shape": [5, 2]}
    items, latent = {**data, "source": "data"}, {"role": "latent", "source": "latent", "shape": [3]}
    tasks = {
        "decode": {"graph": "none", "inputs": [latent], "outputs": [data]},
        "encode": {"graph": "none", "inputs": [items], "outputs": [{"role": "mean", "shape": [3]}]},
        "score": {"graph": "none", "inputs": [items], "outputs": [{"role": "odd"}, {"role": "nats", "shape": [5, 2]}]},
    }
    scoring = {"score": "odd", "surprise": "nats", "terms": [{"name": "odd", "kind": "nll"}]}
    spec = {"kind": "series", "steps": 5, "channels": 2}
    folder = root / "waves/1"
    folder.mkdir(parents=True)
    (folder / "none").touch()
    manifest = {"name": "waves", "version": 1, "backend": "fake", "data": spec, "latent": {"size": 3}, "tasks": tasks}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "scoring": scoring}))


def test_a_kind_is_added_with_one_file(tmp_path: Path) -> None:
    """A copy of the project with tests/series.py among its kinds reads, writes, scores and documents series."""
    package = copied.project(tmp_path, "runtime")
    shutil.copy(ROOT / "tests/series.py", package / "runtime/kinds/series.py")
    waves(tmp_path / "models")
    answers = copied.run(package, USE, str(tmp_path / "models"))
    series = np.asarray(answers["sample"])
    assert series.shape == (2, 5, 2)
    assert np.asarray(answers["encode"]["mean"]).shape == (2, 3)
    assert np.asarray(answers["reconstruct"]["series"]).shape == series.shape
    assert [set(item["explanation"]) for item in answers["anomaly-score"]["items"]] == [set(), set()]
    assert np.asarray(answers["interpolate"]["series"]).shape == (3, 5, 2)
    assert answers["wrong"]["error"]["field"] == "rows"
    described = {"field": "series", "media_types": []}
    assert answers["models"]["data"] == {"kind": "series", "steps": 5, "channels": 2, **described}
    assert {"series", "resample", "images", "rows"} <= set(answers["request"])
    assert answers["page"] == answers["sample"]
    assert answers["client"] == [{"series": answers["sample"]}, [{"one_series": one} for one in answers["sample"]]]
    lines = [[float(cell) for cell in line.split(",")[2:]] for line in answers["cli"][1]]
    assert np.allclose(np.asarray(lines).reshape(series.shape), series, atol=1e-6)
    over_grpc = answers["grpc"]  # the gRPC messages have no field for series
    message = "series: proto/manifold.proto has no field for this kind of data; send the request over REST"
    assert {
        over_grpc.pop(name) == ["UNIMPLEMENTED", message]
        for name in ("Sample", "SampleStream", "Encode", "AnomalyScore")
    } == {True}
    assert over_grpc.pop("Classify")[0] == "FAILED_PRECONDITION"  # the model does not classify, and REST refuses it too
    assert over_grpc == {"array": [1, 3]}
    assert (
        'manifold_requests_total{route="/manifold.v1.Manifold/AnomalyScore",status="UNIMPLEMENTED"} 1.0'
        in answers["counted"]
    )
    assert 'manifold_errors_total{type="internal"} 0.0' in answers["counted"]
