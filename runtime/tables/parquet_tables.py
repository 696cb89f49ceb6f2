"""The reading of Parquet files as tables. A list column of floating-point numbers holds vectors: each of their numbers is a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import LISTED, Malformed, cut, shown
from manifold.runtime.tables import csv_files, parquet, vectors
from manifold.runtime.tables.cells import of_arrow, plain, settled
from manifold.runtime.tables.chunk import (
    CELL_BYTES,
    REQUESTED,
    WHOLE_CELL_BYTES,
    Chunk,
    FileTable,
    check_cells,
    check_columns,
    note_long,
    too_long,
    unnamed,
)
from manifold.runtime.tables.schema import NumericColumn
from manifold.runtime.tables.values import Notation, text_of

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

Array = NDArray[Any]


def chunks(source: IO[bytes], spec: TableSpec, rows: int, also: Sequence[str]) -> Iterator[Chunk]:
    """Yield the columns of `spec` and those in `also`, `rows` rows at a time."""
    fields = parquet.File(source, [], CELL_BYTES).schema
    exact = set(fields.names) & {*spec.names, *also}
    names = [name if name in exact else text_of(name) for name in fields.names]
    vector = _vector_for(fields, names, spec)
    inside = [] if vector is None else [name for name in spec.names if name not in names]
    there = check_columns([*names, *inside], spec, also)
    plain_names = dict.fromkeys(name for name in [*spec.names, *there] if name not in inside)
    written = {
        name: place for name, place in zip(names, fields.names, strict=True) if name in plain_names
    }  # from names to their spelling in the file
    read = [written[name] for name in plain_names]
    file = parquet.File(source, read, CELL_BYTES, None if vector is None else (vector, len(inside)))
    kinds = {name: file.schema.field(written[name]).type for name in plain_names}
    for column in spec.columns:
        if column.name in kinds:
            _check_type(column.name, kinds[column.name], numeric=isinstance(column, NumericColumn))
    for name in there:
        if name in kinds:
            _check_type(name, kinds[name])
    number = 1
    for batch in file.batches(rows):
        if sorted(batch.schema.names) != sorted([*read, *([] if vector is None else [vector])]):
            raise Malformed(
                "file: nested columns have the same names as columns of the model; rename them", field="file"
            )
        chunk = Chunk(np.arange(number, number + batch.num_rows), {}, notation=spec.notation)
        if vector is not None:
            _add_vectors(chunk, batch.column(vector), inside, there, first=number == 1)
        number += batch.num_rows
        for name in spec.names:
            if name in written:
                chunk.table[name] = _of_parquet(batch.column(written[name]), name, chunk)
        for name in there:
            if name in written:
                chunk.also[name] = _exact_values(batch.column(written[name]), name, chunk)
        yield chunk


def header(source: IO[bytes], ignored: Collection[str]) -> list[str]:
    """Return the names of the columns of a file. The numbers of a vector are columns too, if one column that is not ignored holds vectors."""
    file = parquet.File(source, [], CELL_BYTES)
    vector = _only_vector(file.schema, ignored)
    found: list[str] = []
    for name in file.schema.names:
        found += [text_of(name)] if name != vector else vectors.names(_first_width(source, name))
    return found


def _first_width(source: IO[bytes], name: str) -> int:
    """Return the number of values of the first vector in a list column. Raises Malformed if it has none."""
    for batch in parquet.File(source, [], WHOLE_CELL_BYTES, (name, 1)).batches(parquet.LEAST_ROWS):
        if width := vectors.width_of(batch.column(name)):
            return vectors.checked_width(width)
    raise Malformed(f"file: column {shown(name)} has no vectors; add rows with vectors", field="file")


def _only_vector(fields: Any, ignored: Collection[str]) -> str | None:
    """Return the name of the column with vectors, None if there is none. Raises Malformed if several columns that are not `ignored` hold vectors."""
    found = _vectors_in(fields, ignored)
    if len(found) > 1:
        raise Malformed(
            f"file: the columns {', '.join(map(shown, found[:LISTED]))} all hold vectors; leave out all but one with --column NAME=ignore",
            field="file",
        )
    return found[0] if found else None


def _vectors_in(fields: Any, ignored: Collection[str]) -> list[str]:
    return [field.name for field in fields if vectors.is_list(field.type) and text_of(field.name) not in ignored]


def _vector_for(fields: Any, names: Sequence[str], spec: TableSpec) -> str | None:
    """Return the column with vectors, if what the file lacks of the model can be one: all of its columns, or numbers called x0, x1, …

    Raises Malformed if several columns hold vectors.
    """
    missing = [column for column in spec.columns if column.name not in names]
    numbers = all(isinstance(column, NumericColumn) for column in missing)
    numbered = [column.name for column in missing] == vectors.names(len(missing))
    if not missing or not numbers or not (numbered or len(missing) == len(spec.columns)):
        return None
    found = _vectors_in(fields, spec.ignored)
    if len(found) > 1:
        raise Malformed(
            f"file: the columns {', '.join(map(shown, found[:LISTED]))} all hold vectors; keep the one that the model learned from",
            field="file",
        )
    whole = [field for field in fields if _is_list(field.type) and text_of(field.name) not in spec.ignored]
    if not found and len(whole) == 1:
        raise Malformed(
            f"file: column {shown(text_of(whole[0].name))} has the type {cut(str(whole[0].type))}; vectors must be lists of floating-point numbers",
            field="file",
        )
    return found[0] if found else None


def _add_vectors(chunk: Chunk, column: Any, names: Sequence[str], also: Sequence[str], *, first: bool) -> None:
    """Add the vectors of a list column to a chunk, as columns with these names.

    A vector of another width is an invalid row. Raises Malformed if the file begins with a chunk without any vector of the right width.
    """
    import pyarrow

    width, found = vectors.width_of(column), vectors.of_lists(column, len(names))
    if first and width is not None and len(found.bad) == len(column):
        vectors.check_width(width, len(names))
    chunk.bad |= {int(chunk.numbers[at]): reason for at, reason in found.bad.items()}
    chunk.table |= dict(zip(names, found.data.T, strict=True))
    chunk.also |= {name: pyarrow.array(chunk.table[name]) for name in also if name in chunk.table}


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
        chunk.bad.setdefault(int(chunk.numbers[at]), too_long(name, int(long[inverse[at]])))
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
        note_long(chunk, at, name, sizes[int(places[at])].as_py())
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


def whole(
    source: IO[bytes], notation: Notation, written: Callable[[Sequence[str]], Collection[str]], ignored: Collection[str]
) -> FileTable:
    """Return all columns of a file that have a name. A list column that is `ignored` is not read as vectors."""
    file = parquet.File(source, None, WHOLE_CELL_BYTES)
    metadata = file.metadata
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    nested = sum(group.column(at).num_values for group in groups for at in range(group.num_columns))
    check_cells(max(nested, metadata.num_rows * metadata.num_columns))
    for group in range(metadata.num_row_groups):
        file.check(group, parquet.LEAST_ROWS)
    vector = _only_vector(file.schema, ignored)
    kept = [name for name in file.schema.names if name != vector]
    table = file.reader.read(columns=None if vector is None else kept)
    if not metadata.num_rows:
        raise Malformed("file: has no rows below the header; add rows", field="file")
    found = None if vector is None else _whole_vectors(source, vector, metadata.num_rows)
    inside = () if found is None else tuple(vectors.names(len(found[0])))
    names = [text_of(name) for name in table.column_names]
    table = table.rename_columns(names)
    count = Counter([*names, *inside])
    if twice := next((name for name in count if count[name] > 1), None):
        raise csv_files.two_columns(twice)
    columns, left_out, texts = dict[str, Array](), unnamed(names), written([*names, *inside])
    for name in filter(None, names):
        column = table[name]
        if not _is_plain(column.type):
            left_out[name] = REQUESTED if name in ignored else _not_plain(_values(column.type))
        elif _is_text(_values(column.type)):
            columns[name] = plain(column) if name in texts else settled(column, notation)
        else:
            columns[name] = of_arrow(column)
    numbers = np.arange(1, metadata.num_rows + 1)
    if found is None:
        return FileTable(numbers, columns, notation, {}, left_out)
    data, bad = found
    columns |= dict(zip(inside, data, strict=True))
    if bad:
        valid = np.delete(np.arange(len(numbers)), list(bad))
        numbers, columns = numbers[valid], {name: values[valid] for name, values in columns.items()}
    return FileTable(numbers, columns, notation, {at + 1: reason for at, reason in bad.items()}, left_out, (), inside)


def _whole_vectors(source: IO[bytes], name: str, n: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return the vectors of a list column as (width, n), and the invalid rows by index. Raises Malformed for vectors of different lengths."""
    width = _first_width(source, name)
    file = parquet.File(source, [], CELL_BYTES, (name, width))
    data, bad, at = np.zeros((width, n), np.float32), dict[int, str](), 0
    for batch in file.batches(vectors.BLOCK_ROWS):
        vectors.check_lengths(batch.column(name), width, name, at)
        found = vectors.of_lists(batch.column(name), width)
        data[:, at : at + batch.num_rows] = found.data.T
        bad |= {at + place: reason for place, reason in found.bad.items()}
        at += batch.num_rows
    return data, bad


def _not_plain(kind: Any) -> str:
    """Return the reason why a column of lists, structures or bytes is left out."""
    advice = "; lists of floating-point numbers of the same length would be read as vectors" if _is_list(kind) else ""
    return f"has the type {cut(str(kind))}; values must be numbers, texts, booleans, dates or times{advice}"


def _values(kind: Any) -> Any:
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


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
