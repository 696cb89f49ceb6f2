"""Imported models behind the service: requests do not see the forms that their graphs have."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from manifold import cli
from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, images
from tests.graphs import INT64, constant, node, value
from tests.served import Served, served
from tests.test_graph_forms import TO
from tests.test_import import encoder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a model whose graphs take a latent (B, 6, 1, 1), an int64 class (B,) and a scalar, and make NHWC uint8 images, 4 at a time."""
    root = tmp_path_factory.mktemp("imported")
    nodes = [
        *brought.body(latent=[4, LATENT, 1, 1]), node("Cast", ["y"], ["number"], to=TO["float32"]), node("Mul", ["number", "tenth"], ["share"]),
        node("Reshape", ["share", "column"], ["shift"]), node("Mul", ["x", "strength"], ["strong"]), node("Sub", ["strong", "shift"], ["moved"]),
        node("Mul", ["moved", "half"], ["scaled"]), node("Add", ["scaled", "half"], ["bytes"]), node("Clip", ["bytes", "zero", "full"], ["clipped"]),
        node("Round", ["clipped"], ["r"]), node("Cast", ["r"], ["c"], to=TO["uint8"]), node("Transpose", ["c"], ["img"], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    constants = [
        *CONSTANTS, constant("tenth", np.float32(0.1)), constant("column", [-1, 1, 1, 1]), constant("half", np.float32(127.5)),
        constant("zero", np.float32(0)), constant("full", np.float32(255)),
    ]  # fmt: skip
    graphs.write(
        root / "g.onnx", nodes, [value("z", shape=[4, LATENT, 1, 1]), value("y", INT64, [4]), value("strength", shape=[])],
        [value("img", TO["uint8"], [4, 4, 5, 3])], constants,
    )  # fmt: skip
    done = CliRunner().invoke(cli.app, [
        "import", str(root / "g.onnx"), str(encoder(root / "e.onnx")), "--name", "mine", "--classes", "a,b,c", "--number", "strength=1:0:1",
        "--models", str(root / "models"),
    ], catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0, done.output
    with served(root / "models") as running:
        yield running


def expected(z: Any, classes: list[int], strength: Any = 1.0) -> Any:
    """Return the images (n, 4, 5, 3), uint8, of the graph above."""
    x = (
        images(np.asarray(z, np.float32)) * np.asarray(strength)[..., None, None, None]
        - 0.1 * np.asarray(classes)[:, None, None, None]
    )
    return np.rint(np.clip(x * 127.5 + 127.5, 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)


def pixels(png: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_samples_have_the_pixels_of_the_graph(service: Served) -> None:
    z = np.random.default_rng(2).normal(size=(6, LATENT))
    answer = service.client.post(
        "/sample", json={"model": "mine", "latents": z.tolist(), "class": ["a", "b", "c", "c", "b", "a"]}
    ).json()
    found = np.stack([pixels(each) for each in answer["images"]])
    assert np.abs(found.astype(int) - expected(z, [0, 1, 2, 2, 1, 0]).astype(int)).max() <= 1
    weak = service.client.post(
        "/sample", json={"model": "mine", "latents": z.tolist(), "class": "a", "inputs": {"strength": 0.5}}
    ).json()
    found = np.stack([pixels(each) for each in weak["images"]])
    assert np.abs(found.astype(int) - expected(z, [0] * 6, 0.5).astype(int)).max() <= 1


def test_the_same_seed_gives_the_same_item_in_every_batch(service: Served) -> None:
    request = {"model": "mine", "seed": 5, "class": "b"}
    many = service.client.post("/sample", json={**request, "n": 7}).json()["images"]
    few = service.client.post("/sample", json={**request, "n": 2}).json()["images"]
    assert many[:2] == few and len(set(many)) == 7


def test_an_encoder_reads_bytes_in_another_layout(service: Served) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    image = base64.b64encode(stream.getvalue()).decode()
    answer = service.client.post("/encode", json={"model": "mine", "images": [image]}).json()
    weights = np.random.default_rng(3).normal(size=(60, LATENT)).astype(np.float32) / 100
    assert np.allclose(answer["mean"], picture.reshape(1, -1) @ weights, atol=1e-3)
    path = service.client.post("/interpolate", json={
        "model": "mine", "from": {"image": image, "class": "a"}, "to": {"seed": 1, "class": "a"}, "steps": 3,
    })  # fmt: skip
    assert path.status_code == 200 and len(path.json()["images"]) == 3, path.text
    assert (
        service.client.post("/reconstruct", json={"model": "mine", "images": [image], "class": "a"}).status_code == 200
    )


def test_tensors_over_the_open_inference_protocol(service: Served) -> None:
    """Metadata and tensors have the form of the service: float32 (n, 6) in, float32 (n, 3, 4, 5) out."""
    about = service.client.get("/v2/models/mine.decode").json()
    assert {each["name"]: each["datatype"] for each in about["inputs"]}["latent"] == "FP32"
    z = np.random.default_rng(2).normal(size=(2, LATENT)).astype(np.float32)
    inputs = [
        {"name": "latent", "datatype": "FP32", "shape": [2, LATENT], "data": z.ravel().tolist()},
        {"name": "condition", "datatype": "FP32", "shape": [2, 3], "data": [1, 0, 0, 0, 0, 1]},
        {"name": "strength", "datatype": "FP32", "shape": [2], "data": [1, 0.5]},
    ]
    answer = service.client.post("/v2/models/mine.decode/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    found = np.asarray(output["data"]).reshape(output["shape"])
    assert output["shape"] == [2, 3, 4, 5]
    assert (
        np.abs(found - expected(z, [0, 2], [1, 0.5]).transpose(0, 3, 1, 2)).max() <= 1
    )  # the range of `data` is that of the bytes


def test_a_mixture_of_classes_is_refused(service: Served) -> None:
    answer = service.client.post("/sample", json={"model": "mine", "n": 1, "seed": 1, "class": {"a": 1, "b": 1}})
    assert answer.status_code == 422 and "one class for each item, not a mixture" in answer.text


@pytest.mark.parametrize(("datatype", "shape"), [("INT64", [3]), ("INT64", [3, 1]), ("INT32", [3]), ("UINT8", [3])])
def test_numbers_of_classes_over_the_protocol(service: Served, datatype: str, shape: list[int]) -> None:
    """They stand for the weight 1 of one class, so that the class needs no tensor of weights."""
    z = np.random.default_rng(4).normal(size=(3, LATENT)).astype(np.float32)

    def ask(*condition: dict[str, Any]) -> Any:
        inputs = [{"name": "latent", "datatype": "FP32", "shape": [3, LATENT], "data": z.ravel().tolist()}, *condition]
        return service.client.post("/v2/models/mine.decode/infer", json={"inputs": inputs})

    weights = {"name": "condition", "datatype": "FP32", "shape": [3, 3], "data": np.eye(3)[[2, 0, 1]].ravel().tolist()}
    numbers = {"name": "condition", "datatype": datatype, "shape": shape, "data": [2, 0, 1]}
    assert ask(numbers).json()["outputs"] == ask(weights).json()["outputs"]
    answer = ask({**numbers, "data": [0, 1, 3]})
    assert (
        answer.status_code == 400
        and "condition: 3 is not the number of a class; give numbers from 0 to 2" in answer.text
    )
    assert ask({**numbers, "shape": [1, 3]}).status_code == 400
