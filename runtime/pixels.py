"""Arithmetic on pixels: ranges, rotation, transparent colours, grids of images. Files are read in runtime.imaging.

In files and responses, pixels are uint8 (n, C, H, W), 0 black to 255 white. In model inputs and outputs they are float32 in the spec's range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from manifold.runtime.kinds.image import ImageSpec

Float32 = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def from_uint8(pixels: Pixels, spec: ImageSpec) -> Float32:
    """Convert uint8 to float32 in the spec's range."""
    low, high = spec.range
    exact: Float32 = (np.arange(256) / 255 * (high - low) + low).astype(np.float32)
    return exact[pixels]


def to_uint8(values: NDArray[Any], spec: ImageSpec) -> Pixels:
    """Convert floats in the spec's range to uint8. Values outside the range are clipped."""
    low, high = spec.range
    pixels: Pixels = (
        np.rint((np.asarray(values, np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    )
    return pixels


def to_unit(values: NDArray[Any], spec: ImageSpec) -> NDArray[np.float64]:
    """Convert floats in the spec's range to [0, 1], float64."""
    low, high = spec.range
    return (np.asarray(values, np.float64) - low) / (high - low)


def to_unit32(values: NDArray[Any], spec: ImageSpec) -> Float32:
    """Convert floats in the spec's range to [0, 1], float32. Values outside the range are clipped."""
    unit = values if spec.range == (0.0, 1.0) and values.dtype == np.float32 else to_unit(values, spec)
    return np.minimum(np.maximum(unit, 0), 1).astype(np.float32, copy=False)


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels (h, w[, C]) upright. An EXIF orientation is a transposition (5 to 8), then a reversal of rows, columns or both."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def border(pixels: Pixels) -> Pixels:
    """Return the pixels (n, C) at the border of an image (h, w, C). The corner pixels occur twice."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def keyed(values: NDArray[Any], key: Any) -> Pixels | None:
    """Return alpha: 0 for values (h, w, C) of the transparent colour `key`, 255 for others. None if the image has no such colour."""
    if not isinstance(key, int | tuple):
        return None
    return np.where((values == np.asarray(key)).all(axis=2), 0, 255).astype(np.uint8)


def grid_recipe(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the recipe of a grid of images, made from the recipes of the images."""
    first, n = recipes[0], len(recipes)
    recipe = {**first, "n": n}
    for key in ("class", "condition", "conditions", "inputs", "latents", "named_latents", "codes"):
        values = [one[key] for one in recipes if key in one]
        if values and (key != "class" or any(value != values[0] for value in values)):
            recipe[key] = values
    return recipe


def grid(images: Pixels, *, columns: int | None = None, scale: int = 1, gap: int = 2) -> Pixels:
    """Return a grid of images (n, C, H, W) as one (C, H', W'), filled row by row. It is nearly square if columns is None."""
    n, channels, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    lines = -(-n // columns)
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale + gap, width * scale + gap
    canvas = np.full((channels, lines * height - gap, columns * width - gap), 64, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height - gap, left : left + width - gap] = image
    return canvas
