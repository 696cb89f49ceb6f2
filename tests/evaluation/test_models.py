"""The evaluation of models: the contents of their reports, and models that cannot be evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import cells, comparison, disentanglement, extractors, held_out, images, latent
from manifold.evaluation import copies as copying
from manifold.evaluation import evaluate_model as models
from manifold.evaluation.errors import EvaluationError, ProtocolMismatch
from manifold.evaluation.extractors import ExtractedFeatures, Extractor
from manifold.evaluation.images import ImageArray, RealData
from manifold.evaluation.reference import Reference
from manifold.evaluation.report import Pictures, Report
from manifold.evaluation.session import Session, SessionOptions
from manifold.evaluation.statistics import of_rows
from manifold.runtime import engine, imaging, manifest
from manifold.runtime.errors import ManifoldError, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import judging
from tests.evaluation.helpers import PNG, RealArrays, run

Array = NDArray[Any]


def test_a_report_of_a_vae(tiny_models: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("evaluate", "vae", "--n", "200", "--json", "--html", str(page))
    text = run(*arguments, models=tiny_models)
    assert text == run(*arguments, models=tiny_models)  # the same bytes for the same seed
    found = json.loads(text)
    assert found["model"] == "vae"
    assert found["prior"] == "mixture"  # the default, chosen by its density at held-out items
    assert set(found["protocol"]) == {"extractor", "extractor_sha256", "reference", "n", "resize", "seed"}
    wanted = {
        "fd_classifier", "fd_classifier_infinity", "kid", "kid_se", "is_marginal", "is_prior", "precision", "recall", "duplicates",
        "elbo_threshold", "elbo_threshold_se", "bits_per_dim", "bits_per_dim_se", "reconstruction_mse", "psnr_mean", "nearest_train_distance",
    }  # fmt: skip
    assert wanted <= set(found["metrics"])
    assert {"train_vs_test", "test_is_marginal", "test_is_prior", "perfect_generator"} <= set(found["anchors"])
    assert found["anchors"]["train_vs_test"] < found["metrics"]["fd_classifier"]
    detail = found["details"]["elbo_threshold"]
    assert (detail["bound"], detail["k"], detail["observed"]) == (
        "lower bound on log p(x)",
        8,
        "grey values binarised at 1/2",
    )
    assert found["metrics"]["bits_per_dim"] == pytest.approx(
        -found["metrics"]["elbo_threshold"] / 64 / np.log(2), rel=1e-5
    )
    assert [row["class"] for row in found["by_class"]] == list("0123456789")
    assert sum(row["share"] for row in found["by_class"]) == pytest.approx(1, abs=1e-3)
    text = page.read_text()
    assert text.count("data:image/png") >= 5  # samples, reconstructions, neighbours, classes, curve
    assert "http" not in text.replace("http-equiv", "")


def test_other_seeds_and_priors_are_other_numbers(tiny_models: Path) -> None:
    values = set()
    for options in (["--seed", "0"], ["--seed", "1"], ["--prior", "gaussian"], ["--prior", "normal"]):
        values.add(
            json.loads(run("evaluate", "vae", "--n", "100", "--json", *options, models=tiny_models))["metrics"][
                "fd_classifier"
            ]
        )
    assert len(values) == 4


def test_a_conditional_model_is_asked_for_classes(tiny_models: Path) -> None:
    found = json.loads(run("evaluate", "pixelcnn", "--n", "100", "--json", models=tiny_models))
    assert 0 <= found["metrics"]["class_accuracy"] <= 1
    assert found["anchors"]["test_class_accuracy"] > 0.98
    assert "psnr_mean" not in found["metrics"]  # it cannot reconstruct
    assert found["details"]["nll_levels"]["bound"] == "exact"


def test_codes_are_counted(extractor: Extractor, real: RealArrays) -> None:
    class Quantiser:
        manifest = manifest.Manifest.model_validate(
            {
                "name": "codes", "version": 1, "backend": "fake", "data": {"kind": "image", "height": 8, "width": 8, "channels": 1},
                "codes": {"shape": [8, 8], "levels": 8},
                "tasks": {"encode": {
                    "graph": "", "inputs": [{"role": "data", "source": "data", "shape": [1, 8, 8]}],
                    "outputs": [{"role": "codes", "dtype": "int64", "shape": [8, 8]}],
                }},
            }
        )  # fmt: skip

        def encode(self, data: Array) -> Any:
            return type("Encoded", (), {"codes": np.rint(data[:, 0] * 3).astype(np.int64)})

    found = Report("codes", 1, {}, {})
    held_out.codes(found, Quantiser(), real, extractors.silent)  # type: ignore[arg-type]
    assert found.metrics["code_usage"] == 0.5  # digits have 4 levels
    assert 2 < found.metrics["code_perplexity"] < 4


def test_what_cannot_be_evaluated(tiny_models: Path, real: RealArrays, held: Reference, extractor: Extractor) -> None:
    for arguments, message in (
        (("evaluate", "table"), "it makes rows, not images"),
        (("evaluate", "table", "--data", "digits"), "it makes rows, not images"),
        (("evaluate", "vae", "--data", "nope"), "unknown data set"),
        (("evaluate", "vae", "--data", "nope", "--extractor", "digits-classifier"), "unknown data set"),
        (("evaluate", "vae", "--n", "1"), "at least 2"),
        (("evaluate", "vae", "--prior", "vamp"), "no prior 'vamp'"),
        (("evaluate", "vae", "--extractor", "autoencoder"), "no task `features`"),
        (("evaluate", "vae", "--resize", "lanczos"), "unknown rule 'lanczos'"),
        (("evaluate-images", "nowhere", "--against", "nowhere", "--extractor", "digits-classifier"), "neither a folder"),
        (("reference", "--extractor", "digits-classifier", "--part", "half", "-o", "x.npz"), "valid are test"),
    ):  # fmt: skip
        result = CliRunner().invoke(cli.app, [*arguments, "--models", str(tiny_models), "--quiet"])
        assert result.exit_code != 0, arguments
        assert message in str(result.exception), (arguments, result.exception)
    result = CliRunner().invoke(
        cli.app, ["reference", "--extractor", "digits-classifier", "--models", str(tiny_models)]
    )
    assert result.exit_code == 2 and "--ship" in result.output and "--out" in result.output
    with pytest.raises(UnsupportedTask, match="it makes no images"):
        models.evaluate(extractor.model, held, extractor)


@pytest.fixture
def conditioned(tmp_path: Path) -> engine.Model:
    """Return a model on the fake backend that is conditioned on x and y and reconstructs 4 x 4 images."""
    value = {"role": "condition", "source": "condition", "shape": [2]}
    item, made = {"role": "data", "source": "data", "shape": [1, 4, 4]}, {"role": "data", "shape": [1, 4, 4]}
    found = {
        "name": "placed", "version": 1, "backend": "fake", "data": {"kind": "image", "height": 4, "width": 4, "channels": 1},
        "latent": {"size": 3}, "conditions": {"names": ["x", "y"], "examples": [[0.5, 0.5]]},
        "tasks": {
            "encode": {"graph": "none", "inputs": [item, value], "outputs": [{"role": "mean", "shape": [3]}]},
            "decode": {"graph": "none", "inputs": [{"role": "latent", "source": "latent", "shape": [3]}, value], "outputs": [made]},
        },
    }  # fmt: skip
    folder = tmp_path / "placed/1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(found))
    return engine.load(folder, device="cpu")


def test_items_are_reconstructed_by_their_own_values(conditioned: engine.Model) -> None:
    generator = np.random.default_rng(0)
    pixels, factors = generator.integers(0, 256, (6, 1, 4, 4), np.uint8), generator.random((6, 3), np.float32)
    test = ImageArray(pixels, np.full(6, -1), "shapes", factors, ("y", "size", "x"))
    found = Report("placed", 1, {}, {})
    held_out.reconstruction(found, conditioned, RealData("shapes", test, test, test), Pictures(), 0, extractors.silent)
    own, others = (
        conditioned.reconstruct(pixels / np.float32(255), classes=values).errors.mean()
        for values in (factors[:, [2, 0]], factors[::-1, [2, 0]])
    )
    assert found.metrics["reconstruction_mse"] == pytest.approx(own, rel=1e-5)
    assert abs(own - others) > 1e-3 * own


def shapes_of(n: int, seed: int = 0) -> ImageArray:
    """Return random images with factors of three values each, x and y among them."""
    generator = np.random.default_rng(seed)
    pixels, factors = (
        generator.integers(0, 256, (n, 1, 4, 4), np.uint8),
        generator.integers(1, 4, (n, 3)) / np.float32(4),
    )
    return ImageArray(pixels, np.full(n, -1), "shapes", factors, ("y", "size", "x"))


def test_continuity_is_along_paths_between_encoded_items(
    conditioned: engine.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of 17 points start and end at latents of items and are conditioned on the first item's values; 5000 items define the unit of distance."""
    monkeypatch.setattr(latent, "PAIRS", 4)
    test, drawn, sample = shapes_of(5100), {}, conditioned.sample

    def spy(n: int, **given: Any) -> Any:
        drawn.update(given)
        return sample(n, **given)

    monkeypatch.setattr(conditioned, "sample", spy)
    found = Report("placed", 1, {}, {})
    flat = lambda pixels: (np.asarray(pixels, np.float32).reshape(len(pixels), -1), None)  # noqa: E731
    held_out.continuity(found, conditioned, flat, RealData("x", test, test, test), 0, extractors.silent)  # type: ignore[arg-type]
    about = found.details["continuity"]
    assert (about["n"], about["paths"], about["steps"], about["part"]) == (5000, 4, 16, "test")
    paths, values = drawn["latents"].reshape(4, 17, 3), drawn["classes"].reshape(4, 17, 2)
    assert test.factors is not None
    own = test.factors[:, [2, 0]]
    means = conditioned.encode(test.pixels / np.float32(255), classes=own).placed
    for path, value in zip(paths, values, strict=True):
        start, stop = (np.abs(means - end).sum(axis=1).argmin() for end in (path[0], path[-1]))
        assert start != stop
        assert np.allclose(path[[0, -1]], means[[start, stop]], atol=1e-6)
        assert (value == own[start]).all()
    assert isinstance(conditioned.manifest.spec, ImageSpec)
    features = flat(imaging.to_uint8(sample(68, **drawn).data, conditioned.manifest.spec))[0].reshape(4, 17, -1)
    moved = np.linalg.norm(np.diff(features, axis=1), axis=2)
    assert found.metrics["largest_step"] == pytest.approx((moved.max(axis=1) / moved.sum(axis=1)).mean(), rel=1e-4)


