"""Table rows to and from encoded float32 arrays: the one place for scaling, categories and their errors.

Nothing is guessed: a missing column, a string in a numeric column or a number that is not finite is an error that names row and column.
A category never seen in training becomes a block of zeros where the caller allows it (scoring does), and is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidValue
from runtime.spec import CategoricalColumn, NumericColumn, TableSpec

Float32 = NDArray[np.float32]
Row = Mapping[str, Any] | Sequence[Any]


def canonical(value: Any) -> str:
    """A category's one spelling: 0, 0.0, False and "0" are the same category."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def encode(
    rows: Sequence[Row], spec: TableSpec, *, unknown: bool = False, field: str = "rows"
) -> tuple[Float32, list[list[str]]]:
    """Rows (objects by column, or arrays in column order) to float32 (n, width), with warnings by row.

    `unknown` allows categories never seen in training. Raises InvalidValue naming row and column.
    """
    warnings: list[list[str]] = [[] for _ in rows]
    encoded = np.zeros((len(rows), *spec.shape), np.float32)
    names = spec.names
    for index, row in enumerate(rows):
        given = values(row, names, f"{field}[{index}]")
        for (column, block), value in zip(spec.blocks(), given, strict=True):
            place = f"{field}[{index}].{column.name}"
            if isinstance(column, NumericColumn):
                encoded[index, block] = _number(value, column, place, warnings[index])
            else:
                encoded[index, block] = _one_hot(value, column, place, unknown, warnings[index])
    return encoded, warnings


def values(row: Row, names: list[str], place: str = "row") -> list[Any]:
    """A row's values in column order. Raises InvalidValue for unknown and missing columns."""
    if isinstance(row, Mapping):
        for name in row:
            if name not in names:
                raise InvalidValue(f"{place}: unknown column {name!r}", field=f"{place}.{name}", valid=names)
        for name in names:
            if row.get(name) is None:
                raise InvalidValue(
                    f"{place}: column {name!r} is missing; every column needs a value",
                    field=f"{place}.{name}",
                    valid=names,
                )
        return [row[name] for name in names]
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise InvalidValue(f"{place}: a row is an object by column or an array", field=place, valid=names)
    if len(row) != len(names):
        raise InvalidValue(f"{place}: {len(row)} values, but there are {len(names)} columns", field=place, valid=names)
    for name, value in zip(names, row, strict=True):
        if value is None:
            raise InvalidValue(
                f"{place}: column {name!r} is missing; every column needs a value", field=f"{place}.{name}", valid=names
            )
    return list(row)


def _number(value: Any, column: NumericColumn, place: str, warnings: list[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidValue(f"{place}: {value!r} is not a number; column {column.name!r} is numeric", field=place)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidValue(f"{place}: {value} is not finite", field=place)
    if column.transform == "log1p" and number <= -1:
        raise InvalidValue(f"{place}: {value} is below what column {column.name!r} can hold (above -1)", field=place)
    encoded = float(standardise(np.float64(number), column))
    if abs(encoded) >= column.clip:
        warnings.append(f"{column.name}: {value} is more than {column.clip:g} scales from the mean and was clipped")
    return encoded


def standardise(values: Any, column: NumericColumn) -> Any:
    """Numbers to the graph's edge, float64 in -clip..clip."""
    transformed = np.log1p(values) if column.transform == "log1p" else values
    return np.clip((transformed - column.mean) / column.scale, -column.clip, column.clip)


def _one_hot(value: Any, column: CategoricalColumn, place: str, unknown: bool, warnings: list[str]) -> Float32:
    if isinstance(value, list | dict):
        raise InvalidValue(f"{place}: a category is a string or a number", field=place, valid=list(column.categories))
    block = np.zeros(column.width, np.float32)
    name = canonical(value)
    if name in column.categories:
        block[column.categories.index(name)] = 1
    elif unknown:
        warnings.append(f"unknown_category: {column.name} {name!r} was never seen in training")
    else:
        raise InvalidValue(f"{place}: unknown category {name!r}", field=place, valid=list(column.categories))
    return block


def decode(encoded: NDArray[Any], spec: TableSpec) -> list[dict[str, Any]]:
    """Float (n, width) to rows by column: numbers unscaled, held to the training range and rounded; the largest entry of each block."""
    columns: dict[str, list[Any]] = {}
    for column, block in spec.blocks():
        values = np.asarray(encoded[:, block], np.float64)
        if isinstance(column, NumericColumn):
            columns[column.name] = _unscale(values[:, 0], column)
        else:
            columns[column.name] = [column.categories[index] for index in values.argmax(axis=1)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _unscale(values: NDArray[np.float64], column: NumericColumn) -> list[Any]:
    numbers = values * column.scale + column.mean
    numbers = np.clip(np.expm1(numbers) if column.transform == "log1p" else numbers, column.minimum, column.maximum)
    if column.decimals is not None:
        numbers = np.round(numbers, column.decimals)
    plain: list[Any] = (numbers.astype(np.int64) if column.decimals == 0 else numbers).tolist()
    return plain
