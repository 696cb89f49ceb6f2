"""The IDX format of the MNIST files, and data sets that are published as four such files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data.parts import Array, Arrays
from manifold.training.data.remote import Remote, fetch
from manifold.training.data.splits import OFFICIAL, Data, split
from manifold.training.errors import DataError

HELD_OUT = SELECTED = (
    5000  # number of items at the end of the training split for calibration, and before them for selection
)


def of_files(name: str, files: Sequence[Remote], classes: tuple[str, ...], licence: str, *, invert: bool) -> Data:
    """Load a data set from four files: training images, training labels, test images, test labels."""
    images, labels, test_images, test_labels = (read(fetch(remote)) for remote in files)
    spec = ImageSpec(height=28, width=28, channels=1, background=0.0, invert=invert)
    train, test = (Arrays(x[:, None], y.astype(np.int64)) for x, y in ((images, labels), (test_images, test_labels)))
    return split(name, spec, train, test, HELD_OUT, SELECTED, shift=OFFICIAL, classes=classes, licence=licence)


def read(path: Path) -> Array:
    """Read the array of unsigned bytes in a gzipped IDX file. Raises DataError if the file is incomplete."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    if raw[:3] != b"\0\0\x08" or len(raw) != 4 + 4 * len(dimensions) + int(np.prod(dimensions)):
        raise DataError(f"{path}: it is not a complete IDX file of unsigned bytes; download it again")
    return np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * len(dimensions)).reshape(dimensions)
