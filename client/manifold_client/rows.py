"""The conversion of rows of many forms to JSON: lists of objects by column, or of lists in the order of the columns.

Data frames of pandas and polars, tables of pyarrow, and any object with the Arrow PyCapsule interface are read without importing these packages;
an object of an unknown package is read through pyarrow. Missing values (None, NaN, NaT, pandas' NA) become null. Dates and times become strings in
ISO 8601. A float32 becomes the shortest decimal that names it, as in files (0.1, not 0.10000000149).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from manifold_client import files
from manifold_client.errors import InvalidType, InvalidValue, MissingLibrary, short, shown

DIGITS = 15  # a float keeps a decimal of so many digits
NEEDED = "give a mapping by column, a list of such rows, or a data frame"
NEEDED_OF_A_ROW = "give a mapping by column, or a list with one value for each column"


def rows(given: Any, field: str) -> list[Any]:
    """Return one row, a list of rows, or a data frame as rows."""
    if isinstance(given, Mapping):
        return [row(given, field)]
    if is_series(given):
        return [row(given, field)]
    if is_table(given):
        return _of_columns(_columns(given, field), field)
    if isinstance(given, np.ndarray):
        if given.ndim != 2:
            raise InvalidValue(
                f"{field}: an array of shape {given.shape}; an array (rows, columns) is needed", field=field
            )
        given = list(given)
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidType(f"{field}: {shown(given)} is not a list of rows; {_wanted(given, NEEDED)}", field=field)
    if not given:
        raise InvalidValue(f"{field}: the list is empty; give at least one row", field=field)
    return [row(each, f"{field}[{place}]") for place, each in enumerate(given)]


def row(given: Any, field: str) -> Any:
    """Return one row: an object by column, or a list in the order of the columns."""
    if is_series(given):
        series, given = type(given).__name__, given.to_dict()
        if not all(isinstance(name, str) for name in given):
            raise InvalidType(
                f"{field}: this {series} is not a row, as its index holds no names of columns; give one row, "
                "such as frame.iloc[0], or the frame",
                field=field,
            )
    if isinstance(given, Mapping):
        for name in given:
            if not isinstance(name, str):
                raise InvalidType(
                    f"{field}: the column {shown(name)} has a name that is not a string; rename it", field=field
                )
        return {name: cell(value, f"{field}.{name}") for name, value in given.items()}
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = list(given)
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidType(
            f"{field}: {shown(given)} is not a row; {_wanted(given, NEEDED_OF_A_ROW)}",
            field=field,
        )
    return [cell(value, f"{field}[{place}]") for place, value in enumerate(given)]


def cell(value: Any, field: str) -> Any:
    """Convert one value to a JSON type. Raises InvalidType for types that JSON does not have, such as bytes, and InvalidValue for infinity.

    Lists and mappings are sent unchanged: the service ignores them in columns that the model does not read.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.float32 | np.float16):
        value = float(str(value))
    elif isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("datetime64[us]").item()
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int) or type(value).__name__ in ("NAType", "NaTType"):
        return None if type(value).__name__ in ("NAType", "NaTType") else value
    if isinstance(value, Decimal) and value.is_finite():
        whole = value == value.to_integral_value()
        return int(value) if whole else float(value) if len(value.as_tuple().digits) <= DIGITS else str(value)
    if isinstance(value, float | Decimal):
        if (
            value.is_nan() if isinstance(value, Decimal) else math.isnan(value)
        ):  # math.isnan raises for a signalling NaN
            return None
        if math.isinf(value):
            raise InvalidValue(
                f"{field}: {value} cannot be sent; give a finite number, or None if it is missing", field=field
            )
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): cell(each, f"{field}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [cell(each, f"{field}[{place}]") for place, each in enumerate(value)]
    raise InvalidType(
        f"{field}: {shown(value)} is a {type(value).__name__}; give a string, a number, a boolean, a date or None, or remove the column",
        field=field,
    )


def is_table(given: Any) -> bool:
    """Return whether a value is a data frame or an Arrow table."""
    return hasattr(given, "__arrow_c_stream__") or (hasattr(given, "iloc") and hasattr(given, "columns"))


def _wanted(given: Any, needed: str) -> str:
    """Return what to give instead of a value: what a file of rows or a lazy frame becomes, else `needed`."""
    if (call := files.reader(given)) is not None:
        return f"read the file: give {call}"
    return "give the frame that its method collect() returns" if callable(getattr(given, "collect", None)) else needed


def is_series(given: Any) -> bool:
    """Return whether a value is one row of a data frame of pandas."""
    return getattr(given, "ndim", None) == 1 and hasattr(given, "to_dict") and hasattr(given, "iloc")


def _columns(table: Any, field: str) -> dict[str, list[Any]]:
    """Return the columns of a data frame or an Arrow table."""
    if hasattr(table, "iloc"):  # pandas
        names = list(table.columns)
        columns = [_listed(table.iloc[:, place], "tolist") for place in range(len(names))]
    elif hasattr(table, "get_columns"):  # polars
        found = table.get_columns()
        names, columns = [each.name for each in found], [_listed(each, "to_list") for each in found]
    elif hasattr(table, "column_names") and hasattr(table, "column"):  # pyarrow
        names = list(table.column_names)
        columns = [_listed(table.column(place), "to_pylist") for place in range(len(names))]
    elif (
        hasattr(table, "schema") and hasattr(table, "column") and hasattr(table, "to_pylist")
    ):  # a record batch of pyarrow
        names = list(table.schema.names)
        columns = [_listed(table.column(place), "to_pylist") for place in range(len(names))]
    else:
        return _columns(_through_pyarrow(table, field), field)
    for name in names:
        if not isinstance(name, str):
            raise InvalidType(
                f"{field}: the column {shown(name)} has a name that is not a string; rename it", field=field
            )
        if names.count(name) > 1:
            raise InvalidValue(
                f"{field}: {names.count(name)} columns have the name {shown(name)}; rename them", field=field
            )
    return dict(zip(names, columns, strict=True))


def _listed(column: Any, method: str) -> list[Any]:
    """Return a column as a list. Values of float32 keep their type, so that `cell` sends 0.1 and not 0.10000000149."""
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower().removesuffix("[pyarrow]")
    values: list[Any] = getattr(column, method)()
    if kind in ("float", "float32", "halffloat", "float16"):
        small = np.float16 if kind in ("halffloat", "float16") else np.float32
        return [small(value) if isinstance(value, float | int) else value for value in values]
    return values


def _of_columns(columns: Mapping[str, list[Any]], field: str) -> list[dict[str, Any]]:
    count = len(next(iter(columns.values()), []))
    if not count:
        raise InvalidValue(f"{field}: the table is empty; give at least one row and one column", field=field)
    plain = {
        name: [cell(value, f"{field}[{place}].{name}") for place, value in enumerate(values)]
        for name, values in columns.items()
    }
    return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]


def _through_pyarrow(table: Any, field: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingLibrary(
            f"{field}: a {type(table).__name__} is read by pyarrow, which is not installed; run `pip install pyarrow`, or give a list of rows",
            field=field,
        ) from None
    try:
        return pyarrow.table(table)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InvalidValue(
            f"{field}: the {type(table).__name__} cannot be read as a table: {short(error)}; {NEEDED}", field=field
        ) from None
