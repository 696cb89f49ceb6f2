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

OFFICIAL = "the test split is the official one and was collected separately"  # a `shift`
BY_CALIBRATION = "the calibration split"  # the selection split of a protocol without one
BY_FOLDS = (
    "the model was calibrated by folds, and the models of the folds score somewhat differently than the final model"
)


@dataclass(frozen=True)
class FileRows:
    """The rows of a file that are used for evaluation: their numbers in the file, from 1, and whether each is known to be normal."""

    file: Path
    test: NDArray[np.int64]  # (n,)
    anomalies: NDArray[np.int64]
    normal: NDArray[np.bool_]  # (n,), for the test split; other rows are unlabelled
    held_out: bool = True  # False for another file, which may contain rows that the model was trained on


@dataclass(frozen=True)
class Data:
    """A data set with splits.

    A model is trained on `train`. Recipes, presets and decays of averages are chosen on `selection`. Scores and class probabilities are
    calibrated on `calibration`. Figures are reported on `test`, which nothing is chosen on. If there is an official test split, `test` is
    this split, and the others come from the official training split.
    """

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
    selection: Part | None = None  # if absent, the calibration split takes its place
    shift: str = ""  # the reason why calibration and test items are not exchangeable; empty if both are drawn from the same items at random

    @property
    def chosen_on(self) -> Part | None:
        """Return the split on which options are chosen: the selection split, else the calibration split; None if both are absent."""
        if self.selection is not None and len(self.selection):
            return self.selection
        return self.calibration if len(self.calibration) else None

    @property
    def differs(self) -> str:
        """Return the reason why calibration scores and test scores are not exchangeable: the shift, or a calibration by folds; empty if they are."""
        return self.shift or (BY_FOLDS if self.folds else "")

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
    selected: int,
    *,
    shift: str = "",
    classes: tuple[str, ...] | None = None,
    factors: tuple[str, ...] = (),
    licence: str = "",
    **protocol: Any,
) -> Data:
    """Return a data set whose calibration split is the last `held_out` items of the training split, after a selection split of `selected` items."""
    end = len(train) - held_out
    trained = end - selected
    stated = {
        "data": name,
        "train": f"items 0 to {trained - 1} of the training split",
        "selection": f"items {trained} to {end - 1} of the training split",
        "calibration": f"the last {held_out} items of the training split",
        "test": f"{len(test)} items",
        **({"shift": shift} if shift else {}),
        **protocol,
    }
    return Data(
        name, spec, train[:trained], train[end:], test, classes, stated, factors, licence=licence, selection=train[trained:end], shift=shift
    )  # fmt: skip
