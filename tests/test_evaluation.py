"""The evaluator, end to end, on scikit-learn's digits and the shipped digits classifier: what its numbers must do, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import evaluate_images as evaluate
from manifold.evaluation import evaluate_model as models
from manifold.evaluation import extractors, frechet, images, latent, records, reference, report
from manifold.evaluation.errors import EvaluationError, ProtocolMismatch
from manifold.evaluation.evaluate_model import RealData
from manifold.evaluation.extractors import Extractor, Features
from manifold.evaluation.images import Held
from manifold.evaluation.reference import Reference
from manifold.evaluation.statistics import of_rows
from manifold.runtime import engine, imaging, manifest
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from tests.conftest import SHIPPED

Array = NDArray[Any]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(reference.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return extractors.load("digits-classifier", SHIPPED, device="cpu")


@pytest.fixture(scope="module")
def real(digits: Data) -> RealData:
    parts = {"train": digits.train, "calibration": digits.calibration, "test": digits.test}
    return RealData(
        "digits", **{name: Held(Arrays.of(part).items, part.labels, "digits") for name, part in parts.items()}
    )


@pytest.fixture
def held(extractor: Extractor, real: RealData) -> Reference:
    return reference.of_source(extractor, real.test, "test")


@pytest.fixture(scope="module")
def pool(real: RealData) -> Held:
    """All 1797 digits."""
    parts = (real.train, real.calibration, real.test)
    return Held(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]), "all digits"
    )


def scores(source: images.Source, held: Reference, extractor: Extractor) -> dict[str, float]:
    return evaluate.evaluate_images(source, held, extractor)[0].metrics


# --- what numbers must do ---


def test_a_set_against_itself(extractor: Extractor, real: RealData, held: Reference) -> None:
    found = scores(Held(real.test.pixels, real.test.labels), held, extractor)
    assert found["fd_classifier"] < 1e-9
    assert found["precision"] == found["recall"] == 1
    assert found["kid"] < 0  # unbiased: a set against itself lies below zero by what its diagonal is worth
    assert found["class_accuracy"] > 0.98


def blurred(pixels: Array, times: int) -> Array:
    """A [1 2 1] blur in both directions, so many times."""
    x = pixels.astype(float)
    for _ in range(times):
        for axis in (2, 3):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    spoiled: Array = np.rint(x).astype(np.uint8)
    return spoiled


def noisy(pixels: Array, level: int) -> Array:
    noise = np.random.Generator(np.random.Philox(0)).normal(size=pixels.shape) * 20 * level
    spoiled: Array = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return spoiled


@pytest.mark.parametrize("spoil", [blurred, noisy])
def test_the_distance_grows_with_noise_and_blur(
    spoil: Any, extractor: Extractor, real: RealData, held: Reference
) -> None:
    found = [scores(Held.of(spoil(real.test.pixels, level)), held, extractor)["fd_classifier"] for level in range(6)]
    assert found[0] < 1e-9
    assert all(after > before for before, after in itertools.pairwise(found)), found


def test_one_class(extractor: Extractor, pool: Held, held: Reference) -> None:
    found = scores(Held.of(pool.pixels[pool.labels == 6]), held, extractor)
    assert found["is_marginal"] == pytest.approx(1, abs=0.05)
    assert found["is_prior"] > 8
    assert found["class_divergence"] > 2
    assert found["recall"] < 0.3


def test_recall_drops_as_classes_are_removed(extractor: Extractor, pool: Held, held: Reference) -> None:
    found = []
    for classes in (10, 7, 4, 1):
        kept = pool.labels < classes
        found.append(scores(Held.of(pool.pixels[kept][:400]), held, extractor))
    recalls = [each["recall"] for each in found]
    assert all(after < before - 0.1 for before, after in itertools.pairwise(recalls)), recalls
    assert min(each["precision"] for each in found) > 0.8


def test_one_repeated_image_is_caught(extractor: Extractor, real: RealData, held: Reference) -> None:
    found, _, _ = evaluate.evaluate_images(Held.of(np.repeat(real.test.pixels[:1], 300, axis=0)), held, extractor)
    assert found.metrics["duplicates"] > 0.99
    half = np.zeros((4, 8, 8), np.uint8)
    half[0] = 1
    assert extractors.extract(extractor, Held.of(half)).duplicates == 0.5
    assert found.metrics["recall"] < 0.05
    assert found.metrics["fd_classifier"] > 10 * found.anchors["perfect_generator"]["resampled"]
    assert any("exact copies" in warning for warning in found.warnings)
    assert any("no image falls into" in warning for warning in found.warnings)


def test_kid_between_halves(extractor: Extractor, pool: Held) -> None:
    order = np.random.Generator(np.random.Philox(0)).permutation(pool.n)
    halves = [Held(pool.pixels[part], pool.labels[part]) for part in (order[:898], order[898:])]
    held = reference.of_source(extractor, halves[0], "half")
    found = scores(halves[1], held, extractor)
    assert abs(found["kid"]) < 3 * found["kid_se"]


@pytest.mark.parametrize("spectrum", [[2.0], [3.0, 1.0, 0.5], [1.0] * 8])
def test_the_expected_floor_is_the_formula_written_out(spectrum: list[float]) -> None:
    pairs = sum(
        a * b * (1 + (i == j)) / (a + b) for i, a in enumerate(spectrum) for j, b in enumerate(spectrum)
    )  # (1 + δ) of the docstring
    expected = (1 / 50 + 1 / 70) * (sum(spectrum) + pairs / 2)
    assert frechet.expected_floor(np.asarray([*spectrum, 0.0, -1e-9]), 50, 70) == pytest.approx(expected)


def test_samples_of_one_gaussian_are_as_far_apart_as_expected() -> None:
    """In one dimension, where the δ term is a sixth of the floor: 4000 pairs of samples, 1.6% of error of the mean."""
    generator = np.random.Generator(np.random.Philox(0))
    found = [
        frechet.distance(*(of_rows(generator.normal(0, 2.0, (n, 1)).astype(np.float32)) for n in (50, 70)))
        for _ in range(4000)
    ]
    assert np.mean(found) == pytest.approx(frechet.expected_floor(np.asarray([4.0]), 50, 70), rel=0.06)


def test_real_images_score_what_a_perfect_generator_would(extractor: Extractor, pool: Held) -> None:
    rows = extractors.extract(extractor, pool).rows
    generator = np.random.Generator(np.random.Philox(1))
    found = []
    for _ in range(20):
        order = generator.permutation(pool.n)
        found.append(frechet.distance(*(of_rows(rows[part]) for part in (order[:898], order[898:]))))
    resampled, deviation = frechet.resampled_floor(rows, 898, 899, seed=0, repeats=20)
    closed_form = frechet.expected_floor(of_rows(rows).spectrum, 898, 899)
    assert np.mean(found) == pytest.approx(resampled, rel=0.3)
    assert closed_form == pytest.approx(resampled, rel=0.3)
    assert deviation < resampled


# --- the pass ---


def test_nothing_depends_on_the_batch(extractor: Extractor, real: RealData, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for batch, workers in ((128, None), (1, None), (37, {0}), (1000, {0, 1, 2})):
        if workers:
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, workers=workers: workers)
        features = extractors.extract(extractor, real.test, batch=batch)
        found.append(
            (features.gaussian.mean.tobytes(), features.gaussian.covariance.tobytes(), features.rows.tobytes())
        )
    assert len(set(found)) == 1


def test_generated_images_are_what_the_service_sends(extractor: Extractor) -> None:
    model = engine.load(SHIPPED / "digits-pixelcnn", device="cpu")
    source = images.Generated(model, 20, seed=5)
    pixels = np.concatenate([np.asarray(source.batch(start, start + 10).pixels) for start in (0, 10)])
    samples = model.sample(20, seed=5)
    assert isinstance(model.manifest.data, ImageSpec)
    assert np.array_equal(pixels, imaging.to_uint8(samples.data, model.manifest.data))
    assert samples.condition is not None
    assert np.array_equal(source.batch(0, 20).labels, samples.condition.argmax(axis=1))


def test_features_are_cached_by_content(extractor: Extractor, real: RealData, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reference.of_source(extractor, real.test, "test")
    monkeypatch.setattr(reference, "extract", lambda *_, **__: pytest.fail("went through the extractor again"))
    again = reference.of_source(extractor, Held(real.test.pixels.copy(), real.test.labels), "test")
    assert again.about["sha256"] == first.about["sha256"]
    assert np.array_equal(again.gaussian.covariance, first.gaussian.covariance)
    assert again.features is not None
    assert first.features is not None
    assert np.array_equal(again.features.rows, first.features.rows)
    changed = real.test.pixels.copy()
    changed[0, 0, 0, 0] ^= 255
    with pytest.raises(pytest.fail.Exception):
        reference.of_source(extractor, Held(changed, real.test.labels), "test")


def test_a_damaged_cache_is_made_anew(extractor: Extractor, real: RealData) -> None:
    first = reference.of_source(extractor, real.test, "test")
    (path,) = reference.cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert np.array_equal(reference.of_source(extractor, real.test, "test").gaussian.mean, first.gaussian.mean)


def test_grey_images_for_a_colour_extractor_and_resizing(extractor: Extractor) -> None:
    manifest_ = extractor.model.manifest
    colour = Extractor(extractor.model, "torch-bilinear")
    assert isinstance(manifest_.data, ImageSpec)
    colour.spec = manifest_.data.model_copy(update={"channels": 3, "height": 16, "width": 12})
    edge = colour.edge(np.full((2, 1, 8, 8), 255, np.uint8))
    assert edge.shape == (2, 3, 16, 12)
    assert edge.dtype == np.float32
    assert np.allclose(edge, 1)
    with pytest.raises(EvaluationError, match="choose how to resize: torch-bilinear, tf1-bilinear, pil-bicubic"):
        extractor.edge(np.zeros((1, 1, 16, 16), np.uint8))
    with pytest.raises(EvaluationError, match="colour images"):
        extractor.edge(np.zeros((1, 3, 8, 8), np.uint8))


# --- statistics in files ---


def test_npz_is_pytorch_fids_with_provenance_beside_it(extractor: Extractor, held: Reference, tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    reference.write_npz(path, held, extractor)
    with np.load(path) as content:
        assert set(content.files) == {"mu", "sigma"}
        assert content["mu"].shape == (32,)
        assert content["sigma"].shape == (32, 32)
    beside = json.loads((tmp_path / "digits.json").read_text())
    assert beside["extractor_sha256"] == extractor.sha256
    assert beside["reference"] == {"data": "digits", "split": "test", "n": 300, "sha256": held.about["sha256"]}
    back = reference.read_npz(path, extractor)
    assert frechet.distance(back.gaussian, held.gaussian) < 1e-9
    assert back.about == held.about
    found, _, _ = evaluate.evaluate_images(Held.of(np.zeros((50, 8, 8), np.uint8)), back, extractor)
    assert "is_prior" in found.metrics
    assert "kid" not in found.metrics
    assert any("only moments" in warning for warning in found.warnings)

    (tmp_path / "digits.json").unlink()  # as pytorch-fid writes it
    assert reference.read_npz(path, extractor).about["split"] == "not stated by the file"


def test_statistics_that_do_not_fit_are_refused(extractor: Extractor, held: Reference, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(EvaluationError, match=r"64 features, digits-classifier/1 gives 32: another extractor"):
        reference.read_npz(path, extractor)
    np.savez(path, mu=np.full(32, np.nan), sigma=np.eye(32))
    with pytest.raises(EvaluationError, match="not finite"):
        reference.read_npz(path, extractor)
    np.savez(path, mean=np.zeros(32))
    with pytest.raises(EvaluationError, match="mu and sigma"):
        reference.read_npz(path, extractor)
    path.write_bytes(b"nonsense")
    with pytest.raises(EvaluationError, match="mu and sigma"):
        reference.read_npz(path, extractor)
    with pytest.raises(EvaluationError, match="no such file"):
        reference.read_npz(tmp_path / "none.npz", extractor)
    reference.write_npz(path, held, extractor)
    about = json.loads(path.with_suffix(".json").read_text()) | {
        "extractor_sha256": "0" * 64,
        "extractor": "mnist-classifier/3",
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(EvaluationError, match=r"made by mnist-classifier/3.*another extractor"):
        reference.read_npz(path, extractor)


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", "[" * 100_000, '{"reference": 3}', '{"reference": {"n": "x"}}', '{"class_shares": [[1], 2]}', '{"anchors": 3}']
)  # fmt: skip
def test_provenance_of_another_shape_is_one_clear_line(content: str, extractor: Extractor, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mu=np.zeros(32), sigma=np.eye(32))
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"other\.json: cannot be read: .*manifold reference"):
        reference.read_npz(tmp_path / "other.npz", extractor)


REPORT = '{"model": "a", "protocol": {"extractor_sha256": ""}, "anchors": {}, "details": {}, "metrics": %s}'


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "3", REPORT % "3", REPORT % "{}", REPORT % '{"fid": "x"}'])
def test_a_report_of_another_shape_is_one_clear_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    result = CliRunner().invoke(cli.app, ["compare", str(tmp_path / "a.json")])
    assert isinstance(result.exception, EvaluationError)
    assert "not a report of `manifold evaluate --out`" in result.exception.message


# --- sources ---


def test_arrays_out_of_range_are_refused() -> None:
    good = np.random.default_rng(0).random((4, 8, 8))
    assert np.array_equal(Held.of(good).pixels[:, 0], np.rint(good * 255))
    assert Held.of(np.zeros((4, 8, 8, 3), np.uint8)).pixels.shape == (4, 3, 8, 8)
    for bad in (good * 255, good - 0.5, np.where(good > 0.9, np.nan, good), good + np.inf, (good * 999).astype(int)):
        with pytest.raises(EvaluationError, match="out of range"):
            Held.of(bad)
    for shape in ((4, 8), (4, 2, 8, 8), (0, 8, 8)):
        with pytest.raises(EvaluationError, match="is not images"):
            Held.of(np.zeros(shape, np.uint8))


@pytest.fixture
def folder(tmp_path: Path, real: RealData) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for index, image in enumerate(real.test.pixels[:60]):
        (root / f"{index:03d}.png").write_bytes(imaging.to_png(image))
    return root


def test_a_folder_is_its_images(folder: Path, real: RealData, extractor: Extractor) -> None:
    source = images.open_images(folder, "L")
    assert np.array_equal(source.batch(3, 9).pixels, real.test.pixels[3:9])
    assert images.open_images(folder, "RGB").batch(0, 2).pixels[0].shape == (3, 8, 8)
    array = folder.parent / "a.npz"
    np.savez(array, arr_0=real.test.pixels[:60])
    found = [
        scores(images.open_images(path, "L"), reference.of_source(extractor, real.train, "train"), extractor)
        for path in (folder, array)
    ]
    assert found[0] == found[1]


def test_corrupt_files_are_named(folder: Path, extractor: Extractor) -> None:
    (folder / "030.png").write_bytes(PNG + b"nonsense")
    with pytest.raises(EvaluationError, match=r"030\.png: .*--skip-unreadable"):
        extractors.extract(extractor, images.open_images(folder, "L"))
    features = extractors.extract(extractor, images.open_images(folder, "L", skip=True))
    assert features.n == 59
    assert len(features.skipped) == 1
    assert "030.png" in features.skipped[0]


def test_mixed_sizes(folder: Path, extractor: Extractor) -> None:
    (folder / "999.png").write_bytes(imaging.to_png(np.zeros((1, 10, 9), np.uint8)))
    for skip in (False, True):
        with pytest.raises(EvaluationError, match=r"mixed sizes: .*000\.png is 8x8, .*999\.png is 9x10"):
            extractors.extract(extractor, images.open_images(folder, "L", skip=skip))
    resizing = Extractor(extractor.model, "pil-bicubic")
    assert extractors.extract(resizing, images.open_images(folder, "L", mixed=True)).n == 61


def test_too_few_images(extractor: Extractor, real: RealData, held: Reference, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        extractors.extract(extractor, Held.of(real.test.pixels[:1]))
    with pytest.raises(EvaluationError, match="10 splits and there are 9"):
        scores(Held.of(real.test.pixels[:9]), held, extractor)
    few, _, _ = evaluate.evaluate_images(Held.of(real.test.pixels[:20]), held, extractor)
    assert any("20 images for 32 features" in warning for warning in few.warnings)
    assert "kid" not in few.metrics
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="no images there"):
        images.open_images(tmp_path / "empty", "L")
    with pytest.raises(EvaluationError, match="neither a folder"):
        images.open_images(tmp_path / "none", "L")


# --- models ---


@pytest.fixture(scope="module")
def tiny_models(tiny: Path) -> Iterator[Path]:
    """The tiny artifacts beside the shipped extractor."""
    link = tiny / "models/digits-classifier"
    link.symlink_to(SHIPPED / "digits-classifier")
    yield tiny / "models"
    link.unlink()


def run(*arguments: str, models: Path) -> Any:
    result = CliRunner().invoke(cli.app, [*arguments, "--models", str(models), "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_report_of_a_vae(tiny_models: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("evaluate", "vae", "--n", "200", "--json", "--html", str(page))
    text = run(*arguments, models=tiny_models)
    assert text == run(*arguments, models=tiny_models)  # the same bytes for the same seed
    found = json.loads(text)
    assert found["model"] == "vae"
    assert found["prior"] == "normal"
    assert set(found["protocol"]) == {"extractor", "extractor_sha256", "reference", "n", "resize", "seed"}
    wanted = {
        "fd_classifier", "fd_classifier_infinity", "kid", "kid_se", "is_marginal", "is_prior", "precision", "recall", "duplicates",
        "nll", "bits_per_dim", "reconstruction_mse", "psnr", "nearest_train_distance",
    }  # fmt: skip
    assert wanted <= set(found["metrics"])
    assert {"train_vs_test", "test_is_marginal", "test_is_prior", "perfect_generator"} <= set(found["anchors"])
    assert found["anchors"]["train_vs_test"] < found["metrics"]["fd_classifier"]
    detail = found["details"]["nll"]
    assert (detail["bound"], detail["k"], detail["observed"]) == (
        "upper bound: -ELBO",
        8,
        "grey values binarised at 1/2",
    )
    assert found["metrics"]["bits_per_dim"] == pytest.approx(found["metrics"]["nll"] / 64 / np.log(2), rel=1e-5)
    assert [row["class"] for row in found["by_class"]] == list("0123456789")
    assert sum(row["share"] for row in found["by_class"]) == pytest.approx(1, abs=1e-3)
    text = page.read_text()
    assert text.count("data:image/png") >= 5  # samples, reconstructions, neighbours, classes, curve
    assert "http" not in text.replace("http-equiv", "")


def test_other_seeds_and_priors_are_other_numbers(tiny_models: Path) -> None:
    values = set()
    for options in (["--seed", "0"], ["--seed", "1"], ["--prior", "gaussian"], ["--prior", "mixture"]):
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
    assert "psnr" not in found["metrics"]  # it has nothing to reconstruct by
    assert found["details"]["nll"]["bound"] == "exact"


def test_codes_are_counted(extractor: Extractor, real: RealData) -> None:
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

    found = records.Report("codes", 1, {}, {})
    models._codes(found, Quantiser(), real.test, evaluate.silent)  # type: ignore[arg-type]
    assert found.metrics["code_usage"] == 0.5  # digits have 4 levels
    assert 2 < found.metrics["code_perplexity"] < 4


def test_what_cannot_be_evaluated(tiny_models: Path, real: RealData, held: Reference, extractor: Extractor) -> None:
    for arguments, message in (
        (("evaluate", "table"), "makes no images"),
        (("evaluate", "table", "--data", "digits"), "makes no images"),
        (("evaluate", "vae", "--data", "nope"), "none in"),
        (("evaluate", "vae", "--data", "nope", "--extractor", "digits-classifier"), "unknown data set"),
        (("evaluate", "vae", "--n", "1"), "at least 2"),
        (("evaluate", "vae", "--prior", "vamp"), "no 'vamp'"),
        (("evaluate", "vae", "--extractor", "autoencoder"), "no task `features`"),
        (("evaluate", "vae", "--resize", "lanczos"), "unknown 'lanczos'"),
        (("evaluate-images", "nowhere", "--against", "nowhere", "--extractor", "digits-classifier"), "neither a folder"),
        (("reference", "--extractor", "digits-classifier", "--part", "half", "-o", "x.npz"), "valid are test"),
        (("reference", "--extractor", "digits-classifier"), "--out FILE.npz or --ship"),
    ):  # fmt: skip
        result = CliRunner().invoke(cli.app, [*arguments, "--models", str(tiny_models), "--quiet"])
        assert result.exit_code != 0, arguments
        assert message in str(result.exception), (arguments, result.exception)
    with pytest.raises(UnsupportedTask, match="makes no images"):
        models.evaluate(extractor.model, held, extractor)


@pytest.fixture
def conditioned(tmp_path: Path) -> engine.Model:
    """A model on the fake backend, conditioned on x and y, that reconstructs 4 x 4 images."""
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
    test = Held(pixels, np.full(6, -1), "shapes", factors, ("y", "size", "x"))
    found = records.Report("placed", 1, {}, {})
    models._reconstruction(found, conditioned, test, records.Pictures(), evaluate.silent)
    own, others = (
        conditioned.reconstruct(pixels / np.float32(255), classes=values).errors.mean()
        for values in (factors[:, [2, 0]], factors[::-1, [2, 0]])
    )
    assert found.metrics["reconstruction_mse"] == pytest.approx(own, rel=1e-5)
    assert abs(own - others) > 1e-3 * own


def shapes_of(n: int, seed: int = 0) -> Held:
    """Random images with factors of three values each, x and y among them."""
    generator = np.random.default_rng(seed)
    pixels, factors = (
        generator.integers(0, 256, (n, 1, 4, 4), np.uint8),
        generator.integers(1, 4, (n, 3)) / np.float32(4),
    )
    return Held(pixels, np.full(n, -1), "shapes", factors, ("y", "size", "x"))


def test_continuity_is_along_paths_between_encoded_items(
    conditioned: engine.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of 17 points begin and end at latents of items and stay under the first one's values; 5000 items say what a unit is."""
    monkeypatch.setattr(latent, "PAIRS", 4)
    test, drawn, sample = shapes_of(5100), {}, conditioned.sample

    def spy(n: int, **given: Any) -> Any:
        drawn.update(given)
        return sample(n, **given)

    monkeypatch.setattr(conditioned, "sample", spy)
    found = records.Report("placed", 1, {}, {})
    flat = lambda pixels: (np.asarray(pixels, np.float32).reshape(len(pixels), -1), None)  # noqa: E731
    models._continuity(found, conditioned, flat, test, 0, evaluate.silent)  # type: ignore[arg-type]
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
    assert isinstance(conditioned.manifest.data, ImageSpec)
    features = flat(imaging.to_uint8(sample(68, **drawn).data, conditioned.manifest.data))[0].reshape(4, 17, -1)
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
    data = RealData("shapes", shapes_of(80), shapes_of(20, 1), shapes_of(40, 2))
    found, png = models.disentangle(conditioned, data, 7)
    assert data.test.factors is not None
    assert found["active"] == len(told) > 0
    for values in told:
        assert np.array_equal(values, data.test.factors[7:8, [2, 0]])
    assert png.startswith(PNG)
    # numbers compare with those that were published under the same protocol
    assert found["protocol"] == {"codes": "posterior means", "train": 80, "test": 40, "bins": 20, "trees": 40}
    assert set(found["mig_by_factor"]) == {"y", "size", "x"}
    assert found["mig"] == pytest.approx(np.mean(list(found["mig_by_factor"].values())), rel=1e-3)
    for item in (-1, 40):
        with pytest.raises(EvaluationError, match="not one of the 40 test items"):
            models.disentangle(conditioned, data, item)


