"""The conversion of table rows into encoded float32 arrays and back. Scaling, categories and their errors are defined only here.

runtime.tables.values defines the meaning of a value. In a numeric column, a text that is not a number, or a number that is not finite, is an
error that names row and column. If the caller allows it (scoring does), an unknown category becomes a block of zeros and a missing value
becomes NaN; both are reported. runtime.tables.columns does the same for whole columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, cut, near, shown
from manifold.runtime.problems import word
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
    """Encode rows (objects by column name, or arrays in column order) as float32 (n, width), with warnings by row.

    `unknown` allows categories that did not occur in training, `missing` allows values that are null or absent. Raises InvalidValue with row
    and column.
    """
    warnings: list[list[str]] = [[] for _ in rows]
    encoded = np.zeros((len(rows), *spec.shape), np.float32)
    for index, row in enumerate(rows):
        given = values(row, spec, f"{field}[{index}]", missing=missing)
        if spec.run and set(map(type, given)) == {float}:
            whole = np.asarray(given)
            made = standardise_all(whole, spec.run)
            if np.isfinite(whole).all() and (np.abs(made) < [column.clip for column in spec.run]).all():
                encoded[index] = made
                continue
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
    """Return the values of a row in column order, None for missing ones.

    Raises InvalidValue for unknown columns, and for missing values if they are not allowed.
    """
    names = spec.names
    if isinstance(row, Mapping):
        for name in row:
            if name not in spec.known:
                raise InvalidValue(
                    f"{place}: the model has no column {shown(name)}{near(str(name), names)}; remove it, or correct its name",
                    field=f"{place}.{name}",
                    valid=names,
                )
        given = [row.get(name) for name in names]
    elif isinstance(row, str) or not isinstance(row, Sequence):
        raise InvalidValue(
            f"{place}: {word(row)} is not a row; send an object by column name, or an array in column order",
            field=place,
            valid=names,
        )
    elif len(row) != len(names):
        raise InvalidValue(
            f"{place}: {len(row)} values for {len(names)} columns; send one value per column", field=place, valid=names
        )
    else:
        given = list(row)
    given = [_settled(value, column, spec.notation) for value, column in zip(given, spec.columns, strict=True)]
    if not missing and None in given:
        name = names[given.index(None)]
        raise InvalidValue(
            f"{place}: column {shown(name)} has no value; every column needs one",
            field=f"{place}.{name}",
            valid=names,
        )
    if all(value is None for value in given):
        raise InvalidValue(f"{place}: every value is missing; send at least one", field=place, valid=names)
    return given


def _settled(value: Any, column: NumericColumn | CategoricalColumn, notation: Notation) -> Any:
    """Return None for a missing value, the number for a text of a number in a numeric column, and otherwise the value."""
    if type(value) is float or type(value) is int:
        return value if value == value else None
    if is_absent(value, column, notation):
        return None
    if isinstance(column, NumericColumn) and isinstance(value, str):
        spelled = reading.exact_number(value, notation)
        if (
            isinstance(spelled, int) and not -(2**63) <= spelled < 2**64
        ):  # larger than a whole number in a JSON response can be
            spelled = reading.number(value, notation)
        return value if spelled is None else spelled
    return value


def is_absent(value: Any, column: NumericColumn | CategoricalColumn, notation: Notation) -> bool:
    """Return whether a value of a column is missing. A category with the text of a missing value, such as "NA", is not."""
    if value is None:
        return True
    if isinstance(column, CategoricalColumn) and column.lookup.named(value):
        return False
    return reading.is_missing(value, notation, numeric=isinstance(column, NumericColumn))


# texts of errors and warnings about values, which runtime.tables.columns also uses


def not_a_number(value: Any, column: NumericColumn, notation: Notation) -> str:
    other: reading.Decimals = "," if notation.decimal == "." else "."
    said = f"{word(value)} is not a number; column {shown(column.name)} is numeric"
    if isinstance(value, str) and reading.number(value, Notation(notation.missing, other)) is not None:
        text = cut(reading.trimmed(value).translate(str.maketrans(",.", ".,")))
        said += f", and its decimal separator is {notation.decimal!r}; write {text}"
    return said


def not_finite(value: Any) -> str:
    return f"{cut(str(value)) if isinstance(value, str | float) else word(value)} is not finite; give a finite number"


def is_clipped(value: Any, column: NumericColumn) -> str:
    said = "and was clipped" if column.beyond is None else "and was compressed by a logarithm"
    return f"{cut(column.name)}: {cut(reading.spelling(value))} is more than {column.clip:g} times the scale away from the mean {said}"


def is_unknown(name: str, column: CategoricalColumn) -> str:
    return f"unknown_category: {cut(column.name)} {shown(name)} did not occur in training"


def is_missing(column: NumericColumn | CategoricalColumn) -> str:
    return f"missing: {cut(column.name)} has no value; the other columns decide the score"


def _number(value: Any, column: NumericColumn, spec: TableSpec, place: str, warnings: list[str]) -> float:
    number = reading.number(value, spec.notation)
    if number is None:
        raise InvalidValue(f"{place}: {not_a_number(value, column, spec.notation)}", field=place)
    if not math.isfinite(number):
        raise InvalidValue(f"{place}: {not_finite(value)}", field=place)
    encoded = float(standardise(np.float64(number), column))
    if abs(encoded) >= column.clip:
        warnings.append(is_clipped(value, column))
    return encoded


def standardise(values: Any, column: NumericColumn) -> Any:
    """Convert numbers into model inputs, float64, clipped to -clip .. clip or compressed outside; NaN stays NaN."""
    with np.errstate(over="ignore"):
        scaled = (transform(values, column) - column.mean) / column.scale
        inside = np.clip(scaled, -column.clip, column.clip)
        if column.beyond is None:
            return inside
        return inside + np.sign(scaled) * np.log1p(np.minimum(np.abs(scaled - inside), LARGEST))


def standardise_all(values: NDArray[np.float64], run: Sequence[NumericColumn]) -> NDArray[np.float64]:
    """Compute `standardise` for the numbers (n, columns) of many columns without a transform."""
    mean, scale, clip = np.asarray([(column.mean, column.scale, column.clip) for column in run]).T
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values - mean) / scale
        inside = np.clip(scaled, -clip, clip)
        further = np.sign(scaled) * np.log1p(np.minimum(np.abs(scaled - inside), LARGEST))
    encoded: NDArray[np.float64] = inside + np.where([column.beyond is not None for column in run], further, 0)
    return encoded


def transform(values: Any, column: NumericColumn) -> Any:
    """Compute t(value): the identity, log(1 + value) (mirrored below 0), or the quantile transform."""
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
        raise InvalidValue(
            f"{place}: {word(value)} is not a category; send a text or a number",
            field=place,
            valid=list(column.categories),
        )
    block = np.zeros(column.width, np.float32)
    found = column.lookup.find(value, spec.notation)
    if found is not None:
        block[found] = 1
    elif unknown:
        warnings.append(is_unknown(reading.spelling(value), column))
    else:
        name = reading.spelling(value)
        raise InvalidValue(
            f"{place}: unknown category {shown(name)}{near(str(name), column.categories)}; send a category that occurred in training",
            field=place,
            valid=list(column.categories),
        )
    return block


def decode(encoded: NDArray[Any], spec: TableSpec, *, held: bool = True) -> list[dict[str, Any]]:
    """Decode encoded rows (n, width) into rows by column name.

    Numbers are unscaled, rounded and, if `held` is true (as for rows that a model makes), clipped to the training range. A category is the
    largest entry of its block. Missing values (NaN) become None.
    """
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


def example(spec: TableSpec, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return random encoded rows (count, width): numbers between the smallest and the largest in training, and categories with equal probability."""
    encoded = np.zeros((count, *spec.shape), np.float32)
    for column, block in spec.placed:
        if isinstance(column, NumericColumn):
            values = column.minimum + (column.maximum - column.minimum) * generator.random(count)
            encoded[:, block.start] = standardise(
                values if column.decimals is None else values.round(column.decimals), column
            )
        else:
            encoded[np.arange(count), block.start + generator.integers(0, column.width, count)] = 1
    return encoded


def clipped_at(column: NumericColumn) -> tuple[float, float]:
    """Return the lower and upper value beyond which the numbers of a column are clipped or compressed."""
    ends = np.asarray([-column.clip, column.clip]) * column.scale + column.mean
    low, high = _inverse(ends, column).tolist()
    return low, high


def _inverse(values: NDArray[np.float64], column: NumericColumn) -> NDArray[np.float64]:
    """Compute the inverse of `transform`."""
    if column.transform == "log1p":
        return np.asarray(np.sign(values) * np.expm1(np.abs(values)), np.float64)
    if column.transform == "quantile":
        assert column.knots is not None and column.scores is not None and column.slope is not None
        beyond = np.minimum(values - column.scores[0], 0) + np.maximum(values - column.scores[-1], 0)
        inside: NDArray[np.float64] = np.interp(values, column.scores, column.knots) + beyond / column.slope
        return inside
    return values
