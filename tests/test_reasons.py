"""Explanations, computed on small hand-written arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from manifold.runtime import operations
from manifold.runtime.engine import Model, load
from manifold.runtime.kinds import Evidence
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.operations import Steps, drive
from manifold.runtime.scores import reasons
from manifold.runtime.scores.scoring import Calibrated
from tests import tabled

T = TypeVar("T")


def test_each_image_has_a_map_of_its_own() -> None:
    """A map shows the mean of nats over the channels, with white at the scale of surprise."""
    nats = np.zeros((2, 3, 2, 2))
    nats[0, :, 0, 1], nats[1, :, 1, 0] = [3, 6, 9], [1, 2, 3]
    spec = ImageSpec(height=2, width=2, channels=3)
    found = spec.explain(Evidence(nats, scale=10.0), ())
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["map"])))).tolist() for item in found]
    assert pixels == [[[0, 153], [0, 0]], [[0, 0], [51, 0]]]  # 0.6 and 0.2 of 255


def given(role: str, shape: list[int], **more: Any) -> dict[str, Any]:
    """Return an input of a task."""
    return {"role": role, "source": role, "shape": shape, **more}


def model(root: Path, usual: list[float]) -> Model:
    """Return a model of rows whose nats by column are drawn from 0 to 1 by the fake, with the given `usual` ones. It fills in missing values."""
    data = given("data", [4], missing=True)
    terms = [{"role": "odd", "shape": []}, {"role": "kl", "shape": []}]
    tasks = {
        "score": {"graph": "none", "inputs": [data], "outputs": [*terms, {"role": "nats", "shape": [3]}]},
        "encode": {"graph": "none", "inputs": [data], "outputs": [{"role": "mean", "shape": [2]}]},
        "decode": {"graph": "none", "inputs": [given("latent", [2])], "outputs": [{"role": "data", "shape": [4]}]},
    }
    scoring = {
        "score": "odd", "surprise": "nats", "surprise_mean": usual, "latent": "kl",
        "terms": [{"name": "odd", "kind": "nll"}, {"name": "kl", "kind": "nll"}],
    }  # fmt: skip
    return load(tabled.write(root, tasks=tasks, scoring=scoring, latent={"size": 2}), device="cpu")


def driven(one: Model, steps: Steps[T]) -> T:
    """Return the result of an operation. Its graphs take missing values as 0, which the fake does not do."""

    def run(task: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return one.run(task, {role: np.nan_to_num(array) for role, array in inputs.items()})

    return drive(steps, run)


def test_rows_without_an_unusual_column_are_compared_with_nothing(tmp_path: Path) -> None:
    """Expected values are computed only for columns whose nats are above the usual."""
    rows, one = np.zeros((3, 4), np.float32), model(tmp_path, [2.0, 2.0, 2.0])
    found = driven(one, reasons.find(one.manifest, rows, one.score(rows), one.calibrated))
    assert found.excess is not None
    assert found.expected is not None
    assert (found.excess < 0).all()
    assert found.expected.shape == (3, 4)
    assert np.isnan(found.expected).all()


def test_unusual_columns_are_compared_with_what_the_others_lead_to_expect(tmp_path: Path) -> None:
    one = model(tmp_path, [0.7, 0.65, 0.8])
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = driven(one, reasons.find(one.manifest, rows, one.score(rows), one.calibrated))
    assert found.excess is not None
    assert found.expected is not None
    unusual = found.excess > 0
    assert 0 < unusual.sum() < unusual.size
    assert np.array_equal(~np.isnan(found.expected), unusual[:, [0, 1, 1, 2]])  # the category has two encoded columns
    for row, column in np.argwhere(unusual):
        blocks = [slice(0, 1), slice(1, 3), slice(3, 4)]
        holes = rows[row : row + 1].copy()
        holes[:, blocks[column]] = np.nan
        filled = driven(one, operations.impute(one.manifest, holes))
        assert np.array_equal(found.expected[row, blocks[column]], filled.data[0, blocks[column]])


def test_the_latent_counts_above_its_mean_in_calibration(tmp_path: Path) -> None:
    one = model(tmp_path, [0.5, 0.5, 0.5])
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    scores = one.score(rows)
    known = Calibrated(None, {"kl": np.asarray([0.1, 0.2, 0.6])})
    found = driven(one, reasons.find(one.manifest, rows, scores, known))
    assert found.latent is not None
    assert np.allclose(found.latent, scores.terms["kl"] - 0.3)
