"""Tables in files, read in chunks of constant memory: CSV and Parquet to columns, rows that are no rows set aside.

Rows are numbered as they stand in the file, from 1 (a CSV's header is no row). Cells of a CSV come as texts and are turned into numbers a
column at a time; where one of them is no number the column stays text, and runtime.tables.columns says which row is wrong.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import (
    LISTED,
    InvalidValue,
    Malformed,
    ManifoldError,
    RequestError,
    TooLarge,
    Unavailable,
    cut,
    shown,
)
from manifold.runtime.tables.schema import CategoricalColumn

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import parquet

Array = NDArray[Any]

CHUNK_ROWS = 16_384
CHUNK_CELLS = 500_000  # of a chunk, which has fewer rows where the table is wide
BLOCK_BYTES = 4 * 2**20  # of a CSV, read at once; no row is longer
HEADER_BYTES = 2**20  # of a CSV's first line
MAX_COLUMNS = 16_384
MAX_ROWS = 100_000_000
CELL_BYTES = 4096  # a longer cell is neither a number nor a category, and its row is invalid
INVALID_ROWS, INVALID_SHARE = 10_000, 0.5  # more invalid rows than both allow end the work
PENDING = 500_000  # invalid rows of a CSV that are known before the valid ones beside them
DELIMITERS = ",;\t|"
FORMATS = ("csv", "parquet")


@dataclass
class Chunk:
    """Rows of a file in their order. `bad` holds the invalid ones by number, with the reason; their cells, if any, are not to be used."""

    numbers: NDArray[np.int64]  # (n,), of the rows that were read
    table: dict[str, Array]  # columns (n,)
    bad: dict[int, str] = field(default_factory=dict)
    also: dict[str, Any] = field(
        default_factory=dict
    )  # further columns as pyarrow arrays (n,): texts of a CSV, the types of a Parquet file
    notes: dict[int, list[str]] = field(default_factory=dict)  # by number: cells of further columns that were left out


def format_of(path: Path) -> str:
    """csv or parquet, by the name's suffix. Raises Malformed for another."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise Malformed(f"{cut(path.name)}: a table is a .csv or .parquet file", field="file", valid=list(FORMATS))
    return suffix