def test_traversals_are_conditioned_on_the_items_own_values(
    conditioned: engine.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, sample = [], conditioned.sample

    def spy(n: int, **given: Any) -> Any:
        told.append(given["classes"])
        return sample(n, **given)

    monkeypatch.setattr(conditioned, "sample", spy)
    data = RealArrays("shapes", shapes_of(80), shapes_of(20, 1), shapes_of(40, 2))
    found, png = disentanglement.of_model(conditioned, data, 7)
    assert data.test.factors is not None
    assert found["active"] == len(told) > 0
    for values in told:
        assert np.array_equal(values, data.test.factors[7:8, [2, 0]])
    assert png.startswith(PNG)
    # results can be compared with published ones that used the same protocol
    assert found["protocol"] == {"codes": "posterior means", "train": 80, "test": 40, "bins": 20, "trees": 40}
    assert set(found["mig_by_factor"]) == {"y", "size", "x"}
    assert found["mig"] == pytest.approx(np.mean(list(found["mig_by_factor"].values())), rel=1e-3)
    for item in (-1, 40):
        with pytest.raises(EvaluationError, match="does not exist; there are 40 test items"):
            disentanglement.of_model(conditioned, data, item)


@pytest.mark.parametrize(("factors", "names"), [(None, ()), (np.zeros((6, 2), np.float32), ("x", "size"))])
def test_data_without_the_values_of_the_condition_is_refused(
    factors: Array | None, names: tuple[str, ...], conditioned: engine.Model
) -> None:
    test = ImageArray(np.zeros((6, 1, 4, 4), np.uint8), np.full(6, -1), "shapes", factors, names)
    with pytest.raises(EvaluationError, match="shapes lacks x, y, on which placed is conditioned") as caught:
        held_out.reconstruction(
            Report("placed", 1, {}, {}),
            conditioned,
            RealData("shapes", test, test, test),
            Pictures(),
            0,
            extractors.silent,
        )
    assert caught.value.field == "data"


def test_too_few_samples_are_refused_before_anything_is_drawn(conditioned: engine.Model) -> None:
    for n in (1, 0, -3):
        with pytest.raises(EvaluationError, match="at least 2") as caught:
            models.check_can(conditioned.manifest, n, None)
        assert caught.value.field == "n"
    models.check_can(conditioned.manifest, 2, None)


@pytest.mark.parametrize(
    ("labels", "shares", "expected"),
    [
        (0, [0.5, 0.5], {"test_is_prior", "test_class_accuracy"}),
        (-1, [0.5, 0.5], {"test_is_prior"}),  # some labels are not known
        (0, [1.0, 0.0], {"test_class_accuracy"}),  # a class without images
        (0, None, {"test_class_accuracy"}),
    ],
)
def test_real_images_anchor_what_their_labels_and_classes_allow(
    labels: int, shares: list[float] | None, expected: set[str], real: RealArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 3)).astype(np.float32)
    likely = np.where(np.arange(40)[:, None] % 2 == [0, 1], 0.9, 0.1).astype(np.float32)
    known = np.where(
        np.arange(40) < 4, labels, np.arange(40) % 2
    )  # two of the first four items have classes other than 0 and 1
    features = ExtractedFeatures(40, of_rows(rows), rows, likely, known, 0.0, real.train.pixels[:0])
    monkeypatch.setattr(models, "cached", lambda *_: (features, None))
    held = Reference(features.gaussian, {}, features, None if shares is None else np.asarray(shares))
    found = models.anchors(real, held, None, 40, 0)  # type: ignore[arg-type]
    assert {"test_is_prior", "test_class_accuracy"} & set(found) == expected
    assert found["train_vs_test"] == 0
    assert found["train_n"] == 40
    assert found.get("test_class_accuracy", 0.95) == 0.95
    assert found["test_is_marginal"] > 1.3


