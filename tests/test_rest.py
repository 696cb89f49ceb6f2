"""The wire: every route for every model, every error of the table, and nothing that a client can send makes a 500."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from manifold.runtime import codecs, imaging
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.service.core import contract
from manifold.service.http.app import USE_CASES, create_app
from manifold.service.settings import ModelSettings, Settings, SettingsError, read
from manifold.training.data import Arrays, Data
from tests import foreign
from tests.conftest import (
    CLASS_OF,
    EXTRACTORS,
    NAMES,
    ROOT,
    ROW,
    ROWS,
    SHIPPED,
    WITHOUT_ENCODER,
    some_shipped,
    wait_until_ready,
)

CODES = ("cifar10-vqvae", "fashion-vqvae", "mnist-vqvae")  # no prior over their vectors
IMAGE_MODELS = [name for name in NAMES if name not in ROWS]
LATENT_MODELS = [name for name in NAMES if name not in WITHOUT_ENCODER]


def png(array: np.ndarray | None = None, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.zeros((28, 28), np.uint8) if array is None else array
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def items(name: str) -> dict[str, Any]:
    """A legal request's items for a model."""
    return {"rows": [ROWS[name]] * 2} if name in ROWS else {"images": [text(png())] * 2}


def told(name: str) -> dict[str, Any]:
    """What a conditional encoder is told."""
    return {"class": CLASS_OF[name]} if name in CLASS_OF else {}


