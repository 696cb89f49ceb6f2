"""Whole columns to encoded float32 arrays: what runtime.tables.rows does row by row, at the speed of numpy, with bad rows set aside.

Columns come from files, so a number may stand as text, and what is missing is None, NaN or an empty text. A row that cannot be encoded is
reported with its reason and left out of the work, and the others go on: one bad line of a million is no reason to lose the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import LISTED, InvalidValue, shown
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import rows

Array = NDArray[Any]
Float32 = NDArray[np.float32]


@dataclass
class EncodedTable:
    """Encoded rows. `bad` names those that could not be encoded; their data is not to be used."""

    data: Float32  # (n, width)
    warnings: dict[int, list[str]] = field(default_factory=dict)  # by row, of those that have any
    bad: dict[int, str] = field(default_factory=dict)  # row to reason, the first one found

    def warn(self, index: Any, text: str) -> None:
        self.warnings.setdefault(int(index), []).append(text)


def encode(
    table: Mapping[str, Array], spec: TableSpec, *, unknown: bool = False, missing: bool = False
) -> EncodedTable:
    """Columns (n,) of numbers, texts or objects to float32 (n, width).

    `unknown` allows categories never seen in training, `missing` values that are missing. Raises InvalidValue where a column is not there.
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
        absent_rows = missing_values(values)
        nothing &= absent_rows
        if isinstance(column, NumericColumn):
            result.data[:, block.start] = _numbers(values, absent_rows, column, result)
        else:
            result.data[:, block] = _blocks(values, absent_rows, column, unknown, result)
        for index in np.flatnonzero(absent_rows):
            if missing:
                result.warn(index, rows.is_missing(column))
            else:
                result.bad.setdefault(int(index), f"column {shown(column.name)} is missing; every column needs a value")
    for index in np.flatnonzero(nothing):
        result.bad.setdefault(int(index), "every value is missing")
    return result


def missing_values(values: Array) -> NDArray[np.bool_]:
    """Return which of a column's values (n,) are missing: None, NaN, or an empty text."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "biu":
        return np.zeros(len(values), bool)
    if values.dtype.kind == "U":
        return np.asarray(values == "", bool)
    return np.asarray([value is None or value == "" or value != value for value in values.tolist()], bool)


def _numbers(
    values: Array, absent: NDArray[np.bool_], column: NumericColumn, result: EncodedTable
) -> NDArray[np.float64]:
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
    else:
        numbers = _parsed(values, absent, column, result)
    for index in np.flatnonzero(np.isinf(numbers)):
        result.bad.setdefault(int(index), f"{column.name}: {rows.not_finite(numbers[index])}")
    encoded: NDArray[np.float64] = rows.standardise(numbers, column)
    for index in np.flatnonzero(np.abs(encoded) >= column.clip):
        result.warn(index, rows.is_clipped(values[index : index + 1].tolist()[0], column))
    return encoded


def _parsed(
    values: Array, absent: NDArray[np.bool_], column: NumericColumn, result: EncodedTable
) -> NDArray[np.float64]:
    """Texts and objects to numbers, NaN where there is none."""
    numbers = np.full(len(values), np.nan)
    try:
        if values.dtype.kind == "b":
            raise ValueError("truth values are no numbers")
        numbers[~absent] = values[~absent].astype(np.float64)
        if not np.isnan(numbers[~absent]).any() and not any(isinstance(value, bool) for value in values.tolist()):
            return numbers
    except (ValueError, TypeError, OverflowError):
        pass  # some of them are no numbers: one by one below, which says which
    plain = values.tolist()
    for index in np.flatnonzero(~absent):
        value = plain[index]
        try:
            if isinstance(value, bool):
                raise ValueError(value)
            numbers[index] = float(value)
        except OverflowError:
            numbers[index] = np.inf
        except (ValueError, TypeError):
            numbers[index] = np.nan
        if np.isnan(numbers[index]):
            result.bad.setdefault(int(index), f"{column.name}: {rows.not_a_number(value, column)}")
    return numbers


def _blocks(
    values: Array, absent: NDArray[np.bool_], column: CategoricalColumn, unknown: bool, result: EncodedTable
) -> Float32:
    """Return one-hot blocks (n, categories); different values are looked up once."""
    block = np.zeros((len(values), column.width), np.float32)
    block[absent] = np.nan
    index_of = {name: place for place, name in enumerate(column.categories)}
    names, inverse = _names(values)
    found_at = [index_of.get(rows.category(name, column), -1) for name in names]
    places = np.asarray(found_at, np.int64)[inverse]
    known = ~absent & (places >= 0)
    block[known, places[known]] = 1
    for index in np.flatnonzero(~absent & (places < 0)):
        if unknown:
            result.warn(index, rows.is_unknown(names[inverse[index]], column))
        else:
            result.bad.setdefault(int(index), f"{column.name}: unknown category {shown(names[inverse[index]])}")
    return block


def _names(values: Array) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different categories in their one spelling, and each row's place among them; what is missing becomes some text or other.

    The texts stay objects: an array of texts would give each of its rows the room of the longest.
    """
    if values.dtype.kind in "biuf":
        different, inverse = np.unique(values, return_inverse=True)
        return [rows.canonical(value) for value in different], inverse  # numpy's scalars: 0.1 as float32 is 0.1
    place_of: dict[str, int] = {}
    texts = (value if type(value) is str else rows.canonical(value) for value in values.tolist())
    inverse = np.fromiter((place_of.setdefault(text, len(place_of)) for text in texts), np.int64, len(values))
    return list(place_of), inverse
