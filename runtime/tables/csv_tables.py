"""The reading of CSV files as tables: the cells of the columns are converted by the columns of a model, or all columns of a file are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import Malformed
from manifold.runtime.tables import csv_files
from manifold.runtime.tables.cells import numbers_of, plain, replaced, settled
from manifold.runtime.tables.chunk import (
    CELL_BYTES,
    Chunk,
    FileTable,
    check_cells,
    check_columns,
    first_of,
    note_long,
    too_long,
    unnamed,
)
from manifold.runtime.tables.csv_files import open_csv
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import Notation, exact_number, number

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

Array = NDArray[Any]


def chunks(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    opened = open_csv(source, (*spec.names, *also))
    there = check_columns(opened.form.header, spec, also)
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
        chunk.bad.setdefault(int(chunk.numbers[at]), too_long(name, sizes[at].as_py()))
    return compute.if_else(compute.greater(sizes, CELL_BYTES), "", column)


def _exact_texts(column: Any, name: str, chunk: Chunk) -> Any:
    """Return the cells of an additional column as texts, null if empty or too long. Cells that are too long are noted."""
    from pyarrow import compute

    sizes = compute.binary_length(column)
    for at in np.flatnonzero(sizes.fill_null(0).to_numpy() > CELL_BYTES).tolist():
        note_long(chunk, at, name, sizes[at].as_py())
    column = compute.if_else(compute.greater(sizes, CELL_BYTES), None, compute.utf8_trim_whitespace(column))
    return compute.if_else(compute.equal(column, ""), None, column)


def whole(source: IO[bytes], stated: Notation, written: Callable[[Sequence[str]], Collection[str]]) -> FileTable:
    import pyarrow

    opened = open_csv(source)
    notation = _notation(opened, stated)
    batches, bad, rows, cells = [], dict[int, str](), 0, 0
    for batch in opened.batches:
        batches.append(batch)
        bad |= batch.bad
        rows += len(batch.numbers)
        cells += len(batch.numbers) * len(batch.columns)
        check_cells(cells)
    if not rows:
        raise Malformed(f"file: has no rows{first_of(bad)}; add valid rows", field="file")
    texts = written(list(batches[0].columns))
    columns = {}
    for name in batches[0].columns:
        column = pyarrow.chunked_array([batch.columns[name] for batch in batches])
        columns[name] = plain(column) if name in texts else settled(column, notation)
    numbers = np.concatenate([batch.numbers for batch in batches])
    return FileTable(numbers, columns, notation, bad, unnamed(opened.form.header), tuple(opened.notes))
