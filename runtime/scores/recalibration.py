"""The calibration of a model on a file of normal rows, without training. Known anomalies are left out, and unusual rows are reported."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, Unavailable, cut, shown
from manifold.runtime.scores import bulk, calibration
from manifold.runtime.tables import files, origins, truth
from manifold.runtime.tables.truth import Truth

SAMPLE_ROWS, SAMPLE_BYTES = 200_000, 256 * 2**20  # limits for a calibration; a sample of this size is enough


@dataclass(frozen=True)
class Done:
    """The result of a calibration on a file."""

    folder: Path
    text: str  # a summary for the user
    known_anomalies: int  # number of rows left out because the truth marks them as anomalies
    warnings: tuple[str, ...] = ()


def recalibrate(
    model: Model,
    source: IO[bytes],
    kind: str,
    root: Path,
    *,
    name: str,
    stated: str | None = None,
    strict: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Done:
    """Publish the model in `root` as its next version, calibrated on a file of normal rows with the name `name`.

    Known anomalies are left out: those that `stated` or, if it is None, the rule recorded by `fit` marks. With `strict`, nothing is published
    if the rows differ from the old calibration. The file is read at least twice and must be seekable. If there are more rows than needed, a
    random sample is used. `stopped` is called between chunks. Raises Unavailable if it returns true (no client waits for the result any more), and
    UnsupportedTask for a model that does not score rows.
    """
    width = math.prod(bulk.table_of(model).shape)
    digest = hashlib.file_digest(cast(Any, source), "sha256").hexdigest()
    fitted = model.manifest.provenance.get("data")
    fitted = fitted if isinstance(fitted, dict) else {}
    trained_on = digest == fitted.get("sha256") or origins.begins_with_fitted(source, fitted)
    source.seek(0)
    rule = rule_of(model, source, kind, stated, stopped)
    reservoir = Reservoir(SAMPLE_ROWS, width)
    bad = anomalous = unlabelled = 0
    for part in bulk.encoded(model, source, kind, also=() if rule is None else (rule.column,)):
        marks = marks_of(part, rule)
        reservoir.add(part.data[marks != truth.ANOMALOUS])
        bad, anomalous = bad + len(part.bad), anomalous + int((marks == truth.ANOMALOUS).sum())
        unlabelled += int((marks == truth.UNLABELLED).sum())
        if stopped():
            raise Unavailable("the client closed the connection")
    if anomalous and not reservoir.offered:
        raise InvalidValue(
            f"file: all {anomalous} rows are known anomalies ({rule}); give a file with normal rows",
            field="file",
        )
    described = f"{reservoir.size('rows')} of {cut(name)} (SHA-256 {digest[:12]}…)"
    left_out: dict[str, Any] = {} if rule is None else {"truth": str(rule), "known_anomalies_left_out": anomalous}
    made = calibration.recalibrate(
        model, reservoir.data, root, source=described, trained_on=trained_on, strict=strict, sha256=digest, **left_out
    )
    warnings = made.warnings
    said = f"calibrated on {described}, {bad} invalid rows left out"
    if rule is not None:
        said += f", {anomalous} known anomalies left out ({rule})" + (
            f", {unlabelled} unlabelled rows kept" if unlabelled else ""
        )
    elif (recorded_rule := model.manifest.spec.known_anomalies) is not None:
        warnings += (
            f"the file has no column {shown(recorded_rule.column)}, so known anomalies could not be left out; if it contains anomalies, remove them or "
            "give --truth",
        )
    return Done(made.folder, said, anomalous, warnings)


def rule_of(
    model: Model, source: IO[bytes], kind: str, stated: str | None, stopped: Callable[[], bool] = lambda: False
) -> Truth | None:
    """Return the rule for known anomalies: `stated`, or the rule of the model if the file has its column. The file position is restored."""
    spec = bulk.table_of(model)
    own = spec.known_anomalies
    if stated is None and own is None:
        return None
    there = spec.header(source, kind)
    if stated is None:
        return own if own is not None and own.column in there else None
    expression = truth.parse(stated, there)
    if own is not None and expression.test is None and expression.column == own.column:
        return own
    start, counts = source.tell(), truth.Counts()
    for chunk in spec.chunks(source, kind, files.CHUNK_ROWS, (expression.column,)):
        counts.notation = chunk.notation
        counts.add(chunk.also[expression.column].to_pylist())
        if stopped():
            raise Unavailable("the client closed the connection")
    source.seek(start)
    return truth.settle(expression, counts, present=False)[0]


def marks_of(part: bulk.EncodedRows, rule: Truth | None) -> NDArray[np.int8]:
    """Return the marks (n,) of the valid rows of a chunk."""
    if rule is None:
        return np.full(len(part.numbers), truth.UNLABELLED, np.int8)
    return rule.marks(part.also[rule.column].to_pylist(), part.notation)[part.places]


class Reservoir:
    """A uniform random sample of the rows of a stream (reservoir sampling, algorithm R).

    It has at most `most` rows and at most SAMPLE_BYTES, but never fewer rows than a calibration needs.
    """

    def __init__(self, most: int, width: int) -> None:
        most = min(most, max(calibration.LEAST, SAMPLE_BYTES // (4 * width)))
        self._rows = np.empty((most, width), np.float32)  # the system allocates the memory when it is written
        self._generator = np.random.Generator(np.random.Philox(0))
        self.offered = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add rows (n, width)."""
        orders = np.arange(self.offered, self.offered + len(rows))
        self.offered += len(rows)
        places = np.where(orders < len(self._rows), orders, self._generator.integers(0, orders + 1))
        taken = places < len(self._rows)
        self._rows[places[taken]] = rows[taken]

    @property
    def data(self) -> NDArray[np.float32]:
        """The rows of the sample."""
        return self._rows[: self.offered]

    def size(self, noun: str) -> str:
        """Return the size of the sample, and of the stream if it is larger, as text such as `200000 of 300000 rows`."""
        of = "" if len(self.data) == self.offered else f" of {self.offered}"
        return f"{len(self.data)}{of} {noun}"
