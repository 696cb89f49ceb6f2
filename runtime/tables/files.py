"""A reader of tables in CSV, Parquet and .npy files, in chunks of constant memory or as a whole. Invalid rows are listed separately.

Rows are numbered from 1 in the order of the file; the header of a CSV file is not counted. A column is returned as numbers if all its values are
numbers, texts of numbers, or missing. Otherwise it is returned as texts or plain Python values; runtime.tables.columns reads these one by one by
the same rules. The formats are read in csv_tables, parquet_tables and vectors.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from manifold.runtime import extras
from manifold.runtime.errors import Malformed, RequestError, TooLarge, Unavailable, cut
from manifold.runtime.tables import csv_files, csv_tables, parquet_tables, vectors
from manifold.runtime.tables.chunk import CELL_BYTES, UNNAMED, Chunk, FileTable, check_cells, first_of
from manifold.runtime.tables.csv_files import check_invalid, open_csv
from manifold.runtime.tables.values import DEFAULT, Notation

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

__all__ = ["CELL_BYTES", "UNNAMED", "Chunk", "FileTable", "check_invalid", "chunks", "format_of", "header", "read"]

CHUNK_ROWS = 16_384
CHUNK_CELLS = 500_000  # limit for the cells of a chunk; chunks of wide tables have fewer rows
MAX_ROWS = 100_000_000
FORMATS = ("csv", "parquet", "npy")


def format_of(path: Path) -> str:
    """Return `csv`, `parquet` or `npy` from the suffix of a file name. Raises Malformed for another suffix."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise Malformed(
            f"{cut(path.name)}: the suffix is not that of a table; give a .csv, .parquet or .npy file",
            field="file",
            valid=list(FORMATS),
        )
    return suffix


def chunks(
    source: IO[bytes], kind: str, spec: TableSpec, *, rows: int = CHUNK_ROWS, also: Sequence[str] = ()
) -> Iterator[Chunk]:
    """Yield the columns of `spec`, `rows` rows at a time. Other columns are skipped, except those named in `also`.

    `source` is a binary file, seekable for Parquet and .npy. Columns in `also` may be absent. They may also be columns of `spec`; their cells are then
    also returned unconverted. Raises Malformed if the file cannot be read, has no rows, or lacks columns of `spec`.
    """
    read = {"parquet": parquet_tables.chunks, "npy": _npy}.get(kind, csv_tables.chunks)
    last = 0
    with _reading(kind):
        for chunk in read(source, spec, max(1, min(rows, CHUNK_CELLS // (len(spec.columns) + len(also)))), also):
            last = max([last, *chunk.numbers[-1:].tolist(), *chunk.bad])
            if last > MAX_ROWS:
                raise TooLarge(f"file: has more than {MAX_ROWS} rows; split it into several files", field="file")
            yield chunk
    if not last:
        raise Malformed("file: has no rows below the header; add rows", field="file")


def header(source: IO[bytes], kind: str, spec: TableSpec | None = None, *, ignored: Collection[str] = ()) -> list[str]:
    """Return the names of the columns of a file. The file position is restored.

    `spec` has the columns that are searched in it, if they are known. List columns in `ignored` are not read as vectors. Raises Malformed if the
    file cannot be read.
    """
    start = source.tell()
    with _reading(kind):
        if kind == "parquet":
            names = parquet_tables.header(source, ignored or (() if spec is None else spec.ignored))
        elif kind == "npy":
            names = vectors.names(vectors.NpyFile(source).width)
        else:
            names = list(open_csv(source, () if spec is None else spec.names).form.header)
    source.seek(start)
    return names


def read(
    source: IO[bytes],
    kind: str,
    notation: Notation | None = None,
    written: Callable[[Sequence[str]], Collection[str]] = lambda names: (),
    ignored: Collection[str] = (),
) -> FileTable:
    """Return all columns of a file that have a name. A decimal separator detected in a CSV file overrides that of `notation`.

    List columns in `ignored` are not read as vectors. `written` selects the columns whose texts are not converted into numbers; surrounding
    blanks are removed. Raises Malformed if the file cannot be read or has no rows, TooLarge if it has more than MAX_CELLS cells.
    """
    with _reading(kind):
        if kind == "parquet":
            return parquet_tables.whole(source, notation or DEFAULT, written, ignored)
        return (_whole_npy if kind == "npy" else csv_tables.whole)(source, notation or DEFAULT, written)


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


# --- .npy ---------------------------------------------------------------------------------------------------------------------


def _npy(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    import pyarrow

    file = vectors.NpyFile(source)
    vectors.check_width(file.width, len(spec.names))
    wanted, first = [name for name in also if name in spec.names], 1
    for block in file.blocks(rows):
        numbers = np.arange(first, first + len(block.data))
        chunk = Chunk(numbers, dict(zip(spec.names, block.data.T, strict=True)), notation=spec.notation)
        chunk.bad = {first + at: reason for at, reason in block.bad.items()}
        chunk.also = {name: pyarrow.array(chunk.table[name]) for name in wanted}
        first += len(block.data)
        yield chunk


def _whole_npy(source: IO[bytes], notation: Notation, written: Callable[[Sequence[str]], Collection[str]]) -> FileTable:
    file = vectors.NpyFile(source)
    check_cells(file.n * file.width)
    names = tuple(vectors.names(file.width))
    written(names)  # raises an error for columns that the file lacks
    data, at, bad = np.empty((file.width, file.n), np.float32), 0, dict[int, str]()  # columns are contiguous
    for block in file.blocks(vectors.BLOCK_ROWS):
        data[:, at : at + len(block.data)] = block.data.T
        bad |= {at + 1 + place: reason for place, reason in block.bad.items()}
        at += len(block.data)
    numbers = np.arange(1, file.n + 1)
    if bad:
        data, numbers = (
            np.delete(data, np.asarray(list(bad)) - 1, axis=1),
            np.delete(numbers, np.asarray(list(bad)) - 1),
        )
    if not len(numbers):
        raise Malformed(f"file: has no rows{first_of(bad)}; add valid rows", field="file")
    return FileTable(numbers, dict(zip(names, data, strict=True)), notation, bad, vectors=names)