def chunks(
    source: IO[bytes], kind: str, spec: TableSpec, *, rows: int = CHUNK_ROWS, also: Sequence[str] = ()
) -> Iterator[Chunk]:
    """The columns of `spec`, `rows` rows at a time; columns that the model does not know are skipped, except those named in `also`.

    `source` is a binary file, seekable for Parquet. Raises Malformed where the file cannot be read, has no rows or lacks columns. Columns
    of `also` may be absent; they may be columns of `spec`, whose cells are then given a second time, as they are in the file.
    """
    read = _parquet if kind == "parquet" else _csv
    last = 0
    with _mapped_errors(kind):
        for chunk in read(source, spec, max(1, min(rows, CHUNK_CELLS // (len(spec.columns) + len(also)))), also):
            last = max([last, *chunk.numbers[-1:].tolist(), *chunk.bad])
            if last > MAX_ROWS:
                raise TooLarge(f"file: has more than {MAX_ROWS} rows; send it in parts", field="file")
            yield chunk
    if not last:
        raise Malformed("file: has no rows", field="file")


def header(source: IO[bytes], kind: str, spec: TableSpec) -> list[str]:
    """Return the names of a file's columns; the file is then where it was. Raise Malformed if it cannot be read."""
    start = source.tell()
    with _mapped_errors(kind):
        names = parquet.File(source, [], CELL_BYTES).schema.names if kind == "parquet" else _header(source, spec)[1]
    source.seek(start)
    return list(names)


@contextlib.contextmanager
def _mapped_errors(kind: str) -> Iterator[None]:
    """Raise the errors of pyarrow, and of files, as those of this project."""
    try:
        import pyarrow
    except ImportError:
        raise Unavailable('reading tables needs pyarrow: pip install "manifold[tables]"', field="file") from None
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, csv.Error) as error:
        raise _unreadable(error, kind) from error


def _unreadable(error: Exception, kind: str) -> RequestError:
    """Return the error for what pyarrow says of a file."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if "straddling object" in line:
        return TooLarge(
            f"file: a row is longer than {BLOCK_BYTES} bytes, or a quote in it is never closed", field="file"
        )
    return Malformed(f"file: cannot be read as {kind}: {cut(line, 200)}", field="file")


def check_invalid(invalid: int, rows: int, number: int, reason: str) -> None:
    """Raise InvalidValue if too many of the first `rows` rows are invalid; row `number` is so for `reason`."""
    if invalid > INVALID_ROWS and invalid > INVALID_SHARE * rows:
        raise InvalidValue(
            f"file: {invalid} of the first {rows} rows are invalid (row {number}: {reason}); the work ends here, as more than {INVALID_ROWS} "
            f"rows and more than {INVALID_SHARE:.0%} are",
            field="file",
        )


def _too_long(name: str, size: int) -> str:
    return f"{name}: a cell of {size} bytes; the limit is {CELL_BYTES}"


def _check_columns(there: Iterable[str], spec: TableSpec, also: Sequence[str]) -> list[str]:
    """Return those columns of `also` that are there. Raise Malformed for a column of the model that is not, and for one that is there twice."""
    count = Counter(there)
    if count.total() > MAX_COLUMNS:
        raise TooLarge(f"file: has {count.total()} columns, the limit is {MAX_COLUMNS}", field="file")
    if absent := [name for name in spec.names if name not in count]:
        has = ", ".join(map(shown, itertools.islice(count, LISTED))) + (", …" if len(count) > LISTED else "")
        raise Malformed(
            f"file: lacks the column(s) {', '.join(map(shown, absent[:LISTED]))}; it has {has}",
            field="file",
            valid=spec.names,
        )
    if twice := [name for name in (*spec.names, *also) if count[name] > 1]:
        raise Malformed(f"file: two columns are called {shown(twice[0])}", field="file")
    return [name for name in dict.fromkeys(also) if name in count]


# --- CSV ----------------------------------------------------------------------------------------------------------------------


class _Skipped:
    """The rows that the reader of a CSV leaves out, as their number of cells is wrong, by number with the reason."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}
        self.count = 0
        self.error: ManifoldError | None = None
        self._said: dict[int, str] = {}  # by number of cells: rows share the text

    def __call__(self, row: Any) -> str:
        """Note a row, or end the reading where they are too many."""
        number, self.count = row.number - 1, self.count + 1
        reason = self._said.setdefault(
            min(row.actual_columns, MAX_COLUMNS),
            f"has {row.actual_columns} cells, but the header has {row.expected_columns}",
        )
        self.reasons[number] = reason
        try:
            check_invalid(self.count, number, number, reason)
            if len(self.reasons) > PENDING:
                raise InvalidValue(
                    f"file: {PENDING} rows within {2 * BLOCK_BYTES} bytes are invalid (row {number}: {reason})",
                    field="file",
                )
        except InvalidValue as error:
            self.error = error
        return "skip" if self.error is None else "error"

    def until(self, number: int) -> dict[int, str]:
        """Take out the rows up to `number`."""
        return {at: self.reasons.pop(at) for at in sorted(at for at in self.reasons if at <= number)}


def _csv(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    import pyarrow

    skipped = _Skipped()
    number = 0  # of the last row that was numbered
    head, names, delimiter = _header(source, spec)
    there = _check_columns(names, spec, also)
    try:
        for batch in _open_csv(_Joined(head, source), delimiter, list(dict.fromkeys([*spec.names, *there])), skipped):
            numbers = _number(number, batch.num_rows, skipped.reasons)
            last = int(numbers[-1]) if len(numbers) else number
            yield from _windows(batch, numbers, skipped.until(last), number, rows, spec, there)
            number = last
    except pyarrow.ArrowInvalid:
        if skipped.error is not None:
            raise skipped.error from None
        raise
    if skipped.reasons:
        yield from _windows(None, np.zeros(0, np.int64), skipped.reasons, number, rows, spec, there)


def _open_csv(source: _Joined, delimiter: str, names: list[str], skip: _Skipped) -> Iterable[Any]:
    """Return batches of some columns as texts."""
    import pyarrow
    from pyarrow import csv as arrow

    batches: Iterable[Any] = arrow.open_csv(
        pyarrow.PythonFile(source, mode="r"),
        read_options=arrow.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pyarrow.string()),
            strings_can_be_null=False,
        ),
    )
    return batches


def _windows(
    batch: Any,
    numbers: NDArray[np.int64],
    bad: dict[int, str],
    last: int,
    rows: int,
    spec: TableSpec,
    also: Sequence[str],
) -> Iterator[Chunk]:
    """Yield the rows after `last` as chunks of `rows` consecutive numbers at most, valid and invalid ones together."""
    places = np.asarray(list(bad), np.int64)
    end = max([last, *numbers[-1:].tolist(), *places[-1:].tolist()])
    while last < end:
        first, last = last, min(last + rows, end)
        start, stop = np.searchsorted(numbers, [first, last], side="right")
        lower, upper = np.searchsorted(places, [first, last], side="right")
        chunk = Chunk(numbers[start:stop], {}, {at: bad[at] for at in places[lower:upper].tolist()})
        for column in spec.columns:
            texts = None if batch is None else batch.column(column.name).slice(start, stop - start)
            chunk.table[column.name] = np.zeros(0) if texts is None else _of_texts(texts, column, chunk)
        for name in also:
            texts = _no_texts() if batch is None else batch.column(name).slice(start, stop - start)
            chunk.also[name] = _exact_texts(texts, name, chunk)
        yield chunk


def _header(source: IO[bytes], spec: TableSpec) -> tuple[bytes, list[str], str]:
    """The file's beginning, the header in it, and the delimiter that finds most of the model's columns."""
    head = source.read(BLOCK_BYTES)
    if not head.strip():
        raise Malformed("file: is empty", field="file")
    line_bytes = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    if len(line_bytes) > HEADER_BYTES:
        raise TooLarge(
            f"file: the first line, which names the columns, is longer than {HEADER_BYTES} bytes", field="file"
        )
    line = line_bytes.decode("utf-8").rstrip("\r")

    def names(delimiter: str) -> list[str]:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])

    def known(delimiter: str) -> int:
        try:
            return len(set(names(delimiter)) & set(spec.names))
        except csv.Error:  # all of a long line in one name: not that delimiter
            return -1

    delimiter = max(DELIMITERS, key=known)
    return head, names(delimiter), delimiter


