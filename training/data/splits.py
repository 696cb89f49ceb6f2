"""A data set with its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import cut
from manifold.runtime.kinds import DataSpec
from manifold.training.data.parts import Array, Arrays, Part
from manifold.training.errors import TrainingError


@dataclass(frozen=True)
class FileRows:
    """The rows of a file that are used for evaluation: their numbers in the file, from 1, and whether each is known to be normal."""

    file: Path
    test: NDArray[np.int64]  # (n,)
    anomalies: NDArray[np.int64]
    normal: NDArray[np.bool_]  # (n,), for the test split; other rows are unlabelled


@dataclass(frozen=True)
class Data:
    """A data set with splits. `train` and `calibration` come from the official training split, and `test` is the official test split."""

    name: str
    spec: DataSpec
    train: Part
    calibration: Part
    test: Part
    classes: tuple[str, ...] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)  # source of the items and description of the splits
    factors: tuple[str, ...] = ()  # names of the factors
    anomalies: Part | None = None  # known anomalies, which are not used in training or calibration
    folds: int = 0  # number of training folds for calibration, if there are too few items for a calibration split
    licence: str = ""  # licence of the items; stated in artifacts that are trained on them
    rows: FileRows | None = None  # for a table in a file
    notes: tuple[str, ...] = ()  # notes for the user: decisions about the data, items that were skipped

    def inputs(self, part: Part) -> Array:
        """Return all items of a split as model inputs, float32."""
        return self.spec.to_model(Arrays.of(part).items)

    def of_factors(self, part: Part, names: Sequence[str]) -> Array:
        """Return these columns of a split's factors, (N, len(names)). Raises TrainingError for unknown names."""
        if part.factors is None or not set(names) <= set(self.factors):
            valid = ", ".join(self.factors) or "none"
            raise TrainingError(
                f"data: {self.name} lacks some of the factors {cut(', '.join(names))}; its factors are {valid}",
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
    """Return a data set whose calibration split is the last `held_out` items of the training split."""
    end = len(train) - held_out
    stated = {
        "data": name,
        "train": f"items 0 to {end - 1} of the training split",
        "calibration": f"the last {held_out} items of the training split",
        "test": f"{len(test)} items",
        **protocol,
    }
    return Data(name, spec, train[:end], train[end:], test, classes, stated, factors, licence=licence)
