"""A reader of CSV files in batches of text columns. Rows with a wrong number of cells are left out and listed."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, Malformed, ManifoldError, TooLarge, shown
from manifold.runtime.tables import dialect
from manifold.runtime.tables.dialect import Dialect
from manifold.runtime.tables.values import text_of

BLOCK_BYTES = 4 * 2**20  # bytes that are read at once, and the limit for a row
BATCH_ROWS = 16_384  # rows in a batch of the slower reader
MAX_COLUMNS = 16_384
INVALID_ROWS, INVALID_SHARE = 10_000, 0.5  # reading stops if the invalid rows exceed both this number and this share
OTHERS = re.compile(
    r'\s*(\{\s*"[^"\n]*"\s*:|\[\s*[\[{]|<(!doctype|html|\?xml))', re.IGNORECASE
)  # the beginnings of files in other formats
PENDING = 500_000  # limit for invalid rows that were found ahead of the valid rows around them


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file, without the invalid ones."""

    numbers: NDArray[np.int64]  # (n,), row numbers, from 1
    columns: dict[str, Any]  # Arrow arrays (n,) of texts, as in the file
    bad: dict[int, str]  # rows up to the last one in `numbers` with a wrong number of cells, with the reason


@dataclass(frozen=True)
class Opened:
    """A CSV file whose header has been read."""

    form: Dialect
    batches: Iterator[Batch]
    text: dialect.Text

    @property
    def notes(self) -> list[str]:
        """The assumptions about the part of the file that was read so far."""
        latin = "the file is not UTF-8 and was read as Latin-1 (Windows-1252); if texts look wrong, save it as UTF-8"
        return [latin] if self.text.encoding == "latin-1" else []


def check_invalid(invalid: int, rows: int, number: int, reason: str) -> None:
    """Raise InvalidValue if too many of the first `rows` rows are invalid. Row `number` and its `reason` serve as an example."""
    if invalid > INVALID_ROWS and invalid > INVALID_SHARE * rows:
        raise InvalidValue(
            f"file: {invalid} of the first {rows} rows are invalid (such as row {number}: {reason}); correct them, as reading stops at more than "
            f"{INVALID_ROWS} and {INVALID_SHARE:.0%} invalid rows",
            field="file",
        )


def open_csv(source: IO[bytes], wanted: Collection[str] | None = None) -> Opened:
    """Open a CSV file to read the columns `wanted` (some may be absent), or all columns that have a name if it is None.

    Raises Malformed for a file that is not CSV, or in which two columns to read have the same name.
    """
    raw = dialect.Text(source)
    head, content, text = _begin(raw)
    if b"\0" in head and not wanted:
        raise Malformed(
            "file: contains NUL bytes, so it is a binary file; save the table as CSV in UTF-8", field="file"
        )
    if other := OTHERS.match(content):
        raise Malformed(
            f"file: starts with {shown(other.group())}, so it is JSON or HTML; save the table as CSV or Parquet",
            field="file",
        )
    form = dialect.find(content, wanted or ())
    if len(form.header) > MAX_COLUMNS:
        raise TooLarge(f"file: has {len(form.header)} columns; the limit is {MAX_COLUMNS}", field="file")
    places = {name: place for place, name in enumerate(form.header) if (name if wanted is None else name in wanted)}
    count = Counter(form.header)
    if twice := next((name for name in places if count[name] > 1), None):
        raise two_columns(twice)
    rest = head[len(content[: form.skip].encode()) :]
    if len(head) < BLOCK_BYTES and not rest.strip():
        return Opened(form, iter(()), raw)
    return Opened(form, _batches(_Joined(rest, text), form, places), raw)


def _begin(raw: dialect.Text) -> tuple[bytes, str, io.BufferedReader[Any]]:
    """Read the first block of a file. Return it as bytes and as text, with the rest of the file. Raises Malformed for an empty file."""
    rest = io.BufferedReader(raw, 64 * 2**10)
    head = rest.read(BLOCK_BYTES)
    if not head.strip():
        raise Malformed("file: is empty; send a CSV file with a header and rows", field="file")
    return head, head.decode("utf-8", "ignore"), rest  # the last character may be incomplete


def two_columns(name: str) -> Malformed:
    """Return the error for two columns of a file with the same name."""
    return Malformed(f"file: two columns have the name {shown(name)}; rename or remove one of them", field="file")


