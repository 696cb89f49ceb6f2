"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70 000 grey images of clothing, 28x28 pixels."""

from __future__ import annotations

from manifold.training.data import Data, idx
from manifold.training.data.remote import Remote

NAME = "fashion_mnist"
ITEMS = "images"
HAS_CLASSES = True
LICENCE = "Fashion-MNIST (Zalando): MIT"
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = (
    Remote("fashion_mnist/train-images-idx3-ubyte.gz", URL, "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    Remote("fashion_mnist/train-labels-idx1-ubyte.gz", URL, "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    Remote("fashion_mnist/t10k-images-idx3-ubyte.gz", URL, "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    Remote("fashion_mnist/t10k-labels-idx1-ubyte.gz", URL, "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)  # fmt: skip


def load() -> Data:
    """Load the data set. The last 5000 items of the official training split are for calibration."""
    return idx.of_files(NAME, FILES, CLASSES, LICENCE, invert=False)