def test_samples_that_are_training_images_are_counted(real: RealArrays) -> None:
    def copies(first: Array) -> tuple[Report, Array | None]:
        found, shown = Report("vae", 1, {}, {}), Pictures()
        copying.copies(found, SimpleNamespace(first=first), real, shown)  # type: ignore[arg-type]
        return found, shown.neighbours

    own = real.train.pixels[[7, 70, 700]]
    near = own ^ np.uint8(1)  # the nearest items are no copies: each pixel differs by one
    found, neighbours = copies(np.concatenate([own, near[:2]]))
    assert found.warnings == ["3 of 5 samples equal a training image in every pixel"]
    assert neighbours is not None
    assert np.array_equal(neighbours, real.train.pixels[[7, 70, 700, 7, 70]])
    assert found.metrics["nearest_train_distance"] == 0
    assert found.anchors["test_nearest_train_distance"] > 0
    found, _ = copies(near)
    assert found.warnings == []
    assert found.metrics["nearest_train_distance"] == pytest.approx(8 / 255, rel=1e-5)


def test_a_model_is_measured_on_the_selection_split(tiny_models: Path) -> None:
    """A recipe is chosen without the test split. The report names the split, and is not compared with reports on another one."""
    reports = [
        json.loads(run("evaluate", "vae", "--n", "100", "--json", *options, models=tiny_models))
        for options in ((), ("--part", "selection"))
    ]
    for found, part, n in zip(reports, ("test", "selection"), (300, 100), strict=True):
        assert (found["protocol"]["reference"]["split"], found["protocol"]["reference"]["n"]) == (part, n)
        assert {found["details"][name]["part"] for name in ("elbo_threshold", "psnr_mean", "continuity")} == {part}
    with pytest.raises(ProtocolMismatch, match="different reference images"):
        comparison.ranked(reports)
    for found, part, other in zip(reports, ("test", "selection"), ("selection", "test"), strict=True):
        for text in (comparison.to_markdown([found]), str(cells.metric_rows(found))):
            assert f"training images against {part} images" in text
            assert f"{other} images" not in text
    refused = {
        ("--part", "train"): "valid are test, selection",
        ("--part", "test", "--against", "shipped"): "remove one",
        ("--part", "selection", "--record"): "a manifest states figures of the test split",
    }
    for options, message in refused.items():
        result = CliRunner().invoke(cli.app, ["evaluate", "vae", *options, "--models", str(tiny_models)])
        assert isinstance(result.exception, ManifoldError)
        assert message in str(result.exception)


