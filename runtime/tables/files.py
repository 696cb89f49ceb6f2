"""A reader of tables in CSV and Parquet files, in chunks of constant memory or as a whole. Invalid rows are listed separately.

Rows are numbered from 1 in the order of the file; the header of a CSV file is not counted. A column is returned as numbers if all its values are
numbers, texts of numbers, or missing. Otherwise it is returned as texts or plain Python values; runtime.tables.columns reads these one by one by
the same rules.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import extras
from manifold.runtime.errors import LISTED, Malformed, RequestError, TooLarge, Unavailable, cut, shown
from manifold.runtime.tables import csv_files, parquet
from manifold.runtime.tables.cells import numbers_of, of_arrow, plain, replaced, settled
from manifold.runtime.tables.csv_files import MAX_COLUMNS, check_invalid, open_csv
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import DEFAULT, Notation, exact_number, number, text_of

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

__all__ = ["Chunk", "FileTable", "check_invalid", "chunks", "format_of", "read"]

Array = NDArray[Any]

CHUNK_ROWS = 16_384
CHUNK_CELLS = 500_000  # limit for the cells of a chunk; chunks of wide tables have fewer rows
MAX_ROWS = 100_000_000
MAX_CELLS = 500_000_000  # limit for a file that is read as a whole: 4 GB as numbers
CELL_BYTES = 4096  # a longer cell is neither a number nor a category, and its row is invalid
WHOLE_CELL_BYTES = 2**20  # limit for the average size of a cell, if a Parquet file is read as a whole
FORMATS = ("csv", "parquet")
UNNAMED = "has no name in the header of the file; columns of row numbers often have none"


@dataclass
class Chunk:
    """Rows of a file, in order. `bad` contains the invalid rows by number, with the reason; do not use their cells, if any."""

    numbers: NDArray[np.int64]  # (n,), numbers of the rows that were read
    table: dict[str, Array]  # columns (n,)
    bad: dict[int, str] = field(default_factory=dict)
    also: dict[str, Any] = field(
        default_factory=dict
    )  # additional columns as Arrow arrays (n,): texts for CSV, the types of the file for Parquet
    notation: Notation = DEFAULT  # notation of the texts
    notes: dict[int, list[str]] = field(
        default_factory=dict
    )  # by row number: cells of additional columns that were left out


@dataclass(frozen=True)
class FileTable:
    """A whole file. Columns with types that rows cannot have are left out and listed."""

    numbers: NDArray[np.int64]  # (n,), row numbers
    columns: dict[str, Array]  # (n,): numbers with NaN for missing values, or plain values
    notation: Notation
    bad: dict[int, str] = field(default_factory=dict)  # invalid rows by number, with the reason
    left_out: dict[str, str] = field(default_factory=dict)  # columns that were left out, with the reason
    notes: tuple[str, ...] = ()  # assumptions about the file


def format_of(path: Path) -> str:
    """Return `csv` or `parquet` from the suffix of a file name. Raises Malformed for another suffix."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise Malformed(
            f"{cut(path.name)}: the suffix is not that of a table; give a .csv or .parquet file",
            field="file",
            valid=list(FORMATS),
        )
    return suffix


