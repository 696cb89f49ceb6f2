"""NSL-KDD for /classify and /impute: all rows of KDDTrain+ with the five classes. KDDTest+ is the test split."""

from __future__ import annotations

import numpy as np

from manifold.training.data import Data, tables
from manifold.training.data.schema import OTHERS, ColumnSettings
from manifold.training.datasets import nslkdd

NAME = "nslkdd-classes"
ITEMS = "rows"
HAS_CLASSES = True
LICENCE = nslkdd.LICENCE
KINDS = ColumnSettings(kinds={**nslkdd.KINDS.kinds, OTHERS: "quantile"})


def load() -> Data:
    """Load the data set. KDDTrain+ is split by a permutation."""
    (train, kinds), (test, test_kinds) = (nslkdd.connections(remote) for remote in nslkdd.FILES)
    order = np.random.Generator(np.random.Philox(0)).permutation(len(kinds))
    train = {**train, "label": kinds}
    parts = {
        "train": tables.take(train, order[: -nslkdd.CALIBRATION]),
        "calibration": tables.take(train, order[-nslkdd.CALIBRATION :]),
        "test": {**test, "label": test_kinds},
    }
    return tables.from_parts(NAME, parts, nslkdd.PROTOCOL, KINDS, "label", licence=LICENCE, shift=nslkdd.SHIFT)
