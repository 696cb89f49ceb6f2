"""The HTTP API: every error in the table, and that no request causes a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from manifold.runtime import codecs
from manifold.service.core import contract, use_cases
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests.bodies import bomb, items, png, text
from tests.conftest import (
    NAMES,
    ROW,
    some_shipped,
)

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
    ("/sample", {"model": "digits-pixelcnn", "class": {"1": -1}}, 422, "class.1"),
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
    ("/encode", {"rows": [ROW]}, 422, "model"), ("/encode", {"model": "mnist-vae", "rows": [ROW]}, 422, "rows"),
    ("/encode", {"images": [text(png())], "class": "1"}, 422, "class"),
    ("/encode", {"model": "digits-pixelcnn", "images": [text(png())]}, 409, "model"),
    ("/encode", {"model": "transactions-vae", "images": [text(png())]}, 422, "images"),
    ("/encode", {"model": "transactions-vae", "rows": []}, 422, "rows"),
    ("/encode", {"model": "transactions-vae", "rows": [ROW, {**ROW, "colour": 1}]}, 422, "rows[1].colour"),
    ("/encode", {"model": "transactions-vae", "rows": [{**ROW, "amount": "12 EUR"}]}, 422, "rows[0].amount"),
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
    ("/interpolate", {"from": {"seed": 1}, "to": {"row": ROW}}, 422, "model"),
    ("/interpolate", {"model": "mnist-vae", "from": {"seed": 1}, "to": {"row": ROW}}, 422, "to.row"),
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


@pytest.mark.parametrize(
    ("path", "body", "needed"),
    [
        ("/sample", b"n=3", "application/json"),
        ("/anomaly-score", b'{"rows": []}', "application/json"),
        ("/anomaly-score", b"a,b", "text/csv"),
    ],
)
def test_the_content_type_that_curl_sends_by_default(client: TestClient, path: str, body: bytes, needed: str) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 415
    assert f"add -H 'Content-Type: {needed}'" in response.json()["error"]["message"]


def test_a_misspelt_name_gets_the_nearest_one(client: TestClient) -> None:
    hint = "there is no model 'mnist-vea' (did you mean 'mnist-vae'?); choose one of the valid names"
    for answer in (
        client.post("/sample", json={"model": "mnist-vea"}),
        client.get("/models/mnist-vea"),
        client.post("/v2/models/mnist-vea/infer", json={"inputs": []}),
        client.get("/v2/models/mnist-vea/ready"),
    ):
        assert answer.status_code == 404 and hint in answer.text, answer.text
    assert "did you mean" not in client.post("/sample", json={"model": "../../etc"}).text
    prior = client.post("/sample", json={"model": "mnist-vae", "prior": "gausian"}).json()["error"]["message"]
    assert "no prior 'gausian' (did you mean 'gaussian'?)" in prior


def test_the_paths_that_an_error_lists_are_for_users(client: TestClient) -> None:
    near, far = (client.get(path).json()["error"] for path in ("/anomaly_score", "/xyzzy"))
    assert near["message"] == "there is no /anomaly_score; did you mean /anomaly-score?"
    assert far["message"] == "there is no /xyzzy; choose one of the valid paths"
    assert {"/sample", "/models", "/docs"} <= set(far["valid"])
    assert not [path for path in far["valid"] if path.startswith(("/admin", "/static", "/v2/repository"))]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ({}, "to: is empty; give one of image, latent, seed, class, condition"),
        ({"seed": 1, "latent": [0.0] * 20}, "to: latent and seed are given together; give only one of them"),
    ],
)
def test_an_end_of_a_path_says_whether_nothing_or_too_much_is_given(client: TestClient, end: Any, says: str) -> None:
    error = client.post("/interpolate", json={"from": {"seed": 2}, "to": end}).json()["error"]
    assert (error["field"], error["message"]) == ("to", says)


def form(content: bytes) -> bytes:
    """Return a part of a form, without the closing boundary."""
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
        assert "body: 5000 bytes are over the limit of 2000;" in declared.json()["error"]["message"]

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
    st.sampled_from(list(use_cases.every)),
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
