"""MNIST at half the size: 14x14 pixels, each the mean of four."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data, Part
from manifold.training.datasets import mnist

NAME = "mnist-14"
ITEMS = "images"
HAS_CLASSES = True
LICENCE = mnist.LICENCE


def load() -> Data:
    """Load the data set. It has the splits of MNIST."""
    whole = mnist.load()
    spec = ImageSpec.of(whole.spec, NAME)
    return replace(
        whole,
        name=NAME,
        spec=spec.model_copy(update={"height": 14, "width": 14}),
        train=_halved(whole.train),
        calibration=_halved(whole.calibration),
        test=_halved(whole.test),
        selection=None if whole.selection is None else _halved(whole.selection),
        protocol={**whole.protocol, "data": NAME, "size": "14x14, each pixel the mean of four"},
    )


def _halved(part: Part) -> Arrays:
    arrays = Arrays.of(part)
    blocks = arrays.items.reshape(len(arrays), 1, 14, 2, 14, 2).astype(np.float32)
    return replace(arrays, items=np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8))
