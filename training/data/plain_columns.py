"""The columns of a file for a graph from elsewhere: numbers that the graph gets unchanged, and texts as categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime import extras
from manifold.runtime.errors import InvalidValue, reason, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data.schema import decimals_of

RAW = 1e30  # limit for numbers, so that none is clipped
MOST = 1000  # largest number of categories of a column


def read(path: Path) -> TableSpec:
    """Return the spec of the rows of a .csv or .parquet file. Raises InvalidValue for a file that cannot be read, or a column without usable values."""
    extras.check("tables")
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise InvalidValue(f"--columns: {path} is not a file; give a .csv or .parquet file", field="--columns")
    try:
        table = pa.parquet.read_table(path) if path.suffix.lower() == ".parquet" else pa.csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidValue(f"--columns: {path} cannot be read: {reason(error)}", field="--columns") from None
    if twice := next((name for name in table.column_names if table.column_names.count(name) > 1), None):
        raise InvalidValue(
            f"--columns: the column {shown(twice)} occurs twice; give each column a name of its own", field="--columns"
        )
    return TableSpec(columns=tuple(_column(name, table[name]) for name in table.column_names))


def _column(name: str, values: Any) -> NumericColumn | CategoricalColumn:
    import pyarrow as pa

    plain = values.drop_null()
    if pa.types.is_dictionary(plain.type):
        plain = plain.cast(plain.type.value_type)
    if len(plain) and (pa.types.is_integer(plain.type) or pa.types.is_floating(plain.type)):
        numbers = plain.to_numpy()
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            return NumericColumn(
                name=name, mean=0, scale=1, clip=RAW, minimum=float(numbers.min()), maximum=float(numbers.max()), decimals=decimals_of(numbers),
            )  # fmt: skip
    if len(plain) and (pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type)):
        categories = sorted({text for text in plain.to_pylist() if text})
        if 0 < len(categories) <= MOST:
            return CategoricalColumn(name=name, categories=tuple(categories))
    raise InvalidValue(
        f"--columns: the column {shown(name)} has neither numbers nor at most {MOST} different texts; give a file with the columns that the graph takes",
        field="--columns",
    )


def only_numbers(spec: TableSpec) -> None:
    """Raise InvalidValue for a column of texts, which a graph that takes all columns in one input cannot get."""
    if texts := [column.name for column in spec.columns if isinstance(column, CategoricalColumn)]:
        raise InvalidValue(
            f"--columns: the column {shown(texts[0])} has texts, but the graph takes all columns as one input of numbers; give a file with numbers only, or "
            "export a graph with an input for each column",
            field="--columns",
        )
