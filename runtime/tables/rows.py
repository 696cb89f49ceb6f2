"""Table rows to and from encoded float32 arrays: the one place for scaling, categories and their errors.

runtime.tables.values says what a value means. A text that spells no number in a numeric column, or a number that is not finite, is an
error that names row and column. Where the caller allows it (scoring does), a category never seen in training becomes a block of zeros, a
missing value NaN, and both are reported. runtime.tables.columns does the same for whole columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, cut, shown
from manifold.runtime.tables import values as reading
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import Notation

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

Float32 = NDArray[np.float32]
LARGEST = float(np.finfo(np.float64).max)
Row = Mapping[str, Any] | Sequence[Any]


def encode(
    rows: Sequence[Row], spec: TableSpec, *, unknown: bool = False, missing: bool = False, field: str = "rows"
) -> tuple[Float32, list[list[str]]]:
    """Encode rows (objects by column, or arrays in column order) as float32 (n, width), with warnings by row.

    `unknown` allows categories never seen in training, `missing` values that are null or left out. Raises InvalidValue naming row and
    column.
    """
    warnings: list[list[str]] = [[] for _ in rows]
    encoded = np.zeros((len(rows), *spec.shape), np.float32)
    for index, row in enumerate(rows):
        given = values(row, spec, f"{field}[{index}]", missing=missing)
        for (column, block), value in zip(spec.placed, given, strict=True):
            place = f"{field}[{index}].{column.name}"
            if value is None:
                encoded[index, block] = np.nan
                warnings[index].append(is_missing(column))
            elif isinstance(column, NumericColumn):
                encoded[index, block] = _number(value, column, spec, place, warnings[index])
            else:
                encoded[index, block] = _one_hot(value, column, spec, place, unknown, warnings[index])
    return encoded, warnings


def values(row: Row, spec: TableSpec, place: str = "row", *, missing: bool = False) -> list[Any]:
    """Return a row's values in column order, None for those that are missing. Raises InvalidValue for unknown columns, and for missing
    values where they are not allowed."""
    names = spec.names
    if isinstance(row, Mapping):
        for name in row:
            if name not in spec.known:
                raise InvalidValue(f"{place}: unknown column {shown(name)}", field=f"{place}.{name}", valid=names)
        given = [row.get(name) for name in names]
    elif isinstance(row, str) or not isinstance(row, Sequence):
        raise InvalidValue(f"{place}: a row is an object by column or an array", field=place, valid=names)
    elif len(row) != len(names):
        raise InvalidValue(f"{place}: {len(row)} values, but there are {len(names)} columns", field=place, valid=names)
    else:
        given = list(row)
    given = [_settled(value, column, spec.notation) for value, column in zip(given, spec.columns, strict=True)]
    if not missing and None in given:
        name = names[given.index(None)]
        raise InvalidValue(
            f"{place}: column {shown(name)} is missing; every column needs a value",
            field=f"{place}.{name}",
            valid=names,
        )
    if all(value is None for value in given):
        raise InvalidValue(f"{place}: every value is missing", field=place, valid=names)
    return given


def _settled(value: Any, column: NumericColumn | CategoricalColumn, notation: Notation) -> Any:
    """Return None for a missing value, and the number for a text that spells one in a numeric column; else the value."""
    if type(value) is float or type(value) is int:
        return value if value == value else None
    if is_absent(value, column, notation):
        return None
    if isinstance(column, NumericColumn) and isinstance(value, str):
        spelled = reading.exact_number(value, notation)
        if isinstance(spelled, int) and not -(2**63) <= spelled < 2**64:  # more than an answer in JSON can carry
            spelled = reading.number(value, notation)
        return value if spelled is None else spelled
    return value


def is_absent(value: Any, column: NumericColumn | CategoricalColumn, notation: Notation) -> bool:
    """Return whether a value of a column is missing. A category may be called as missing values are, such as "NA"."""
    if value is None:
        return True
    if isinstance(column, CategoricalColumn) and column.lookup.named(value):
        return False
    return reading.is_missing(value, notation, numeric=isinstance(column, NumericColumn))


# what is wrong with a value, and what is said about one that is let through; runtime.tables.columns says the same


def not_a_number(value: Any, column: NumericColumn) -> str:
    return f"{shown(value)} is not a number; column {shown(column.name)} is numeric"


def not_finite(value: Any) -> str:
    return f"{cut(str(value)) if isinstance(value, str | float) else shown(value)} is not finite"


def is_clipped(value: Any, column: NumericColumn) -> str:
    said = "and was clipped" if column.beyond is None else "and counts by the logarithm of what lies beyond"
    return (
        f"{cut(column.name)}: {cut(reading.spelling(value))} is more than {column.clip:g} scales from the mean {said}"
    )


def is_unknown(name: str, column: CategoricalColumn) -> str:
    return f"unknown_category: {cut(column.name)} {shown(name)} was never seen in training"


def is_missing(column: NumericColumn | CategoricalColumn) -> str:
    return f"missing: {cut(column.name)} has no value; it took no part in the score"


def _number(value: Any, column: NumericColumn, spec: TableSpec, place: str, warnings: list[str]) -> float:
    number = reading.number(value, spec.notation)
    if number is None:
        raise InvalidValue(f"{place}: {not_a_number(value, column)}", field=place)
    if not math.isfinite(number):
        raise InvalidValue(f"{place}: {not_finite(value)}", field=place)
    encoded = float(standardise(np.float64(number), column))
    if abs(encoded) >= column.clip:
        warnings.append(is_clipped(value, column))
    return encoded


def standardise(values: Any, column: NumericColumn) -> Any:
    """Return numbers as the graph's inputs, float64, held to -clip .. clip or compressed beyond them; NaN stays."""
    with np.errstate(over="ignore"):
        scaled = (transform(values, column) - column.mean) / column.scale
        inside = np.clip(scaled, -column.clip, column.clip)
        if column.beyond is None:
            return inside
        return inside + np.sign(scaled) * np.log1p(np.minimum(np.abs(scaled - inside), LARGEST))


