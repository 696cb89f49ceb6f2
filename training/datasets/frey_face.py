"""Frey Face: 1965 frames of one face, 28x20 grey."""

from __future__ import annotations

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.remote import Remote, fetch
from manifold.training.data.splits import split

NAME = "frey_face"
LICENCE = "Frey Face (Frey and Roweis): none stated, research use"
FILE = Remote(
    "frey_face/frey_rawface.mat",
    "https://cs.nyu.edu/~roweis/data/",
    "sha256:265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
)
HELD_OUT = 165  # frames for calibration
TRAINED = 1765  # frames of the training part, these included


def load() -> Data:
    """Return the set. Consecutive frames are alike, so the test part is the last tenth, not a random one."""
    from scipy.io import loadmat

    frames = loadmat(fetch(FILE))["ff"].T.reshape(-1, 1, 28, 20)
    labels = np.full(len(frames), -1, np.int64)
    every = Arrays(frames, labels)
    spec = ImageSpec(height=28, width=20, channels=1)
    return split(NAME, spec, every[:TRAINED], every[TRAINED:], HELD_OUT, licence=LICENCE)
