"""Ink on transparency: which canvas a transparent image is laid over, and whether an image is blank. Pixels are uint8 (h, w, C); no files.

An image lies on a transparent canvas if at least a tenth of its pixels are transparent (CANVAS). It is laid over the model's background. Its
ink is lost there if fewer than a fifth (SHARE) of the opaque pixels differ from the background by more than a third of the range
(CONTRAST, in the channel that differs most), and more of them differ so from the opposite of the background. Then it is laid over that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

OPAQUE = 128  # the least alpha of an opaque pixel
CANVAS = 0.1  # of the pixels, that are transparent
CONTRAST = 1 / 3  # of the range
SHARE = 0.2  # of the opaque pixels
MEASURED = 2**20  # pixels that contrast is measured on, spread evenly
ROWS = 256  # that are laid over a canvas at once


def has_canvas(alpha: Pixels) -> bool:
    """Return whether enough of an image is transparent for the transparent part to be its canvas."""
    return float((alpha < OPAQUE).mean()) >= CANVAS


def is_lost(pixels: Pixels, alpha: Pixels, under: int) -> bool:
    """Return whether the ink cannot be told from the canvas `under`, and can from the opposite one. A transparent image has no ink."""
    step = max(1, math.ceil(math.sqrt(alpha.size / MEASURED)))
    some, opacity = pixels[::step, ::step], alpha[::step, ::step]
    opaque = opacity >= (OPAQUE if (opacity >= OPAQUE).any() else 1)
    if not opaque.any():
        return False
    ink = some[opaque].astype(np.int16)  # (n, C)
    here, there = (_visible(ink, canvas) for canvas in (under, 255 - under))
    return here < SHARE and there > here


def _visible(ink: NDArray[np.int16], canvas: int) -> float:
    """Return the share of pixels (n, C) that differ from a canvas."""
    return float((np.abs(ink - canvas).max(axis=1) > CONTRAST * 255).mean())


def over(pixels: Pixels, alpha: Pixels, under: int) -> Pixels:
    """Return pixels laid over a canvas of one grey level."""
    laid = np.empty_like(pixels)
    for top in range(0, len(pixels), ROWS):
        rows, weights = pixels[top : top + ROWS], alpha[top : top + ROWS, :, None].astype(np.uint16)
        laid[top : top + ROWS] = (rows * weights + under * (255 - weights) + 127) // 255
    return laid


def is_flat(values: NDArray[Any]) -> bool:
    """Return whether all pixels (h, w[, C]) are equal."""
    return bool((values == values[0, 0]).all())
