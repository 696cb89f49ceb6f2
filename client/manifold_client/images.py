"""The conversion of images of many forms to base64 of image files.

A string is always the path of a file. An array with three axes is one RGB image if its last axis has length 3, else a batch of grey images.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from manifold_client import files
from manifold_client.errors import InvalidType, InvalidValue, short, shown

FORMATS = ("PNG", "JPEG", "WEBP")  # those of the service
BASE64 = ("iVBOR", "/9j/", "UklGR", "data:")  # beginnings of images in base64
SAVED = ("1", "L", "LA", "I;16", "I;16B", "P", "RGB", "RGBA")  # the modes of Pillow that a PNG file can have
CONVERTED = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
ORIENTATION = 0x0112  # the EXIF tag of the orientation
# errors that Pillow raises for damaged files
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError, OverflowError, AssertionError,
)  # fmt: skip
NEEDED = "give a PIL image, an array, a path, or the bytes of a PNG, JPEG or WebP file"
SHAPES = "give (H, W) or (H, W, 3) for one image, (n, H, W) or (n, H, W, 3) for several"


def images(given: Any, field: str) -> list[str]:
    """Return one image, a list of images or an array of images as base64 of files."""
    given = _array(given, field)
    if isinstance(given, np.ndarray):
        several = _split(given, field)
        return [_pixels(each, _place(field, place, several)) for place, each in enumerate(several)]
    if is_image(given):
        return [image(given, field)]
    if not isinstance(given, Sequence):
        raise InvalidType(f"{field}: {shown(given)} is neither an image nor a list of images; {NEEDED}", field=field)
    if not given:
        raise InvalidValue(f"{field}: the list is empty; give at least one image", field=field)
    return [image(each, f"{field}[{place}]") for place, each in enumerate(given)]


def is_image(given: Any) -> bool:
    """Return whether a value is one image in another form than an array: a picture, a path, or the bytes of a file."""
    return isinstance(given, str | bytes | bytearray | os.PathLike | Image.Image)


def image(given: Any, field: str) -> str:
    """Return one image as base64 of a file."""
    given = _array(given, field)
    if isinstance(given, np.ndarray):
        several = _split(given, field)
        if given.ndim not in (2, 3) or (given.ndim == 3 and len(several) > 1):
            raise InvalidValue(
                f"{field}: the shape {given.shape} is that of several images; give one image, such as array[0]",
                field=field,
            )
        return _pixels(several[0], field)
    if isinstance(given, str | os.PathLike):
        return base64.b64encode(_file(given, field)).decode()
    if isinstance(given, bytes | bytearray):
        return base64.b64encode(_known(bytes(given), field, f"these {len(given)} bytes are")).decode()
    if isinstance(given, Image.Image):
        return _png(given, field)
    raise InvalidType(f"{field}: {shown(given)} is not an image; {NEEDED}", field=field)


def _array(given: Any, field: str) -> Any:
    """Return an array for an object that converts itself to one, such as a tensor of any device; any other object as it is."""
    if not hasattr(given, "__array__") or isinstance(given, np.ndarray | Image.Image):
        return given
    try:
        tensor = hasattr(given, "detach") and hasattr(given, "cpu")
        return np.asarray(given.detach().cpu() if tensor else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            f"{field}: the {type(given).__name__} cannot be converted to an array: {short(error)}; give an array of numpy",
            field=field,
        ) from None


def _place(field: str, place: int, several: Sequence[Any]) -> str:
    return field if len(several) == 1 else f"{field}[{place}]"


def _split(array: NDArray[Any], field: str) -> list[NDArray[Any]]:
    """Return the images of an array, (H, W) or (H, W, 3) each."""
    shape = array.shape
    if 0 in shape:
        raise InvalidValue(f"{field}: the array has the shape {shape}; give at least one image", field=field)
    if array.ndim == 2 or (array.ndim == 3 and shape[-1] == 3):
        return [array]
    if array.ndim == 3 and shape[-1] in (1, 2, 4):
        raise InvalidValue(
            f"{field}: the shape {shape} could be one image with {shape[-1]} channels or {shape[0]} grey images; "
            "give array[..., 0] or a PIL image for one, list(array) for several",
            field=field,
        )
    if array.ndim == 3 or (array.ndim == 4 and shape[-1] == 3):
        return list(array)
    hint = ""
    if array.ndim == 4 and shape[1] in (1, 3):
        hint = ": array[:, 0]" if shape[1] == 1 else ": array.transpose(0, 2, 3, 1)"
    elif array.ndim == 4 and shape[-1] == 1:
        hint = ": array[..., 0]"
    raise InvalidValue(f"{field}: the shape {shape} is not that of images; {SHAPES}{hint}", field=field)


def _pixels(array: NDArray[Any], field: str) -> str:
    """Return an array (H, W) or (H, W, 3) as base64 of a PNG."""
    if array.dtype.kind == "b":
        array = np.where(array, np.uint8(255), np.uint8(0))
    elif array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise InvalidValue(
                f"{field}: whole numbers from {array.min()} to {array.max()}; scale them to 0..255", field=field
            )
        array = array.astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            why = "NaN" if np.isnan(low) else f"floats from {low:.4g} to {high:.4g}"
            raise InvalidValue(
                f"{field}: {why}; scale floats to 0..1 (array / 255, or (array + 1) / 2), or give uint8", field=field
            )
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    else:
        raise InvalidType(
            f"{field}: an array of {array.dtype} is not an image; give uint8, bool or floats in 0..1", field=field
        )
    return _png(Image.fromarray(np.ascontiguousarray(array)), field)


def _png(picture: Image.Image, field: str) -> str:
    """Return a picture as base64 of a PNG file, upright as its EXIF block says: the file of the picture gives the same pixels."""
    buffer = io.BytesIO()
    try:
        _saved(picture, field).save(buffer, "PNG")
    except InvalidValue:
        raise
    except (*DAMAGE, SystemError, AttributeError) as error:  # such as a closed or an empty image
        raise InvalidValue(
            f"{field}: the image cannot be saved as PNG: {short(error)}; give another image", field=field
        ) from None
    return base64.b64encode(buffer.getvalue()).decode()


def _saved(picture: Image.Image, field: str) -> Image.Image:
    """Return a picture upright, and in a mode that PNG files have."""
    with contextlib.suppress(*DAMAGE):  # a damaged EXIF block does not affect the pixels
        if picture.getexif().get(ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    if picture.mode in CONVERTED:
        return picture.convert(CONVERTED[picture.mode])
    if picture.mode not in SAVED:
        raise InvalidValue(
            f"{field}: the mode {picture.mode} of the image has no fixed range of values; convert it to L or RGB with values from 0 to 255",
            field=field,
        )
    return picture


def _file(given: str | os.PathLike[str], field: str) -> bytes:
    if isinstance(given, str) and (not given or len(given) > 1000 or "\0" in given or given.startswith(BASE64)):
        raise InvalidValue(
            f"{field}: the string {shown(given)} is not a path; a string is read as the path of a file: "
            "give a path, or base64.b64decode(string) for base64",
            field=field,
        )
    if (call := files.reader(given)) is not None:
        raise InvalidValue(
            f"{field}: {shown(str(given))} is a file of rows, not an image; give rows={call}", field=field
        )
    try:
        path = Path(given)
        if path.is_dir():
            raise InvalidValue(
                f"{field}: {shown(str(given))} is a folder; give its files: list(Path(folder).glob('*.png'))",
                field=field,
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise InvalidValue(
            f"{field}: there is no file {shown(str(given))} (working folder {Path.cwd()}); give the path of an image",
            field=field,
        ) from None
    except InvalidValue:
        raise
    except (OSError, ValueError, TypeError) as error:  # ValueError: a character that file names cannot have
        raise InvalidValue(
            f"{field}: {shown(str(given))} cannot be read: {getattr(error, 'strerror', None) or short(error)}; give another file",
            field=field,
        ) from None
    return _known(content, field, f"{shown(str(given))} is")


def _known(content: bytes, field: str, subject: str) -> bytes:
    """Return the bytes of a file. Raises InvalidValue if they are not an image in a format that the service reads."""
    try:
        Image.open(io.BytesIO(content), formats=FORMATS).close()
    except UnidentifiedImageError:
        raise InvalidValue(
            f"{field}: {subject} not a PNG, JPEG or WebP file; for other formats give PIL.Image.open(path)", field=field
        ) from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidValue(
            f"{field}: {subject} not a readable image: {error}; save it again as PNG", field=field
        ) from None
    return content
