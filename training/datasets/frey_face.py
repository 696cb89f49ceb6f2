"""Frey Face: 1965 grey video frames of one face, 28x20 pixels."""

from __future__ import annotations

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.remote import Remote, fetch
from manifold.training.data.splits import split

NAME = "frey_face"
ITEMS = "images"
HAS_CLASSES = False
LICENCE = "Frey Face (Frey and Roweis): none stated, research use"
FILE = Remote(
    "frey_face/frey_rawface.mat",
    "https://cs.nyu.edu/~roweis/data/",
    "sha256:265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
)
HELD_OUT = 165  # number of frames for calibration
SELECTED = 100  # number of frames for selection
TRAINED = 1765  # number of frames for training, selection and calibration


def load() -> Data:
    """Load the data set. It is split by a permutation with seed 0, so that calibration and test frames are exchangeable.

    Consecutive frames are similar, so a held-out frame has near copies in the training split. Likelihoods of held-out frames are therefore
    higher than those of another film of the same face would be.
    """
    from scipy.io import loadmat

    frames = loadmat(fetch(FILE))["ff"].T.reshape(-1, 1, 28, 20)
    order = np.random.Generator(np.random.Philox(0)).permutation(len(frames))
    every = Arrays(frames[order], np.full(len(frames), -1, np.int64))
    spec = ImageSpec(height=28, width=20, channels=1)
    return split(
        NAME,
        spec,
        every[:TRAINED],
        every[TRAINED:],
        HELD_OUT,
        SELECTED,
        licence=LICENCE,
        order="permutation, Philox seed 0; a held-out frame has near copies in the training split",
    )