def bomb() -> str:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return text(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


# --- what works ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", USE_CASES)
def test_every_route_for_every_model(client: TestClient, name: str, route: str) -> None:
    """An answer that fits its contract, or 409 that says what the model can."""
    body: dict[str, Any] = {"model": name}
    if route == "sample":
        body |= {"n": 3, "return_latents": True}
    elif route == "interpolate":
        end = {"image": text(png())} if name in CODES else {"seed": 1, **told(name)}
        body |= {"from": end, "to": end, "steps": 4}
    elif route == "impute":
        blank: dict[str, Any] = {"rows": [{**ROWS[name], next(iter(ROWS[name])): None}]} if name in ROWS else {}
        body |= blank or {"images": [text(png())], "masks": [text(png())], "candidates": 2}
    else:
        body |= items(name) | (told(name) if route in ("encode", "reconstruct") else {})
    response = client.post(f"/{route}", json=body)
    can = next(model for model in client.get("/models").json()["models"] if model["name"] == name)["endpoints"]
    if route not in can:
        assert response.status_code == 409
        assert response.json()["error"]["valid"] == can
        return
    assert response.status_code == 200, response.text
    answer = USE_CASES[route][1].model_validate(response.json(), strict=True)
    assert answer.model == name
    assert answer.timing.compute > 0
    assert response.headers["x-request-id"] == answer.request_id
    if route in ("sample", "reconstruct", "interpolate"):
        made = response.json()["rows" if name in ROWS else "images"]
        assert len(made) == {"sample": 3, "reconstruct": 2, "interpolate": 4}[route]


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_ways_to_send_and_to_receive_images(client: TestClient, name: str, shipped: dict[str, Model]) -> None:
    spec = shipped[name].manifest.data
    assert isinstance(spec, ImageSpec)
    item = imaging.to_uint8(shipped[name].sample(1, seed=4).data, spec)  # (1, C, H, W)
    pixels = item[0].transpose(1, 2, 0).squeeze()
    array = item if spec.channels > 1 else item[:, 0]
    route = "/reconstruct" if name in LATENT_MODELS else "/anomaly-score"
    query = {"model": name, **(told(name) if route == "/reconstruct" else {})}
    answers = [
        client.post(route, json={**query, "images": [text(png(pixels))]}),
        client.post(route, params=query, content=png(pixels), headers={"content-type": "image/png"}),
        client.post(route, params=query, files={"file": ("x.png", png(pixels))}),
        client.post(route, data=query, files={"file": ("x.png", png(pixels))}),
        client.post(route, params=query, content=codecs.to_npy(array), headers={"content-type": codecs.NPY}),
        client.post(route, params=query, content=codecs.to_npy(array / 255.0), headers={"content-type": codecs.NPY}),
    ]
    key = "errors" if route == "/reconstruct" else "items"
    assert [answer.status_code for answer in answers] == [200] * 6, [answer.text[:200] for answer in answers]
    assert len({json.dumps(answer.json()[key]) for answer in answers}) == 1

    sample = {"model": name, "seed": 3, "n": 4}
    as_json = client.post("/sample", json={**sample, "encoding": "array"}).json()
    as_npy = client.post("/sample", json=sample, headers={"accept": codecs.NPY})
    made = codecs.from_npy(as_npy.content, "")
    assert as_npy.headers["x-seed"] == "3"
    assert np.array_equal(np.asarray(as_json["data"], np.float32), made)
    sheet = Image.open(io.BytesIO(client.post("/sample", json=sample, headers={"accept": "image/png"}).content))
    assert sheet.size == (2 * spec.width + 2, 2 * spec.height + 2)
    webp = Image.open(io.BytesIO(client.post("/sample", json=sample, headers={"accept": "image/webp"}).content))
    assert np.array_equal(np.asarray(webp.convert(sheet.mode)), np.asarray(sheet))
    shown = np.asarray(sheet)[: spec.height, : spec.width].reshape(spec.height, spec.width, -1)
    assert np.array_equal(shown, np.rint(made[0] * 255).transpose(1, 2, 0))


def test_latents_as_a_body_of_numbers(client: TestClient) -> None:
    latents = np.random.default_rng(0).normal(size=(5, 20))
    headers = {"content-type": codecs.NPY, "accept": codecs.NPY}
    array = codecs.from_npy(client.post("/sample", content=codecs.to_npy(latents), headers=headers).content, "")
    by_json = client.post("/sample", json={"latents": latents.tolist(), "encoding": "array"}).json()
    assert np.array_equal(array, np.asarray(by_json["data"], np.float32))
    assert "seed" not in by_json


def test_numbers_as_npy(client: TestClient) -> None:
    for route, pick in (
        ("/encode", lambda answer: answer["mean"]),
        ("/anomaly-score", lambda answer: [item["score"] for item in answer["items"]]),
    ):
        body = items("mnist-vae")
        array = codecs.from_npy(client.post(route, json=body, headers={"accept": codecs.NPY}).content, "")
        answer = client.post(route, json=body).json()
        assert np.array_equal(array, np.asarray(pick(answer), array.dtype))
        assert "score" not in answer


def test_rows_by_name_and_by_order(client: TestClient) -> None:
    named = client.post("/encode", json={"model": "transactions-vae", "rows": [ROW]}).json()
    ordered = client.post("/encode", json={"model": "transactions-vae", "rows": [list(ROW.values())]}).json()
    assert named["mean"] == ordered["mean"]
    drawn = client.post("/encode", json={"model": "transactions-vae", "rows": [ROW], "seed": 1}).json()
    assert drawn["latents"] != drawn["mean"]
    assert drawn["seed"] == 1


def test_interpolate_between_all_kinds_of_ends(client: TestClient) -> None:
    ends: list[dict[str, Any]] = [{"seed": 1, "first": 3}, {"latent": [0.1] * 20}, {"image": text(png())}]
    for start in ends:
        for stop in ends:
            assert client.post("/interpolate", json={"from": start, "to": stop, "steps": 3}).status_code == 200
    rows = {"model": "transactions-vae", "from": {"row": ROW}, "to": {"row": {**ROW, "amount": 90}}}
    assert len(client.post("/interpolate", json=rows).json()["rows"]) == 8


def test_scores_are_calibrated_and_explained(client: TestClient, shipped: dict[str, Model]) -> None:
    digit = imaging.to_uint8(shipped["mnist-vae"].sample(1, seed=4).data, shipped["mnist-vae"].manifest.data)[0, 0]  # type: ignore[arg-type]
    noise = np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)
    request = {"images": [text(png(digit)), text(png(noise))], "explain": True, "false_positive_rate": 0.05}
    answer = client.post("/anomaly-score", json=request).json()
    usual, strange = answer["items"]
    assert (usual["is_anomaly"], strange["is_anomaly"]) == (False, True)
    assert strange["state"] == "below_resolution"
    assert strange["p_value"] == pytest.approx(1 / 5001)
    assert strange["score"] > answer["threshold"]["score"] > usual["score"]
    distances = {"latent_distance", "latent_neighbours", "squared_error"}
    assert set(usual["parts"]) == {"reconstruction", "kl", "negative_elbo", "combined", *distances}
    assert usual["parts"]["combined"]["value"] == usual["score"]
    assert (usual["band"], strange["band"]) == ("allow", "block")
    low, high = answer["threshold"]["interval"]
    assert low < 0.05 < high
    assert answer["calibration"]["n"] == 5000
    assert Image.open(io.BytesIO(base64.b64decode(strange["explanation"]["map"]))).size == (28, 28)
    budget = client.post("/anomaly-score", json={"images": request["images"], "budget": 1}).json()
    assert [item["is_anomaly"] for item in budget["items"]] == [False, True]


