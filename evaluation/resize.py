"""The three resize rules of the published distances. They give different distances, so the rule is part of the protocol.

tf1-bilinear     TensorFlow 1's resize_bilinear with align_corners=False: corner-aligned grid, no antialiasing (torch-fidelity)
torch-bilinear   half-pixel centres, no antialiasing: torch's interpolate(mode="bilinear", align_corners=False) (pytorch-fid)
pil-bicubic      Pillow's antialiased bicubic on float channels (clean-fid)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.runtime import imaging
from manifold.runtime.errors import cut

Array = NDArray[Any]
Float32 = NDArray[np.float32]

NONE = "none"
MODES = (NONE, "torch-bilinear", "tf1-bilinear", "pil-bicubic")


def check(mode: str) -> str:
    """Return the mode. Raises EvaluationError for an unknown one."""
    if mode not in MODES:
        raise EvaluationError(
            f"resize: unknown rule {cut(repr(mode))}; valid are {', '.join(MODES)}", field="resize", valid=MODES
        )
    return mode


def resize(images: Array, height: int, width: int, mode: str) -> Float32:
    """Resize uint8 images (n, C, H, W) to float32 (n, C, height, width), 0 to 255, not rounded."""
    if images.shape[2:] == (height, width):
        return images.astype(np.float32)
    if mode == NONE:
        raise EvaluationError(
            f"resize: images are {images.shape[3]}x{images.shape[2]}, but the extractor needs {width}x{height}; "
            f"choose one of {', '.join(MODES[1:])}",
            field="resize",
            valid=MODES[1:],
        )
    if mode == "pil-bicubic":
        return np.clip(imaging.resize_bicubic(images, height, width), 0, 255)
    half_pixel = check(mode) == "torch-bilinear"
    rows = weights(images.shape[2], height, half_pixel)
    columns = weights(images.shape[3], width, half_pixel)
    resized: Float32 = rows @ (images.astype(np.float32) @ columns.T)
    return resized


@lru_cache(maxsize=16)
def weights(before: int, after: int, half_pixel: bool) -> Float32:
    """Return the weight (after, before) of each old position in each new one: linear interpolation between two neighbours."""
    place = np.arange(after, dtype=np.float64)
    source = (place + 0.5) * before / after - 0.5 if half_pixel else place * before / after
    source = np.clip(source, 0, before - 1)
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, before - 1)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after), low), 1 - (source - low))
    np.add.at(matrix, (np.arange(after), high), source - low)
    return matrix.astype(np.float32)
