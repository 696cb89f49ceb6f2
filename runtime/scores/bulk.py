"""Scoring of files of rows as streams: with constant memory and in order. Invalid rows are reported with a reason, all others are scored.

Rows are numbered from 1 in the order of the file. runtime.scores.scored_rows writes them as NDJSON or Parquet, and
runtime.scores.csv_rows as CSV.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import LISTED, InvalidValue, UnsupportedTask, shown
from manifold.runtime.kinds import Kind
from manifold.runtime.operations import Scores
from manifold.runtime.repository import replacing
from manifold.runtime.scores import decisions, reasons, scoring
from manifold.runtime.scores.csv_rows import CsvWriter
from manifold.runtime.scores.decisions import Judged, Rule
from manifold.runtime.scores.scored_rows import CarriedValues, NdjsonWriter, ParquetWriter, ScoredRows, Writer
from manifold.runtime.tables import files
from manifold.runtime.tables.columns import Outside
from manifold.runtime.tables.schema import Carry
from manifold.runtime.tables.values import Notation

Array = NDArray[Any]
P = ParamSpec("P")

SUFFIXES = (".csv", ".parquet", ".ndjson", ".jsonl")  # output formats
MANY, LEAST_MANY = (
    0.1,
    10,
)  # share and number of rows with values unseen in training from which on a note names the column
WAITING = 200_000  # rows that the first pass of a budget buffers before it selects the most anomalous ones


@dataclass
class Total:
    """The counts of the rows processed so far."""

    rows: int = 0  # rows that were scored
    bad: int = 0  # rows that could not be scored
    flagged: int = 0  # rows that are anomalies by the rule
    undecided: int = 0  # rows that the rule does not decide
    states: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # about the file, and why rows are undecided
    outside: dict[str, Outside] = field(default_factory=dict)  # values that did not occur in training, by column
    decimal: str | None = None  # decimal separator of a CSV file

    def counts(self) -> dict[str, Any]:
        """Return the counts by name."""
        return {name: value for name, value in vars(self).items() if name not in ("notes", "outside", "decimal")}

    def told(self) -> list[str]:
        """Return the notes, with one for each column in which many rows have values that did not occur in training."""
        rows = self.rows + self.bad
        return self.notes + [
            f"column {shown(name)}: {found.rows} of {rows} rows have a value that did not occur in training, such as {shown(found.example)}; check "
            "the spelling and the unit of the column, or fit the model again"
            for name, found in self.outside.items()
            if found.rows >= max(LEAST_MANY, MANY * rows)
        ]

    def add(self, scored: ScoredRows) -> None:
        """Add the rows of one chunk."""
        self.notes += scored.notes
        self.decimal = scored.decimal
        self.rows += len(scored.numbers)
        self.bad += len(scored.bad)
        for name, found in scored.outside.items():
            self.outside[name] = self.outside[name] + found if name in self.outside else found
        if scored.judged is not None:
            self.flagged += int(scored.judged.flagged.sum())
            self.undecided += int(scored.judged.undecided.sum())
            self.notes += [note for note in scored.judged.notes if note not in self.notes]
            for state, count in zip(*np.unique(scored.judged.states, return_counts=True), strict=True):
                name = decisions.STATES[state]
                self.states[name] = self.states.get(name, 0) + int(count)


def table_of(model: Model) -> Kind:
    """Return the spec of the model's rows. Raise UnsupportedTask for a model of other items, or a model without a score."""
    spec = model.manifest.spec
    if not spec.in_files or model.manifest.scoring is None:
        lacks = "it has no score" if spec.in_files else f"its items are {spec.noun}"
        raise UnsupportedTask(
            f"model: {model.manifest.name} does not score rows: {lacks}; use a model of rows with a score",
            field="model",
        )
    return spec