@pytest.mark.parametrize(("factors", "names"), [(None, ()), (np.zeros((6, 2), np.float32), ("x", "size"))])
def test_data_without_the_values_of_the_condition_is_refused(
    factors: Array | None, names: tuple[str, ...], conditioned: engine.Model
) -> None:
    test = Held(np.zeros((6, 1, 4, 4), np.uint8), np.full(6, -1), "shapes", factors, names)
    with pytest.raises(EvaluationError, match="shapes lacks x, y, which placed is told") as caught:
        models._reconstruction(
            records.Report("placed", 1, {}, {}), conditioned, test, records.Pictures(), evaluate.silent
        )
    assert caught.value.field == "data"


def test_too_few_samples_are_refused_before_anything_is_drawn(conditioned: engine.Model) -> None:
    for n in (1, 0, -3):
        with pytest.raises(EvaluationError, match="at least 2") as caught:
            models.check_can(conditioned, n, None)
        assert caught.value.field == "n"
    models.check_can(conditioned, 2, None)


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
    labels: int, shares: list[float] | None, expected: set[str], real: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 3)).astype(np.float32)
    likely = np.where(np.arange(40)[:, None] % 2 == [0, 1], 0.9, 0.1).astype(np.float32)
    known = np.where(
        np.arange(40) < 4, labels, np.arange(40) % 2
    )  # of the first four, two are another class than 0 or 1
    features = Features(40, of_rows(rows), rows, likely, known, 0.0, real.train.pixels[:0])
    monkeypatch.setattr(models, "cached", lambda *_: (features, None))
    held = Reference(features.gaussian, {}, features, None if shares is None else np.asarray(shares))
    found = models.anchors(real, held, None, 40, 0)  # type: ignore[arg-type]
    assert {"test_is_prior", "test_class_accuracy"} & set(found) == expected
    assert found["train_vs_test"] == 0
    assert found["train_n"] == 40
    assert found.get("test_class_accuracy", 0.95) == 0.95
    assert found["test_is_marginal"] > 1.3


