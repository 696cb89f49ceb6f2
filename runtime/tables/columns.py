"""The encoding of whole columns as float32 arrays: the counterpart of runtime.tables.rows for many rows, at the speed of numpy.

Values are read by the rules of runtime.tables.values, as in requests. A row that cannot be encoded is reported with a reason; the other rows
are processed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import LISTED, InvalidValue, shown
from manifold.runtime.tables import rows
from manifold.runtime.tables import values as reading
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import Notation

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

Array = NDArray[Any]
Float32 = NDArray[np.float32]

MANY = 8  # number of adjacent columns of numbers from which on they are encoded together
RUN_ROWS = 2048  # rows of such columns that are encoded at once


@dataclass(frozen=True)
class Outside:
    """The values of a column that did not occur in training: unknown categories, and numbers that were clipped."""

    rows: int
    example: str

    def __add__(self, other: Outside) -> Outside:
        return Outside(self.rows + other.rows, self.example)


@dataclass
class EncodedTable:
    """Encoded rows. `bad` lists the rows that could not be encoded; do not use their data."""

    data: Float32  # (n, width)
    warnings: dict[int, list[str]] = field(default_factory=dict)  # by row; only rows with warnings
    bad: dict[int, str] = field(default_factory=dict)  # by row, the first reason found
    outside: dict[str, Outside] = field(default_factory=dict)  # by column; only columns with such values

    def warn(self, index: Any, text: str) -> None:
        self.warnings.setdefault(int(index), []).append(text)


def encode(
    table: Mapping[str, Array], spec: TableSpec, *, unknown: bool = False, missing: bool = False
) -> EncodedTable:
    """Encode columns (n,) of numbers, texts or objects as float32 (n, width).

    `unknown` allows categories that did not occur in training, `missing` allows missing values. Raises InvalidValue if a column is absent.
    """
    if absent := [name for name in spec.names if name not in table]:
        raise InvalidValue(
            f"columns: {', '.join(map(shown, absent[:LISTED]))} missing; add them, the model needs {', '.join(spec.names)}",
            field=absent[0],
            valid=spec.names,
        )
    n = len(table[spec.names[0]])
    result = EncodedTable(np.empty((n, *spec.shape), np.float32))
    nothing = np.ones(n, bool)  # rows in which every value is missing
    for number, placed in groupby(spec.placed, lambda one: _is_plain(one[0], table)):
        run = list(placed)
        if number and len(run) >= MANY:
            nothing &= _run([column for column, _ in run if isinstance(column, NumericColumn)], run[0][1].start, table, missing, result)  # fmt: skip
        else:
            nothing &= _one_by_one(run, table, spec, unknown, missing, result)
    for index in np.flatnonzero(nothing):
        result.bad.setdefault(int(index), "every value is missing")
    return result


def _one_by_one(
    placed: Sequence[tuple[NumericColumn | CategoricalColumn, slice]],
    table: Mapping[str, Array],
    spec: TableSpec,
    unknown: bool,
    missing: bool,
    result: EncodedTable,
) -> NDArray[np.bool_]:
    """Encode some columns, and return the rows (n,) that have no value in any of them."""
    nothing = np.ones(len(result.data), bool)
    for column, block in placed:
        values = np.asarray(table[column.name])
        if isinstance(column, NumericColumn):
            absent_rows = missing_values(values, spec.notation, numeric=True)
            result.data[:, block.start] = _numbers(values, absent_rows, column, spec.notation, result)
        else:
            result.data[:, block], absent_rows = _blocks(values, column, spec.notation, unknown, result)
        nothing &= absent_rows
        for index in np.flatnonzero(absent_rows):
            if missing:
                result.warn(index, rows.is_missing(column))
            else:
                result.bad.setdefault(int(index), _no_value(column))
    return nothing


def _no_value(column: NumericColumn | CategoricalColumn) -> str:
    return f"column {shown(column.name)} has no value; every column needs one"


def _is_plain(column: NumericColumn | CategoricalColumn, table: Mapping[str, Array]) -> bool:
    """Return whether a column is numeric, without a transform, and its values are floating-point numbers already."""
    return (
        isinstance(column, NumericColumn)
        and column.transform == "identity"
        and np.asarray(table[column.name]).dtype.kind == "f"
    )


def _run(
    run: Sequence[NumericColumn], start: int, table: Mapping[str, Array], missing: bool, result: EncodedTable
) -> NDArray[np.bool_]:
    """Encode many adjacent columns for which `_is_plain` holds, as `_one_by_one` does, but all columns together."""
    nothing = np.ones(len(result.data), bool)
    for first in range(0, len(result.data), RUN_ROWS):
        piece = slice(first, first + RUN_ROWS)
        values = np.stack([table[column.name][piece] for column in run]).T
        absent = np.isnan(values)
        nothing[piece] = absent.all(1)
        encoded = rows.standardise_all(values.astype(np.float64), run)
        result.data[piece, start : start + len(run)] = encoded
        clipped = np.abs(encoded) >= np.asarray([column.clip for column in run])
        for at, place in np.argwhere(absent | clipped).tolist():
            _note(first + at, values[:, place][at], run[place], missing, result)
    return nothing


def _note(index: int, value: Any, column: NumericColumn, missing: bool, result: EncodedTable) -> None:
    """Record a value that is missing, infinite or clipped."""
    if np.isnan(value) and missing:
        result.warn(index, rows.is_missing(column))
    elif np.isnan(value):
        result.bad.setdefault(index, _no_value(column))
    else:
        if np.isinf(value):
            result.bad.setdefault(index, f"{column.name}: {rows.not_finite(float(value))}")
        value = value.item()
        result.warn(index, rows.is_clipped(value, column))
        found = Outside(1, reading.spelling(value))
        result.outside[column.name] = result.outside.get(column.name, Outside(0, found.example)) + found


def missing_values(values: Array, notation: Notation, *, numeric: bool = False) -> NDArray[np.bool_]:
    """Return a mask of the missing values (n,): None, NaN, or a text that stands for a missing value. Columns of numbers have more such texts."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "biu":
        return np.zeros(len(values), bool)
    return _each(values, lambda value: reading.is_missing(value, notation, numeric=numeric), bool)