@dataclass
class EncodedRows:
    """The rows of a chunk as model inputs."""

    numbers: NDArray[np.int64]  # (n,)
    data: NDArray[np.float32]  # (n, width)
    warnings: list[list[str]]
    bad: dict[int, str]
    table: dict[str, Array]  # columns as read from the file, including bad rows
    places: Array  # positions of the n rows in the table
    also: dict[str, Any]  # additional columns as pyarrow arrays, for all rows in the table
    bad_places: dict[int, int]  # positions in the table of bad rows, by row number, if they are in the table
    outside: dict[str, Outside]  # by column
    notation: Notation  # notation of the texts in `also`


def encoded(
    model: Model, source: IO[bytes], kind: str, *, rows: int = files.CHUNK_ROWS, also: Sequence[str] = ()
) -> Iterator[EncodedRows]:
    """Yield the rows of a file in chunks, as model inputs. Raises InvalidValue if too many rows are invalid."""
    spec = table_of(model)
    missing = any(tensor.missing for tensor in model.manifest.tasks["score"].inputs)
    total = invalid = 0
    for chunk in spec.chunks(source, kind, rows, also):
        table = spec.encode(chunk.table, missing=missing)
        keep = np.ones(len(chunk.numbers), bool)
        keep[list(table.bad)] = False
        keep[np.isin(chunk.numbers, list(chunk.bad))] = False
        bad = dict(
            sorted({**{int(chunk.numbers[at]): reason for at, reason in table.bad.items()}, **chunk.bad}.items())
        )
        places = np.flatnonzero(keep)
        numbers = chunk.numbers.tolist()
        warnings = [[*table.warnings.get(at, []), *chunk.notes.get(numbers[at], [])] for at in places.tolist()]
        bad_places = {numbers[at]: at for at in np.flatnonzero(~keep).tolist()}
        yield EncodedRows(
            chunk.numbers[keep],
            table.data[keep],
            warnings,
            bad,
            chunk.table,
            places,
            chunk.also,
            bad_places,
            table.outside,
            chunk.notation,
        )
        total, invalid = total + len(places) + len(bad), invalid + len(bad)
        if bad:
            files.check_invalid(invalid, total, *next(reversed(bad.items())))


def steps(
    model: Model,
    source: IO[bytes],
    kind: str,
    rule: Rule,
    *,
    explain: bool = False,
    rows: int = files.CHUNK_ROWS,
    carry: Carry | None = None,
) -> Iterator[ScoredRows | None]:
    """Yield the scored rows of a file in chunks, and None after each chunk of a first pass, so that the caller can stop there.

    With a budget or a false discovery rate, the file is read twice and must be seekable. `carry` names the columns that are copied to the
    output; by default the columns that the model records.
    """
    scored_by = model.manifest.scoring
    spec = table_of(model)
    assert scored_by is not None
    rule.check(model.manifest)
    if explain:
        reasons.check_explains(model.manifest)
    carry, notes = _present(spec.carried if carry is None else carry, spec, source, kind)
    chosen, line, found = None, None, None
    if rule.budget is not None:
        start, strangest = source.tell(), Strangest(rule.budget)
        for numbers, values in _scores(model, encoded(model, source, kind, rows=rows)):
            strangest.add(numbers, values)
            yield None
        chosen, least = strangest.result()
        line = model.calibrated.line_at(scored_by.score, least)
        source.seek(start)
    if rule.fdr is not None:
        start, found = source.tell(), decisions.Discoveries(model.calibrated.n, rule.fdr)
        for _, values in _scores(model, encoded(model, source, kind, rows=rows)):
            found.add(model.calibrated.p_values(scored_by.score, values))
            yield None
        source.seek(start)
    for part in encoded(model, source, kind, rows=rows, also=carry.names):
        told, notes = notes, []
        carried, decimal = _carried(part, carry), part.notation.decimal if kind == "csv" else None
        if not len(part.data):
            yield ScoredRows(part.numbers, None, [], None, part.bad, carried, told, part.outside, decimal)
            continue
        scores = model.score(part.data)
        taken = None if chosen is None else _among(part.numbers, chosen)
        unknown = decisions.are_unknown(part.warnings)
        judged = decisions.judge(scored_by, model.calibrated, scores.terms, unknown, rule, chosen=taken, found=found)
        if line is not None:  # the threshold of the whole file, not of this chunk
            judged = dataclasses.replace(judged, threshold=line)
        explanations = _explained(model, part, scores, judged) if explain else None
        yield ScoredRows(
            part.numbers, judged, part.warnings, explanations, part.bad, carried, told, part.outside, decimal
        )


