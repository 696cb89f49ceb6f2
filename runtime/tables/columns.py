"""Whole columns to encoded float32 arrays: what runtime.tables.rows does row by row, at the speed of numpy, with bad rows set aside.

Values are read by the rules of runtime.tables.values, as those of a request are. A row that cannot be encoded is
reported with its reason and left out of the work, and the others go on: one bad line of a million is no reason to lose the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Outside:
    """The values of a column that training never saw: unseen categories, and numbers that were clipped."""

    rows: int
    example: str

    def __add__(self, other: Outside) -> Outside:
        return Outside(self.rows + other.rows, self.example)


@dataclass
class EncodedTable:
    """Encoded rows. `bad` names those that could not be encoded; their data is not to be used."""

    data: Float32  # (n, width)
    warnings: dict[int, list[str]] = field(default_factory=dict)  # by row, of those that have any
    bad: dict[int, str] = field(default_factory=dict)  # row to reason, the first one found
    outside: dict[str, Outside] = field(default_factory=dict)  # by column, if there are any

    def warn(self, index: Any, text: str) -> None:
        self.warnings.setdefault(int(index), []).append(text)


def encode(
    table: Mapping[str, Array], spec: TableSpec, *, unknown: bool = False, missing: bool = False
) -> EncodedTable:
    """Encode columns (n,) of numbers, texts or objects as float32 (n, width).

    `unknown` allows categories never seen in training, `missing` values that are missing. Raises InvalidValue if a column is absent.
    """
    if absent := [name for name in spec.names if name not in table]:
        raise InvalidValue(
            f"columns: {', '.join(map(shown, absent[:LISTED]))} missing; the model needs {', '.join(spec.names)}",
            field=absent[0],
            valid=spec.names,
        )
    n = len(table[spec.names[0]])
    result = EncodedTable(np.empty((n, *spec.shape), np.float32))
    nothing = np.ones(n, bool)  # rows without a single value
    for column, block in spec.placed:
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
                result.bad.setdefault(int(index), f"column {shown(column.name)} is missing; every column needs a value")
    for index in np.flatnonzero(nothing):
        result.bad.setdefault(int(index), "every value is missing")
    return result


def missing_values(values: Array, notation: Notation, *, numeric: bool = False) -> NDArray[np.bool_]:
    """Return which of a column's values (n,) are missing: None, NaN, or a text that stands for that, in a column of numbers if `numeric`."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "biu":
        return np.zeros(len(values), bool)
    return _each(values, lambda value: reading.is_missing(value, notation, numeric=numeric), bool)


def numbers(values: Array, notation: Notation) -> NDArray[np.float64]:
    """Return the numbers that a column's values (n,) are or spell, some of which may be infinite; NaN where there is none."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    if values.dtype.kind == "b":
        return np.full(len(values), np.nan)

    def number(value: Any) -> float:
        found = reading.number(value, notation)
        return np.nan if found is None else found

    return _each(values, number, np.float64)


def _each(values: Array, read: Callable[[Any], Any], dtype: Any) -> Array:
    """Return `read` of each value. Texts are read once, however often they occur."""
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
        result.bad.setdefault(int(index), f"{column.name}: {rows.not_a_number(values.item(index), column)}")
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
    """Return one-hot blocks (n, categories) and which values are missing (n,). Different values are looked up once."""
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
    """Return the different values, and each row's place among them. A number and a truth value that are equal stay apart.

    Texts stay objects: an array of texts would give each of its rows the room of the longest.
    """
    if values.dtype.kind in "biuf":
        different, inverse = np.unique(values, return_inverse=True)
        return list(different), inverse  # numpy's scalars: 0.1 as float32 is spelled 0.1
    plain = values.tolist()
    keys = plain if set(map(type, plain)) <= {str, type(None)} else [(type(value), value) for value in plain]
    place_of: dict[Any, int] = {}
    inverse = np.fromiter((place_of.setdefault(key, len(place_of)) for key in keys), np.int64, len(plain))
    return [key if key is None or isinstance(key, str) else key[1] for key in place_of], inverse
