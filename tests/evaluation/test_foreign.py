"""The evaluation of models that were made elsewhere: codes without a prior, scores that are no likelihoods, and classifiers as extractors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import evaluate_model, extractors, reference, resize
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray
from manifold.runtime.engine import load
from manifold.runtime.errors import ManifoldError, UnsupportedTask
from tests import foreign_tasks
from tests.conftest import SHIPPED
from tests.evaluation.helpers import RealArrays, run
from tests.foreign_tasks import FEATURES, LEVELS, PLACES, SIZE

ON, OFF = -np.log(0.25), -np.log(0.75)  # the score of a white and of a black pixel


def unit(images: ImageArray) -> np.ndarray:
    """Return the pixels (n, 64) in [0, 1]."""
    return images.pixels.reshape(images.n, -1) / 255.0


# --- codes without a prior ---


def test_a_quantizer_is_measured_by_its_reconstructions(tmp_path: Path, real: RealArrays) -> None:
    foreign_tasks.quantizer(tmp_path)
    page = tmp_path / "report.html"
    found = json.loads(run("evaluate", "vq", "--data", "digits", "--json", "--html", str(page), models=tmp_path))
    means = unit(real.test).reshape(-1, PLACES, 2, PLACES, 2).mean(axis=(2, 4))
    codes = np.rint((means * (LEVELS - 1)).astype(np.float32))
    back = (codes / (LEVELS - 1)).repeat(2, axis=1).repeat(2, axis=2)
    errors = ((unit(real.test).reshape(back.shape) - back) ** 2).mean(axis=(1, 2))
    assert found["metrics"]["reconstruction_mse"] == pytest.approx(errors.mean(), rel=1e-4)
    assert found["metrics"]["psnr_mean"] == pytest.approx((-10 * np.log10(errors)).mean(), rel=1e-4)
    counts = np.bincount(codes.astype(int).ravel(), minlength=LEVELS) / codes.size
    assert found["metrics"]["code_usage"] == (counts > 0).mean()
    entropy = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
    assert found["metrics"]["code_perplexity"] == pytest.approx(np.exp(entropy), rel=1e-4)
    assert set(found["metrics"]) == {"reconstruction_mse", "psnr_mean", "code_usage", "code_perplexity"}
    assert found["details"]["reconstruction_mse"]["latent"] == "codes"
    assert "it has no prior over its codes" in found["warnings"][0]
    assert set(found["protocol"]) == {"reference", "seed"}
    assert "Reconstructions" in page.read_text()


def test_figures_of_a_quantizer_can_be_recorded(tmp_path: Path) -> None:
    foreign_tasks.quantizer(tmp_path)
    run("evaluate", "vq", "--data", "digits", "--record", models=tmp_path)
    names = {metric.name for metric in load(tmp_path / "vq", device="cpu").manifest.metrics}
    assert names == {"reconstruction_mse", "psnr_mean", "code_usage", "code_perplexity"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("evaluate", "vq", "--data", "digits", "--prior", "normal"),
            "--prior: it has no effect, because vq draws no images",
        ),
        (("evaluate", "vq", "--data", "digits", "--steps", "4"), "--steps: it has no effect"),
        (("evaluate", "vq", "--data", "digits", "--against", "shipped"), "--against: it has no effect"),
        (("evaluate", "vq"), "does not name its data set; give it with --data"),
        (("evaluate", "decoder", "--data", "digits"), "it has no prior over its codes.* it supports /sample"),
        (("evaluate", "scorer", "--data", "digits"), "it makes no images; it supports /anomaly-score"),
        (("compare", "vq", "decoder", "--data", "digits"), "vq cannot be evaluated: it has no prior over its codes"),
    ],
)
def test_what_a_model_without_a_prior_refuses(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    foreign_tasks.quantizer(tmp_path)
    foreign_tasks.quantizer(tmp_path, "decoder", encodes=False)
    foreign_tasks.scorer(tmp_path)
    result = CliRunner().invoke(cli.app, [*arguments, "--models", str(tmp_path)])
    assert isinstance(result.exception, ManifoldError)
    with pytest.raises(ManifoldError, match=message):
        raise result.exception


def test_a_decoder_is_not_evaluated_by_the_library(tmp_path: Path, real: RealArrays) -> None:
    model = load(foreign_tasks.quantizer(tmp_path, encodes=False), device="cpu")
    with pytest.raises(UnsupportedTask, match="no prior over its codes"):
        evaluate_model.evaluate_held_out(model, real)


# --- scores that are no likelihoods ---


def judged(root: Path, real: RealArrays, **term: Any) -> Any:
    """Return the report of the scorer with a term, and the warnings about likelihoods."""
    folder = foreign_tasks.scorer(root, terms=[{"name": "bce", "kind": "nll", **term}])
    return evaluate_model.evaluate_held_out(load(folder, device="cpu"), real)[0]


STATED = {"bound": "exact", "observed": "grey values", "form": "levels"}


def test_nothing_is_claimed_that_the_manifest_does_not_state(tmp_path: Path, real: RealArrays) -> None:
    """Without `discrete` there are no bits per dimension, and a note says why. The mean in nats is the one that the graph gives."""
    report = judged(tmp_path, real, likelihood=STATED)
    mean = (unit(real.test) * (ON - OFF) + OFF).sum(axis=1).mean()
    assert set(report.metrics) == {"nll_levels", "nll_levels_se"}
    assert report.metrics["nll_levels"] == pytest.approx(mean, rel=1e-4)
    (_, note) = report.warnings
    assert note.startswith("bits_per_dim is missing: the manifest does not state that p(x) of bce is a probability")
    assert "binary cross-entropy of grey values" in note


def test_bits_per_dimension_are_reported_if_they_are_stated(tmp_path: Path, real: RealArrays) -> None:
    report = judged(tmp_path, real, likelihood={**STATED, "discrete": True})
    assert report.metrics["bits_per_dim"] == pytest.approx(report.metrics["nll_levels"] / SIZE**2 / np.log(2), rel=1e-4)
    assert not any("bits_per_dim is missing" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    "likelihood",
    [{**STATED, "discrete": False}, {**STATED, "form": "density"}, {**STATED, "form": "density", "discrete": True}],
)
def test_a_density_has_no_bits_and_no_note(tmp_path: Path, real: RealArrays, likelihood: dict[str, Any]) -> None:
    report = judged(tmp_path, real, likelihood=likelihood)
    assert not {"bits_per_dim", "bits_per_dim_se"} & set(report.metrics)
    assert f"nll_{likelihood['form']}" in report.metrics
    assert len(report.warnings) == 1


def test_an_unknown_form_gives_no_figure(tmp_path: Path, real: RealArrays) -> None:
    """The name of a figure states the form of x, so it cannot be chosen without one."""
    stated = {"bound": "elbo", "observed": "BCE on grey values", "discrete": True}
    report = judged(tmp_path, real, likelihood=stated)
    assert report.metrics == {}
    assert "does not state which form x has in bce; add `form`, one of static, dynamic" in report.warnings[1]


def test_a_term_in_nats_is_no_likelihood_by_itself(tmp_path: Path, real: RealArrays) -> None:
    """Such a model has no figures alone. If it also draws images, a note says that the likelihood is missing."""
    with pytest.raises(UnsupportedTask, match="it makes no images"):
        judged(tmp_path, real)
    folder = foreign_tasks.quantizer(tmp_path, "both")
    written = json.loads((folder / "manifest.json").read_text())
    scorer = json.loads((tmp_path / "scorer/1/manifest.json").read_text())
    written["tasks"] |= scorer["tasks"]
    written["scoring"] = scorer["scoring"]
    (folder / "manifest.json").write_text(json.dumps(written))
    (folder / "score.onnx").write_bytes((tmp_path / "scorer/1/score.onnx").read_bytes())
    report = evaluate_model.evaluate_held_out(load(folder, device="cpu"), real)[0]
    assert "does not state that bce is -log p(x) or a bound of it" in report.warnings[1]
    assert not any(name.startswith(("nll", "elbo", "bits")) for name in report.metrics)


@pytest.mark.parametrize("name", [path.name for path in sorted(SHIPPED.iterdir()) if path.is_dir()])
def test_every_shipped_likelihood_states_whether_it_is_a_probability(name: str) -> None:
    """The figures of the shipped models do not depend on a default."""
    newest = max((SHIPPED / name).iterdir(), key=lambda each: int(each.name))
    scoring = json.loads((newest / "manifest.json").read_text()).get("scoring") or {"terms": []}
    stated = [term["likelihood"] for term in scoring["terms"] if term.get("likelihood")]
    assert all(isinstance(each.get("discrete"), bool) for each in stated)


# --- classifiers as extractors ---


def features_of(extractor: Extractor, pixels: np.ndarray) -> np.ndarray:
    """Return the features of colour images (n, 3, H, W) of the extractor's size, computed by numpy from the weights of the graph."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(extractor.model.folder / "classifier.onnx").graph
    kernel = next(numpy_helper.to_array(each) for each in graph.initializer if each.name == "kernel")
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(2, 3))  # (n, 3, H-2, W-2, 3, 3)
    maps = np.einsum("nchwij,fcij->nfhw", windows, kernel.astype(np.float64))
    found: np.ndarray = np.maximum(maps, 0).mean(axis=(2, 3))
    return found


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("size", [SIZE, 13])
def test_a_colour_classifier_takes_grey_images(tmp_path: Path, real: RealArrays, size: int, maps: bool) -> None:
    """Grey images are repeated and resized to the classifier's own size. Feature maps of 1x1 are flattened."""
    foreign_tasks.classifier(tmp_path, size=size, maps=maps)
    extractor = extractors.load("resnet", tmp_path, "torch-bilinear", device="cpu")
    found, probabilities = extractor(real.test.pixels[:20])
    inputs = (
        resize.resize(real.test.pixels[:20], size, size, "torch-bilinear").repeat(3, axis=1).astype(np.float64) / 127.5
        - 1
    )
    assert np.allclose(found, features_of(extractor, inputs), rtol=1e-4, atol=1e-5)
    assert found.shape == (20, FEATURES)
    assert probabilities is not None and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", resize.MODES[1:])