def test_a_model_is_not_measured_on_its_training_images(tiny_models: Path) -> None:
    """Models from before data sets had a selection split were trained on the images that are in it now."""
    made, real = manifest.read(tiny_models / "vae/1"), judging.real_data("digits").on("selection")
    images.check_not_trained_on(made, real)
    for data in ({"data": "digits", "train": "items 0 to 1296"}, {"data": "digits", "selection": "items 0 to 99"}):
        old = made.model_copy(update={"provenance": {**made.provenance, "data": data}})
        with pytest.raises(EvaluationError, match="its training images may be among them"):
            images.check_not_trained_on(old, real)
    images.check_not_trained_on(made.model_copy(update={"provenance": {}}), real)  # nothing is known about its training


def test_a_data_set_without_a_selection_split_is_measured_on_the_calibration_split() -> None:
    whole = judging.real_data("digits")
    without = replace(whole, selection=None)
    assert (without.on("selection").part, without.on("selection").test.n) == ("calibration", whole.calibration.n)
    with pytest.raises(EvaluationError, match="too small"):
        replace(without, calibration=whole.calibration.picked(0, 0)).on("selection")


def test_figures_of_another_split_are_measured_again(tiny_models: Path) -> None:
    session = Session(tiny_models, SessionOptions(100, 0, None, "none", "cpu"), judging.real_data, quiet=True)
    extractor = session.extractor("digits-classifier")
    protocol = {"extractor_sha256": extractor.sha256, "n": 100, "seed": 0, "resize": extractor.mode}
    for split, same in (("test", True), ("selection", False)):
        stated = {**protocol, "reference": {"data": "digits", "split": split}}
        assert session._is_same(stated, extractor, "digits") == same
