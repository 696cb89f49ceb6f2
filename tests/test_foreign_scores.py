"""Scores of models that were made elsewhere: their calibration on images, and the data set that it may come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from manifold.evaluation import anomaly
from manifold.runtime import imaging, manifest, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, ManifoldError
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest
from manifold.training import calibrating, judging
from manifold.training.data import Arrays, Data
from tests import foreign_tasks
from tests.test_commands import said


def bce(pixels: np.ndarray) -> np.ndarray:
    """Return the score of images (n, 1, 8, 8) without the graph: -log of p = 1/4 for white and 3/4 for black, in proportion to the grey value."""
    x = pixels.reshape(len(pixels), -1) / 255.0
    found: np.ndarray = -(x * np.log(0.25) + (1 - x) * np.log(0.75)).sum(axis=1)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    foreign_tasks.scorer(tmp_path / "models")
    return tmp_path / "models"


def latest(root: Path, name: str = "scorer") -> Model:
    return load(repository.find(name, root), device="cpu")


def recorded(model: Model) -> np.ndarray:
    """Return the calibration scores of the only term, in ascending order."""
    with np.load(model.folder / "calibration.npz") as content:
        found: np.ndarray = content["bce"]
    return found


def test_a_data_set_by_name(root: Path, digits: Data) -> None:
    """The scores are those of the calibration split, and of no other split."""
    text = said("calibrate", "scorer", "--data", "digits", "--models", str(root))
    assert (
        "scorer/2: calibrated on 200 images of digits, split `calibration` (the last 200 items of the training split)"
        in text
    )
    model = latest(root)
    held = Arrays.of(digits.calibration).items
    assert np.allclose(recorded(model), np.sort(bce(held)), rtol=1e-5)
    assert model.manifest.scoring is not None and model.manifest.scoring.calibration is not None
    assert model.manifest.scoring.calibration.shift is None  # the splits are drawn from the same items at random
    assert model.manifest.provenance["recalibrated"]["items"]["data"] == "digits"
    highest = model.calibrated.p_values("bce", np.asarray([bce(held).max() + 1]))
    assert highest[0] == pytest.approx(1 / 201)


def test_the_judge_knows_where_the_calibration_is_from(root: Path, digits: Data) -> None:
    """Test items of the same data set are exchangeable with its calibration split. Those of another split or data set are not."""
    said("calibrate", "scorer", "--data", "digits", "--models", str(root))
    made = latest(root).manifest
    assert judging.shift(made, digits) == ""
    assert "calibrated again" in judging.shift(
        made, Data("other", digits.spec, digits.train, digits.calibration, digits.test)
    )
    moved = {**digits.protocol, "calibration": "the first 200 items"}
    assert "calibrated again" in judging.shift(
        made, Data("digits", digits.spec, digits.train, digits.calibration, digits.test, protocol=moved)
    )


def test_a_folder_gives_the_scores_of_its_images(root: Path, digits: Data, tmp_path: Path) -> None:
    held = Arrays.of(digits.test).items[:60]
    folder = tmp_path / "normal"
    folder.mkdir()
    for place, image in enumerate(held):
        (folder / f"{place}.png").write_bytes(imaging.to_png(image))
    for given in (["calibrate", "scorer", str(folder)], ["calibrate", "scorer", "--data", str(folder)]):
        assert "calibrated on 60 images of normal" in said(*given, "--models", str(root))
        assert np.allclose(recorded(latest(root)), np.sort(bce(held)), rtol=1e-5)


def test_images_of_another_size_are_fitted_as_in_the_service(root: Path, digits: Data) -> None:
    large = Arrays(Arrays.of(digits.calibration).items.repeat(3, axis=2).repeat(3, axis=3), digits.calibration.labels)
    data = Data("large", ImageSpec(height=24, width=24, channels=1), large, large, large)
    notes: list[str] = []
    made, _ = calibrating.recalibrate(latest(root), data, root, note=notes.append)
    assert notes == [
        "images of large are 24x24 with 1 channel(s); they are fitted to 8x8 with 1, as the service fits images"
    ]
    spec = ImageSpec.of(latest(root).manifest.spec, "")
    expected = np.sort(bce(imaging.to_uint8(anomaly.fitted(large.items, spec), spec)))
    assert np.allclose(recorded(load(made.folder, device="cpu")), expected, rtol=1e-5)


def test_a_model_of_the_data_set_gets_the_calibration_that_its_export_made(
    tiny: Path, tmp_path: Path, digits: Data
) -> None:
    """The export has calibrated on the same split, so the scores are the same, and there is no warning."""
    shutil.copytree(tiny / "models/vae", tmp_path / "vae")
    before = latest(tmp_path, "vae")
    made, _ = calibrating.recalibrate(before, digits, tmp_path)
    assert made.warnings == ()
    after = load(made.folder, device="cpu")
    with np.load(before.folder / "calibration.npz") as old, np.load(after.folder / "calibration.npz") as new:
        assert set(old) == set(new)
        assert all(np.allclose(old[name], new[name], rtol=1e-6) for name in old)


def test_training_items_are_reported(tiny: Path, tmp_path: Path, digits: Data) -> None:
    """The model was trained with another calibration split, so it may have been trained on images of this one."""
    shutil.copytree(tiny / "models/vae", tmp_path / "vae")
    moved = Data(
        "digits", digits.spec, digits.train, Arrays.of(digits.train)[:200], digits.test,
        protocol={**digits.protocol, "calibration": "the first 200 items of the training split"},
    )  # fmt: skip
    model = latest(tmp_path, "vae")
    with pytest.raises(InvalidValue, match=r"was trained on some of these images.* Nothing was published"):
        calibrating.recalibrate(model, moved, tmp_path, strict=True)
    made, _ = calibrating.recalibrate(model, moved, tmp_path)
    assert "the model was trained on some of these images" in made.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to calibrate on is given; give either FILE"),
        (["digits"], "for the data set of this name, use --data digits"),
        (["normal", "--data", "digits"], "FILE and --data are given together"),
        (["--data", "diigts"], "unknown data set 'diigts' .did you mean 'digits'"),
        (["--data", "transactions"], "'transactions' has rows, but images are needed"),
        (["--data", "digits", "--truth", "label"], "--truth: this option is for files and folders"),
        (["--data", "digits", "--skip-unreadable"], "--skip-unreadable: this option is for files and folders"),
    ],
)
def test_what_is_refused(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        said("calibrate", "scorer", *arguments, "--models", str(root))
    assert [path.name for path in (root / "scorer").iterdir()] == ["1"]


def test_a_data_set_without_a_calibration_split(root: Path, digits: Data) -> None:
    small = Data("small", digits.spec, digits.train, Arrays.of(digits.calibration)[:0], digits.test)
    with pytest.raises(InvalidValue, match="small has no images for calibration, as it is too small"):
        calibrating.recalibrate(latest(root), small, root)


def test_rows_for_a_model_of_images(root: Path, table: Data) -> None:
    with pytest.raises(InvalidValue, match="has rows that scorer does not take; give a file or a folder of images"):
        calibrating.recalibrate(latest(root), table, root)


def test_the_statement_about_probabilities_has_no_default() -> None:
    """A manifest that says nothing states no probability."""
    likelihood = {"bound": "exact", "observed": "grey values", "form": "levels"}
    content = {
        "name": "x", "version": 1, "data": {"kind": "image", "height": 8, "width": 8, "channels": 1},
        "tasks": {"score": {"graph": "g.onnx", "inputs": [foreign_tasks.given()], "outputs": [{"role": "bce", "shape": []}]}},
        "scoring": {"score": "bce", "terms": [{"name": "bce", "kind": "nll", "likelihood": likelihood}]},
    }  # fmt: skip
    scoring = Manifest.model_validate(content).scoring
    assert scoring is not None and scoring.terms[0].likelihood is not None
    assert scoring.terms[0].likelihood.discrete is None
    assert manifest.schema()["$defs"]["Likelihood"]["properties"]["discrete"]["default"] is None
