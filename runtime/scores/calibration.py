"""Calibration: the scores of items that were not used in training. p-values and the tails of a combination come from them.

Recalibration publishes the same graphs with another calibration sample as a new version. Normal data drifts, and the user's own normal rows
predict the false alarm rate better than a held-out split of the training data.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import repository, revisions
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import COMBINED, Calibration, Manifest, Scoring
from manifold.runtime.operations import Scores
from manifold.runtime.operations.common import takes
from manifold.runtime.scores import departures, measured
from manifold.runtime.scores.scoring import Float64, cross_combined

LEAST = 20  # smallest number of items; the smallest p-value is then 1/21, which responses state
QUANTILE = 0.999  # the quantile of the surprise that is shown as white


class Surprise:
    """The statistics of the nats of n calibration items: their QUANTILE and, for a kind with parts, the mean of each part.

    Items are added in batches. Both statistics are exact, although only the largest values are kept, one in a thousand.
    """

    def __init__(self, n: int, spec: Kind) -> None:
        self.n, self.has_parts = n, spec.parts is not None
        self._largest: NDArray[Any] | None = None
        self._sums: NDArray[Any] | None = None  # sum for each part

    def add(self, nats: NDArray[Any]) -> None:
        """Add the nats of a batch (b, parts), or (b, *shape) if the kind has no parts."""
        values = nats.ravel() if self._largest is None else np.concatenate([self._largest, nats.ravel()])
        self._fraction, below = math.modf((self.n * math.prod(nats.shape[1:]) - 1) * QUANTILE)
        kept = self.n * math.prod(nats.shape[1:]) - int(below)
        self._largest = np.partition(values, -kept)[-kept:] if values.size > kept else values
        if self.has_parts:
            self._sums = (nats if self._sums is None else np.concatenate([self._sums[None], nats])).sum(axis=0)

    def figures(self) -> dict[str, object]:
        """Return the statistics with their names in `scoring` of the manifest; empty if nothing was added."""
        if self._largest is None:
            return {}
        around = np.sort(self._largest)[:2]  # the values before and after the quantile
        found: dict[str, object] = {"surprise_scale": max(float(np.quantile(around, self._fraction)), 1e-6)}
        if self._sums is not None:
            found["surprise_mean"] = tuple(float(value) for value in self._sums / self.n)
        return found


def write(
    scoring: Scoring,
    batches: Iterable[Scores],
    folder: Path,
    *,
    n: int,
    source: str,
    spec: Kind,
    shift: str | None = None,
) -> Scoring:
    """Store calibration scores in the folder of an artifact. Return the `scoring` section of the manifest that refers to them.

    `batches` are the scores of n items in total, in any order. `shift` is the reason why these items and the test items are not exchangeable.
    Raises InvalidValue for fewer than LEAST items, and for scores that are not
    finite.
    """
    _check_many(n, spec)
    surprise = Surprise(n, spec)
    values = _terms(scoring, batches, surprise)
    for name, term in values.items():
        if not np.isfinite(term).all():
            raise InvalidValue(
                f"rows: {name} is not finite for some rows; remove rows with extreme values", field="rows"
            )
    if scoring.combination is not None:
        values[COMBINED] = cross_combined(scoring.combination, values)
    calibration = Calibration(id="", n=n, created=now(), source=source, shift=shift)
    _save(folder / calibration.file, values)
    record = repository.digest(folder / calibration.file)
    named = calibration.model_copy(update={"id": f"cal-{record.sha256[:8]}"})
    return scoring.model_copy(update={"calibration": named, **surprise.figures()})


def _check_many(n: int, spec: Kind) -> None:
    """Raise InvalidValue for fewer items than a calibration needs."""
    if n < LEAST:
        raise InvalidValue(
            f"{spec.noun}: {n} are too few for a calibration; give at least {LEAST}, better 1000", field=spec.noun
        )


def _terms(scoring: Scoring, batches: Iterable[Scores], surprise: Surprise) -> dict[str, Float64]:
    """Return the terms of all batches by name, (n,) each. Adds the nats of each batch to `surprise`."""
    pieces: dict[str, list[Float64]] = {term.name: [] for term in scoring.terms}
    for scores in batches:
        for name, values in pieces.items():
            values.append(scores.terms[name])
        if scores.surprise is not None:
            surprise.add(scores.surprise)
    return {name: np.concatenate(values) for name, values in pieces.items()}


def _save(path: Path, values: Mapping[str, Float64]) -> None:
    arrays: dict[str, NDArray[np.float64]] = {name: np.sort(term) for name, term in values.items()}
    with repository.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Recalibrated:
    """The result of a recalibration."""

    folder: Path
    warnings: tuple[str, ...]  # about rows that differ from the old calibration


def recalibrate(
    model: Model,
    data: NDArray[np.float32],
    root: Path,
    *,
    source: str,
    trained_on: bool = False,
    shift: str | None = None,
    strict: bool = False,
    **recorded: Any,
) -> Recalibrated:
    """Publish the artifact in `root` as its next version, calibrated on `data` (n, *shape). The graphs do not change.

    The figures that were measured with the old calibration are left out, and so is the statement on its test items. `trained_on` says that the
    model was trained on some of these items: the calibration records it, and there is a warning. `shift` is the reason why the items and test
    items are not exchangeable, if there are test items. `recorded` is added to the provenance. Raises
    UnsupportedTask for a model without a score, or with conditions other than classes, and with `strict` InvalidValue if there are warnings.
    """
    scoring, manifest = model.manifest.scoring, model.manifest
    conditional = scoring is not None and takes(manifest.tasks["score"]) and manifest.classes is None
    if scoring is None or conditional:
        raise UnsupportedTask(
            f"model: {manifest.name} cannot be calibrated: it {'has conditions other than classes' if conditional else 'has no score'}; use another model",
            field="model",
        )
    _check_many(len(data), manifest.spec)
    noun, found = manifest.spec.noun, list[str]()
    if trained_on:
        found.append(
            f"the model was trained on some of these {noun}, so more normal {noun} than requested will be flagged; calibrate on {noun} that it was "
            "not trained on"
        )
    shift = f"the model was trained on some of the calibration {noun}" if trained_on else shift

    def change(folder: Path, plain: Manifest) -> Manifest:
        scores = model.score(data)
        calibrated = write(scoring, [scores], folder, n=len(data), source=source, spec=manifest.spec, shift=shift)
        placed = model.calibrated.place(scores.terms)[scoring.score]
        found.extend(departures.warnings(model.calibrated, scoring.score, placed, noun))
        if found and strict:
            raise InvalidValue(
                f"{noun}: {'; '.join(found)}. Nothing was published, because --strict was given", field=noun
            )
        earlier = {
            "version": manifest.version,
            "n": scoring.calibration.n if scoring.calibration else 0,
            "calibrated": now(),
            **recorded,
            **({"warnings": found} if found else {}),
        }
        provenance = {**plain.provenance, "recalibrated": earlier}
        stale = measured.of_calibration(plain.metrics)
        kept = tuple(metric for metric in plain.metrics if metric not in stale)
        return plain.model_copy(update={"scoring": calibrated, "provenance": provenance, "metrics": kept})

    return Recalibrated(revisions.publish(model, root, change), tuple(found))