def transform(values: Any, column: NumericColumn) -> Any:
    """Return t(value): the identity, log(1 + value) and its mirror image below 0, or the quantile transform."""
    if column.transform == "log1p":
        return np.sign(values) * np.log1p(np.abs(values))
    if column.transform == "quantile":
        assert column.knots is not None and column.scores is not None and column.slope is not None
        beyond = np.minimum(values - column.knots[0], 0) + np.maximum(values - column.knots[-1], 0)
        return np.interp(values, column.knots, column.scores) + column.slope * beyond
    return values


def _one_hot(
    value: Any, column: CategoricalColumn, spec: TableSpec, place: str, unknown: bool, warnings: list[str]
) -> Float32:
    if isinstance(value, list | dict):
        raise InvalidValue(f"{place}: a category is a string or a number", field=place, valid=list(column.categories))
    block = np.zeros(column.width, np.float32)
    found = column.lookup.find(value, spec.notation)
    if found is not None:
        block[found] = 1
    elif unknown:
        warnings.append(is_unknown(reading.spelling(value), column))
    else:
        name = reading.spelling(value)
        raise InvalidValue(f"{place}: unknown category {shown(name)}", field=place, valid=list(column.categories))
    return block


def decode(encoded: NDArray[Any], spec: TableSpec, *, held: bool = True) -> list[dict[str, Any]]:
    """Return rows by column of encoded ones (n, width): numbers unscaled, rounded and, where `held`, held to the training range, as what a model makes
    is; the largest entry of each block. A value that is missing (NaN) is None."""
    columns: dict[str, list[Any]] = {}
    for column, block in spec.placed:
        values = np.asarray(encoded[:, block], np.float64)
        if isinstance(column, NumericColumn):
            columns[column.name] = _unscale(values[:, 0], column, held)
        else:
            absent = [bool(np.isnan(block).any()) for block in values]
            columns[column.name] = [
                None if gone else column.categories[index]
                for index, gone in zip(values.argmax(axis=1).tolist(), absent, strict=True)
            ]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _unscale(values: NDArray[np.float64], column: NumericColumn, held: bool) -> list[Any]:
    if column.beyond == "log":
        inside = np.clip(values, -column.clip, column.clip)
        values = inside + np.sign(values) * np.expm1(np.minimum(np.abs(values - inside), math.log(LARGEST)))
    with np.errstate(over="ignore"):
        numbers = _inverse(values * column.scale + column.mean, column)
    if held:
        numbers = np.clip(numbers, column.minimum, column.maximum)
    if column.decimals is not None:
        numbers = np.round(numbers, column.decimals)
    plain: list[Any] = numbers.tolist()
    if column.decimals != 0:
        return [None if number != number else number for number in plain]
    return [None if number != number else int(number) if math.isfinite(number) else number for number in plain]


def clipped_at(column: NumericColumn) -> tuple[float, float]:
    """Return the values beyond which the numbers of a column are clipped or compressed, the lower one first."""
    ends = np.asarray([-column.clip, column.clip]) * column.scale + column.mean
    low, high = _inverse(ends, column).tolist()
    return low, high


def _inverse(values: NDArray[np.float64], column: NumericColumn) -> NDArray[np.float64]:
    """Return the value for t(value)."""
    if column.transform == "log1p":
        return np.asarray(np.sign(values) * np.expm1(np.abs(values)), np.float64)
    if column.transform == "quantile":
        assert column.knots is not None and column.scores is not None and column.slope is not None
        beyond = np.minimum(values - column.scores[0], 0) + np.maximum(values - column.scores[-1], 0)
        inside: NDArray[np.float64] = np.interp(values, column.scores, column.knots) + beyond / column.slope
        return inside
    return values