def test_rows_are_scored_with_reasons(client: TestClient) -> None:
    far = {**ROW, "terminal_30d_mean": 900.0}
    dear = {**ROW, "amount": 900.0, "amount_over_usual": 2.79}
    rows = [ROW, far, dear, {**ROW, "weekday": "never"}, {**ROW, "hour": None}]
    answer = client.post("/anomaly-score", json={"model": "transactions-vae", "rows": rows, "explain": True}).json()
    usual, strange, costly, unknown, missing = answer["items"]
    assert [item["state"] for item in (usual, unknown, missing)] == ["ok", "unknown", "unknown"]
    assert unknown["warnings"] == ["unknown_category: weekday 'never' was never seen in training"]
    assert missing["warnings"] == ["missing: hour has no value; it took no part in the score"]
    assert strange["is_anomaly"]
    assert strange["explanation"]["columns"][0]["column"] == "terminal_30d_mean"
    assert strange["explanation"]["columns"][0]["value"] == 900.0
    assert costly["is_anomaly"]
    assert "amount" in {reason["column"] for reason in costly["explanation"]["columns"][:2]}
    assert unknown["explanation"]["columns"][0]["column"] == "weekday"
    assert usual["score"] < unknown["score"]
    assert usual["band"] == "allow"


def test_fitting_is_said_and_strict_refuses(client: TestClient) -> None:
    large = text(png(np.full((90, 40, 3), 255, np.uint8)))
    answer = client.post("/encode", json={"images": [large]}).json()
    assert answer["fitted"][0]["width"] == 40
    assert len(answer["fitted"][0]["steps"]) == 3  # grey, scaled, inverted
    assert client.post("/encode", json={"images": [large], "fit": "strict"}).status_code == 422


def test_models_and_previews(client: TestClient) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    contract.ModelList.model_validate({"models": list(models.values())})
    assert sorted(models) == sorted((*NAMES, *EXTRACTORS))
    assert models["mnist-vae"]["default"]
    assert models["digits-pixelcnn"]["classes"] == list("0123456789")
    for name in NAMES:
        assert client.get(f"/models/{name}/preview.png").content[:8] == b"\x89PNG\r\n\x1a\n"
        public = client.get(f"/models/{name}").json()
        assert public["metrics"]
        assert public["provenance"]["config"]
        assert "files" not in public
    assert client.get("/models/nope").status_code == 404
    assert client.get("/models/mnist-vae", params={"version": "x"}).status_code == 422
    assert client.get("/models/mnist-vae", params={"version": 9}).json()["error"]["valid"] == [1]


