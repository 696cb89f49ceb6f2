"""The handwritten digits of scikit-learn: 1797 images of 8x8 pixels with 4 levels."""

from __future__ import annotations

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.splits import split

NAME = "digits"
ITEMS = "images"
HAS_CLASSES = True
LICENCE = "Optical recognition of handwritten digits (Alpaydin and Kaynak, UCI): CC BY 4.0"
HELD_OUT = 200  # number of items for calibration
SELECTED = 100  # number of items for selection
TRAINED = 1497  # number of items for training, selection and calibration


def load() -> Data:
    """Load the data set. It is split by a permutation with seed 0, because the items are ordered by writer."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = np.rint(bunch.images / 16 * 3).astype(np.uint8)  # 0..16 to 0..3
    order = np.random.Generator(np.random.Philox(0)).permutation(len(levels))
    items, labels = (levels * 85)[order, None], bunch.target.astype(np.int64)[order]  # 0, 85, 170, 255
    return split(
        NAME,
        ImageSpec(height=8, width=8, channels=1, levels=4, background=0.0, invert=True),
        Arrays(items[:TRAINED], labels[:TRAINED]),
        Arrays(items[TRAINED:], labels[TRAINED:]),
        HELD_OUT,
        SELECTED,
        classes=tuple("0123456789"),
        licence=LICENCE,
        levels="round(v / 16 * 3)",
        order="permutation, Philox seed 0",
    )
