"""Writers of scored rows: NDJSON (one line per row, in the form of /anomaly-score, with its `row`) or Parquet (flat columns).

runtime.scores.csv_rows writes CSV.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.scores import decisions
from manifold.runtime.scores.decisions import Judged
from manifold.runtime.tables.columns import Outside


@dataclass
class ScoredRows:
    """The rows of a chunk, in order. `bad` contains the rows that could not be scored: their numbers and the reasons."""

    numbers: NDArray[np.int64]  # (n,), numbers of the rows that were scored
    judged: Judged | None  # None if no row was scored
    warnings: list[list[str]]
    explanations: list[dict[str, Any] | None] | None  # explanations of the flagged rows, if requested
    bad: dict[int, str]
    carried: CarriedValues | None = None  # None if no columns are copied to the output
    notes: list[str] = field(default_factory=list)  # about the file; only in its first chunk
    outside: dict[str, Outside] = field(default_factory=dict)  # by column
    decimal: str | None = None  # decimal separator of the file; None for a form without one


@dataclass
class CarriedValues:
    """The columns of a chunk that are copied to the output, as pyarrow arrays (n,), and the values of bad rows by row number."""

    id: Any | None
    passed: dict[str, Any]
    of_bad: dict[int, dict[str, Any]]  # output fields; empty for a row with a wrong number of cells

    def fields(self, n: int) -> list[dict[str, Any]]:
        """Return the fields `id` and `passed` of each row."""
        ids = [{}] * n if self.id is None else [{"id": value} for value in self.id.to_pylist()]
        if not self.passed:
            return ids
        columns = [column.to_pylist() for column in self.passed.values()]
        rows = (dict(zip(self.passed, values, strict=True)) for values in zip(*columns, strict=True))
        return [{**one, "passed": row} for one, row in zip(ids, rows, strict=True)]


class Writer(Protocol):
    """A writer of scored rows."""

    def write(self, scored: ScoredRows) -> None: ...

    def close(self) -> None: ...


def lines(scored: ScoredRows) -> bytes:
    """Return the chunk as NDJSON, in the order of the rows. A row that could not be scored has an `error` instead of a score."""
    import orjson

    entries: list[tuple[int, dict[str, Any]]] = []
    if scored.judged is not None:
        carried = [{}] * len(scored.numbers) if scored.carried is None else scored.carried.fields(len(scored.numbers))
        for i, number in enumerate(scored.numbers.tolist()):
            entry = {"row": number, **carried[i], **scored.judged.item(i), "warnings": scored.warnings[i]}
            if scored.explanations is not None:
                entry["explanation"] = scored.explanations[i]
            entries.append((number, entry))
    entries += [(entry["row"], entry) for entry in _rejected(scored)]
    return b"".join(
        orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE, default=str)
        for _, entry in sorted(entries, key=lambda e: e[0])
    )


def _rejected(scored: ScoredRows) -> list[dict[str, Any]]:
    """Return the rows that could not be scored, each with the reason and its copied columns."""
    of_bad = {} if scored.carried is None else scored.carried.of_bad
    return [{"row": number, **of_bad.get(number, {}), "error": reason} for number, reason in scored.bad.items()]


class NdjsonWriter:
    """A writer of NDJSON, with one line for each row."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out = out

    def write(self, scored: ScoredRows) -> None:
        self.out.write(lines(scored))

    def close(self) -> None:
        self.out.flush()


class ColumnsWriter(ABC):
    """The common part of the writers of flat columns. Rows that could not be scored are written to `rejected` as NDJSON."""

    def __init__(self, out: IO[bytes], rejected: IO[bytes]) -> None:
        self.out, self.rejected = out, rejected
        self._writer: Any = None

    def write(self, scored: ScoredRows) -> None:
        import pyarrow

        write_rejected(scored, self.rejected)
        made = flat(scored)
        if made is None:
            return
        table = pyarrow.table(self._columns(made, scored))
        if self._writer is None:
            self._writer = self._opened(table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @abstractmethod
    def _columns(self, made: dict[str, Any], scored: ScoredRows) -> dict[str, Any]:
        """Return the columns of the file. `made` are the scored rows as columns, without explanations."""

    @abstractmethod
    def _opened(self, schema: Any) -> Any:
        """Return the writer of the library, before the first rows."""


class ParquetWriter(ColumnsWriter):
    """A writer of Parquet, with flat columns: row, score, p_value, is_anomaly, band, risk, state, warnings, and part.NAME with part.NAME.p_value.

    id and passed.NAME follow `row` if the file has them, with the types of the file.
    """

    def _columns(self, made: dict[str, Any], scored: ScoredRows) -> dict[str, Any]:
        import orjson
        import pyarrow

        if scored.explanations is not None:
            made["explanation"] = pyarrow.array([orjson.dumps(each).decode() for each in scored.explanations])
        return made

    def _opened(self, schema: Any) -> Any:
        from pyarrow import parquet

        return parquet.ParquetWriter(self.out, schema)


def write_rejected(scored: ScoredRows, out: IO[bytes]) -> None:
    """Write the rows that could not be scored as NDJSON."""
    import orjson

    for entry in _rejected(scored):
        out.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE, default=str))


def flat(scored: ScoredRows) -> dict[str, Any] | None:
    """Return the scored rows as columns (n,), without explanations; None if no row was scored."""
    import pyarrow

    judged, n = scored.judged, len(scored.numbers)
    if judged is None:
        return None
    made: dict[str, Any] = {
        "row": scored.numbers,
        **_copied(scored.carried),
        "score": judged.score,
        "p_value": pyarrow.nulls(n, pyarrow.float64()) if judged.p_value is None else judged.p_value,
        "is_anomaly": pyarrow.array(judged.flagged, mask=judged.undecided),
        "band": _names(judged.bands, decisions.BANDS, n, judged.undecided),
        "risk": pyarrow.nulls(n, pyarrow.int64()) if judged.risk is None else judged.risk,
        "state": _names(judged.states, decisions.STATES, n),
        "warnings": pyarrow.array(scored.warnings, pyarrow.list_(pyarrow.string())),
    }
    for name, (values, p) in judged.parts.items():
        made[f"part.{name}"] = values
        made[f"part.{name}.p_value"] = pyarrow.nulls(n, pyarrow.float64()) if p is None else p
    return made


def _copied(carried: CarriedValues | None) -> dict[str, Any]:
    """Return the copied columns by their names in the output."""
    if carried is None:
        return {}
    ids = {} if carried.id is None else {"id": carried.id}
    return {**ids, **{f"passed.{name}": column for name, column in carried.passed.items()}}


def _names(
    places: NDArray[np.int64] | None, names: tuple[str, ...], n: int, absent: NDArray[np.bool_] | None = None
) -> Any:
    """Convert indices into texts, each stored once; null where `absent` is true."""
    import pyarrow

    if places is None:
        return pyarrow.nulls(n, pyarrow.string())
    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(places.astype(np.int8), mask=absent), pyarrow.array(names)
    ).cast(pyarrow.string())