def test_health_metrics_docs_and_the_page(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json()["status"] == "ready"
    client.post("/sample", json={})
    page = client.get("/metrics").text
    for line in (
        'manifold_requests_total{route="/sample",status="200"}',
        'manifold_model_ready{model="mnist-vae",version="1"} 1.0',
    ):
        assert line in page
    docs = client.get("/docs").text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', docs):
        assert asset.startswith("/"), "the page must do without the internet"
        assert client.get(asset).status_code == 200
    assert "swagger-ui-bundle.js" in docs
    html = client.get("/").text
    assert "<title>Manifold</title>" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html


def test_request_ids_are_kept_or_made(client: TestClient) -> None:
    assert client.get("/health/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/health/live", headers={"x-request-id": "a b\t"}).headers["x-request-id"]
    assert len(made) == 32
    refused = client.post("/sample", content=b"{", headers={"x-request-id": "abc-2"})
    assert refused.json()["error"]["request_id"] == "abc-2"


@pytest.mark.parametrize("route", USE_CASES)
def test_the_examples_of_the_document_work(client: TestClient, route: str) -> None:
    (example,) = client.get("/openapi.json").json()["components"]["schemas"][USE_CASES[route][0].__name__]["examples"]
    assert client.post(f"/{route}", json=example).status_code == 200


def test_the_openapi_document_is_the_one_in_docs(client: TestClient) -> None:
    path = ROOT / "docs/openapi.json"
    assert json.loads(path.read_text()) == client.get("/openapi.json").json(), "run: make docs"


# --- what is refused ---

NAN = b'{"latents": [[' + b", ".join([b"NaN"] * 20) + b"]]}"
ERRORS: list[tuple[str, Any, int, str | None]] = [
    ("/sample", b"", 400, "body"),
    ("/sample", b"{", 400, "body"),
    ("/sample", b"[]", 400, "body"),
    ("/sample", b'"x"', 400, "body"),
    ("/sample", b"\xff\xfe", 400, "body"),
    ("/sample", NAN, 400, "body"),
    ("/sample", {"latents": [[1e39] * 20]}, 422, "latents[0]"),
    ("/sample", {"model": "nope"}, 404, "model"),
    ("/sample", {"version": 7}, 404, "version"),
    ("/sample", {"version": "1"}, 422, "version"),
    ("/sample", {"n": 0}, 422, "n"),
    ("/sample", {"n": 1.5}, 422, "n"),
    ("/sample", {"n": "3"}, 422, "n"),
    ("/sample", {"n": True}, 422, "n"),
    ("/sample", {"n": 1025}, 413, "n"),
    ("/sample", {"seed": -1}, 422, "seed"),
    ("/sample", {"seed": 2**63}, 422, "seed"),
    ("/sample", {"seed": 10**30}, 422, "seed"),
    ("/sample", {"seed": 0.5}, 422, "seed"),
    ("/sample", {"first": 2**63 - 1, "n": 5}, 422, "first"),
    ("/sample", {"colour": "red"}, 422, "colour"),
    ("/sample", {"temperature": 0}, 422, "temperature"),
    ("/sample", {"prior": "vamp"}, 422, "prior"),
    ("/sample", {"class": "3"}, 422, "class"),
    ("/sample", {"encoding": "gif"}, 422, "encoding"),
    ("/sample", {"latents": [[0.1] * 19]}, 422, "latents"),
    ("/sample", {"latents": []}, 422, "latents"),
    ("/sample", {"latents": [[0.1] * 20], "n": 2}, 422, "n"),
    ("/sample", {"latents": [[0.1] * 20], "prior": "normal"}, 422, "prior"),
    ("/sample", {"latents": [["x"] * 20]}, 422, "latents"),
    ("/sample", {"codes": [[0]]}, 409, "codes"),
    ("/sample", {"model": "digits-pixelcnn", "latents": [[0.1]]}, 409, "latents"),
    ("/sample", {"model": "digits-pixelcnn", "class": "x"}, 422, "class"),
    ("/sample", {"model": "digits-pixelcnn", "class": ["1", "2"], "n": 3}, 422, "class"),
    ("/sample", {"model": "digits-pixelcnn", "class": {"1": -1}}, 422, "class"),
    ("/sample", {"model": "digits-pixelcnn", "class": {}}, 422, "class"),
    ("/sample", {"model": "digits-pixelcnn", "class": True}, 422, "class"),
    ("/encode", {}, 422, "images"),
    ("/encode", {"images": []}, 422, "images"),
    ("/encode", {"images": ["###"]}, 400, "images[0]"),
    ("/encode", {"images": [text(b"not an image")]}, 400, "images[0]"),
    ("/encode", {"images": [text(png()), text(png()[:45])]}, 400, "images[1]"),
    ("/encode", {"images": [bomb()]}, 413, "images[0]"),
    ("/encode", {"images": [text(png(kind="BMP"))]}, 415, "images[0]"),
    ("/encode", {"images": "x"}, 422, "images"),
    ("/encode", {"images": [text(png())] * 1025}, 413, "images"),
    ("/encode", {"rows": [ROW]}, 422, "rows"),
    ("/encode", {"images": [text(png())], "class": "1"}, 422, "class"),
    ("/encode", {"model": "digits-pixelcnn", "images": [text(png())]}, 409, "model"),
    ("/encode", {"model": "transactions-vae", "images": [text(png())]}, 422, "images"),
    ("/encode", {"model": "transactions-vae", "rows": []}, 422, "rows"),
    ("/encode", {"model": "transactions-vae", "rows": [ROW, {**ROW, "colour": 1}]}, 422, "rows[1].colour"),
    ("/encode", {"model": "transactions-vae", "rows": [{**ROW, "amount": "12"}]}, 422, "rows[0].amount"),
    ("/encode", {"model": "transactions-vae", "rows": [{**ROW, "weekday": "9"}]}, 422, "rows[0].weekday"),
    ("/encode", {"model": "transactions-vae", "rows": [{"amount": 1}]}, 422, "rows[0].hour"),
    ("/impute", {"model": "transactions-vae", "rows": [{**ROW, "amount": "much"}]}, 422, "rows[0].amount"),
    ("/impute", {"model": "transactions-vae", "rows": [{}]}, 422, "rows[0]"),
    ("/reconstruct", {"images": [text(png())], "steps": 3}, 422, "steps"),
    ("/interpolate", {"from": {"seed": 1}}, 422, "to"),
    ("/interpolate", {"from": {"seed": 1}, "to": {}}, 422, "to"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 1, "latent": [0.0] * 20}}, 422, "to"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"class": "1"}}, 422, "to.class"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"latent": [0.0]}}, 422, "to.latent"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"row": ROW}}, 422, "to.row"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"image": "x"}}, 400, "to.image"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"sead": 2}}, 422, "to.sead"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 1}, 422, "steps"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 2000}, 413, "steps"),
    ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}, "method": "cubic"}, 422, "method"),
    ("/interpolate", {"model": "digits-pixelcnn", "from": {"seed": 1}, "to": {"seed": 2}}, 409, "model"),
    ("/anomaly-score", {"images": [text(png())], "false_positive_rate": 0}, 422, "false_positive_rate"),
    ("/anomaly-score", {"images": [text(png())], "false_positive_rate": 0.1, "budget": 1}, 422, "budget"),
    ("/anomaly-score", {"images": [text(png())], "budget": 0}, 422, "budget"),
    ("/anomaly-score", {"images": [text(png())], "budget": 1, "costs": {"false_positive": 1, "false_negative": 9, "prevalence": 0.1}}, 422, "costs"),
    ("/anomaly-score", {"images": [text(png())], "costs": {"false_positive": 1, "false_negative": 9, "prevalence": 1}}, 422, "costs.prevalence"),
    ("/anomaly-score", {"images": [text(png())], "costs": {"false_positive": 1}}, 422, "costs.false_negative"),
    ("/anomaly-score", {"images": [text(png())], "block_rate": 0.5}, 422, "block_rate"),
    ("/nothing", {}, 404, None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "field"), ERRORS, ids=lambda value: str(value)[:40])