def test_samples_that_are_training_images_are_counted(real: RealData) -> None:
    def copies(first: Array) -> tuple[records.Report, Array | None]:
        found, shown = records.Report("vae", 1, {}, {}), records.Pictures()
        models._copies(found, SimpleNamespace(first=first), real, shown)  # type: ignore[arg-type]
        return found, shown.neighbours

    own = real.train.pixels[[7, 70, 700]]
    near = own ^ np.uint8(1)  # the nearest, and no copy: each pixel is off by one
    found, neighbours = copies(np.concatenate([own, near[:2]]))
    assert found.warnings == ["3 of 5 samples are training images, bit for bit"]
    assert neighbours is not None
    assert np.array_equal(neighbours, real.train.pixels[[7, 70, 700, 7, 70]])
    assert found.metrics["nearest_train_distance"] == 0
    assert found.anchors["test_nearest_train_distance"] > 0
    found, _ = copies(near)
    assert found.warnings == []
    assert found.metrics["nearest_train_distance"] == pytest.approx(8 / 255, rel=1e-5)


# --- records and comparisons ---


def test_reports_are_recorded_in_the_manifest_and_compared(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models / "vae/1"
    before = manifest.read(folder).metrics
    for _ in range(2):  # a second record takes the place of the first
        found = json.loads(run("evaluate", "vae", "--n", "100", "--json", "--record", models=tiny_models))
    after = manifest.read(folder)
    assert after.metrics[: len(before)] == before
    assert len(after.metrics) == len(before) + len(found["metrics"])
    engine.load(folder, device="cpu")  # the checksums still hold
    (recorded,) = report.recorded(after)
    for key in ("model", "version", "prior", "protocol", "metrics", "anchors", "details"):
        assert recorded[key] == found[key]

    table = run("compare", "vae", "vae:mixture", "pixelcnn", "--n", "100", models=tiny_models)
    assert (
        table.count("\n") == 10
    )  # header, line, three models, train against test, test, a perfect generator, and what was left out
    assert "train against test" in table
    assert "a perfect generator" in table
    found_rows = [row for row in table.splitlines() if any(f"| {name} 1" in row for name in ("vae", "pixelcnn"))]
    kids = [float(row.split("|")[5].split("±")[0]) for row in found_rows]
    assert kids == sorted(kids)
    assert [row.split("|")[1].split(",")[0].strip() for row in found_rows] == ["1", "2", "3"]


def test_likelihoods_of_different_x_stand_in_no_one_column(tiny_models: Path) -> None:
    both = [
        json.loads(run("evaluate", name, "--n", "100", "--json", models=tiny_models)) for name in ("vae", "pixelcnn")
    ]
    alone, together = report.comparison(both[:1]), report.comparison(both)
    assert f"≤ {both[0]['metrics']['nll']:.4g}" in alone  # a bound says that it is one
    assert "≤" not in report.comparison(both[1:])  # an exact one does not
    assert "bits_per_dim" not in together
    assert "nll left out, as x is not the same: grey values binarised at 1/2; pixels at 4 levels" in together


def test_numbers_under_different_protocols_are_not_compared(tiny_models: Path, tmp_path: Path) -> None:
    for n in ("100", "120"):
        run("evaluate", "vae", "--n", n, "--out", str(tmp_path / f"{n}.json"), models=tiny_models)
    files = [str(tmp_path / "100.json"), str(tmp_path / "120.json")]
    result = CliRunner().invoke(cli.app, ["compare", *files, "--models", str(tiny_models)])
    assert isinstance(result.exception, ProtocolMismatch)
    assert "n is 100 and 120" in result.exception.message
    content = json.loads((tmp_path / "100.json").read_text())
    content["protocol"]["extractor_sha256"] = "0" * 64
    (tmp_path / "120.json").write_text(json.dumps(content))
    result = CliRunner().invoke(cli.app, ["compare", *files, "--models", str(tiny_models)])
    assert isinstance(result.exception, ProtocolMismatch)
    assert "extractor_sha256" in result.exception.message
    (tmp_path / "120.json").write_text("{}")
    assert "not a report" in str(CliRunner().invoke(cli.app, ["compare", *files]).exception)


def test_images_against_images_and_against_statistics(folder: Path, real: RealData, tmp_path: Path) -> None:
    array = tmp_path / "real.npy"
    np.save(array, real.train.pixels)
    common = ("--extractor", "digits-classifier", "--json")
    whole = json.loads(run("evaluate-images", str(folder), "--against", str(array), *common, models=SHIPPED))
    assert whole["model"] == "images"
    assert whole["protocol"]["n"] == 60
    statistics = tmp_path / "real.npz"
    run_ = ("reference", "--extractor", "digits-classifier", "--images", str(array), "-o", str(statistics))
    assert run(*run_, models=SHIPPED).strip() == str(statistics)
    moments = json.loads(run("evaluate-images", str(folder), "--against", str(statistics), *common, models=SHIPPED))
    assert moments["metrics"]["fd_classifier"] == pytest.approx(whole["metrics"]["fd_classifier"], rel=1e-9)


def test_statistics_ship_with_the_extractor(tmp_path: Path, tiny_models: Path) -> None:
    import shutil

    models = tmp_path / "models"
    shutil.copytree(SHIPPED / "digits-classifier", models / "digits-classifier")
    (models / "vae").symlink_to(tiny_models / "vae")
    before = extractors.load("digits-classifier", models, device="cpu").sha256
    run("reference", "--extractor", "digits-classifier", "--ship", models=models)
    loaded = extractors.load("digits-classifier", models, device="cpu")  # sealed again
    assert loaded.sha256 == before  # the extractor is still the same
    found = json.loads(run("evaluate", "vae", "--n", "100", "--against", "shipped", "--json", models=models))
    assert {"train_vs_test", "test_is_marginal", "perfect_generator"} <= set(found["anchors"])
    whole = json.loads(run("evaluate", "vae", "--n", "100", "--json", models=models))
    assert found["metrics"]["fd_classifier"] == whole["metrics"]["fd_classifier"]
    assert found["protocol"] == whole["protocol"]


def test_resize_modes_are_those_they_are_named_after() -> None:
    import torch
    from PIL import Image

    from manifold.evaluation import resize

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 13, 9), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).float(), (29, 31), mode="bilinear", align_corners=False
    )
    assert np.abs(resize.resize(pixels, 29, 31, "torch-bilinear") - expected.numpy()).max() < 1e-3
    bicubic = resize.resize(pixels, 29, 31, "pil-bicubic")
    plane = np.asarray(Image.fromarray(pixels[1, 2].astype(np.float32)).resize((31, 29), Image.Resampling.BICUBIC))
    assert np.array_equal(bicubic[1, 2], plane.clip(0, 255))
    ramp = np.arange(4, dtype=np.uint8)[None, None, None] * 10
    tf1 = resize.resize(ramp, 1, 8, "tf1-bilinear")[0, 0, 0]
    assert tf1.tolist() == [0, 5, 10, 15, 20, 25, 30, 30]  # corner-aligned: place x of 8 looks at x / 2
    half_pixel = resize.resize(ramp, 1, 8, "torch-bilinear")[0, 0, 0]
    assert half_pixel.tolist() == [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]


def test_the_page_shows_pictures_that_can_be_opened(extractor: Extractor, real: RealData, held: Reference) -> None:
    import base64
    import re

    from PIL import Image

    found, _, pictures = evaluate.evaluate_images(Held.of(real.test.pixels), held, extractor)
    page = report.to_html(found.as_dict(), pictures)
    contents = re.findall(r'base64,([^"]+)"', page)
    assert len(contents) >= 2
    for content in contents:
        Image.open(io.BytesIO(base64.b64decode(content))).load()
