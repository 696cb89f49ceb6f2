"""Transparent images on a model's background: ink that would be invisible gets the opposite background, and blank images give a warning."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifold.runtime import imaging
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.service.core import local
from tests.conftest import SHIPPED
from tests.pictures import saved

DIGITS = ImageSpec(height=28, width=28, channels=1, background=0.0, invert=True)
PAPER = ImageSpec(height=28, width=28, channels=1, background=1.0, invert=True)
FIXED = ImageSpec(height=28, width=28, channels=1, background=0.0)
PHOTOS = ImageSpec(height=28, width=28, channels=3)
OPPOSITE, INVERTED = "laid over the opposite", "inverted: the image"


def stroke(colour: int | tuple[int, ...], size: tuple[int, int] = (112, 112), alpha: int = 255) -> bytes:
    """Return a thick L in one colour on a transparent canvas."""
    canvas = Image.new("RGBA", size)
    ink = (*((colour,) * 3 if isinstance(colour, int) else colour), alpha)
    canvas.paste(ink, (30, 20, 46, 92))
    canvas.paste(ink, (30, 76, 82, 92))
    return saved(canvas)


def read(content: bytes, spec: ImageSpec) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    pixels, fitted = imaging.read_image(content, spec)
    return pixels, fitted.steps, fitted.warnings


@pytest.mark.parametrize("colour", [0, 40, 84, (0, 0, 128), (255, 0, 0), (120, 0, 120)])
def test_dark_ink_on_a_black_background_is_laid_over_white_and_inverted(colour: int | tuple[int, ...]) -> None:
    pixels, steps, warnings = read(stroke(colour), DIGITS)
    assert pixels[0, 12, 9] > 150
    assert pixels[0, 0, 0] == pixels[0, 5, 20] == 0
    assert any(step.startswith(OPPOSITE) for step in steps)
    assert any(step.startswith(INVERTED) for step in steps)
    assert warnings == ()


@pytest.mark.parametrize("colour", [255, 128, 90, (0, 255, 0), (255, 255, 0)])
def test_light_ink_on_a_black_background_stays(colour: int | tuple[int, ...]) -> None:
    pixels, steps, warnings = read(stroke(colour), DIGITS)
    assert pixels[0, 12, 9] > 80
    assert pixels[0, 0, 0] == 0
    assert "laid over the background" in steps
    assert not any(step.startswith(("inverted", OPPOSITE)) for step in steps)
    assert warnings == ()


def test_a_white_background_is_the_same_the_other_way_round() -> None:
    for colour, lost in ((255, True), (0, False), (128, False)):
        pixels, steps, _ = read(stroke(colour), PAPER)
        assert pixels[0, 0, 0] == 255
        assert pixels[0, 12, 9] < 150
        assert any(step.startswith(OPPOSITE) for step in steps) == lost


def test_a_model_that_does_not_invert_gets_the_other_canvas_in_the_margins_too() -> None:
    pixels, steps, _ = read(stroke(0, (200, 112)), FIXED)
    assert pixels[0, 0, 0] == pixels[0, 27, 27] == 255
    assert pixels[0, 12, 5] < 60
    assert not any(step.startswith("inverted") for step in steps)


@pytest.mark.parametrize(("colour", "lost"), [((0, 0, 0), True), ((10, 20, 60), True), ((255, 0, 0), False), ((0, 0, 200), False)])  # fmt: skip
def test_colour_ink_on_a_colour_model_is_measured_in_the_channel_that_differs_most(
    colour: tuple[int, ...], lost: bool
) -> None:
    pixels, steps, _ = read(stroke(colour), PHOTOS)
    assert any(step.startswith(OPPOSITE) for step in steps) == lost
    assert np.abs(pixels[:, 12, 9].astype(int) - colour).max() < 40
    assert (pixels[:, 0, 0] == (255 if lost else 0)).all()


def test_a_crop_that_touches_its_border_is_judged_by_its_canvas() -> None:
    """Ink that covers most of the border is not taken for the background."""
    for colour in (0, 255):
        crop = np.zeros((56, 56, 4), np.uint8)
        crop[:, :44] = (*(colour,) * 3, 255)
        pixels, _, _ = read(saved(crop), DIGITS)
        assert pixels[0, 14, 5] == 255
        assert pixels[0, 14, 26] == 0


def test_faint_ink_counts_as_ink() -> None:
    pixels, steps, warnings = read(stroke(0, alpha=100), DIGITS)
    assert pixels[0].max() > 80
    assert warnings == ()
    assert any(step.startswith(OPPOSITE) for step in steps)


@pytest.mark.parametrize("background", [None, 0.0, 1.0])
def test_a_dark_photo_with_a_transparent_corner_does_not_flip(background: float | None) -> None:
    photo = np.random.default_rng(0).integers(0, 60, (100, 100, 4), np.uint8)
    photo[:, :, 3] = 255
    photo[:20, :20, 3] = 0
    spec = PHOTOS.model_copy(update={"background": background})
    pixels, steps, _ = read(saved(photo), spec)
    assert "laid over the background" in steps
    assert (pixels[:, 0, 0] == (255 if background else 0)).all()
    assert np.abs(pixels[:, 14, 14].astype(int) - 30).max() < 30


def test_paper_with_transparent_corners_is_inverted_whole() -> None:
    paper = np.full((112, 112, 4), 255, np.uint8)
    paper[40:70, 50:60, :3] = 0
    paper[:10, :10, 3] = 0
    pixels, steps, _ = read(saved(paper), DIGITS)
    assert any(step.startswith("inverted: its border") for step in steps)
    assert pixels[0, 0, 0] == 0
    assert pixels[0, 14, 13] == 255


def test_blank_images_are_warned_of() -> None:
    clear = read(saved(Image.new("RGBA", (40, 40), (9, 9, 9, 0))), DIGITS)
    assert clear[2] == ("blank: every pixel of the file is transparent",)
    assert not clear[0].any()
    for image in (Image.new("L", (28, 28)), Image.new("RGB", (50, 20), (255, 255, 255)), Image.new("RGBA", (9, 9), (7, 7, 7, 90))):  # fmt: skip
        assert read(saved(image), DIGITS)[2] == ("blank: every pixel of the file has the same value",)
    same = ImageSpec(
        height=28, width=28, channels=1, background=0.5
    )  # ink in the background's own colour, which is its own opposite
    assert read(stroke(128), same)[2] == ("blank: every pixel has the same value after fitting, but not in the file",)
    assert read(stroke(255), same)[2] == ()


@pytest.mark.parametrize("colour", [0, 255, 40, (0, 0, 128)])
def test_unscaled_images_follow_the_same_rule(colour: int | tuple[int, ...]) -> None:
    """The evaluator's reader gives the same pixels as a model of that size gets."""
    content = stroke(colour)
    same = DIGITS.model_copy(update={"height": 112, "width": 112})
    unscaled = imaging.read_unscaled(content, 1, background=0.0, invert=True)[0]
    assert np.array_equal(unscaled, imaging.read_image(content, same)[0])


