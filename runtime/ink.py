"""The choice of a background for transparent images, and the test for blank images. Pixels are uint8 (h, w, C); no files are read here.

An image has a transparent canvas if at least a tenth of its pixels are transparent (CANVAS). It is placed on the model's background. Its
ink (the drawing) would be invisible there if fewer than a fifth (SHARE) of the opaque pixels differ from the background by more than a third
of the range (CONTRAST, in the channel that differs most), and more of them differ from the opposite of the background. Then the image is
placed on the opposite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

OPAQUE = 128  # smallest alpha of an opaque pixel
CANVAS = 0.1  # share of transparent pixels from which on an image has a transparent canvas
CONTRAST = 1 / 3  # difference from the background that makes a pixel visible, as a share of the range
SHARE = 0.2  # share of opaque pixels that must be visible
MEASURED = 2**20  # number of pixels on which contrast is measured, evenly spaced
ROWS = 256  # rows of pixels that are blended at once


def has_canvas(alpha: Pixels) -> bool:
    """Return whether an image has a transparent canvas: at least the share CANVAS of its pixels is transparent."""
    return float((alpha < OPAQUE).mean()) >= CANVAS


def is_lost(pixels: Pixels, alpha: Pixels, under: int) -> bool:
    """Return whether the ink is invisible on the canvas `under` but visible on the opposite one. A fully transparent image has no ink."""
    step = max(1, math.ceil(math.sqrt(alpha.size / MEASURED)))
    some, opacity = pixels[::step, ::step], alpha[::step, ::step]
    opaque = opacity >= (OPAQUE if (opacity >= OPAQUE).any() else 1)
    if not opaque.any():
        return False
    ink = some[opaque].astype(np.int16)  # (n, C)
    here, there = (_visible(ink, canvas) for canvas in (under, 255 - under))
    return here < SHARE and there > here


def _visible(ink: NDArray[np.int16], canvas: int) -> float:
    """Return the share of pixels (n, C) that are visible on a canvas."""
    return float((np.abs(ink - canvas).max(axis=1) > CONTRAST * 255).mean())


def over(pixels: Pixels, alpha: Pixels, under: int) -> Pixels:
    """Return pixels blended with a canvas of one grey level."""
    laid = np.empty_like(pixels)
    for top in range(0, len(pixels), ROWS):
        rows, weights = pixels[top : top + ROWS], alpha[top : top + ROWS, :, None].astype(np.uint16)
        laid[top : top + ROWS] = (rows * weights + under * (255 - weights) + 127) // 255
    return laid


def is_flat(values: NDArray[Any]) -> bool:
    """Return whether all pixels (h, w[, C]) are equal."""
    return bool((values == values[0, 0]).all())
