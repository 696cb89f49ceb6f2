"""Tables in CSV and Parquet files, read whole as columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime.errors import Malformed, TooLarge, cut, shown
from manifold.runtime.tables import parquet
from manifold.training.data.parts import Array
from manifold.training.errors import DataError

CELL_BYTES = 2**20  # of a Parquet file, on average
MAX_CELLS = 500_000_000  # of a file, which is read as a whole: 4 GB as numbers


def _read_csv(path: Path) -> Any:
    from pyarrow import csv

    return csv.read_csv(path)


def _read_parquet(path: Path) -> Any:
    with path.open("rb") as source:
        file = parquet.File(source, None, CELL_BYTES)
        _check_cells(file.metadata)
        for group in range(file.metadata.num_row_groups):
            file.check(group, parquet.LEAST_ROWS)
        return file.reader.read()


def _check_cells(metadata: Any) -> None:
    """Raise TooLarge for more than MAX_CELLS cells, of which a file of a few kilobytes can claim any number."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    nested = sum(group.column(at).num_values for group in groups for at in range(group.num_columns))
    if (cells := max(nested, metadata.num_rows * metadata.num_columns)) > MAX_CELLS:
        raise TooLarge(f"file: has {cells} cells, the limit is {MAX_CELLS}; take a sample of its rows", field="file")


READERS: dict[str, Callable[[Path], Any]] = {".csv": _read_csv, ".parquet": _read_parquet}


def read(path: Path) -> dict[str, Array]:
    """Return the columns of a .csv or .parquet file: numbers (NaN if missing) or objects (None if missing).

    Raises DataError if the file cannot be read or is empty.
    """
    import pyarrow

    try:
        table = READERS[path.suffix](path)
        names = table.column_names  # which are decoded here
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {cut(str(error), 200)}") from error
    except (Malformed, TooLarge) as error:
        raise DataError(f"{path}: {error.message.removeprefix('file: ')}") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: has no rows")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are called {shown(twice)}")
    return {name: _plain(table[name]) for name in names}


def _plain(column: Any) -> Array:
    """Return a column's numbers or objects; rows share the texts of a dictionary."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    whole = column.unify_dictionaries().combine_chunks()
    texts = np.asarray([*whole.dictionary.to_pylist(), None], object)
    places: Array = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    values: Array = texts[places]
    return values
