"""Credit card fraud: 13 654 real transactions of two days, of which 473 are frauds, as 28 principal components and the amount.

These rows are a subset of the data set of the machine learning group of the ULB, which several sources distribute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from manifold.training.data import Data, tables
from manifold.training.data.parts import Array
from manifold.training.data.remote import Remote, fetch
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.tables import Roles

NAME = "creditcard"
ITEMS = "rows"
HAS_CLASSES = False
LICENCE = "credit card fraud (ULB machine learning group): DbCL 1.0 / ODbL 1.0"
FILE = Remote(
    "creditcard_subset/creditcard_subset.npz",
    "",
    "sha256:00d1ad62fca605790e74efecb7cbd7617cb94038c09e0f12fd10c875bb458de2",
)


def load() -> Data:
    """Load the data set. Frauds are known anomalies, and genuine rows are split by a permutation. The column Time is left out."""
    with np.load(fetch(FILE), allow_pickle=False) as content:
        table: dict[str, Array] = {str(name): content["X"][:, place] for place, name in enumerate(content["columns"])}
        table["Class"] = content["y"].astype(np.int64)
    protocol = {"source": "creditcard_subset, of the ULB set", "fraud_rate": "3.5% here, 0.17% in the whole set"}
    data = tables.from_table(NAME, table, protocol, ColumnSettings(kinds={"Time": "ignore"}), roles=Roles("Class"))
    return replace(data, licence=LICENCE)