def _number(last: int, n: int, skipped: dict[int, str]) -> NDArray[np.int64]:
    """Numbers of the next n rows after `last`, those of skipped rows left out."""
    after = sorted(at for at in skipped if at > last)
    numbers = np.arange(last + 1, last + n + 1 + len(after))
    return numbers[~np.isin(numbers, after)][:n]


def _of_texts(column: Any, spec: Any, chunk: Chunk) -> Array:
    """Return a column of texts as numbers (NaN where empty) if they are, else as objects with None where empty.

    Rows with a cell that is too long are noted as invalid.
    """
    import pyarrow
    from pyarrow import compute

    column = compute.utf8_trim_whitespace(_short_cells(column, spec.name, chunk))
    column = compute.if_else(compute.equal(column, ""), None, column)
    if not isinstance(spec, CategoricalColumn):
        try:
            return np.asarray(compute.cast(column, pyarrow.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pyarrow.ArrowInvalid:
            pass  # runtime.tables.columns finds out which
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def _short_cells(column: Any, name: str, chunk: Chunk) -> Any:
    """Return the column without cells that are too long."""
    from pyarrow import compute

    sizes = compute.binary_length(column)
    if (compute.max(sizes).as_py() or 0) <= CELL_BYTES:
        return column
    for at in np.flatnonzero(sizes.fill_null(0).to_numpy() > CELL_BYTES).tolist():
        chunk.bad.setdefault(int(chunk.numbers[at]), _too_long(name, sizes[at].as_py()))
    return compute.if_else(compute.greater(sizes, CELL_BYTES), "", column)


def _no_texts() -> Any:
    import pyarrow

    return pyarrow.array([], pyarrow.string())


def _exact_texts(column: Any, name: str, chunk: Chunk) -> Any:
    """Return the cells of a further column as texts, null if they are empty or too long; the latter are noted."""
    from pyarrow import compute

    sizes = compute.binary_length(column)
    for at in np.flatnonzero(sizes.fill_null(0).to_numpy() > CELL_BYTES).tolist():
        _note_long(chunk, at, name, sizes[at].as_py())
    column = compute.if_else(compute.greater(sizes, CELL_BYTES), None, compute.utf8_trim_whitespace(column))
    return compute.if_else(compute.equal(column, ""), None, column)


def _note_long(chunk: Chunk, at: int, name: str, size: int) -> None:
    chunk.notes.setdefault(int(chunk.numbers[at]), []).append(f"passed: {_too_long(name, size)}; it was left out")


class _Joined(io.RawIOBase):
    """The bytes that were read already, then the rest of the source."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._head.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


# --- Parquet ------------------------------------------------------------------------------------------------------------------


def _parquet(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    file = parquet.File(source, [*spec.names, *(name for name in also if name not in spec.names)], CELL_BYTES)
    there = _check_columns(file.schema.names, spec, also)
    wanted = list(dict.fromkeys([*spec.names, *there]))
    for name in wanted:
        _check_type(name, file.schema.field(name).type, passed=name not in spec.names)
    file.names = wanted
    number = 1
    for batch in file.batches(rows):
        if sorted(batch.schema.names) != sorted(wanted):
            raise Malformed("file: columns within columns have the names of the model's", field="file")
        chunk = Chunk(np.arange(number, number + batch.num_rows), {})
        number += batch.num_rows
        for name in spec.names:
            chunk.table[name] = _of_parquet(batch.column(name), name, chunk)
        for name in there:
            chunk.also[name] = _exact_values(batch.column(name), name, chunk)
        yield chunk


def _of_parquet(column: Any, name: str, chunk: Chunk) -> Array:
    """Return a column as numbers or objects. Texts come as places in a dictionary: each is made, and measured, once."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, inverse = np.unique(places, return_inverse=True)
    texts = column.dictionary.take(_indices(used[used >= 0]))
    sizes = _sizes(texts)
    long = np.concatenate([np.zeros(int((used < 0).sum()), np.int64), sizes])
    for at in np.flatnonzero(long[inverse] > CELL_BYTES).tolist():
        chunk.bad.setdefault(int(chunk.numbers[at]), _too_long(name, int(long[inverse[at]])))
    values = [text.as_py() if size <= CELL_BYTES else None for text, size in zip(texts, sizes.tolist(), strict=True)]
    return np.asarray([*([None] * (len(long) - len(values))), *values], object)[inverse]


def _exact_values(column: Any, name: str, chunk: Chunk) -> Any:
    """Return a further column in its type. Texts are plain texts, null if they are too long; those are noted."""
    import pyarrow
    from pyarrow import compute, types

    if not types.is_dictionary(column.type):
        return column
    sizes = pyarrow.array(_sizes(column.dictionary))
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    long = np.asarray([*(sizes.to_numpy() > CELL_BYTES), False])[places]
    for at in np.flatnonzero(long).tolist():
        _note_long(chunk, at, name, sizes[int(places[at])].as_py())
    indices = compute.if_else(pyarrow.array(long), None, column.indices)
    kind = column.type.value_type
    short = compute.if_else(compute.greater(sizes, CELL_BYTES), None, column.dictionary)
    return short.take(indices).cast(
        pyarrow.string() if types.is_large_string(kind) or types.is_string_view(kind) else kind
    )


def _indices(places: Array) -> Any:
    import pyarrow

    return pyarrow.array(places, pyarrow.int64())


def _sizes(texts: Any) -> NDArray[np.int64]:
    """Return the bytes of each text, 0 for values of other kinds and for none."""
    from pyarrow import compute, types

    if not (types.is_string(texts.type) or types.is_large_string(texts.type)):
        return np.zeros(len(texts), np.int64)
    return np.asarray(compute.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _check_type(name: str, kind: Any, *, passed: bool) -> None:
    """Raises Malformed for a column that holds neither numbers nor texts: lists, bytes, and times unless they are only `passed` on."""
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    tests: tuple[Any, ...] = (
        types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null,
        types.is_string, types.is_large_string, types.is_string_view,
    )  # fmt: skip
    if passed:
        tests = (*tests, types.is_date, types.is_time, types.is_timestamp)
    if not any(test(plain) for test in tests):
        raise Malformed(
            f"file: column {shown(name)} holds {cut(str(kind))}; numbers, texts or booleans are needed", field="file"
        )
