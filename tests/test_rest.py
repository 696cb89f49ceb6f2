"""The HTTP API: every route for every model, and the answers."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold.runtime import codecs, imaging, repository
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.service.core import contract, use_cases
from manifold.service.core.use_cases import classify
from manifold.training.data import Arrays, Data
from tests import answers
from tests.bodies import items, png, text
from tests.conftest import (
    CLASS_OF,
    EXTRACTORS,
    NAMES,
    ROOT,
    ROW,
    ROWS,
    SHIPPED,
    WITHOUT_ENCODER,
)

VERSION = int(repository.find("mnist-vae", SHIPPED).name)
CODES = ("cifar10-vqvae", "fashion-vqvae", "mnist-vqvae")  # their vectors have no prior
IMAGE_MODELS = [name for name in NAMES if name not in ROWS]
LATENT_MODELS = [name for name in NAMES if name not in WITHOUT_ENCODER]


def told(name: str) -> dict[str, Any]:
    """Return the condition of a conditional encoder."""
    return {"class": CLASS_OF[name]} if name in CLASS_OF else {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", use_cases.every)
def test_every_route_for_every_model(client: TestClient, name: str, route: str) -> None:
    """The answer fits its contract, or is a 409 that lists the endpoints of the model."""
    body: dict[str, Any] = {"model": name}
    if route == "sample":
        body |= {"n": 3, "return_latents": True}
    elif route == "interpolate":
        end = {"image": text(png())} if name in CODES else {"seed": 1, **told(name)}
        body |= {"from": end, "to": end, "steps": 4}
    elif route == "impute":
        blank: dict[str, Any] = {"rows": [{**ROWS[name], next(iter(ROWS[name])): None}]} if name in ROWS else {}
        body |= blank or {"images": [text(png())], "masks": [text(png())]}
        body |= {} if blank or name.endswith(("-flow", "-eonade")) else {"candidates": 2}  # these draw one completion
    else:
        body |= items(name) | (told(name) if route in ("encode", "reconstruct") else {})
    response = client.post(f"/{route}", json=body)
    can = next(model for model in client.get("/models").json()["models"] if model["name"] == name)["endpoints"]
    if route not in can:
        assert response.status_code == 409
        assert response.json()["error"]["valid"] == can
        return
    assert response.status_code == 200, response.text
    answer = use_cases.every[route].response.model_validate(response.json(), strict=True)
    assert answer.model == name
    assert answer.timing.compute > 0
    assert response.headers["x-request-id"] == answer.request_id
    if route in ("sample", "reconstruct", "interpolate"):
        made = response.json()["rows" if name in ROWS else "images"]
        assert len(made) == {"sample": 3, "reconstruct": 2, "interpolate": 4}[route]


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_ways_to_send_and_to_receive_images(client: TestClient, name: str, shipped: dict[str, Model]) -> None:
    spec = shipped[name].manifest.spec
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
    digit = imaging.to_uint8(shipped["mnist-vae"].sample(1, seed=4).data, shipped["mnist-vae"].manifest.spec)[0, 0]  # type: ignore[arg-type]
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
    assert unknown["warnings"] == ["unknown_category: weekday 'never' did not occur in training"]
    assert missing["warnings"] == ["missing: hour has no value; the other columns decide the score"]
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
    assert len(answer["fitted"][0]["steps"]) == 3  # converted to grey, scaled, inverted
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
        assert public["files"].keys() <= {"preview", "points", "curves", "sheet", "epochs"}  # not those of the manifest
    assert client.get("/models/nope").status_code == 404
    assert client.get("/models/mnist-vae", params={"version": "x"}).status_code == 422
    assert client.get("/models/mnist-vae", params={"version": 9}).json()["error"]["valid"] == [VERSION]


def test_health_metrics_docs_and_the_page(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json()["status"] == "ready"
    client.post("/sample", json={})
    page = client.get("/metrics").text
    for line in (
        'manifold_requests_total{route="/sample",status="200"}',
        f'manifold_model_ready{{model="mnist-vae",version="{VERSION}"}} 1.0',
    ):
        assert line in page
    docs = client.get("/docs").text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', docs):
        assert "//" not in asset, "the page must do without the internet"
        assert client.get(f"/{asset}").status_code == 200
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


@pytest.mark.parametrize("route", use_cases.every)
def test_the_examples_of_the_document_work(client: TestClient, route: str) -> None:
    case = use_cases.every[route]
    operation = client.get("/openapi.json").json()["paths"][case.path]["post"]
    examples = [each["value"] for each in operation["requestBody"]["content"]["application/json"]["examples"].values()]
    assert examples
    for example in examples:
        assert client.post(case.path, json=example).status_code == 200
    first = next(iter(operation["responses"]["200"]["content"]))  # /docs selects it
    assert (first == "image/png") == case.gives_items
    answer = client.post(case.path, json=examples[0], headers={"accept": first})
    assert (answer.status_code, answer.headers["content-type"]) == (200, first)


def test_the_example_responses_are_those_of_the_service(client: TestClient) -> None:
    assert not answers.changed(client), "run: make docs"


def test_the_openapi_document_is_the_one_in_docs(client: TestClient) -> None:
    path = ROOT / "docs/openapi.json"
    assert json.loads(path.read_text()) == client.get("/openapi.json").json(), "run: make docs"


@pytest.mark.parametrize("name", ["digits-pixelcnn", "digits-classifier"])
def test_classify_is_what_the_library_says(
    name: str, client: TestClient, shipped: dict[str, Model], digits: Data
) -> None:
    model, items = shipped[name], Arrays.of(digits.test).items[:6]
    expected = model.classify(digits.inputs(digits.test)[:6])
    request = {"model": name, "images": [text(imaging.to_png(image)) for image in items]}
    answer = client.post("/classify", json=request).json()
    classify.ClassifyResponse.model_validate(answer)
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
    for name, reason in (("mnist-vae", "it has no classes"), ("transactions-vae", "it has no classes")):
        error = client.post("/classify", json={"model": name, "images": [text(png())]}).json()["error"]
        assert error["type"] == "unsupported_task"
        assert reason in error["message"]
    refused = client.post("/classify", json={"model": "digits-classifier", "images": [text(png())], "class": "3"})
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "class"