def _without_pauses(steps: Callable[P, Iterator[ScoredRows | None]]) -> Callable[P, Iterator[ScoredRows]]:
    """Return a function with the same arguments that yields only the scored rows."""

    def score(*given: P.args, **options: P.kwargs) -> Iterator[ScoredRows]:
        return (part for part in steps(*given, **options) if part is not None)

    return score


score = _without_pauses(steps)  # for callers that do not stop between chunks


def _present(carry: Carry, spec: Kind, source: IO[bytes], kind: str) -> tuple[Carry, list[str]]:
    """Return the columns to copy that the file has, with a note for each missing one. Raises InvalidValue if a required one is missing."""
    if not carry.names:
        return carry, []
    there = spec.header(source, kind)
    if absent := [name for name in carry.needed if name not in there]:
        has = ", ".join(map(shown, there[:LISTED])) + (", …" if len(there) > LISTED else "")
        raise InvalidValue(
            f"file: has no column {shown(absent[0])} to copy to the output; choose one of {has}",
            field=absent[0],
            valid=there,
        )
    notes = [
        f"the file has no column {shown(name)}, which the model would copy to the output as {'the id' if name == carry.id else 'passed'}"
        for name in carry.names
        if name not in there
    ]
    passed = tuple(name for name in carry.passed if name in there)
    return Carry(carry.id if carry.id in there else None, passed), notes


def _carried(part: EncodedRows, carry: Carry) -> CarriedValues | None:
    """Return the columns that are copied to the output, for valid and bad rows."""
    if not carry.names:
        return None

    def picked(places: Array) -> CarriedValues:
        columns = {name: part.also[name].take(places) for name in carry.names}
        passed = {name: columns[name] for name in carry.passed}
        return CarriedValues(None if carry.id is None else columns[carry.id], passed, {})

    values, bad = picked(part.places), part.bad_places
    fields = picked(np.asarray(list(bad.values()), np.int64)).fields(len(bad))
    return dataclasses.replace(values, of_bad=dict(zip(bad, fields, strict=True)))


