"""Image files for lossless compression: pixels are taken as they are in the file, or the file is refused; no original is overwritten."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import engine
from manifold.runtime.compression import lossless, pictures
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.image import ImageSpec
from tests.conftest import SHIPPED

GREY = ImageSpec(height=4, width=4, channels=1, background=0.0, invert=True)
COLOUR = ImageSpec(height=4, width=4, channels=3)
BOARD = np.asarray(
    [[255, 255, 255, 255], [255, 0, 0, 255], [255, 0, 0, 255], [255, 255, 255, 255]], np.uint8
)  # dark on light


def png(image: Image.Image, **options: Any) -> bytes:
    """Return an image as the content of a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_grey_pixels_are_read_in_every_representation(mode: str) -> None:
    """The border is light and the model's background black: the service would invert the image, a lossless file must not."""
    read = pictures.read_exactly(png(Image.fromarray(BOARD).convert(mode)), GREY, "x.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, BOARD[None])


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_a_model_of_colour_takes_grey_pixels(mode: str) -> None:
    read = pictures.read_exactly(png(Image.fromarray(BOARD).convert(mode)), COLOUR, "x.png")
    assert np.array_equal(read, np.stack([BOARD] * 3))


def test_images_that_would_be_changed_are_refused() -> None:
    red = Image.new("RGB", (4, 4), "red")
    clear = Image.new("LA", (4, 4), (9, 100))
    deep = Image.fromarray(np.full((4, 4), 999, np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    refused = {
        png(red): "it would be RGB to grey",
        png(clear): "it would be laid over the background",
        png(deep): "it would be 16 bits to 8",
        png(Image.new("L", (5, 4))): "it would be scaled and centred to 4x4",
        png(Image.new("L", (4, 4)), exif=turned): "it would be turned upright",
    }
    for content, message in refused.items():
        with pytest.raises(InvalidValue, match=f"{message}.*give images that need no change, or use --round"):
            pictures.read_exactly(content, GREY, "x.png")


def test_an_original_is_not_overwritten(tmp_path: Path) -> None:
    """Without names, a.png becomes a.mfc, and a.mfc becomes a.restored.png."""
    original, light = tmp_path / "a.png", np.full((28, 28), 255, np.uint8)
    light[10:18, 10:18] = 0
    original.write_bytes(content := png(Image.fromarray(light).convert("1")))
    run, options = CliRunner(), ("--models", str(SHIPPED))
    for command in (("compress", str(original), "--model", "mnist-vae", "--lossless"), ("decompress", str(tmp_path / "a.mfc"))):  # fmt: skip
        done = run.invoke(cli.app, [*command, *options])
        assert done.exit_code == 0, done.exception
    assert original.read_bytes() == content
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.restored.png")), light)


def test_the_bits_of_one_image_are_without_the_start_of_the_coder() -> None:
    """The first symbol of a coder without latents takes up to 24 bits more, which one image of 40 bits must not be told to need."""
    model = engine.load(SHIPPED / "digits-pixelcnn", device="cpu")
    pixels = lossless.to_pixels(np.zeros((1, 1, 8, 8), np.int64), 4)
    classes = len(model.manifest.classes or ())
    score = model.score(np.zeros((1, 1, 8, 8), np.float32))
    term = next(term.name for term in model.manifest.scoring.terms if term.likelihood)  # type: ignore[union-attr]
    bits = float(score.terms[term][0]) / np.log(2)
    written = lossless.compress(model, pixels)
    assert bits - 1 <= written.net_bits <= bits + np.log2(classes) + 1
    assert written.bits - written.net_bits >= 0