def test_every_bad_input_has_its_status_and_a_message(
    client: TestClient, path: str, body: Any, status: int, field: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = contract.ErrorResponse.model_validate(response.json(), strict=True).error
    assert error.field == field
    assert len(error.message) > 10
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "image/gif"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"accept": "text/html"}, 415),
        ({"accept": "application/json;q=0"}, 415),
        ({"accept": "text/html, */*;q=0.1"}, 200),
        ({"accept": ""}, 200),
        ({"x-deadline-ms": "soon"}, 422),
        ({"x-deadline-ms": "0"}, 422),
        ({"x-deadline-ms": "60000"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_headers(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.post("/sample", content=b"{}", headers={"content-type": "application/json", **headers})
    assert response.status_code == status, response.text
    if status == 415:
        assert response.json()["error"]["valid"] or "gzip" in str(headers)


def form(content: bytes) -> bytes:
    """A part of a form, without the closing boundary."""
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n"


def test_binary_bodies_that_are_wrong(client: TestClient) -> None:
    for content, kind, status in (
        (b"", "image/png", 400),
        (b"x", "image/png", 400),
        (b"", codecs.NPY, 400),
        (b"\x93NUMPY\x01\x00", codecs.NPY, 400),
        (codecs.to_npy(np.zeros((1, 27, 28))), codecs.NPY, 422),
        (codecs.to_npy(np.full((1, 28, 28), np.nan)), codecs.NPY, 422),
        (codecs.to_npy(np.full((1, 28, 28), 1.5)), codecs.NPY, 422),
        (codecs.to_npy(np.zeros((0, 28, 28))), codecs.NPY, 422),
        (codecs.to_npy(np.zeros((1, 28, 28), "c8")), codecs.NPY, 422),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        # the second image was cut off
        (form(png()) + b"--x\r\n" + form(png())[:-40], "multipart/form-data; boundary=x", 400),
    ):
        response = client.post("/encode", content=content, headers={"content-type": kind})
        assert response.status_code == status, (kind, content[:20], response.text)
    assert client.post("/encode", files={"picture": ("x", png())}).status_code == 422
    assert client.post("/encode", data={"model": "mnist-vae"}, files={"file": ("x", b"")}).status_code == 400
    assert client.post("/sample", files={"file": ("x", png())}).status_code == 422
    picture = {"accept": "image/png"}
    assert client.post("/anomaly-score", json=items("mnist-vae"), headers=picture).status_code == 415
    assert client.post("/sample", json={"model": "transactions-vae"}, headers=picture).status_code == 415
    either = client.post("/encode", json=items("mnist-vae"), headers={"accept": "image/png, application/json;q=0.5"})
    assert either.json()["mean"]


def test_too_large_a_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with TestClient(
        create_app(Settings(models_dir=some_shipped(tmp_path, "mnist-vae"), max_body_bytes=2000))
    ) as client:
        declared = client.post(
            "/sample", content=b"{}", headers={"content-type": "application/json", "content-length": "5000"}
        )
        assert declared.status_code == 413

        def chunks() -> Iterator[bytes]:
            yield from [b" " * 1000] * 5

        assert client.post("/sample", content=chunks(), headers={"content-type": "application/json"}).status_code == 413


def test_wrong_methods(client: TestClient) -> None:
    response = client.get("/sample")
    assert response.status_code == 405
    assert response.json()["error"]["valid"] == ["POST"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *("n", "seed", "first", "latents", "codes", "class", "prior", "temperature", "return_latents", "encoding"),
    *("images", "rows", "from", "to", "steps", "method", "fit", "budget", "explain", "version"),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    st.sampled_from(list(USE_CASES)),
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
)
def test_no_json_makes_a_500(client: TestClient, route: str, name: str, fields: dict[str, Any]) -> None:
    response = client.post(f"/{route}", json={"model": name, **fields})
    assert response.status_code < 500, (fields, response.text)
    if response.status_code >= 400:
        contract.ErrorResponse.model_validate(response.json())


def test_an_unknown_error_is_opaque_and_logged(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("manifold.service.core.encoding.to_fields", broken)
    with structlog.testing.capture_logs() as lines:
        response = client.post("/sample", json={}, headers={"x-request-id": "find-me"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["type"] == "internal"
    (line,) = [line for line in lines if line["event"] == "internal"]
    assert line["request_id"] == "find-me"
    assert "secret" in repr(line["exc_info"])


# --- admission ---


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that another thread is about to do."""
    for _ in range(100_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def app_with(tmp_path: Path, **options: Any) -> TestClient:
    folder = tmp_path / "foreign"
    if not folder.exists():
        foreign.write(tmp_path)
    return TestClient(create_app(Settings(models_dir=tmp_path, default_model="foreign", **options)))


def test_a_full_queue_is_429_with_retry_after_and_harms_nobody(tmp_path: Path) -> None:
    with app_with(tmp_path, queue_rows=4) as client:
        wait_until_ready(client)
        model = client.app.state.registry.entries["foreign", 1].model  # type: ignore[attr-defined]
        begun, go, original = threading.Event(), threading.Event(), model.compute

        def slow(task: str, inputs: Any) -> Any:
            begun.set()
            assert go.wait(120)
            return original(task, inputs)

        model.compute = slow
        results: list[int] = []
        waiting = threading.Thread(target=lambda: results.append(client.post("/sample", json={"n": 3}).status_code))
        waiting.start()
        assert begun.wait(120)
        refused = client.post("/sample", json={"n": 2})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        late: list[int] = []
        dropped = threading.Thread(
            target=lambda: late.append(client.post("/sample", json={}, headers={"x-deadline-ms": "1"}).status_code)
        )
        dropped.start()
        batcher = client.app.state.registry.entries["foreign", 1].batcher  # type: ignore[attr-defined]
        until(lambda: batcher.rows == 4)
        time.sleep(0.01)  # its deadline passes in the queue
        go.set()
        waiting.join(120)
        dropped.join(120)
        assert (results, late) == ([200], [504])
        model.compute = original
        assert client.post("/sample", json={"n": 2}).status_code == 200


def test_large_requests_are_cut_and_the_same(tmp_path: Path) -> None:
    with app_with(tmp_path, max_rows=7) as cut, app_with(tmp_path) as whole:
        for client in (cut, whole):
            wait_until_ready(client)
        request = {"n": 50, "seed": 3, "encoding": "array"}
        assert cut.post("/sample", json=request).json()["data"] == whole.post("/sample", json=request).json()["data"]


def test_a_request_larger_than_the_queue_runs_when_it_is_alone(tmp_path: Path) -> None:
    with app_with(tmp_path, queue_rows=4) as client:
        wait_until_ready(client)
        assert client.post("/sample", json={"n": 50}).status_code == 200


# --- models that are not ready ---


def test_without_torch_a_torchscript_model_names_its_extra_and_the_rest_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with TestClient(create_app(Settings(models_dir=some_shipped(tmp_path, "mnist-vae", "mnist-vae-ts")))) as client:
        wait_until_ready(client)
        assert client.get("/health/ready").status_code == 200
        response = client.post("/sample", json={"model": "mnist-vae-ts"})
        assert response.status_code == 503
        assert "manifold[torch]" in response.json()["error"]["message"]
        assert client.post("/sample", json={}).status_code == 200


def test_a_model_told_to_use_cuda_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "manifold.runtime.graphs.backends._cuda_missing", lambda _: "there is no CUDA device or driver on this machine"
    )
    root = some_shipped(tmp_path, "mnist-vae", "mnist-vae-2d")
    options = Settings(models_dir=root, models={"mnist-vae-2d": ModelSettings(device="cuda")})
    with TestClient(create_app(options)) as client:
        wait_until_ready(client)
        models = {model["name"]: model for model in client.get("/models").json()["models"]}
        assert models["mnist-vae-2d"]["state"] == "unavailable"
        assert "no CUDA device" in models["mnist-vae-2d"]["reason"]
        assert "no CUDA device" in models["mnist-vae"]["note"]  # auto fell back and says so
        assert 'manifold_device_fallback{model="mnist-vae"} 1.0' in client.get("/metrics").text
        assert client.get("/health/ready").status_code == 200
        assert client.post("/sample", json={"model": "mnist-vae-2d"}).status_code == 503


def test_a_broken_artifact_is_visible_and_the_service_not_ready(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path)
    (folder / "generator.onnx").write_bytes(b"nonsense")
    with TestClient(create_app(Settings(models_dir=tmp_path))) as client:
        wait_until_ready(client)
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "foreign" in response.json()["reason"]
        assert "generator.onnx" in client.get("/models/foreign").json()["reason"]
        assert client.post("/sample", json={"model": "foreign"}).status_code == 503
        assert client.get("/health/live").status_code == 200


def test_other_versions_load_when_first_asked_for(tmp_path: Path) -> None:
    first, second = foreign.write(tmp_path), tmp_path / "foreign/2"
    shutil.copytree(first, second)
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "version": 2, "description": "newer"}))
    with TestClient(create_app(Settings(models_dir=tmp_path, default_model="foreign"))) as client:
        wait_until_ready(client)
        assert [model["version"] for model in client.get("/models").json()["models"]] == [2]
        assert client.post("/sample", json={}).json()["version"] == 2
        assert client.get("/models/foreign", params={"version": 1}).json()["state"] == "ready"
        assert client.post("/sample", json={"version": 1}).json()["version"] == 1
        assert client.post("/sample", json={"version": 3}).json()["error"]["valid"] == [1, 2]


def test_a_section_for_a_model_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"models\.mnist_vae") as caught:
        create_app(Settings(models_dir=SHIPPED, models={"mnist_vae": ModelSettings(device="cpu")}))
    assert "mnist-vae" in (caught.value.valid or [])


def test_settings_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANIFOLD_PORT", "99999")
    with pytest.raises(SettingsError, match="MANIFOLD_PORT"):
        read()
    monkeypatch.delenv("MANIFOLD_PORT")
    (tmp_path / "manifold.toml").write_text('instances = 2\n[models.a]\ndevice = "cuda"\nmax_rows = 8\n')
    found = read()
    assert (found.of_model("a").device, found.of_model("a").max_rows, found.of_model("a").instances) == ("cuda", 8, 2)
    assert found.of_model("b").device == "auto"
    (tmp_path / "manifold.toml").write_text("[models.a]\ndevise = 1\n")
    with pytest.raises(SettingsError, match="devise"):
        read()
    (tmp_path / "manifold.toml").write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="prot"):
        read()
    (tmp_path / "manifold.toml").write_text("nonsense")
    with pytest.raises(SettingsError, match=r"manifold\.toml"):
        read()


@pytest.mark.parametrize("name", ["digits-pixelcnn", "digits-classifier"])
def test_classify_is_what_the_library_says(
    name: str, client: TestClient, shipped: dict[str, Model], digits: Data
) -> None:
    model, items = shipped[name], Arrays.of(digits.test).items[:6]
    expected = model.classify(digits.inputs(digits.test)[:6])
    request = {"model": name, "images": [text(imaging.to_png(image)) for image in items]}
    answer = client.post("/classify", json=request).json()
    contract.ClassifyResponse.model_validate(answer)
    assert [item["class"] for item in answer["items"]] == [str(index) for index in expected.argmax(axis=1)]
    assert (expected.argmax(axis=1) == digits.test.labels[:6]).sum() >= 5
    found = [list(item["probabilities"].values()) for item in answer["items"]]
    assert np.array_equal(found, expected)
    assert np.allclose(np.sum(found, axis=1), 1)
    about = answer["classification"]
    assert about["by"] == {"digits-pixelcnn": "nll", "digits-classifier": "logits"}[name]
    assert set(about["class_prior"].values()) == {0.1}
    assert 0 < about["calibration_error"] < 0.1
    binary = client.post("/classify", json=request, headers={"accept": codecs.NPY})
    assert np.array_equal(np.load(io.BytesIO(binary.content)), expected)


def test_who_cannot_classify_says_why(client: TestClient) -> None:
    for name, reason in (("mnist-vae", "it knows no classes"), ("transactions-vae", "it knows no classes")):
        error = client.post("/classify", json={"model": name, "images": [text(png())]}).json()["error"]
        assert error["type"] == "unsupported_task"
        assert reason in error["message"]
    refused = client.post("/classify", json={"model": "digits-classifier", "images": [text(png())], "class": "3"})
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "class"