def chunks(
    source: IO[bytes], kind: str, spec: TableSpec, *, rows: int = CHUNK_ROWS, also: Sequence[str] = ()
) -> Iterator[Chunk]:
    """Yield the columns of `spec`, `rows` rows at a time. Other columns are skipped, except those named in `also`.

    `source` is a binary file, seekable for Parquet. Columns in `also` may be absent. They may also be columns of `spec`; their cells are then
    also returned unconverted. Raises Malformed if the file cannot be read, has no rows, or lacks columns of `spec`.
    """
    read = _parquet if kind == "parquet" else _csv
    last = 0
    with _reading(kind):
        for chunk in read(source, spec, max(1, min(rows, CHUNK_CELLS // (len(spec.columns) + len(also)))), also):
            last = max([last, *chunk.numbers[-1:].tolist(), *chunk.bad])
            if last > MAX_ROWS:
                raise TooLarge(f"file: has more than {MAX_ROWS} rows; split it into several files", field="file")
            yield chunk
    if not last:
        raise Malformed("file: has no rows below the header; add rows", field="file")


def header(source: IO[bytes], kind: str, spec: TableSpec | None = None) -> list[str]:
    """Return the names of the columns of a file. The file position is restored.

    `spec` has the columns that are searched in it, if they are known. Raises Malformed if the file cannot be read.
    """
    start = source.tell()
    with _reading(kind):
        if kind == "parquet":
            names = tuple(text_of(name) for name in parquet.File(source, [], CELL_BYTES).schema.names)
        else:
            names = open_csv(source, () if spec is None else spec.names).form.header
    source.seek(start)
    return list(names)


def read(
    source: IO[bytes],
    kind: str,
    notation: Notation | None = None,
    written: Callable[[Sequence[str]], Collection[str]] = lambda names: (),
) -> FileTable:
    """Return all columns of a file that have a name. A decimal separator detected in a CSV file overrides that of `notation`.

    `written` selects the columns whose texts are not converted into numbers; surrounding blanks are removed. Raises Malformed if the file
    cannot be read or has no rows, TooLarge if it has more than MAX_CELLS cells.
    """
    with _reading(kind):
        return (_whole_parquet if kind == "parquet" else _whole_csv)(source, notation or DEFAULT, written)


@contextlib.contextmanager
def _reading(kind: str) -> Iterator[None]:
    """Convert errors of pyarrow and of files into errors of this project. Raises Unavailable if pyarrow is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise Unavailable(f"file: {extras.advice('pyarrow')}", field="file") from None
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, csv.Error) as error:
        raise _unreadable(error, kind) from error


def _unreadable(error: Exception, kind: str) -> RequestError:
    """Return the error for a file that a library cannot read, with the message of the library."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)  # some messages repeat cells
    if "straddling object" in line or "field larger than field limit" in line:
        return TooLarge(
            f"file: a row is longer than {csv_files.BLOCK_BYTES} bytes, or a quote is not closed; correct the row",
            field="file",
        )
    return Malformed(f"file: cannot be read as {kind}: {cut(line, 200)}", field="file")


def _too_long(name: str, size: int) -> str:
    return f"{name}: a cell of {size} bytes; the limit is {CELL_BYTES}"


def _check_columns(there: Iterable[str], spec: TableSpec, also: Sequence[str]) -> list[str]:
    """Return the columns in `also` that the file has. Raises Malformed if a column of the model is missing, or if one occurs twice."""
    count = Counter(there)
    if count.total() > MAX_COLUMNS:
        raise TooLarge(f"file: has {count.total()} columns; the limit is {MAX_COLUMNS}", field="file")
    if absent := [name for name in spec.names if name not in count]:
        has = ", ".join(map(shown, itertools.islice(count, LISTED))) + (", …" if len(count) > LISTED else "")
        lacks = f"the column{'s' * (len(absent) > 1)} {', '.join(map(shown, absent[:LISTED]))}"
        raise Malformed(
            f"file: lacks {lacks}; it has {has}. {_remedy(absent, count, len(spec.names))}",
            field="file",
            valid=spec.names,
        )
    if twice := [name for name in (*spec.names, *also) if count[name] > 1]:
        raise csv_files.two_columns(twice[0])
    return [name for name in dict.fromkeys(also) if name in count]


def _remedy(absent: Sequence[str], there: Collection[str], needed: int) -> str:
    """Return advice about missing columns, of which the model needs `needed`. The file may have some in other upper and lower case."""
    folded = {name.casefold(): name for name in there}
    alike = [name for name in absent if name.casefold() in folded]
    if len(absent) - len(alike) > needed / 2:
        return "Most columns of the model are missing: choose a model that fits this file, or add the columns"
    renamed = ", ".join(f"{shown(folded[name.casefold()])} to {shown(name)}" for name in alike[:LISTED])
    advice = [f"Upper and lower case differ: rename {renamed}"] if alike else []
    if len(alike) < len(absent):
        rest = "Add the other columns" if alike else "Add them"
        advice.append(f"{rest}; cells without a value may be empty")
    return ". ".join(advice)


# --- CSV ----------------------------------------------------------------------------------------------------------------------


def _csv(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    opened = open_csv(source, (*spec.names, *also))
    there = _check_columns(opened.form.header, spec, also)
    notation = _notation(opened, spec.notation)
    last = 0
    for batch in opened.batches:
        yield from _windows(batch, last, rows, spec, notation, there)
        last = max([last, *batch.numbers[-1:].tolist()])


def _notation(opened: csv_files.Opened, stated: Notation) -> Notation:
    """Return the notation of a file: the stated one, with the decimal separator that the file shows, if any."""
    return replace(stated, decimal=opened.form.decimal or stated.decimal)


def _windows(
    batch: csv_files.Batch, last: int, rows: int, spec: TableSpec, notation: Notation, also: Sequence[str]
) -> Iterator[Chunk]:
    """Yield the rows after `last` in chunks of at most `rows` consecutive row numbers, counting valid and invalid rows."""
    numbers, bad = batch.numbers, batch.bad
    places = np.asarray(list(bad), np.int64)
    end = max([last, *numbers[-1:].tolist(), *places[-1:].tolist()])
    while last < end:
        first, last = last, min(last + rows, end)
        start, stop = np.searchsorted(numbers, [first, last], side="right")
        lower, upper = np.searchsorted(places, [first, last], side="right")
        chunk = Chunk(numbers[start:stop], {}, {at: bad[at] for at in places[lower:upper].tolist()}, notation=notation)
        for column in spec.columns:
            texts = _short_cells(batch.columns[column.name].slice(start, stop - start), column.name, chunk)
            chunk.table[column.name] = _of_texts(texts, column, notation, same=notation == spec.notation)
        for name in also:
            chunk.also[name] = _exact_texts(batch.columns[name].slice(start, stop - start), name, chunk)
        yield chunk


def _of_texts(texts: Any, column: NumericColumn | CategoricalColumn, notation: Notation, *, same: bool) -> Array:
    """Convert a column into numbers, or into texts. If the notation is not the `same` as the model's, texts of numbers become numbers."""
    if isinstance(column, CategoricalColumn):
        lookup = column.lookup
        return (
            plain(texts)
            if same
            else replaced(texts, lambda text: None if lookup.named(text) else exact_number(text, notation))
        )
    as_numbers = numbers_of(texts, notation, notation.of_numbers)
    return replaced(texts, lambda text: number(text, notation)) if as_numbers is None else as_numbers


def _short_cells(column: Any, name: str, chunk: Chunk) -> Any:
    """Replace cells that are too long by empty ones, and record their rows as invalid."""
    from pyarrow import compute

    sizes = compute.binary_length(column)
    if (compute.max(sizes).as_py() or 0) <= CELL_BYTES:
        return column
    for at in np.flatnonzero(sizes.fill_null(0).to_numpy() > CELL_BYTES).tolist():
        chunk.bad.setdefault(int(chunk.numbers[at]), _too_long(name, sizes[at].as_py()))
    return compute.if_else(compute.greater(sizes, CELL_BYTES), "", column)


def _exact_texts(column: Any, name: str, chunk: Chunk) -> Any:
    """Return the cells of an additional column as texts, null if empty or too long. Cells that are too long are noted."""
    from pyarrow import compute

    sizes = compute.binary_length(column)
    for at in np.flatnonzero(sizes.fill_null(0).to_numpy() > CELL_BYTES).tolist():
        _note_long(chunk, at, name, sizes[at].as_py())
    column = compute.if_else(compute.greater(sizes, CELL_BYTES), None, compute.utf8_trim_whitespace(column))
    return compute.if_else(compute.equal(column, ""), None, column)


def _note_long(chunk: Chunk, at: int, name: str, size: int) -> None:
    chunk.notes.setdefault(int(chunk.numbers[at]), []).append(f"passed: {_too_long(name, size)}; it was left out")


def _whole_csv(source: IO[bytes], stated: Notation, written: Callable[[Sequence[str]], Collection[str]]) -> FileTable:
    import pyarrow

    opened = open_csv(source)
    notation = _notation(opened, stated)
    batches, bad, rows, cells = [], dict[int, str](), 0, 0
    for batch in opened.batches:
        batches.append(batch)
        bad |= batch.bad
        rows += len(batch.numbers)
        cells += len(batch.numbers) * len(batch.columns)
        if cells > MAX_CELLS:
            raise _too_many_cells(cells)
    if not rows:
        raise Malformed(f"file: has no rows{_first(bad)}; add valid rows", field="file")
    texts = written(list(batches[0].columns))
    columns = {}
    for name in batches[0].columns:
        column = pyarrow.chunked_array([batch.columns[name] for batch in batches])
        columns[name] = plain(column) if name in texts else settled(column, notation)
    numbers = np.concatenate([batch.numbers for batch in batches])
    return FileTable(numbers, columns, notation, bad, _unnamed(opened.form.header), tuple(opened.notes))


def _first(bad: dict[int, str]) -> str:
    """Return the reason why the first invalid row is invalid, as an addition to a message."""
    return f" that can be read (row {min(bad)}: {bad[min(bad)]})" if bad else ""


def _unnamed(header: Iterable[str]) -> dict[str, str]:
    return {"": UNNAMED} if "" in header else {}


def _too_many_cells(cells: int) -> TooLarge:
    return TooLarge(f"file: has {cells} cells; the limit is {MAX_CELLS}, so use a sample of the rows", field="file")


# --- Parquet ------------------------------------------------------------------------------------------------------------------


def _parquet(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    spelled = parquet.File(source, [], CELL_BYTES).schema.names
    exact = set(spelled) & {*spec.names, *also}
    names = [name if name in exact else text_of(name) for name in spelled]
    there = _check_columns(names, spec, also)
    wanted = list(dict.fromkeys([*spec.names, *there]))
    written = {
        name: place for name, place in zip(names, spelled, strict=True) if name in wanted
    }  # from names to their spelling in the file
    file = parquet.File(source, [written[name] for name in wanted], CELL_BYTES)
    kinds = {name: file.schema.field(written[name]).type for name in wanted}
    for column in spec.columns:
        _check_type(column.name, kinds[column.name], numeric=isinstance(column, NumericColumn))
    for name in there:
        _check_type(name, kinds[name])
    number = 1
    for batch in file.batches(rows):
        if sorted(batch.schema.names) != sorted(written.values()):
            raise Malformed(
                "file: nested columns have the same names as columns of the model; rename them", field="file"
            )
        chunk = Chunk(np.arange(number, number + batch.num_rows), {}, notation=spec.notation)
        number += batch.num_rows
        for name in spec.names:
            chunk.table[name] = _of_parquet(batch.column(written[name]), name, chunk)
        for name in there:
            chunk.also[name] = _exact_values(batch.column(written[name]), name, chunk)
        yield chunk


def _of_parquet(column: Any, name: str, chunk: Chunk) -> Array:
    """Convert a column into numbers or objects. Texts are dictionary-encoded, so each one is converted and measured once."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return of_arrow(column)
    places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, inverse = np.unique(places, return_inverse=True)
    texts = column.dictionary.take(used[used >= 0])
    sizes = _sizes(texts)
    long = np.concatenate([np.zeros(int((used < 0).sum()), np.int64), sizes])
    for at in np.flatnonzero(long[inverse] > CELL_BYTES).tolist():
        chunk.bad.setdefault(int(chunk.numbers[at]), _too_long(name, int(long[inverse[at]])))
    values = [text.as_py() if size <= CELL_BYTES else None for text, size in zip(texts, sizes.tolist(), strict=True)]
    return np.asarray([*([None] * (len(long) - len(values))), *values], object)[inverse]


def _exact_values(column: Any, name: str, chunk: Chunk) -> Any:
    """Return an additional column in its own type. Texts that are too long become null and are noted."""
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


def _sizes(texts: Any) -> NDArray[np.int64]:
    """Return the size of each text in bytes; 0 for other values and for nulls."""
    from pyarrow import compute

    if not _is_text(texts.type):
        return np.zeros(len(texts), np.int64)
    return np.asarray(compute.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _whole_parquet(
    source: IO[bytes], notation: Notation, written: Callable[[Sequence[str]], Collection[str]]
) -> FileTable:
    file = parquet.File(source, None, WHOLE_CELL_BYTES)
    metadata = file.metadata
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    nested = sum(group.column(at).num_values for group in groups for at in range(group.num_columns))
    if (cells := max(nested, metadata.num_rows * metadata.num_columns)) > MAX_CELLS:
        raise _too_many_cells(cells)
    for group in range(metadata.num_row_groups):
        file.check(group, parquet.LEAST_ROWS)
    table = file.reader.read()
    names = [text_of(name) for name in table.column_names]
    table = table.rename_columns(names)
    if not table.num_rows:
        raise Malformed("file: has no rows below the header; add rows", field="file")
    count = Counter(names)
    if twice := next((name for name in names if count[name] > 1), None):
        raise csv_files.two_columns(twice)
    columns, left_out, texts = dict[str, Array](), _unnamed(names), written(names)
    for name in filter(None, names):
        column = table[name]
        if not _is_plain(column.type):
            left_out[name] = (
                f"has the type {cut(str(_values(column.type)))}; values must be numbers, texts, booleans, dates or times"
            )
        elif _is_text(_values(column.type)):
            columns[name] = plain(column) if name in texts else settled(column, notation)
        else:
            columns[name] = of_arrow(column)
    return FileTable(np.arange(1, table.num_rows + 1), columns, notation, {}, left_out)


def _values(kind: Any) -> Any:
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_plain(kind: Any) -> bool:
    """Return whether the values of an Arrow type are numbers, texts, booleans, dates or times. Lists, structures and bytes are not."""
    from pyarrow import types

    tests = (
        types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null, types.is_date, types.is_time, types.is_timestamp,
    )  # fmt: skip
    plain = _values(kind)
    return _is_text(plain) or any(test(plain) for test in tests)


def _check_type(name: str, kind: Any, *, numeric: bool = False) -> None:
    """Raise Malformed for a type that a column cannot have: lists, structures, bytes and durations; also times, for a column of numbers."""
    from pyarrow import types

    if not _is_plain(kind) or (numeric and types.is_temporal(_values(kind))):
        raise Malformed(
            f"file: column {shown(name)} has the type {cut(str(kind))}; use numbers, texts or booleans", field="file"
        )
