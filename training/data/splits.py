"""A data set with its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.kinds import DataSpec
from manifold.training.data.parts import Array, Arrays, Part
from manifold.training.errors import TrainingError


@dataclass(frozen=True)
class FileRows:
    """The rows of a file that a data set is judged by: their numbers in the file, from 1, and which of them are known to be normal."""

    file: Path
    test: NDArray[np.int64]  # (n,)
    anomalies: NDArray[np.int64]
    normal: NDArray[np.bool_]  # (n,), of the test part; the others are unlabelled


@dataclass(frozen=True)
class Data:
    """A data set, split: `train` and `calibration` come from the official training part, `test` is the official test part."""

    name: str
    spec: DataSpec
    train: Part
    calibration: Part
    test: Part
    classes: tuple[str, ...] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)  # where the rows come from and how they were split
    factors: tuple[str, ...] = ()  # names of the parts' factors
    anomalies: Part | None = None  # known ones, which neither training nor calibration sees
    folds: int = 0  # of the training part, for calibration of a set that is too small for a part of its own; 0: none
    licence: str = ""  # of the items; the artifacts that are trained on them state it
    rows: FileRows | None = None  # of a table in a file
    notes: tuple[str, ...] = ()  # what the user should know: decisions about the data, items that were left out

    def inputs(self, part: Part) -> Array:
        """Return all items of a part as model inputs, float32."""
        return self.spec.to_model(Arrays.of(part).items)

    def of_factors(self, part: Part, names: Sequence[str]) -> Array:
        """Return columns of a part's factors by name, (N, len(names)). Raises TrainingError for unknown ones."""
        if part.factors is None or not set(names) <= set(self.factors):
            valid = ", ".join(self.factors) or "none"
            raise TrainingError(
                f"data: {self.name} lacks some of the factors {', '.join(names)}; it has {valid}",
                valid=list(self.factors),
            )
        return part.factors[:, [self.factors.index(name) for name in names]]


def split(
    name: str,
    spec: DataSpec,
    train: Arrays,
    test: Arrays,
    held_out: int,
    *,
    classes: tuple[str, ...] | None = None,
    factors: tuple[str, ...] = (),
    licence: str = "",
    **protocol: Any,
) -> Data:
    """Return a data set whose calibration part is the last `held_out` items of the training part."""
    cut = len(train) - held_out
    stated = {
        "data": name,
        "train": f"items 0 to {cut - 1} of the training part",
        "calibration": f"the last {held_out} items of the training part",
        "test": f"{len(test)} items",
        **protocol,
    }
    return Data(name, spec, train[:cut], train[cut:], test, classes, stated, factors, licence=licence)
