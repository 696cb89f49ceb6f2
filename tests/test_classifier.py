"""The classifier family: augmentation, calibration error, and exported tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manifold.runtime import engine
from manifold.runtime import manifest as manifests
from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import softmax
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import classes
from manifold.training.families import classifier
from manifold.training.families.classifier import Config, augment
from tests.conftest import SHIPPED, tiny_run
from tests.shared import export


def items(n: int = 64) -> torch.Tensor:
    return torch.rand((n, 2, 9, 7), generator=torch.Generator().manual_seed(0))


FILL = torch.full((2, 1, 1), -1.0)


def test_without_options_nothing_is_changed() -> None:
    assert torch.equal(augment(items(), Config(shift=0), FILL, torch.Generator()), items())


def test_each_item_is_shifted_by_its_own_draw() -> None:
    x = items()
    found = augment(x, Config(shift=2), FILL, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    places = []
    for i in range(len(x)):
        fits = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(found[i], padded[i, :, top : top + 9, left : left + 7])
        ]
        assert len(fits) == 1
        places += fits
    assert len(set(places)) > 15  # there are 25 possible positions


def test_half_of_the_items_are_flipped() -> None:
    x = items(400)
    found = augment(x, Config(shift=0, flip=True), FILL, torch.Generator().manual_seed(2))
    flipped = (found == x.flip(3)).flatten(1).all(1)
    assert ((found == x).flatten(1).all(1) ^ flipped).all()
    assert 150 < flipped.sum() < 250


def test_cutout_erases_a_square_and_no_more() -> None:
    x = items(200)
    found = augment(x, Config(shift=0, cutout=3), FILL, torch.Generator().manual_seed(3))
    erased = (found == -1).all(1)
    assert torch.equal(found[~erased[:, None].expand_as(x)], x[~erased[:, None].expand_as(x)])
    # whole squares, or squares cut off by the border
    assert set(erased.flatten(1).sum(1).tolist()) <= {1, 2, 3, 4, 6, 9}
    assert (erased.flatten(1).sum(1) == 9).float().mean() > 0.25  # 35 of 99 places lie completely inside the image


def test_calibration_error_by_hand() -> None:
    probabilities = np.asarray([[0.95, 0.05], [0.05, 0.95], [0.55, 0.45], [0.55, 0.45]])
    assert classes.calibration_error(probabilities, np.asarray([0, 1, 0, 1])) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert classes.calibration_error(np.eye(3), np.arange(3)) == 0


def test_figures_are_of_fifteen_bins_and_keep_five_digits() -> None:
    """0.61 and 0.65 are in one bin of fifteen, so their errors cancel. Shipped metrics use fifteen bins too."""
    probabilities = np.asarray([[0.61, 0.39], [0.65, 0.35], [0.3, 0.7]])
    found = {metric.name: metric for metric in classes.figures(probabilities, np.asarray([1, 0, 1]), {"part": "test"})}
    assert found["accuracy"].value == 0.66667
    assert found["cross_entropy"].value == pytest.approx(-np.log([0.39, 0.65, 0.7]).mean(), abs=1e-5)
    assert found["calibration_error"].value == pytest.approx((0.61 - 0.35 + 0.3) / 3, abs=1e-5)
    shipped = manifests.read(SHIPPED / "digits-classifier/1").metrics
    assert found["calibration_error"].protocol["bins"] == 15
    assert {metric.protocol["bins"] for metric in shipped if metric.name == "calibration_error"} == {15}


def test_a_residual_block_adds_to_its_input() -> None:
    torch.manual_seed(0)
    block, x = classifier.NormalisedResidual(4).eval(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert torch.allclose(block(x), x + block.body(x))
        assert (block(x) >= x).all()  # the last layer of f is a ReLU


def test_a_classifier_exports_a_logit_for_each_class(digits: Data) -> None:
    options = Config(widths=(4, 6))
    outputs = classifier.exports(classifier.build(options, digits), options, digits).tasks["features"].outputs
    assert {output.role: output.shape for output in outputs} == {"logits": (10,), "features": (6,)}


def test_the_temperature_undoes_overconfidence() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    honest = generator.normal(size=(20_000, 5)) * 2
    labels = (softmax(honest).cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    assert classes.fit_temperature(honest * 4, labels) == pytest.approx(4, rel=0.05)
    assert classes.calibration_error(softmax(honest), labels) < 0.01
    assert classes.calibration_error(softmax(honest * 4), labels) > 0.1


def test_a_classifier_learns_and_exports(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "classifier", digits, epochs=8, widths=(8, 16), lr=0.01, ema=0.9)
    model = engine.load(
        export(run, "digits-classifier", tmp_path / "models", data=digits, backend="torchscript"), device="cpu"
    )
    assert list(model.manifest.tasks) == ["features"]
    assert model.manifest.classes == digits.classes
    outputs = model.run("features", {"data": digits.inputs(digits.test)})
    assert outputs["features"].shape == (300, 16)
    accuracy = (outputs["logits"].argmax(1) == digits.test.labels).mean()
    reported = {metric.name: metric.value for metric in model.manifest.metrics}
    assert accuracy == pytest.approx(reported["accuracy"], abs=1e-5)
    about = model.manifest.classification
    assert about is not None
    assert about.temperature != 1
    probabilities = model.classify(digits.inputs(digits.test))
    assert np.allclose(probabilities, softmax(outputs["logits"] / about.temperature))
    assert classes.cross_entropy(probabilities, digits.test.labels) == pytest.approx(
        reported["cross_entropy"], abs=1e-4
    )
    assert accuracy > 0.8
    assert 0 <= reported["calibration_error"] < 0.5
    assert not (run.folder / "samples").exists()  # a classifier draws no samples


def test_what_a_classifier_refuses(table: Data, digits: Data) -> None:
    with pytest.raises(InvalidValue, match="images are needed"):
        classifier.build(Config(), table)
    with pytest.raises(TrainingError, match="too many to halve"):
        classifier.build(Config(widths=(4,) * 5), digits)
    for options, message in (
        ({"widths": (4,)}, "widths"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"shift": -1}, "shift"),
    ):
        with pytest.raises(TrainingError, match=message):
            Config.model_validate(options)


@pytest.mark.parametrize(
    ("name", "least"), [("digits-classifier", 0.98), ("mnist-classifier", 0.992), ("fashion-classifier", 0.92)]
)
def test_shipped_extractors_are_as_good_as_asked(name: str, least: float) -> None:
    manifest = Manifest.model_validate_json((SHIPPED / name / "1/manifest.json").read_bytes())
    (accuracy,) = (metric for metric in manifest.metrics if metric.name == "accuracy")
    assert accuracy.value >= least
    assert accuracy.protocol["train"] != accuracy.protocol["test"]
    with np.load(SHIPPED / name / "1/reference.npz") as held:
        assert held["sigma"].shape == (held["mu"].size,) * 2
