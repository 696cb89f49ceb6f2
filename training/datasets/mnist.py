"""MNIST: 70 000 grey images of handwritten digits, 28x28 pixels."""

from __future__ import annotations

from manifold.training.data import Data, idx
from manifold.training.data.remote import Remote

NAME = "mnist"
ITEMS = "images"
HAS_CLASSES = True
LICENCE = "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0, as commonly stated"
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = (
    Remote("mnist/train-images-idx3-ubyte.gz", URL, "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    Remote("mnist/train-labels-idx1-ubyte.gz", URL, "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    Remote("mnist/t10k-images-idx3-ubyte.gz", URL, "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    Remote("mnist/t10k-labels-idx1-ubyte.gz", URL, "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)  # fmt: skip


def load() -> Data:
    """Load the data set. The last 5000 items of the official training split are for calibration."""
    return idx.of_files(NAME, FILES, tuple("0123456789"), LICENCE, invert=True)
