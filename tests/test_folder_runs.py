"""A folder of images from training to a calibrated artifact: train, resume, export, serve, judge, evaluate, calibrate."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import imaging, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, ManifoldError, UnsupportedTask
from manifold.runtime.scores import image_calibration, recalibration
from manifold.service.core import local
from manifold.training.data import Arrays, Data, folder_cache
from manifold.training.errors import TrainingError
from tests import shared
from tests.conftest import SHIPPED
from tests.pictures import saved


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder_cache.CACHE_VARIABLE, str(tmp_path / "cache"))


def digits_in(root: Path, digits: Data, n: int = 600) -> Path:
    """Write digits into one folder for each class."""
    held = Arrays.of(digits.train)
    for index in range(n):
        path = root / str(held.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imaging.to_png(held.items[index]))
    return root


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/digits-classifier").symlink_to(SHIPPED / "digits-classifier")
    return tmp_path / "models"


def test_from_a_folder_to_a_calibrated_artifact(
    digits: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shared.fast:
        pytest.skip("slow: it trains and exports a model")
    monkeypatch.chdir(tmp_path)
    root = digits_in(tmp_path / "own", digits)
    said = run("train", "vae", "./own", "--preset", "smoke", "--invert", "--quiet")
    assert "runs/vae-own: done" in said
    config = json.loads(Path("runs/vae-own/config.json").read_text())
    assert config["data"] == f"{root}?invert=1"
    exported = run("export", "runs/vae-own", "--name", "own", "--format", "torchscript", "--models", str(models))
    published = Path(exported.splitlines()[-1])  # the steps are on stderr, which the runner joins
    model = load(published, device="cpu")
    provenance = model.manifest.provenance["data"]
    assert provenance["sha256"] == config["data_fingerprint"]["sha256"]
    assert (provenance["train"], provenance["calibration"], provenance["test"]) == ("480 images", "60 images", "60 images")  # fmt: skip
    assert model.calibrated.n == 60

    image = base64.b64encode(next((root / "3").glob("*.png")).read_bytes()).decode()
    answer = json.loads(local.answer("anomaly-score", {"model": "own", "images": [image]}, models, "cpu"))
    assert answer["items"][0]["p_value"] is not None
    assert answer["fitted"][0]["steps"] == []

    others = tmp_path / "noise"
    others.mkdir()
    for index in range(40):
        pixels = np.random.default_rng(index).integers(0, 255, (12, 12, 3), np.uint8)
        (others / f"{index}.png").write_bytes(saved(pixels))
    judged = run("judge", "own", "--against", "noise", "--models", str(models))
    assert "on 60 held-out images" in judged
    assert "AUROC" in judged
    assert run("judge", "own", "--data", "own", "--against", "./noise", "--models", str(models)) == judged
    options = ("--n", "60", "--extractor", "digits-classifier", "--quiet", "--json", "--models", str(models))
    report = json.loads(run("evaluate", "own", "--data", "./own", *options))
    assert report["protocol"]["reference"]["n"] == 60
    assert report["protocol"]["reference"]["data"] == f"{root}?size=8x8&colour=grey&background=0&invert=1"

    said = run("calibrate", "own", "own", "--models", str(models))
    assert "own/2: calibrated on 600 images of own" in said
    assert "the model was trained on some of these images" in said
    assert load(repository.find("own", models), device="cpu").calibrated.n == 600

    (root / "3/more.png").write_bytes(imaging.to_png(np.zeros((1, 8, 8), np.uint8)))
    for command in (("resume", "runs/vae-own"), ("export", "runs/vae-own", "--name", "again", "--models", str(models))):
        with pytest.raises(TrainingError, match=r"own.* is not the data that the run was begun with"):
            run(*command)
    (root / "3/more.png").unlink()
    assert "was finished already" in run("resume", "runs/vae-own", "--quiet")
    shutil.move(root, tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="own: the folder does not exist"):
        run("resume", "runs/vae-own")


# --- calibration --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED / "mnist-vae", tmp_path / "scored/mnist-vae")
    return tmp_path / "scored"


def drawn(root: Path, n: int, scored: Path) -> Path:
    root.mkdir(parents=True)
    model = load(repository.find("mnist-vae", scored), device="cpu")
    for index, pixels in enumerate(imaging.to_uint8(model.sample(n, seed=1).data, model.manifest.spec)):  # type: ignore[arg-type]
        (root / f"{index}.png").write_bytes(imaging.to_png(pixels))
    return root


def test_a_model_of_images_is_calibrated_on_a_folder(scored: Path, tmp_path: Path) -> None:
    root = drawn(tmp_path / "normal", 30, scored)
    (root / "2024/05").mkdir(parents=True)
    (root / "7.png").rename(root / "2024/05/7.png")  # here folders are no classes
    (root / "2025").mkdir()
    (root / "8.png").rename(root / "2025/8.png")
    (root / ".hidden.png").write_bytes(b"no image")
    before = load(repository.find("mnist-vae", scored), device="cpu")
    said = run("calibrate", "mnist-vae", str(root), "--models", str(scored))
    after = load(repository.find("mnist-vae", scored), device="cpu")
    assert f"mnist-vae/{before.manifest.version + 1}: calibrated on 30 images of normal (SHA-256 " in said
    assert after.calibrated.n == 30
    assert after.manifest.version == before.manifest.version + 1
    (root / "bad.png").write_bytes(b"no image")
    with pytest.raises(InvalidValue, match=r"bad\.png: is not an image.*--skip-unreadable"):
        run("calibrate", "mnist-vae", str(root), "--models", str(scored))
    said = run("calibrate", "mnist-vae", str(root), "--skip-unreadable", "--models", str(scored))
    assert "30 images of normal" in said
    assert "1 unreadable images left out" in said


def test_the_same_images_in_other_files_give_the_same_calibration(scored: Path, tmp_path: Path) -> None:
    root, other = drawn(tmp_path / "normal", 30, scored), tmp_path / "ink"
    other.mkdir()
    for path in root.iterdir():
        pixels = imaging.read_pixels(path.read_bytes(), "L")
        (other / path.name).write_bytes(saved(np.dstack([np.zeros_like(pixels), pixels])))
    calibrated = []
    for folder in (root, other):
        said = run("calibrate", "mnist-vae", str(folder), "--models", str(scored))
        calibrated.append(load(repository.find("mnist-vae", scored), device="cpu").calibrated.scores)
    assert "30 of 30 images: laid over the opposite of the background" in said
    for name, values in calibrated[0].items():
        assert np.allclose(values, calibrated[1][name]), name


def test_a_stated_calibration_part_is_taken_alone(scored: Path, tmp_path: Path) -> None:
    root = drawn(tmp_path / "all/val", 25, scored).parent
    drawn(root / "train", 30, scored)
    said = run("calibrate", "mnist-vae", str(root), "--models", str(scored))
    assert "25 of 55 images are used: the split `calibration`, from sub-folders" in said
    assert "calibrated on 25 images" in said


def test_a_large_folder_is_sampled(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = drawn(tmp_path / "normal", 30, scored)
    monkeypatch.setattr(recalibration, "SAMPLE_BYTES", 4 * 784 * 22)
    monkeypatch.setattr(image_calibration, "GROUP", 7)
    assert "calibrated on 22 of 30 images" in run("calibrate", "mnist-vae", str(root), "--models", str(scored))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("transactions-vae", UnsupportedTask, "takes rows, but a folder contains images"),
        ("mnist-classifier", UnsupportedTask, "does not support /anomaly-score"),
    ],
)
def test_models_that_do_not_score_images_are_refused(
    name: str, error: type[ManifoldError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a.png").write_bytes(saved(np.zeros((8, 8), np.uint8)))
    with pytest.raises(error, match=message):
        run("calibrate", name, str(tmp_path / "a"), "--models", str(SHIPPED))


def test_too_few_images_are_refused(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="images: 5 are too few for a calibration"):
        run("calibrate", "mnist-vae", str(drawn(tmp_path / "few", 5, scored)), "--models", str(scored))


def test_a_data_set_is_given_once(tmp_path: Path) -> None:
    for given in ((), ("digits", "--data", "digits")):
        result = CliRunner().invoke(cli.app, ["train", "vae", *given])
        assert result.exit_code == 2
        assert "give one data set, as an argument or with --data" in result.output
    with pytest.raises(TrainingError, match="size: 'digits' is not a folder of images"):
        run("train", "vae", "digits", "--size", "9x9")
    with pytest.raises(InvalidValue, match="give one of IMAGES, --images and --data"):
        run("reference", str(tmp_path), "--data", "digits", "--extractor", "digits-classifier", "-o", str(tmp_path / "a.npz"))  # fmt: skip
