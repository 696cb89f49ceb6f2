"""Tables from CSV and Parquet: reading, schema inference, vectorised encoding. The encoding itself is the runtime's.

Schema rules, fitted on training rows alone: strings, booleans and whole numbers with at most 20 different values are categories; other
numbers are numeric, with log(1 + v) where they are non-negative and skewed (skewness above 2), standardised by mean and standard deviation.
The number of decimals is theirs too, unless it is stated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import rows
from runtime.spec import CategoricalColumn, NumericColumn, TableSpec
from training.errors import DataError, TrainingError

Array = NDArray[Any]
MAX_CATEGORIES = 20  # whole numbers with more values are numbers
MAX_STRINGS = 1000  # string columns with more values are identifiers, not categories


def _read_csv(path: Path) -> Any:
    from pyarrow import csv

    return csv.read_csv(path)


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


READERS: dict[str, Callable[[Path], Any]] = {".csv": _read_csv, ".parquet": _read_parquet}


def read(path: Path) -> dict[str, Array]:
    """Columns of a .csv or .parquet file. Raises DataError where it cannot be read, is empty, or has missing values."""
    import pyarrow

    try:
        table = READERS[path.suffix](path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: has no rows")
    for name in table.column_names:
        if missing := table[name].null_count:
            raise DataError(f"{path}: column {name!r} has {missing} missing values; fill or drop those rows first")
    return {name: np.asarray(table[name].to_numpy(zero_copy_only=False)) for name in table.column_names}


def fit(table: dict[str, Array], decimals: dict[str, int], units: dict[str, str]) -> TableSpec:
    """The schema of `table`. `decimals` and `units` are stated by column, where they are known."""
    return TableSpec(
        columns=tuple(_fit_column(name, values, decimals.get(name), units.get(name)) for name, values in table.items())
    )


def _fit_column(name: str, values: Array, decimals: int | None, unit: str | None) -> NumericColumn | CategoricalColumn:
    numeric = np.issubdtype(values.dtype, np.number)
    whole = numeric and bool(np.all(values == np.floor(values)))
    if not numeric or (whole and len(np.unique(values)) <= MAX_CATEGORIES):
        categories = sorted({rows.canonical(value) for value in values.tolist()}, key=_natural)
        if len(categories) < 2:
            raise TrainingError(f"data: column {name!r} has the single value {categories[0]!r}; leave it out")
        if len(categories) > MAX_STRINGS:
            raise TrainingError(
                f"data: column {name!r} has {len(categories)} different values, over {MAX_STRINGS}; leave identifiers out"
            )
        return CategoricalColumn(name=name, categories=tuple(categories))
    numbers = values.astype(np.float64)
    if not np.all(np.isfinite(numbers)):
        raise DataError(f"data: column {name!r} has values that are not finite")
    transform = "log1p" if numbers.min() >= 0 and _skewness(numbers) > 2 else "identity"
    scaled = np.log1p(numbers) if transform == "log1p" else numbers
    if (scale := float(scaled.std())) == 0:
        raise TrainingError(f"data: column {name!r} is constant; leave it out")
    return NumericColumn.model_validate(
        {"name": name, "transform": transform, "mean": float(scaled.mean()), "scale": scale, "minimum": float(numbers.min()),
         "maximum": float(numbers.max()), "decimals": _decimals(numbers) if decimals is None else decimals, "unit": unit}
    )  # fmt: skip


def _decimals(numbers: Array) -> int | None:
    """The digits after the point that all numbers make do with, at most 6; None where they need more."""
    return next((digits for digits in range(7) if np.array_equal(numbers, np.round(numbers, digits))), None)


def _natural(category: str) -> tuple[int, float, str]:
    """Numbers in numeric order, before words."""
    try:
        return (0, float(category), category)
    except ValueError:
        return (1, 0.0, category)


def _skewness(values: Array) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(float((centred**2).mean()) ** 1.5, 1e-300))


def encode(table: dict[str, Array], spec: TableSpec) -> Array:
    """Columns to float32 (n, width), as `runtime.rows.encode` does row by row (a test holds them equal)."""
    blocks = []
    for column, _ in spec.blocks():
        values = table[column.name]
        if isinstance(column, NumericColumn):
            blocks.append(np.asarray(rows.standardise(values.astype(np.float64), column), np.float32)[:, None])
        else:
            names = np.asarray([rows.canonical(value) for value in values.tolist()])
            blocks.append((names[:, None] == np.asarray(column.categories)[None]).astype(np.float32))
    return np.concatenate(blocks, axis=1)
