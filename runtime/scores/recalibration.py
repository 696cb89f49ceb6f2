"""The calibration of a model on a file of normal rows, without training: known anomalies are left out, and unusual rows are reported."""

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
from manifold.runtime.tables import files, truth
from manifold.runtime.tables.truth import Truth

SAMPLE_ROWS, SAMPLE_BYTES = 200_000, 256 * 2**20  # a model is calibrated on at most; beyond it a sample says the same


@dataclass(frozen=True)
class Done:
    """A model that was calibrated on a file."""

    folder: Path
    text: str  # says what was done
    known_anomalies: int  # rows that were left out, as the truth names them
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
    """Publish the model anew in `root`, calibrated on a file of normal rows, which is called `name`.

    Rows that `stated`, or else the truth that `fit` was given, calls anomalies are left out. With `strict`, nothing is published if the rows
    look unlike the old calibration. The file is read twice or more and must be seekable. Of more rows than are needed, a random sample is
    taken. Raises UnsupportedTask for a model that does not score rows, and Unavailable where `stopped`, which is asked between chunks, says
    that nobody waits for the result.
    """
    width = math.prod(bulk.table_of(model).shape)
    digest = hashlib.file_digest(cast(Any, source), "sha256").hexdigest()
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
            raise Unavailable("the client has left")
    if anomalous and not reservoir.offered:
        raise InvalidValue(
            f"file: all {anomalous} rows are known anomalies ({rule}); a model is calibrated on normal rows",
            field="file",
        )
    described = f"{reservoir.size('rows')} of {cut(name)} (SHA-256 {digest[:12]}…)"
    recorded = {} if rule is None else {"truth": str(rule), "known_anomalies_left_out": anomalous}
    made = calibration.recalibrate(model, reservoir.data, root, source=described, strict=strict, **recorded)
    said = f"calibrated on {described}, {bad} bad ones left out"
    if rule is not None:
        said += f", {anomalous} known anomalies left out ({rule})" + (
            f", {unlabelled} unlabelled kept" if unlabelled else ""
        )
    elif (recorded_rule := model.manifest.spec.known_anomalies) is not None:
        said += f"; the file has no column {shown(recorded_rule.column)}, so known anomalies, if it holds some, were not left out"
    return Done(made.folder, said, anomalous, made.warnings)


def rule_of(
    model: Model, source: IO[bytes], kind: str, stated: str | None, stopped: Callable[[], bool] = lambda: False
) -> Truth | None:
    """Return the rule for known anomalies: `stated`, or the model's own if the file has its column. The file is then where it was."""
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
            raise Unavailable("the client has left")
    source.seek(start)
    return truth.settle(expression, counts, present=False)[0]


def marks_of(part: bulk.EncodedRows, rule: Truth | None) -> NDArray[np.int8]:
    """Return the mark (n,) of each valid row of a chunk."""
    if rule is None:
        return np.full(len(part.numbers), truth.UNLABELLED, np.int8)
    return rule.marks(part.also[rule.column].to_pylist(), part.notation)[part.places]


class Reservoir:
    """A sample of the rows of a stream, each as likely to be in it as any other (reservoir sampling, algorithm R).

    It has at most `most` rows, and at most SAMPLE_BYTES unless these are fewer rows than a calibration needs.
    """

    def __init__(self, most: int, width: int) -> None:
        most = min(most, max(calibration.LEAST, SAMPLE_BYTES // (4 * width)))
        self._rows = np.empty((most, width), np.float32)  # the system gives the memory as it is written
        self._generator = np.random.Generator(np.random.Philox(0))
        self.offered = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take rows (n, width) in."""
        orders = np.arange(self.offered, self.offered + len(rows))
        self.offered += len(rows)
        places = np.where(orders < len(self._rows), orders, self._generator.integers(0, orders + 1))
        taken = places < len(self._rows)
        self._rows[places[taken]] = rows[taken]

    @property
    def data(self) -> NDArray[np.float32]:
        """Return the rows that are in the sample."""
        return self._rows[: self.offered]

    def size(self, noun: str) -> str:
        """Return the size of the sample, and that of the stream if it is larger, as text with the `noun` of the rows."""
        of = "" if len(self.data) == self.offered else f" of {self.offered}"
        return f"{len(self.data)}{of} {noun}"