def test_repeating_after_resizing_changes_nothing(tmp_path: Path, real: RealArrays, mode: str) -> None:
    foreign_tasks.classifier(tmp_path, size=11)
    extractor = extractors.load("resnet", tmp_path, mode, device="cpu")
    grey = real.test.pixels[:5]
    assert np.array_equal(extractor.edge(grey), extractor.edge(grey.repeat(3, axis=1)))


def test_a_distance_by_a_classifier_of_ones_own(tmp_path: Path, folder: Path) -> None:
    """Images have the distance 0 from themselves, and a larger one from other images."""
    foreign_tasks.classifier(tmp_path / "models", size=16, maps=True)
    options = ("--extractor", "resnet", "--resize", "torch-bilinear", "--json")
    same = json.loads(
        run("evaluate-images", str(folder), "--against", str(folder), *options, models=tmp_path / "models")
    )
    assert same["metrics"]["fd_classifier"] == pytest.approx(0, abs=1e-4)
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(0).integers(0, 256, (60, SIZE, SIZE), np.uint8))
    far = json.loads(run("evaluate-images", str(other), "--against", str(folder), *options, models=tmp_path / "models"))
    assert far["metrics"]["fd_classifier"] > 0.1
    assert far["protocol"]["extractor"] == "resnet/1"