def text_rows(source: IO[bytes], wanted: Collection[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a small CSV file with their numbers, as texts without surrounding blanks. The header has the number 0.

    The form of the file is detected as in `open_csv`, but pyarrow is not needed. Rows may have different numbers of cells. Raises Malformed,
    TooLarge or csv.Error for a file that is not CSV.
    """
    head, content, text = _begin(dialect.Text(source))
    form = dialect.find(content, wanted)
    yield 0, list(form.header)
    rest = _Joined(head[len(content[: form.skip].encode()) :], text)
    for number, row in enumerate(_rows(rest, form), 1):
        yield number, [text_of(cell) for cell in row]


class _Skipped:
    """The rows that are left out because their number of cells is wrong, by row number with the reason."""

    def __init__(self, expected: int) -> None:
        self.reasons: dict[int, str] = {}
        self.error: ManifoldError | None = None
        self._expected, self._count = expected, 0
        self._said: dict[int, str] = {}  # reasons by number of cells, so that rows share the text

    def note(self, number: int, cells: int) -> None:
        """Record a row. Raises InvalidValue if there are too many."""
        self._count += 1
        reason = self._said.setdefault(
            min(cells, MAX_COLUMNS), f"has {cells} cells, but the header has {self._expected}"
        )
        self.reasons[number] = reason
        check_invalid(self._count, number, number, reason)
        if len(self.reasons) > PENDING:
            raise InvalidValue(
                f"file: {PENDING} rows within {2 * BLOCK_BYTES} bytes are invalid (such as row {number}: {reason}); correct the file",
                field="file",
            )

    def __call__(self, row: Any) -> str:
        """Record a row for Arrow's reader. A return value, not an exception, tells the reader whether to stop."""
        try:
            self.note(row.number, row.actual_columns)
        except InvalidValue as error:
            self.error = error
        return "skip" if self.error is None else "error"

    def until(self, number: int) -> dict[int, str]:
        """Remove and return the rows up to `number`."""
        return {at: self.reasons.pop(at) for at in sorted(at for at in self.reasons if at <= number)}


def _batches(source: _Joined, form: Dialect, places: dict[str, int]) -> Iterator[Batch]:
    import pyarrow

    skipped = _Skipped(len(form.header))
    read = _by_python if form.spaced else _by_arrow
    number = 0  # the last row number that was assigned
    try:
        for columns, rows in read(source, form, places, skipped):
            numbers = _numbers(number, rows, skipped.reasons)
            number = int(numbers[-1]) if len(numbers) else number
            yield Batch(numbers, columns, skipped.until(number))
    except pyarrow.ArrowInvalid:
        if skipped.error is not None:
            raise skipped.error from None
        raise
    if skipped.reasons:
        yield Batch(
            np.zeros(0, np.int64), {name: pyarrow.array([], pyarrow.string()) for name in places}, skipped.reasons
        )


def _numbers(last: int, n: int, skipped: dict[int, str]) -> NDArray[np.int64]:
    """Return the numbers of the next n rows after `last`, without the numbers of skipped rows."""
    after = sorted(at for at in skipped if at > last)
    numbers = np.arange(last + 1, last + n + 1 + len(after))
    return numbers[~np.isin(numbers, after)][:n]


def _by_arrow(
    source: _Joined, form: Dialect, places: dict[str, int], skipped: _Skipped
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield columns and their number of rows. Columns are read by position, since names may occur twice."""
    import pyarrow
    from pyarrow import csv as arrow

    names = [str(place) for place in range(len(form.header))]
    wanted = [str(place) for place in places.values()]
    with arrow.open_csv(
        pyarrow.PythonFile(source, mode="r"),
        read_options=arrow.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, column_names=names),
        parse_options=arrow.ParseOptions(
            delimiter=form.delimiter, newlines_in_values=True, invalid_row_handler=skipped
        ),
        convert_options=arrow.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pyarrow.string()), strings_can_be_null=False
        ),
    ) as reader:
        for batch in reader:
            yield {name: batch.column(str(place)) for name, place in places.items()}, batch.num_rows


def _rows(source: _Joined, form: Dialect) -> Iterator[list[str]]:
    """Yield the rows after the header, without empty lines."""
    text = io.TextIOWrapper(io.BufferedReader(source), "utf-8", newline="")
    return filter(None, csv.reader(text, delimiter=form.delimiter, skipinitialspace=form.spaced))


def _by_python(
    source: _Joined, form: Dialect, places: dict[str, int], skipped: _Skipped
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the same as `_by_arrow` for files with blanks before quotes, which Arrow would read as part of the text."""
    import pyarrow

    rows = enumerate(_rows(source, form), 1)
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        for number, row in block:
            if len(row) != len(form.header):
                skipped.note(number, len(row))
        kept = [row for _, row in block if len(row) == len(form.header)]
        yield (
            {name: pyarrow.array([row[place] for row in kept], pyarrow.string()) for name, place in places.items()},
            len(kept),
        )


class _Joined(io.RawIOBase):
    """A stream of the bytes that were already read, followed by the rest of the source."""

    def __init__(self, head: bytes, rest: io.BufferedReader[Any]) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._head.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
