"""A family trained and exported without files: torch computes the outputs of the artifact's tasks. For studies with many trainings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import operations
from manifold.runtime.manifest import COMBINED, Manifest, TaskSpec
from manifold.runtime.operations import Steps
from manifold.runtime.scores.scoring import combine
from manifold.runtime.scores.tails import Tail
from manifold.training import families, runs
from manifold.training.data import Data
from manifold.training.export import exports
from manifold.training.exporting import folds
from manifold.training.exporting.tasks import Exports
from manifold.training.train import train

Array = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A trained model with the data that the endpoints need."""

    manifest: Manifest
    exported: Exports
    calibration: dict[str, Array]  # score terms of items that were not in training

    def in_pieces(self, use: Callable[[Array, slice], Steps[Array]], items: Array, size: int = 2000) -> Array:
        """Run an endpoint on a few items at a time, so that the draws for all items need not fit into memory at once."""
        cuts = [slice(start, start + size) for start in range(0, len(items), size)]
        return np.concatenate([self.exported.drive(use(items[cut], cut)) for cut in cuts])

    def score(self, items: Array) -> dict[str, Array]:
        """Return the terms of the score, each (n,), and their combination, as the artifact would give them."""
        terms, scoring = _terms(self.manifest, self.exported, items), self.manifest.scoring
        if scoring is None or scoring.combination is None:
            return terms
        tails = {name: Tail.fit(self.calibration[name]) for name in scoring.combination.terms}
        return {**terms, COMBINED: combine(scoring.combination, tails, terms)}

    def rank(self, items: Array) -> Array:
        """Return the combined score alone, (n,)."""
        assert self.manifest.scoring is not None
        return self.score(items)[self.manifest.scoring.score]


def fit(family: str, data: Data, **changes: Any) -> Trained:
    """Train on the CPU with the family's `cpu` preset and these changes to it."""
    module = families.get(family)
    config = module.Config.model_validate({**module.PRESETS["cpu"], **changes})
    with tempfile.TemporaryDirectory() as scratch:
        run = runs.TrainingRun(Path(scratch) / "run", family, data.name, "cpu", config)
        train(run, data, device="cpu", quiet=True, watch=False)
        exported = exports(run, data)
        tasks = {
            name: TaskSpec(graph=f"{name}.onnx", inputs=tuple(task.inputs), outputs=tuple(task.outputs))
            for name, task in exported.tasks.items()
        }
        manifest = Manifest(
            name="trained", version=1, data=data.spec, tasks=tasks, latent=exported.latent, scoring=exported.scoring,
            classes=data.classes if exported.classes else None, classification=exported.classification,
        )  # fmt: skip
        if data.folds:
            pieces = [scores.terms for scores in folds.scores(run.resolved(data), data, manifest)]
            calibration = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        else:
            calibration = _terms(manifest, exported, data.inputs(data.calibration))
    return Trained(manifest, exported, calibration)


def _terms(manifest: Manifest, exported: Exports, items: Array, size: int = 2000) -> dict[str, Array]:
    pieces = [
        exported.drive(operations.score(manifest, items[start : start + size])) for start in range(0, len(items), size)
    ]
    return {name: np.concatenate([piece.terms[name] for piece in pieces]) for name in pieces[0].terms}
