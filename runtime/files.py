"""Tables in files, read in chunks of constant memory: CSV and Parquet to columns, rows that are no rows set aside.

Rows are numbered as they stand in the file, from 1 (a CSV's header is no row). Cells of a CSV come as texts and are turned into numbers a
column at a time; where one of them is no number the column stays text, and runtime.columns says which row is wrong.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Malformed, Unavailable
from runtime.spec import CategoricalColumn, TableSpec

Array = NDArray[Any]

CHUNK_ROWS = 16_384
BLOCK_BYTES = 4 * 2**20  # of a CSV, read at once
DELIMITERS = ",;\t|"
FORMATS = ("csv", "parquet")


@dataclass
class Chunk:
    """Rows of a file in their order. `bad` holds those that are no rows, by number, with the reason."""

    numbers: NDArray[np.int64]  # (n,), of the rows that were read
    table: dict[str, Array]  # columns (n,)
    bad: dict[int, str] = field(default_factory=dict)


def format_of(path: Path) -> str:
    """csv or parquet, by the name's suffix. Raises Malformed for another."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise Malformed(f"{path.name}: a table is a .csv or .parquet file", field="file", valid=list(FORMATS))
    return suffix


def chunks(source: IO[bytes], kind: str, spec: TableSpec, *, rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """The columns of `spec`, `rows` rows at a time; columns that the model does not know are skipped.

    `source` is a binary file, seekable for Parquet. Raises Malformed where the file cannot be read, has no rows or lacks columns.
    """
    try:
        import pyarrow
    except ImportError:
        raise Unavailable('reading tables needs pyarrow: pip install "manifold[tables]"', field="file") from None
    read = _parquet if kind == "parquet" else _csv
    empty = True
    try:
        for chunk in read(source, spec, rows):
            empty = False
            yield chunk
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise Malformed(f"file: cannot be read as {kind}: {_first_line(error)}", field="file") from error
    if empty:
        raise Malformed("file: has no rows", field="file")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_columns(there: Iterable[str], spec: TableSpec) -> None:
    names = list(there)
    if absent := [name for name in spec.names if name not in names]:
        raise Malformed(
            f"file: lacks the column(s) {', '.join(map(repr, absent))}; it has {', '.join(map(repr, names))}",
            field="file",
            valid=spec.names,
        )
    if twice := [name for name in spec.names if names.count(name) > 1]:
        raise Malformed(f"file: two columns are called {twice[0]!r}", field="file")


# --- CSV ----------------------------------------------------------------------------------------------------------------------


def _csv(source: IO[bytes], spec: TableSpec, rows: int) -> Iterator[Chunk]:
    import pyarrow
    from pyarrow import csv as arrow

    head, header, delimiter = _header(source, spec)
    _check_columns(header, spec)
    wrong: dict[int, str] = {}  # row numbers that the reader skipped

    def skip(row: Any) -> str:
        wrong[row.number - 1] = f"has {row.actual_columns} cells, but the header has {row.expected_columns}"
        return "skip"

    reader = arrow.open_csv(
        pyarrow.PythonFile(_Joined(head, source), mode="r"),
        read_options=arrow.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow.ConvertOptions(
            include_columns=spec.names,
            column_types=dict.fromkeys(spec.names, pyarrow.string()),
            strings_can_be_null=False,
        ),
    )
    number = 0  # of the last row that was numbered
    for batch in reader:
        for start in range(0, batch.num_rows, rows):
            piece = batch.slice(start, rows)
            numbers = _number(number, piece.num_rows, wrong)
            bad = {at: wrong.pop(at) for at in sorted(wrong) if at <= numbers[-1]}
            number = int(numbers[-1])
            yield Chunk(numbers, {c.name: _of_texts(piece.column(c.name), c) for c in spec.columns}, bad)
    if wrong:
        yield Chunk(np.zeros(0, np.int64), {name: np.zeros(0) for name in spec.names}, wrong)


def _header(source: IO[bytes], spec: TableSpec) -> tuple[bytes, list[str], str]:
    """The file's beginning, the header in it, and the delimiter that finds most of the model's columns."""
    head = source.read(BLOCK_BYTES)
    if not head.strip():
        raise Malformed("file: is empty", field="file")
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8").rstrip("\r")

    def names(delimiter: str) -> list[str]:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])

    delimiter = max(DELIMITERS, key=lambda each: len(set(names(each)) & set(spec.names)))
    return head, names(delimiter), delimiter


def _number(last: int, n: int, skipped: dict[int, str]) -> NDArray[np.int64]:
    """Numbers of the next n rows after `last`, those of skipped rows left out."""
    after = sorted(at for at in skipped if at > last)
    numbers = np.arange(last + 1, last + n + 1 + len(after))
    return numbers[~np.isin(numbers, after)][:n]


def _of_texts(column: Any, about: Any) -> Array:
    """A column of texts as numbers (NaN where empty) if they are, else as objects with None where empty."""
    import pyarrow
    from pyarrow import compute

    column = compute.utf8_trim_whitespace(column)
    column = compute.if_else(compute.equal(column, ""), None, column)
    if not isinstance(about, CategoricalColumn):
        try:
            return np.asarray(compute.cast(column, pyarrow.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pyarrow.ArrowInvalid:
            pass  # runtime.columns finds out which
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


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


def _parquet(source: IO[bytes], spec: TableSpec, rows: int) -> Iterator[Chunk]:
    from pyarrow import parquet

    file = parquet.ParquetFile(source)
    _check_columns(file.schema_arrow.names, spec)
    for name in spec.names:
        _check_type(name, file.schema_arrow.field(name).type)
    number = 1
    for batch in file.iter_batches(batch_size=rows, columns=spec.names):
        numbers = np.arange(number, number + batch.num_rows)
        number += batch.num_rows
        table = {name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False)) for name in spec.names}
        yield Chunk(numbers, table)


def _check_type(name: str, kind: Any) -> None:
    """Raises Malformed for a column that holds neither numbers nor texts: lists, times, bytes."""
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    tests = (
        types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null,
        types.is_string, types.is_large_string, types.is_string_view,
    )  # fmt: skip
    if not any(test(plain) for test in tests):
        raise Malformed(f"file: column {name!r} holds {kind}; numbers, texts or booleans are needed", field="file")
