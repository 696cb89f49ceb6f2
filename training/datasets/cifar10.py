"""CIFAR-10 (Krizhevsky, 2009): 60 000 colour images of 32x32 pixels.

It is read from the official archive, or from lossless grids (sheets) of 1000 images if MANIFOLD_DATA contains them.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime import imaging
from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.parts import Array
from manifold.training.data.remote import ROOT_VARIABLE, Remote, digest, fetch
from manifold.training.data.splits import OFFICIAL, split
from manifold.training.errors import DataError

NAME = "cifar10"
ITEMS = "images"
HAS_CLASSES = True
LICENCE = "CIFAR-10 (Krizhevsky, 2009): none stated, cite the technical report"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = Remote(
    "cifar10/cifar-10-python.tar.gz", "https://www.cs.toronto.edu/~kriz/", "md5:c58f30108f718f92721af3b95e74349a"
)
# one hash over the SHA-256 of all 61 files in order, as they only exist together
SHEETS = "6243f223d05c0b08e51710cf2ef6c1fd8782cc861b10baaa7165c16c6aac734d"
HELD_OUT = SELECTED = (
    5000  # number of items at the end of the training split for calibration, and before them for selection
)


def load() -> Data:
    """Load the data set with its official splits."""
    root = os.environ.get(ROOT_VARIABLE)
    folder = Path(root or "") / NAME
    sheets = bool(root) and (folder / "labels.npz").exists()
    train, test = _of_sheets(folder) if sheets else _of_archive(fetch(ARCHIVE))
    form = "lossless sheets, 20 test images absent" if sheets else "official archive"
    spec = ImageSpec(height=32, width=32, channels=3)
    return split(
        NAME, spec, train, test, HELD_OUT, SELECTED, shift=OFFICIAL, classes=CLASSES, licence=LICENCE, form=form
    )


def _of_archive(path: Path) -> tuple[Arrays, Arrays]:
    """Return the training and the test split from the official pickles."""
    with tarfile.open(path) as archive:
        train = [_batch(path, archive, f"data_batch_{i}") for i in range(1, 6)]
        test = _batch(path, archive, "test_batch")
    return Arrays(np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), Arrays(*test)


def _batch(path: Path, archive: tarfile.TarFile, name: str) -> tuple[Array, Array]:
    """Return the images and labels of one pickle."""
    member = archive.extractfile(f"cifar-10-batches-py/{name}")
    if member is None:
        raise DataError(f"{path}: it lacks {name}; download it again")
    content = _ArraysOnly(path, member.read()).load()
    return content[b"data"].reshape(-1, 3, 32, 32), np.asarray(content[b"labels"], np.int64)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that only allows arrays, as in the archive."""

    allowed = frozenset(
        [
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        ]
    )

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise DataError(f"{self.path}: it contains a {module}.{name}, which CIFAR-10 does not; download it again")
        return super().find_class(module, name)


def _of_sheets(folder: Path) -> tuple[Arrays, Arrays]:
    """Return both splits from lossless WebP files of 1000 images each (25 x 40 tiles), in the official order."""
    train = [f"train_{i:02d}.webp" for i in range(50)]
    test = [f"test_{i:02d}.webp" for i in range(10)]
    _check(folder, [*train, *test, "labels.npz"])
    with np.load(folder / "labels.npz") as labels:
        keep = labels["test_present"]
        return (
            Arrays(_sheets(folder, train), labels["train"].astype(np.int64)),
            Arrays(_sheets(folder, test)[keep], labels["test"].astype(np.int64)[keep]),
        )


def _check(folder: Path, names: list[str]) -> None:
    """Raise DataError if a grid of images is missing or altered."""
    for name in names:
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: it is missing; restore it, or use the official archive")
    actual = hashlib.sha256("".join(digest(folder / name, "sha256") for name in names).encode()).hexdigest()
    if actual != SHEETS:
        raise DataError(
            f"{folder}: a file of images is truncated or altered, as the SHA-256 of all is {actual} instead of {SHEETS}; restore the files"
        )


def _sheets(folder: Path, names: list[str]) -> Array:
    """Read the images in these files, uint8 (N, 3, 32, 32)."""
    tiles = [imaging.read_pixels((folder / name).read_bytes(), "RGB").reshape(25, 32, 40, 32, 3) for name in names]
    return np.concatenate([each.transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32) for each in tiles])
