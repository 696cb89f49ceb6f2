"""Codes through the range coder and back: they are exact, close to the prior's entropy, and damage is always detected."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import compression, imaging
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, Malformed, UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from tests.conftest import tiny_run
from tests.shared import export


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Path:
    root = tmp_path_factory.mktemp("compression")
    run = tiny_run(root / "run", "vqvae", digits, epochs=20, prior_epochs=10, widths=(16, 16), code_dim=4)
    export(run, "vq", root / "models", data=digits, backend="torchscript")
    plain = tiny_run(root / "plain", "vqvae", digits, conditional=False)
    export(plain, "plain", root / "models", data=digits, backend="torchscript")
    return root / "models"


@pytest.fixture(scope="module", params=["vq", "plain"])
def model(request: pytest.FixtureRequest, models: Path) -> Model:
    return load(models / request.param, device="cpu")


def codes_of(model: Model, items: np.ndarray) -> np.ndarray:
    codes = model.encode(items).codes
    assert codes is not None
    return codes


def test_codes_come_back_exactly(model: Model, digits: Data) -> None:
    items = digits.inputs(digits.test)[:24]
    for some in (items[:1], items[1:2], items):
        made = compression.compress(model, some)
        data, codes = compression.decompress(model, made.content)
        assert np.array_equal(codes, made.codes)
        assert np.array_equal(codes, codes_of(model, some))
        assert np.allclose(data, model.reconstruct(some).data, atol=1e-6)


def test_files_are_as_small_as_the_prior_says(model: Model, digits: Data) -> None:
    items = digits.inputs(digits.test)[:40]
    codes = codes_of(model, items)
    labels = range(10) if model.manifest.classes else [None]
    told = [{} if label is None else {"condition": np.eye(10, dtype=np.float32)[[label] * 40]} for label in labels]
    nats = np.min([model.run("score_codes", {"codes": codes, **each})["nll"] for each in told], axis=0)
    entropy = nats / np.log(2) + np.log2(len(labels))
    alone = np.asarray([compression.compress(model, item[None]).bits for item in items])
    assert (alone >= entropy - 1).all()
    assert (alone <= entropy + 64).all()  # words of 32 bits, and one word for the end
    together = compression.compress(model, items).bits
    # rounding the logits to 1/64 costs almost nothing
    assert entropy.sum() - 40 <= together <= 1.01 * entropy.sum() + 64
    assert together <= alone.sum() - 40 * 8  # saves at least a quarter of the words that end the files


def test_damage_is_found(model: Model, models: Path, digits: Data) -> None:
    content = compression.compress(model, digits.inputs(digits.test)[:1]).content
    with pytest.raises(Malformed, match="does not start with MFC2"):
        compression.decompress(model, b"PNG" + content)
    with pytest.raises(Malformed, match="does not start with MFC2"):
        compression.decompress(model, content[:9])
    with pytest.raises(Malformed, match="damaged or incomplete"):
        compression.decompress(model, content[:-1])
    with pytest.raises(Malformed):
        compression.decompress(model, content[:14] + bytes([content[14] ^ 1]) + content[15:])
    with pytest.raises(Malformed):
        compression.decompress(model, content[:12] + b"\x77\x77" + content[14:])
    with pytest.raises(InvalidValue, match="0 images; put 1 to 1024 into one file"):
        compression.compress(model, digits.inputs(digits.test)[:0])
    other = load(models / ("plain" if model.manifest.name == "vq" else "vq"), device="cpu")
    with pytest.raises(InvalidValue, match="the file was made by the artifact"):
        compression.decompress(other, content)


def test_who_cannot_compress(tiny: Path, digits: Data) -> None:
    with pytest.raises(UnsupportedTask, match="compression needs codes and a prior over them"):
        compression.compress(load(tiny / "models/vae", device="cpu"), digits.inputs(digits.test)[:1])


def test_the_commands(models: Path, tmp_path: Path, digits: Data) -> None:
    models = shutil.copytree(models, tmp_path / "models")  # a model is removed below
    picture, file, back = (tmp_path / name for name in ("digit.png", "digit.mfc", "back.png"))
    picture.write_bytes(imaging.to_png(Arrays.of(digits.test).items[3]))
    run = CliRunner()
    made = run.invoke(cli.app, ["compress", str(picture), "--model", "vq", "-o", str(file), "--models", str(models)])
    assert made.exit_code == 0, made.exception
    assert "bits for 1 image of 8x8 pixels" in made.output
    broken = models / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")  # another model, which is ignored
    done = run.invoke(cli.app, ["decompress", str(file), "-o", str(back), "--models", str(models)])
    assert done.exit_code == 0, done.exception
    model = load(models / "vq", device="cpu")
    assert isinstance(model.manifest.spec, ImageSpec)
    expected = imaging.to_uint8(model.reconstruct(digits.inputs(digits.test)[3:4]).data[0], model.manifest.spec)
    assert np.abs(np.asarray(Image.open(back)).astype(int) - expected[0]).max() <= 1
    made = run.invoke(cli.app, ["compress", str(picture), str(picture), "--model", "vq", "--models", str(models)])
    assert made.exit_code == 0, made.exception
    done = run.invoke(cli.app, ["decompress", str(picture.with_suffix(".mfc")), "--models", str(models)])
    assert done.exit_code == 0, done.exception
    restored = [(tmp_path / f"digit.restored-000{index}.png").read_bytes() for index in (0, 1)]
    assert restored == [back.read_bytes()] * 2
    shutil.rmtree(models / "vq")
    lost = run.invoke(cli.app, ["decompress", str(file), "--models", str(models)])
    assert "no artifact in" in str(lost.exception)
