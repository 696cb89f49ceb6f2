"""Pictures, arrays and paths as users give them to the library and to the client: one picture in every form, and errors for all others."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold_client import InvalidType, images
from manifold_client import InvalidValue as ClientError
from tests.conftest import SHIPPED

DRAWN = np.random.default_rng(0).integers(0, 255, (20, 28, 3), np.uint8).repeat(4, 0).repeat(4, 1)
Read = Callable[[Any], Any]  # the pixels that a model gets


@pytest.fixture(scope="module")
def model() -> Model:
    return load(SHIPPED / "mnist-vae", device="cpu", verify=False)


@pytest.fixture(params=["library", "client"])
def read(request: pytest.FixtureRequest, model: Model) -> Read:
    """Return how an image is read: by the library alone, or by the client and then as the service reads its base64."""
    if request.param == "library":
        return lambda given: model._data(given)
    return lambda given: model._data([base64.b64decode(each) for each in images.images(given, "images")])


class Tensor:
    """A tensor that converts itself only after `detach`, as those of torch with gradients."""

    def __init__(self, array: Any, error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise self.error or RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy()")

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Any:
        return self if self.error else self.array


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_a_rotated_file_and_its_picture_are_the_same_item(read: Read, tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(DRAWN).save(path, exif=exif, quality=95)
    with Image.open(path) as picture:
        assert np.array_equal(read(picture), read(path)) and np.array_equal(read([picture]), read(path))
    assert orientation == 1 or not np.array_equal(read(path), read(Image.fromarray(DRAWN)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_every_mode_with_a_fixed_range_is_read(read: Read, mode: str) -> None:
    plain = Image.fromarray(DRAWN)
    via = {"PA": "P", "RGBa": "RGBA", "La": "LA", "I;16": "L"}.get(mode)
    picture = (plain.convert(via) if via else plain).convert(mode)
    found = read(picture)
    assert found.shape == (1, 1, 28, 28)
    if mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "PA"):
        assert np.abs(found - read(plain)).mean() < 0.05


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_a_fixed_range_are_refused(read: Read, mode: str) -> None:
    with pytest.raises(
        (InvalidValue, ClientError), match=f"the mode {mode} of the image has no fixed range.*convert it to L"
    ):
        read(Image.new(mode, (8, 8)))


def test_what_cannot_be_read_is_an_error(read: Read) -> None:
    closed = Image.fromarray(DRAWN)
    closed.close()
    file = io.BytesIO()
    Image.fromarray(DRAWN).save(file, "PNG")
    half = Image.open(io.BytesIO(file.getvalue()[:2000]))
    for picture in (closed, Image.new("L", (0, 0)), half):
        with pytest.raises(
            (InvalidValue, ClientError), match=r"images.*cannot be saved as PNG: .*; give another image"
        ):
            read(picture)
    for path in ("a\0b.png", "\ud800.png", Path("\ud800.png"), Path("a\0b.png"), Path("x" * 300)):
        with pytest.raises((InvalidValue, ClientError), match=r"images.*(cannot be read|is not a path)"):
            read(path)
    for error in (TypeError("no"), RuntimeError("on a device"), ValueError("no")):
        with pytest.raises((InvalidValue, ClientError), match="images: the Tensor cannot be converted to an array: "):
            read(Tensor(DRAWN, error))
    for array in (np.array([["a"]]), np.zeros((28, 28), complex), np.array([[None]])):
        with pytest.raises((InvalidValue, ClientError, InvalidType), match="images: an array of "):
            read(array)


def test_tensors_with_gradients_are_arrays(read: Read) -> None:
    grey = np.pad(DRAWN[:20, :20, 0], 4)
    assert np.array_equal(read(Tensor(grey)), read(grey))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, bool])
def test_grey_arrays_need_no_axis_for_the_channel(read: Read, dtype: Any) -> None:
    grey = np.pad(DRAWN[:20, :20, 0] > 127, 4)  # with a black border: a file with a white one is inverted
    whole = (grey * np.uint8(255)) if dtype is np.uint8 else grey.astype(dtype)
    expected = read(Image.fromarray(grey * np.uint8(255)))
    assert np.allclose(read(whole), expected) and np.allclose(read(np.stack([whole, whole])), expected.repeat(2, 0))


@pytest.mark.parametrize("scale", [255, 2, -1, np.nan, np.inf])
def test_floats_outside_the_range_of_the_model_are_refused(read: Read, scale: float) -> None:
    with pytest.raises((InvalidValue, ClientError), match=r"images: (floats from|NaN|the array holds NaN)"):
        read(np.full((28, 28), scale, np.float32))


def test_model_outputs_are_model_inputs(model: Model) -> None:
    made = model.sample(3, seed=1).data
    assert np.array_equal(model._data(made), made)
    with pytest.raises(InvalidValue, match="masks: an array of complex128; give truth values"):
        _masks(model, np.zeros((28, 28), complex))
    with pytest.raises(InvalidValue, match="masks: 3 is a int; give arrays"):
        _masks(model, cast(Any, 3))


def _masks(model: Model, masks: Any) -> Any:
    from manifold.runtime.items import read_items, read_masks

    return read_masks(model.manifest.spec, masks, read_items(model.manifest.spec, np.zeros((1, 1, 28, 28)))[0])


def test_the_bytes_of_a_picture_are_a_png() -> None:
    assert Image.open(io.BytesIO(base64.b64decode(images.image(Image.new("CMYK", (4, 4)), "images")))).mode == "RGB"
