"""The smoke preset of every recipe from end to end on digits: train, export, parity, serve, sample, evaluate; the loss decreases."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold.evaluation import evaluate_model as models
from manifold.evaluation import extractors, reference
from manifold.evaluation.images import ImageArray, RealData
from manifold.runtime import checks, imaging
from manifold.runtime.engine import Model, load
from manifold.runtime.manifest import figures
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training import families
from manifold.training.data import Arrays, Data
from manifold.training.runs import LOG
from tests.conftest import SHIPPED, tiny_run, wait_until_ready
from tests.shared import export

# test_tabular.py tests the other families
IMAGES = [name for name in families.names() if not name.startswith("tabular")]


@pytest.fixture(scope="module", params=IMAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Model:
    """Train and publish the family's smoke preset. Export requires parity with torch."""
    root = tmp_path_factory.mktemp(request.param)
    run = tiny_run(root / "run", request.param, digits)
    return load(export(run, request.param, root / "models", data=digits), device="cpu")


def test_the_loss_went_down(made: Model) -> None:
    lines = [json.loads(line) for line in (made.folder.parents[2] / "run" / LOG).read_text().splitlines()]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    for phase in phases:
        test = [line["selection/loss"] for line in lines if line["phase"] == phase]
        # the second name is the loss of an adversarial pair
        of = "train/loss" if "train/loss" in lines[0] else "train/discriminator/loss"
        train = [line[of] for line in lines if line["phase"] == phase]
        assert len(test) >= 2, "one epoch shows nothing"
        assert test[-1] < test[0], (phase, test)
        assert train[-1] < train[0], (phase, train)


def test_the_artifact_is_whole(made: Model) -> None:
    assert checks.run_all(made) == []


def test_it_is_served_without_a_line_of_its_own(made: Model, digits: Data) -> None:
    """Every endpoint in the manifest answers over HTTP, with the same values as the engine."""
    name = made.manifest.name
    settings = Settings(models_dir=made.folder.parents[1], default_model=name, device="cpu")
    image = base64.b64encode(imaging.to_png(Arrays.of(digits.test).items[0])).decode()
    told = {"class": str(digits.test.labels[0])} if name in ("cvae", "cgan") else {}
    bodies: dict[str, dict[str, Any]] = {
        "sample": {"n": 3, "seed": 1},
        "encode": {"images": [image], **told},
        "reconstruct": {"images": [image], **told},
        "interpolate": {"from": {"seed": 1, **told}, "to": {"seed": 2, **told}},
        "impute": {"images": [image], "masks": [image], **({} if name == "flow" else {"candidates": 2})},
        "anomaly-score": {"images": [image]},
        "classify": {"images": [image]},
    }  # fmt: skip
    if name == "vqvae":  # its vectors have no prior, so the ends are given
        bodies["interpolate"] = {"from": {"image": image}, "to": {"image": image}}
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        (about,) = client.get("/models").json()["models"]
        assert about["endpoints"]
        for endpoint in about["endpoints"]:
            answer = client.post(f"/{endpoint.strip('/')}", json=bodies[endpoint.strip("/")])
            assert answer.status_code == 200, (endpoint, answer.text)
        if "sample" in {endpoint.strip("/") for endpoint in about["endpoints"]}:
            sent = client.post("/sample", json=bodies["sample"]).json()["images"]
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in sent])
            own = imaging.to_uint8(made.sample(3, seed=1).data, made.manifest.spec)[:, 0]  # type: ignore[arg-type]
            assert np.array_equal(pixels, own)


def test_it_is_evaluated(made: Model, digits: Data) -> None:
    """The reference is real digits with the shipped classifier. A classifier is evaluated as an extractor itself."""
    parts = (digits.train, digits.calibration, digits.test)
    data = RealData("digits", *(ImageArray(Arrays.of(part).items, part.labels, "digits") for part in parts))
    if made.manifest.name == "classifier":
        found = models.anchors(
            data, reference.of_source(extractors.Extractor(made), data.test, "test"), extractors.Extractor(made), 200, 0
        )
        assert found["test_class_accuracy"] > 0.3
        return
    extractor = extractors.load("digits-classifier", SHIPPED, device="cpu")
    held = reference.of_source(extractor, data.test, "test")
    report, _ = models.evaluate(made, held, extractor, data, n=200)
    numbers = report.metrics
    assert numbers["fd_classifier"] > report.anchors["train_vs_test"]  # after seconds of training no model is perfect
    assert np.isfinite(list(numbers.values())).all()
    if made.manifest.name not in ("aae", "gan", "cgan"):  # they have no likelihood
        assert any(figures.is_likelihood(name) for name in numbers)
    else:
        assert not any(figures.is_likelihood(name) for name in numbers)  # the logit of a discriminator is no likelihood
    if "encode" in made.manifest.tasks:
        assert 0 <= numbers["continuity"] <= numbers["continuity_95"]
        assert 1 / 16 <= numbers["largest_step"] <= 1


def test_presets_are_complete(tmp_path: Path) -> None:
    for name in families.names():
        family = families.get(name)
        assert set(family.PRESETS) == {"smoke", "cpu", "gpu"}, name
        for preset in family.PRESETS.values():
            family.Config(**preset)
