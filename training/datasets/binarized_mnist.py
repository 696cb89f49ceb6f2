"""MNIST binarised once and for all (Larochelle and Murray, 2011): 28x28 pixels of two levels, on which published likelihoods are comparable.

Each pixel was drawn once with its grey value as the probability of white. The items have no classes and another order than MNIST.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.parts import Array
from manifold.training.data.remote import ROOT_VARIABLE, download
from manifold.training.data.splits import OFFICIAL
from manifold.training.errors import DataError

NAME = "binarized-mnist"
ITEMS = "images"
HAS_CLASSES = False
LICENCE = "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0, as commonly stated; binarised by Larochelle"
URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
FILE = "binarized_mnist/binarized_mnist.npz"
# the SHA-256 of the packed bits of each part, uint8 (n, 98), as the text files and the .npz file contain the same bits
BITS = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
SIDE = 28


def load() -> Data:
    """Load the data set with its official parts. The first half of `valid` is for selection and the second half for calibration."""
    root = os.environ.get(ROOT_VARIABLE)
    packed = _of_npz(Path(root) / FILE) if root else {part: _of_text(part) for part in BITS}
    train, valid, test = (_images(packed[part]) for part in BITS)
    half = len(valid) // 2
    protocol = {
        "data": NAME,
        "train": f"the {len(train)} items of the official training part",
        "selection": f"items 0 to {half - 1} of the official validation part",
        "calibration": f"items {half} to {len(valid) - 1} of the official validation part",
        "test": f"{len(test)} items",
        "shift": OFFICIAL,
    }
    spec = ImageSpec(height=SIDE, width=SIDE, channels=1, levels=2, background=0.0, invert=True)
    return Data(
        NAME, spec, train, valid[half:], test, None, protocol, licence=LICENCE, selection=valid[:half], shift=OFFICIAL
    )


def _images(packed: Array) -> Arrays:
    """Unpack bits uint8 (n, 98) to images uint8 (n, 1, 28, 28) of 0 and 255."""
    images = np.unpackbits(packed, axis=1).reshape(-1, 1, SIDE, SIDE) * np.uint8(255)
    return Arrays(images, np.full(len(images), -1, np.int64))


def _check(part: str, packed: Array, path: Path, advice: str) -> None:
    """Raise DataError if the bits of a part, which were read from `path`, are not the published ones. `advice` says what to do."""
    actual = hashlib.sha256(np.ascontiguousarray(packed).tobytes()).hexdigest()
    if actual != BITS[part]:
        raise DataError(
            f"{path}: the part {part} is truncated or altered: the SHA-256 of its bits is {actual}, expected {BITS[part]}; {advice}"
        )


def _of_npz(path: Path) -> dict[str, Array]:
    """Read the packed bits of all parts from one file."""
    if not path.exists():
        raise DataError(
            f"{NAME}: {path} is missing; put it there, or unset {ROOT_VARIABLE} to download the official text files"
        )
    try:
        with np.load(path, allow_pickle=False) as content:
            packed = {part: content[part] for part in BITS}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: it is not an .npz file with {', '.join(BITS)}: {error}; restore it") from None
    for part in BITS:
        _check(part, packed[part], path, f"restore it, or unset {ROOT_VARIABLE} to download the official text files")
    return packed


def _of_text(part: str) -> Array:
    """Download the official text file of a part, with one line of 784 zeros and ones for each image, and pack its bits."""
    name = f"binarized_mnist_{part}.amat"
    path = download(
        NAME, URL + name, None, Path("binarized_mnist"), f"set {ROOT_VARIABLE} to a folder that holds {FILE}"
    )
    advice = "delete this file, and it is downloaded again"  # otherwise the same file is read again
    try:
        packed = np.packbits(np.loadtxt(path, dtype=np.uint8).reshape(-1, SIDE * SIDE), axis=1)
    except ValueError as error:
        raise DataError(f"{path}: it is not a file of 784 zeros and ones a line: {error}; {advice}") from None
    _check(part, packed, path, advice)
    return packed