# --- the service --------------------------------------------------------------------------------------------------------------


def seven(shipped: dict[str, Model], colour: int) -> bytes:
    """Return a 7 that a model draws, as ink of one colour on a transparent canvas."""
    model = shipped["mnist-cvae"]
    digit = imaging.to_uint8(model.sample(1, seed=3, classes="7").data, model.manifest.spec)[0, 0]  # type: ignore[arg-type]
    large = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC))
    return saved(np.dstack([np.full((112, 112, 3), colour, np.uint8), large]))


@pytest.mark.parametrize("colour", [0, 40, 255])
def test_a_seven_in_any_ink_is_a_seven(shipped: dict[str, Model], colour: int) -> None:
    request = {"model": "mnist-classifier", "images": [base64.b64encode(seven(shipped, colour)).decode()]}
    answer = json.loads(local.answer("classify", request, Path(SHIPPED), "cpu"))
    assert answer["items"][0]["class"] == "7"
    assert answer["items"][0]["probabilities"]["7"] > 0.9
    assert answer["fitted"][0]["warnings"] == []
    in_white = base64.b64encode(seven(shipped, 255)).decode()
    scores = []
    for image in (request["images"][0], in_white):
        fields = {"model": "mnist-vae", "images": [image]}
        scores.append(json.loads(local.answer("anomaly-score", fields, Path(SHIPPED), "cpu"))["items"][0]["score"])
    assert abs(scores[0] - scores[1]) < 0.3


def test_a_blank_image_is_warned_of_wherever_fitted_is_reported() -> None:
    blank = base64.b64encode(saved(Image.new("RGBA", (40, 40)))).decode()
    for endpoint in ("classify", "reconstruct", "encode", "anomaly-score"):
        model = "mnist-classifier" if endpoint == "classify" else "mnist-vae"
        answer = json.loads(local.answer(endpoint, {"model": model, "images": [blank]}, Path(SHIPPED), "cpu"))
        assert answer["fitted"][0]["warnings"] == ["blank: every pixel of the file is transparent"], endpoint
    assert answer["items"][0]["warnings"] == ["blank: every pixel of the file is transparent"]
