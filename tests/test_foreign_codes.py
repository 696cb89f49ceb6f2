"""A model of codes without a prior, made elsewhere: it decodes given codes on every surface, and says so if none are given."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from manifold.runtime import manifest, operations
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.service.rpc import messages
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold_client import Client, RequestRefused
from tests import foreign_tasks
from tests.conftest import SHIPPED
from tests.foreign_tasks import LEVELS, PLACES, SIZE
from tests.served import Served, served
from tests.test_commands import said

CODES = np.random.default_rng(3).integers(0, LEVELS, (5, PLACES, PLACES))


def pixels(codes: np.ndarray) -> np.ndarray:
    """Return the images (n, 8, 8) of codes, computed without the graph."""
    return np.rint(codes.repeat(2, axis=1).repeat(2, axis=2) / (LEVELS - 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codes")
    foreign_tasks.quantizer(root)
    foreign_tasks.quantizer(root, "decoder", encodes=False)
    foreign_tasks.scorer(root)
    return root


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Served]:
    with served(root, grpc=True, default_model="vq") as service:
        yield service


def opened(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


@pytest.mark.parametrize("model", ["vq", "decoder"])
def test_rest_decodes_given_codes(service: Served, model: str) -> None:
    answer = service.client.post("/sample", json={"model": model, "codes": CODES.tolist(), "return_latents": True})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert np.array_equal([opened(each) for each in made["images"]], pixels(CODES))
    assert made["codes"] == CODES.tolist()
    assert "seed" not in made  # nothing was drawn


def test_rest_streams_given_codes(service: Served) -> None:
    body = {"model": "decoder", "codes": CODES.tolist(), "n": len(CODES)}
    answer = service.client.post("/sample", json=body, headers={"Accept": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert np.array_equal([opened(line["image"]) for line in found if "image" in line], pixels(CODES))


def test_grpc_decodes_given_codes(service: Served) -> None:
    message = pb.SampleRequest(model="decoder")
    messages.fill(message, {"codes": CODES.astype(np.int64)})
    with grpc.insecure_channel(service.target) as channel:
        answer = stubs.ManifoldStub(channel).Sample(message)
        found = [np.asarray(Image.open(io.BytesIO(each))) for each in answer.images]
        assert np.array_equal(found, pixels(CODES))
        with pytest.raises(grpc.RpcError) as refused:
            stubs.ManifoldStub(channel).Sample(pb.SampleRequest(model="decoder", n=2))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "decoder has no prior over its codes" in refused.value.details()


def test_the_client_decodes_given_codes(service: Served) -> None:
    with Client(service.url) as client:
        samples = client.sample(codes=CODES, model="vq", encoding="array")
        assert np.allclose(np.asarray(samples.values["data"])[:, 0] * 255, pixels(CODES), atol=0.5)
        with pytest.raises(RequestRefused, match=r"codes: vq has no prior over its codes.* give codes of shape"):
            client.sample(3, model="vq")


def test_the_library_decodes_given_codes(root: Path) -> None:
    model = load(root / "vq", device="cpu")
    made = model.sample(codes=CODES)
    assert np.array_equal(np.rint(made.data[:, 0] * 255), pixels(CODES))
    with pytest.raises(InvalidValue, match=r"give codes of shape \[n, 4, 4\]"):
        model.sample(3, seed=1)
    with pytest.raises(InvalidValue, match=r"codes: the shape is \[5, 2, 4\]"):
        model.sample(codes=CODES[:, :2])
    with pytest.raises(UnsupportedTask, match="vq cannot decode latents; it supports sample"):
        model.sample(latents=np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"n": 3}, 422, "has no prior over its codes, so it cannot draw them; give codes of shape [n, 4, 4]"),
        ({"codes": CODES.tolist(), "n": 2}, 422, "n: 2, but 5 latents or codes are given"),
        ({"codes": (CODES + LEVELS).tolist()}, 422, "whole numbers from 0 to 15 are needed"),
        ({"codes": CODES[:, :2].tolist()}, 422, "codes"),
        ({"codes": CODES.tolist(), "temperature": 2}, 422, "temperature: it has no effect"),
        ({"latents": [[0.0]]}, 409, "has no latent"),
    ],
)
def test_what_is_refused(service: Served, body: dict[str, Any], status: int, message: str) -> None:
    answer = service.client.post("/sample", json={"model": "decoder", **body})
    assert (answer.status_code, message in answer.text) == (status, True), answer.text


def test_models_without_codes_refuse_them(service: Served) -> None:
    answer = service.client.post("/sample", json={"model": "scorer", "codes": CODES.tolist()})
    assert answer.status_code == 409
    assert "scorer does not support /sample; it supports /anomaly-score" in answer.text


def test_the_list_of_models_has_the_endpoints(service: Served) -> None:
    listed = {model["name"]: model for model in service.client.get("/models").json()["models"]}
    assert listed["vq"]["endpoints"] == ["sample", "encode", "reconstruct"]
    assert listed["decoder"]["endpoints"] == ["sample"]
    assert not listed["decoder"]["temperature"]


def test_reconstruct_goes_through_the_codes(service: Served) -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    means = image.reshape(PLACES, 2, PLACES, 2).mean(axis=(1, 3)) / 255
    expected = pixels(np.rint(means * (LEVELS - 1)).astype(int)[None])[0]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    body = {"model": "vq", "images": [base64.b64encode(file.getvalue()).decode()]}
    answer = service.client.post("/reconstruct", json=body).json()
    assert np.array_equal(opened(answer["images"][0]), expected)
    error = ((image / 255.0 - expected / 255.0) ** 2).mean()
    assert answer["errors"][0] == pytest.approx(error, abs=2e-3)
    codes = service.client.post("/encode", json=body).json()["codes"]
    assert np.array_equal(codes[0], np.rint(means * (LEVELS - 1)))


def test_the_command_sample_says_that_codes_are_needed(root: Path) -> None:
    with pytest.raises(UnsupportedTask, match="decoder cannot draw samples: it has no prior over its codes"):
        said("sample", "decoder", "--models", str(root))


def test_a_sampler_that_takes_codes(tmp_path: Path) -> None:
    """The task sample has an input of codes. It is run with given codes, as decode_codes would be."""
    folder = foreign_tasks.quantizer(tmp_path, "sampler", encodes=False)
    written = json.loads((folder / "manifest.json").read_text())
    written["tasks"] = {"sample": written["tasks"]["decode_codes"]}
    (folder / "manifest.json").write_text(json.dumps(written))
    model = load(folder, device="cpu")
    assert model.endpoints == ["sample"]
    assert np.array_equal(np.rint(model.sample(codes=CODES).data[:, 0] * 255), pixels(CODES))
    with pytest.raises(InvalidValue, match="has no prior over its codes"):
        model.sample(2)


def test_a_sampler_that_takes_items_has_no_endpoint(tmp_path: Path) -> None:
    """No request to /sample can fill the input, so the endpoint is not offered, and the error says why."""
    folder = foreign_tasks.artifact(
        tmp_path, "other",
        tasks={"sample": {"graph": "g.onnx", "inputs": [foreign_tasks.given()], "outputs": [{"role": "data", "shape": [1, 8, 8]}]}},
    )  # fmt: skip
    made = manifest.read(folder)
    assert operations.endpoints(made) == []
    with pytest.raises(UnsupportedTask, match=r"/sample: its task sample needs data.*; it has the tasks sample$"):
        operations.check_supports(made, "sample")


def test_models_that_draw_are_unchanged() -> None:
    """Every shipped model of items still draws them, and the others still do not."""
    for folder in sorted(path for path in SHIPPED.iterdir() if path.is_dir()):
        version = max(folder.iterdir(), key=lambda each: int(each.name))
        made = manifest.read(version)
        draws = "sample" in made.tasks or ("decode" in made.tasks and made.latent is not None)
        assert operations.draws_items(made) == operations.supports(made, "sample") == draws, folder