def test_another_size_needs_a_rule(tmp_path: Path, folder: Path) -> None:
    foreign_tasks.classifier(tmp_path / "models", size=16)
    arguments = [
        "evaluate-images",
        str(folder),
        "--against",
        str(folder),
        "--extractor",
        "resnet",
        "--models",
        str(tmp_path / "models"),
    ]
    with pytest.raises(
        EvaluationError, match="images are 8x8, but the extractor needs 16x16; choose one of torch-bilinear"
    ):
        raise CliRunner().invoke(cli.app, arguments).exception or AssertionError
    foreign_tasks.classifier(tmp_path / "grey", channels=1)
    with pytest.raises(EvaluationError, match="takes grey images, but these are in colour"):
        extractors.load("resnet", tmp_path / "grey", device="cpu")(np.zeros((2, 3, SIZE, SIZE), np.uint8))


def edited(folder: Path, change: dict[str, Any]) -> Extractor:
    """Return the extractor with changes to its manifest, made in place."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return Extractor(load(folder, device="cpu"), "torch-bilinear")


def test_a_classifier_with_logits_alone(tmp_path: Path, real: RealArrays) -> None:
    folder = foreign_tasks.classifier(tmp_path)
    whole = extractors.load("resnet", tmp_path, device="cpu")
    task = json.loads((folder / "manifest.json").read_text())["tasks"]["features"]
    alone = edited(folder, {"tasks": {"features": {**task, "outputs": task["outputs"][1:]}}})
    assert (whole.output, whole.dimensions) == ("features", FEATURES)
    assert (alone.output, alone.dimensions) == ("logits", 10)
    features, probabilities = alone(real.test.pixels[:8])
    expected = whole(real.test.pixels[:8])[1]
    assert probabilities is not None and expected is not None and np.array_equal(probabilities, expected)
    shifted = np.exp(features.astype(np.float64) - features.max(axis=1, keepdims=True))
    assert np.allclose(shifted / shifted.sum(axis=1, keepdims=True), probabilities, atol=1e-6)


def test_an_edited_manifest_is_another_extractor(tmp_path: Path, real: RealArrays) -> None:
    """The same graph reads other values after a change of the range, so features from the cache must not be used, nor reports compared."""
    folder = foreign_tasks.classifier(tmp_path)
    before = extractors.load("resnet", tmp_path, device="cpu")
    held = reference.of_source(before, real.test, "test")
    stated = json.loads((folder / "manifest.json").read_text())
    after = edited(folder, {"data": {**stated["data"], "range": [0, 1]}})
    assert after.sha256 != before.sha256
    again = reference.of_source(after, real.test, "test")
    assert again.features is not None and held.features is not None
    assert not np.allclose(again.features.rows, held.features.rows)
    assert edited(folder, {"description": "other words"}).sha256 == after.sha256
    sealed = json.loads((SHIPPED / "mnist-classifier/1/reference.json").read_text())
    shipped = extractors.load("mnist-classifier", SHIPPED, device="cpu")
    assert sealed["extractor_sha256"] == shipped.sha256  # extractors that this project exported keep their checksum
