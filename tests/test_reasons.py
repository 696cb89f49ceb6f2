"""Explanations, on arrays made by hand."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime import operations, reasons
from runtime.engine import load
from runtime.manifest import Scoring, Term
from runtime.reasons import Reasons
from runtime.spec import ImageSpec
from tests import tabled

NLL = (Term(name="nll", kind="nll"),)


def test_each_image_has_a_map_of_its_own() -> None:
    """The channels' mean of nats, white at the scale of surprise."""
    nats = np.zeros((2, 3, 2, 2))
    nats[0, :, 0, 1], nats[1, :, 1, 0] = [3, 6, 9], [1, 2, 3]
    spec = ImageSpec(height=2, width=2, channels=3)
    found = reasons.describe(Reasons(nats), spec, Scoring(score="nll", terms=NLL, surprise_scale=10.0))
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["map"])))).tolist() for item in found]
    assert pixels == [[[0, 153], [0, 0]], [[0, 0], [51, 0]]]  # 6 and 2 tenths of 255


def test_rows_without_an_unusual_column_are_compared_with_nothing(tmp_path: Path) -> None:
    """What a column should be is asked for those alone whose nats are above the usual."""

    def given(role: str, shape: list[int], **more: Any) -> dict[str, Any]:
        return {"role": role, "source": role, "shape": shape, **more}

    data = given("data", [4], missing=True)
    tasks = {
        "score": {"graph": "none", "inputs": [data], "outputs": [{"role": "odd", "shape": []}, {"role": "nats", "shape": [3]}]},
        "encode": {"graph": "none", "inputs": [data], "outputs": [{"role": "mean", "shape": [2]}]},
        "decode": {"graph": "none", "inputs": [given("latent", [2])], "outputs": [{"role": "data", "shape": [4]}]},
    }  # fmt: skip
    scoring = {**tabled.manifest()["scoring"], "surprise": "nats", "surprise_mean": [2.0, 2.0, 2.0]}
    model = load(tabled.write(tmp_path, tasks=tasks, scoring=scoring, latent={"size": 2}), device="cpu")
    rows = np.zeros((3, 4), np.float32)
    assert operations.CAN["impute"](model.manifest)
    scores = model.score(rows)
    found = model.drive(reasons.find(model.manifest, rows, scores, model.calibrated))
    assert found.excess is not None
    assert found.expected is not None
    assert (found.excess < 0).all()
    assert found.expected.shape == (3, 4)
    assert np.isnan(found.expected).all()
