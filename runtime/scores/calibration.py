"""Calibration: the scores of items that training never saw, from which p-values and the tails of a combination are read.

Also recalibration: the same graphs with another sample, as a new version. What is normal drifts, and a client's own normal rows say more
about the client's false alarms than any held-out part of the training data.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import COMBINED, Calibration, Scoring
from manifold.runtime.operations import Scores
from manifold.runtime.scores.scoring import Float64, cross_combined

LEAST = 20  # items; p-values then resolve 1 in 21, and the answer says so
QUANTILE = 0.999  # of the surprise, that is drawn white


def write(scoring: Scoring, scores: Scores, folder: Path, *, source: str, spec: Kind) -> Scoring:
    """Stores calibration scores in an artifact's folder and returns the section of the manifest that refers to them.

    `scores` are of n items in an order that does not matter. Raises InvalidValue for fewer than LEAST, or scores that are not finite.
    """
    values: dict[str, Float64] = dict(scores.terms)
    n = len(values[scoring.terms[0].name])
    if n < LEAST:
        raise InvalidValue(
            f"rows: {n} are too few to calibrate on; at least {LEAST} are needed, better 1000", field="rows"
        )
    for name, term in values.items():
        if not np.isfinite(term).all():
            raise InvalidValue(f"rows: {name} is not finite for some of them", field="rows")
    if scoring.combination is not None:
        values[COMBINED] = cross_combined(scoring.combination, scores.terms)
    calibration = Calibration(id="", n=n, created=now(), source=source)
    _save(folder / calibration.file, values)
    record = repository.digest(folder / calibration.file)
    update: dict[str, object] = {"calibration": calibration.model_copy(update={"id": f"cal-{record.sha256[:8]}"})}
    if scores.surprise is not None:
        update["surprise_scale"] = max(float(np.quantile(scores.surprise, QUANTILE)), 1e-6)
        if (usual := spec.usual(scores.surprise)) is not None:
            update["surprise_mean"] = usual
    return scoring.model_copy(update=update)


def _save(path: Path, values: Mapping[str, Float64]) -> None:
    arrays: dict[str, NDArray[np.float64]] = {name: np.sort(term) for name, term in values.items()}
    with repository.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def recalibrate(model: Model, data: NDArray[np.float32], root: Path, *, source: str) -> Path:
    """Publishes the artifact anew in `root`, calibrated on `data` (n, *shape), as its next version; the graphs are the same.

    Raises UnsupportedTask for a model without a score, or one that is told real values.
    """
    scoring, manifest = model.manifest.scoring, model.manifest
    if scoring is None or manifest.conditions is not None:
        raise UnsupportedTask(
            f"{manifest.name} cannot be calibrated: it {'is told real values' if scoring else 'carries no score'}",
            field="model",
        )
    plain = manifests.read(model.folder)  # as it is stored: padding that this machine needs is not the artifact's
    with repository.staging(root, manifest.name) as folder:
        repository.copy(model.folder, folder)
        calibrated = write(scoring, model.score(data), folder, source=source, spec=manifest.spec)
        earlier = {
            "version": plain.version,
            "n": scoring.calibration.n if scoring.calibration else 0,
            "calibrated": now(),
        }
        made = plain.model_copy(
            update={
                "version": repository.next_version(root, manifest.name),
                "scoring": calibrated,
                "files": repository.records(folder),
                "provenance": {**plain.provenance, "recalibrated": earlier},
            }
        )
        (folder / manifests.FILE).write_text(manifests.dumps(made))
        load(folder, device="cpu")
        return repository.publish_next(folder, root, made)
