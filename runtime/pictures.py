"""Pictures of Pillow and objects like them, as PNG files: upright, and in a mode that the reader of files knows."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from PIL import Image, ImageOps

from manifold.runtime import imaging
from manifold.runtime.errors import InvalidValue, reason

SAVED = ("1", "L", "LA", "I;16", "I;16B", "P", "RGB", "RGBA")  # the modes of Pillow that a PNG file can have
CONVERTED = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
ORIENTATION = 0x0112  # the EXIF tag of the orientation


def to_png(picture: Any, field: str) -> bytes:
    """Return a picture as a PNG file, upright as its EXIF block says. A file of the same picture gives the same pixels."""
    buffer = io.BytesIO()
    try:
        if isinstance(picture, Image.Image):
            picture = _saved(picture, field)
        picture.save(buffer, "PNG")
    except (OSError, ValueError, TypeError, SystemError, AttributeError) as error:  # such as a closed or an empty image
        raise InvalidValue(
            f"{field}: the {type(picture).__name__} cannot be saved as PNG: {reason(error)}; give another image",
            field=field,
        ) from None
    return buffer.getvalue()


def _saved(picture: Image.Image, field: str) -> Image.Image:
    """Return a picture upright, and in a mode that PNG files have."""
    with contextlib.suppress(*imaging.DAMAGE):  # a damaged EXIF block does not affect the pixels
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
