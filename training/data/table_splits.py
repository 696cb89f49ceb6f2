"""The random split of a table's rows into training, calibration and test rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import shown
from manifold.runtime.tables import origins
from manifold.runtime.tables.truth import ANOMALOUS
from manifold.training.data.parts import Array
from manifold.training.errors import DataError

# the rules for a split, as protocols state them. Earlier versions split files by a permutation
BY_PERMUTATION = "permutation, Philox seed 0"
BY_BLOCKS = "at random within each 10 rows, Philox seed 0"
BLOCK = 10  # number of rows of which one is held out
SMALL, FOLDS = 2000, 5  # tables with fewer rows are calibrated by this number of folds of the training rows


def split(marks: NDArray[np.int8], rule: str) -> dict[str, Array]:
    """Return the indices of each split's rows: known anomalies, and a random split (seed 0) of all other rows by this rule.

    80% are for training, 10% for calibration and 10% for tests; of fewer than SMALL rows, 90% are for training. BY_PERMUTATION permutes all rows.
    BY_BLOCKS draws one test row and one calibration row from each BLOCK rows. It is the rule for files: if rows are appended to a file, a
    test row stays a test row, and a calibration row is not trained on. `marks` (n,) are those of runtime.tables.truth. Raises DataError
    for an unknown rule.
    """
    rest = np.flatnonzero(marks != ANOMALOUS)
    n = len(rest)
    generator = np.random.Generator(np.random.Philox(0))
    if rule == BY_PERMUTATION:
        order = rest[generator.permutation(n)]
        trained = n * 9 // 10 if n < SMALL else n * 8 // 10
        train, calibration, test = order[:trained], order[trained : n * 9 // 10], order[n * 9 // 10 :]
    elif rule == BY_BLOCKS:
        # a block's draws do not depend on later blocks, so appended rows change no earlier one
        place = generator.random((-(-n // BLOCK), BLOCK)).argsort(axis=1).ravel()[:n]
        calibrates, tests = (place == 1) & (n >= SMALL), place == 0
        chosen = (rest[which] for which in (~calibrates & ~tests, calibrates, tests))
        train, calibration, test = (which[generator.permutation(len(which))] for which in chosen)
    else:
        raise DataError(
            f"data: the split {shown(rule)} is unknown; a newer version of Manifold made it, so update Manifold"
        )
    return {"train": train, "calibration": calibration, "test": test, "anomalies": np.flatnonzero(marks == ANOMALOUS)}


def unseen(
    path: Path, fitted: Mapping[str, Any], same: bool, numbers: NDArray[np.int64], marks: NDArray[np.int8]
) -> tuple[dict[str, Array], int]:
    """Return the indices of each split's rows of a file for evaluation, and the number of rows that were appended to the fitted file.

    `fitted` is the protocol of the data that a model was fitted to, and `same` whether the file is unchanged since. If the file begins with this
    data, its test rows and the later rows are test rows; if not, all rows are. `numbers` (n,) are the numbers of the rows in the file, and
    `marks` (n,) their marks by the model's truth rule.
    """
    with path.open("rb") as source:
        known = same or origins.begins_with_fitted(source, fitted)
    if not known:
        none = np.zeros(0, np.int64)
        return {"train": none, "calibration": none, "test": np.arange(len(marks)), "anomalies": none}, 0
    count = len(marks) if same else int((numbers <= fitted["rows"]).sum())
    places = split(marks[:count], str(fitted.get("split", BY_PERMUTATION)))
    places["test"] = np.concatenate([places["test"], np.arange(count, len(marks))])
    return places, len(marks) - count