def numbers(values: Array, notation: Notation) -> NDArray[np.float64]:
    """Convert values (n,) into numbers, also from texts. Numbers may be infinite; NaN stands for a value that is not a number."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    if values.dtype.kind == "b":
        return np.full(len(values), np.nan)

    def number(value: Any) -> float:
        found = reading.number(value, notation)
        return np.nan if found is None else found

    return _each(values, number, np.float64)


def _each(values: Array, read: Callable[[Any], Any], dtype: Any) -> Array:
    """Return `read(value)` for each value. Equal texts are read once."""
    known: dict[str, Any] = {}
    result = np.empty(len(values), dtype)
    for place, value in enumerate(values.tolist()):
        if type(value) is str:
            if value not in known:
                known[value] = read(value)
            result[place] = known[value]
        else:
            result[place] = read(value)
    return result


def _numbers(
    values: Array, absent: NDArray[np.bool_], column: NumericColumn, notation: Notation, result: EncodedTable
) -> NDArray[np.float64]:
    found = numbers(values, notation)
    found[absent] = np.nan
    for index in np.flatnonzero(np.isnan(found) & ~absent):
        result.bad.setdefault(int(index), f"{column.name}: {rows.not_a_number(values.item(index), column, notation)}")
    for index in np.flatnonzero(np.isinf(found)):
        result.bad.setdefault(int(index), f"{column.name}: {rows.not_finite(found[index])}")
    encoded: NDArray[np.float64] = rows.standardise(found, column)
    clipped = np.flatnonzero(np.abs(encoded) >= column.clip)
    for index in clipped:
        result.warn(index, rows.is_clipped(values.item(index), column))
    if len(clipped):
        result.outside[column.name] = Outside(len(clipped), reading.spelling(values.item(clipped[0])))
    return encoded


def _blocks(
    values: Array, column: CategoricalColumn, notation: Notation, unknown: bool, result: EncodedTable
) -> tuple[Float32, NDArray[np.bool_]]:
    """Return one-hot blocks (n, categories) and a mask (n,) of missing values. Equal values are looked up once."""
    block = np.zeros((len(values), column.width), np.float32)
    different, inverse = _different(values)
    absent = np.asarray([rows.is_absent(value, column, notation) for value in different], bool)[inverse]
    found = [column.lookup.find(value, notation) for value in different]
    places = np.asarray([-1 if place is None else place for place in found], np.int64)[inverse]
    known = ~absent & (places >= 0)
    block[absent] = np.nan
    block[known, places[known]] = 1
    unseen = np.flatnonzero(~absent & (places < 0))
    if len(unseen):
        result.outside[column.name] = Outside(len(unseen), reading.spelling(different[inverse[unseen[0]]]))
    for index in unseen:
        name = reading.spelling(different[inverse[index]])
        if unknown:
            result.warn(index, rows.is_unknown(name, column))
        else:
            result.bad.setdefault(int(index), f"{column.name}: unknown category {shown(name)}")
    return block, absent


def _different(values: Array) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values, and the index of each row's value. Equal numbers and booleans, such as 1 and True, are distinct.

    Texts stay objects: in an array of texts, each element would need the memory of the longest.
    """
    if values.dtype.kind in "biuf":
        different, inverse = np.unique(values, return_inverse=True)
        return list(different), inverse  # numpy scalars, since the text of a float32 0.1 is 0.1
    plain = values.tolist()
    keys = plain if set(map(type, plain)) <= {str, type(None)} else [(type(value), value) for value in plain]
    place_of: dict[Any, int] = {}
    inverse = np.fromiter((place_of.setdefault(key, len(place_of)) for key in keys), np.int64, len(plain))
    return [key if key is None or isinstance(key, str) else key[1] for key in place_of], inverse