def _among(numbers: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which numbers are among `chosen`, which is in ascending order."""
    return np.searchsorted(chosen, numbers, side="left") < np.searchsorted(chosen, numbers, side="right")


def _explained(model: Model, part: EncodedRows, scores: Scores, judged: Judged) -> list[dict[str, Any] | None] | None:
    """Return explanations for the flagged rows; None if the score has no nats by column."""
    if scores.surprise is None:
        return None
    spec = table_of(model)
    explanations: list[dict[str, Any] | None] = [None] * len(part.numbers)
    flagged = np.flatnonzero(judged.flagged)
    if len(flagged):
        terms = {name: values[flagged] for name, values in scores.terms.items()}
        expected = None if scores.expected is None else scores.expected[flagged]
        few = Scores(terms, scores.surprise[flagged], expected)
        why = model.runner.drive(reasons.find(model.manifest, part.data[flagged], few, model.calibrated))
        given = spec.given(part.table, part.places[flagged])
        for at, reason in zip(flagged, spec.explain(why, given), strict=True):
            explanations[at] = reason
    return explanations


def _scores(model: Model, parts: Iterator[EncodedRows]) -> Iterator[tuple[NDArray[np.int64], scoring.Float64]]:
    """Yield the row numbers and scores of each chunk, also for a chunk without valid rows."""
    scored_by = model.manifest.scoring
    assert scored_by is not None
    for part in parts:
        scores = (
            model.calibrated.place(model.score(part.data).terms)[scored_by.score] if len(part.data) else np.zeros(0)
        )
        yield part.numbers, scores


class Strangest:
    """A selection of the `budget` rows of a stream with the highest scores. Among equal scores, earlier rows are selected."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._numbers, self._scores = np.zeros(0, np.int64), np.zeros(0)
        self._parts: list[tuple[NDArray[np.int64], scoring.Float64]] = []
        self._waiting = 0  # number of rows in `_parts`

    def add(self, numbers: NDArray[np.int64], scores: scoring.Float64) -> None:
        """Add rows."""
        self._parts.append((numbers, scores))
        self._waiting += len(numbers)
        if self._waiting > max(self.budget, WAITING):
            self._merge()

    def _merge(self) -> None:
        numbers = np.concatenate([self._numbers, *(each for each, _ in self._parts)])
        scores = np.concatenate([self._scores, *(each for _, each in self._parts)])
        best = np.lexsort((numbers, -scores))[: self.budget]
        self._numbers, self._scores, self._parts = numbers[best], scores[best], []
        self._waiting = 0

    def result(self) -> tuple[NDArray[np.int64], float | None]:
        """Return the numbers of the selected rows in ascending order, and the lowest of their scores."""
        self._merge()
        return np.sort(self._numbers), float(self._scores[-1]) if len(self._scores) else None


def drain(parts: Iterator[ScoredRows], writer: Writer, progress: Callable[[Total], None] | None = None) -> Total:
    """Write all parts and close the writer; call `progress` after each part."""
    total = Total()
    for scored in parts:
        writer.write(scored)
        total.add(scored)
        if progress:
            progress(total)
    writer.close()
    return total


def check_output(out: Path) -> None:
    """Raise InvalidValue for an output of `score_file` with an unknown suffix."""
    if out.suffix not in SUFFIXES:
        raise InvalidValue(
            f"{out}: the suffix {out.suffix!r} is not supported; use {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            field="out",
        )


def rejected_file(out: Path) -> Path:
    """Return the path of the file, next to a CSV or Parquet file, for the rows that could not be scored."""
    return out.with_suffix(".rejected.ndjson")


def score_file(
    model: Model,
    file: Path,
    out: Path,
    rule: Rule,
    *,
    explain: bool = False,
    progress: Callable[[Total], None] | None = None,
    carry: Carry | None = None,
    watch: Callable[[ScoredRows], None] | None = None,
) -> Total:
    """Score a file of rows and write the result to `out`, which is replaced when all rows are written. Raises the errors of `check_output`.

    `watch` is called with each part.

    `carry` names the columns that are copied to the output; by default the columns that the model records.

    For a CSV or Parquet file, the rows that could not be scored are written to `rejected_file`, which exists only if there are any.
    """
    check_output(out)
    if out.exists() and out.samefile(file):
        raise InvalidValue(f"{out}: is the file to score; write the scores to another file", field="out")
    kind, rejected = files.format_of(file), rejected_file(out)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(file.open("rb"))
        target, aside = (
            stack.enter_context(stack.enter_context(replacing(path)).open("wb")) for path in (out, rejected)
        )
        parts = score(model, source, kind, rule, explain=explain, carry=carry)
        total = drain(parts if watch is None else _watched(parts, watch), _writer(out, target, aside), progress)
    if not rejected.stat().st_size:
        rejected.unlink()
    return total


def _writer(out: Path, target: IO[bytes], rejected: IO[bytes]) -> Writer:
    """Return the writer for the suffix of `out`."""
    if out.suffix == ".csv":
        return CsvWriter(target, rejected)
    return ParquetWriter(target, rejected) if out.suffix == ".parquet" else NdjsonWriter(target)


def _watched(parts: Iterator[ScoredRows], watch: Callable[[ScoredRows], None]) -> Iterator[ScoredRows]:
    """Yield the parts, and call `watch` with each."""
    for scored in parts:
        watch(scored)
        yield scored
