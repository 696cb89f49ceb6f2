"""Images, statistics and reports in files: valid files are read, and others are refused in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.evaluation import evaluate_images, extractors, frechet, images, reference
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import Extractor
from manifold.evaluation.images import ImageArray
from manifold.evaluation.reference import Reference
from manifold.runtime import imaging
from tests.conftest import SHIPPED
from tests.evaluation.helpers import PNG, RealArrays, run, scores

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
    assert beside["reference"] == {"data": "digits", "split": "test", "n": 300, "sha256": held.origin["sha256"]}
    back = reference.read_npz(path, extractor)
    assert frechet.distance(back.gaussian, held.gaussian) < 1e-9
    assert back.origin == held.origin
    found, _, _ = evaluate_images.evaluate_images(ImageArray.of(np.zeros((50, 8, 8), np.uint8)), back, extractor)
    assert "is_prior" in found.metrics
    assert "kid" not in found.metrics
    assert any("a file of moments" in warning for warning in found.warnings)

    (tmp_path / "digits.json").unlink()  # files of pytorch-fid have no such record
    assert reference.read_npz(path, extractor).origin["split"] == "not stated by the file"


def test_statistics_that_do_not_fit_are_refused(extractor: Extractor, held: Reference, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(
        EvaluationError, match=r"it has 64 features, but digits-classifier/1 computes 32; use the extractor"
    ):
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
    with pytest.raises(EvaluationError, match=r"made by mnist-classifier/3.*use the same extractor"):
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
    assert np.array_equal(ImageArray.of(good).pixels[:, 0], np.rint(good * 255))
    assert ImageArray.of(np.zeros((4, 8, 8, 3), np.uint8)).pixels.shape == (4, 3, 8, 8)
    for bad in (good * 255, good - 0.5, np.where(good > 0.9, np.nan, good), good + np.inf, (good * 999).astype(int)):
        with pytest.raises(EvaluationError, match="out of range"):
            ImageArray.of(bad)
    for shape in ((4, 8), (4, 2, 8, 8), (0, 8, 8)):
        with pytest.raises(EvaluationError, match="images must be"):
            ImageArray.of(np.zeros(shape, np.uint8))


def test_a_folder_is_its_images(folder: Path, real: RealArrays, extractor: Extractor) -> None:
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
        with pytest.raises(EvaluationError, match=r"sizes differ \(.*000\.png is 8x8, .*999\.png is 9x10"):
            extractors.extract(extractor, images.open_images(folder, "L", skip=skip))
    resizing = Extractor(extractor.model, "pil-bicubic")
    assert extractors.extract(resizing, images.open_images(folder, "L", mixed=True)).n == 61


def test_too_few_images(extractor: Extractor, real: RealArrays, held: Reference, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        extractors.extract(extractor, ImageArray.of(real.test.pixels[:1]))
    with pytest.raises(EvaluationError, match="10 splits, but there are 9"):
        scores(ImageArray.of(real.test.pixels[:9]), held, extractor)
    few, _, _ = evaluate_images.evaluate_images(ImageArray.of(real.test.pixels[:20]), held, extractor)
    assert any("20 images are few for 32 features" in warning for warning in few.warnings)
    assert "kid" not in few.metrics
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="it contains no images"):
        images.open_images(tmp_path / "empty", "L")
    with pytest.raises(EvaluationError, match="neither a folder"):
        images.open_images(tmp_path / "none", "L")


def test_images_against_images_and_against_statistics(folder: Path, real: RealArrays, tmp_path: Path) -> None:
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
    loaded = extractors.load("digits-classifier", models, device="cpu")  # the artifact was sealed again
    assert loaded.sha256 == before  # the extractor's checksum has not changed
    found = json.loads(run("evaluate", "vae", "--n", "100", "--against", "shipped", "--json", models=models))
    assert {"train_vs_test", "test_is_marginal", "perfect_generator"} <= set(found["anchors"])
    whole = json.loads(run("evaluate", "vae", "--n", "100", "--json", models=models))
    assert found["metrics"]["fd_classifier"] == whole["metrics"]["fd_classifier"]
    assert found["protocol"] == whole["protocol"]
