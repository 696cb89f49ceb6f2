"""The examples of the long forms in docs/: the manifests load, and the answers to the requests are those on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import endpoints
from tests import forms
from tests.conftest import ROOT


def blocks(page: str, section: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a page after a section's heading."""
    text = (ROOT / "docs" / page).read_text()
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text[text.index(section) :], re.S)]


REQUESTS = [block for block in blocks("reference/http.md", "## Conditions") if "model" in block]
ANSWERS = [block for block in blocks("reference/http.md", "## Conditions") if "model" not in block]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("documented")
    for content in blocks("reference/artifact.md", "## Long forms"):
        folder = forms.write(root, {**content, "backend": "fake"})
        assert folder.parent.name in ("sketches", "painter")
    with forms.client(root) as client:
        yield client


def test_the_manifests_for_a_model_of_ones_own_are_valid() -> None:
    generator, other_form, encoder, score, *_ = blocks("how-to/bring-a-model.md", "## 1.")
    assert Manifest.model_validate(generator).name == "my-model"
    assert Manifest.model_validate({**generator, "tasks": {"decode": other_form}}).tasks["decode"].constants
    whole = {**generator, "scoring": score["scoring"], "tasks": {**generator["tasks"], **encoder, **score["tasks"]}}
    assert endpoints(Manifest.model_validate(whole)) == [
        "sample",
        "encode",
        "reconstruct",
        "interpolate",
        "anomaly-score",
    ]


def test_both_manifests_are_served(client: TestClient) -> None:
    listed = {model["name"]: model["endpoints"] for model in client.get("/models").json()["models"]}
    assert listed == {"painter": ["sample"], "sketches": ["sample", "encode", "reconstruct", "interpolate"]}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request_: " ".join(request_))
def test_requests_work(client: TestClient, request_: dict[str, Any]) -> None:
    fields = json.loads(json.dumps(request_).replace('"\\u2026"', json.dumps(forms.png(1))))
    answer = client.post("/interpolate" if "from" in fields else "/sample", json=fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if fields["model"] == "painter":
        assert set(body["conditions"]) == {"style", "prompt"} and len(body["images"]) == fields["n"]
    else:
        assert set(body["items"]) == {"picture", "facts"} and set(body["named_latents"]) == {"place", "texture"}


def test_the_answer_has_the_fields_that_the_page_shows(client: TestClient) -> None:
    (shown,) = ANSWERS
    given = next(each for each in REQUESTS if "return_latents" in each)
    answer = client.post("/sample", json=given).json()
    assert {role: list(made) for role, made in answer["items"].items()} == {
        role: list(made) for role, made in shown["items"].items()
    }
    assert list(answer["named_latents"]) == list(shown["named_latents"])
    assert len(answer["items"]["facts"]["rows"]) == len(shown["items"]["facts"]["rows"])
    assert list(answer["items"]["facts"]["rows"][0]) == list(shown["items"]["facts"]["rows"][0])
