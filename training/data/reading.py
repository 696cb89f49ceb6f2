"""Tables in CSV and Parquet files, read whole as columns, by the reader that scoring uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from manifold.runtime.errors import ManifoldError
from manifold.runtime.tables import files
from manifold.runtime.tables.files import FORMATS, FileTable
from manifold.runtime.tables.values import Notation
from manifold.training.errors import DataError

SUFFIXES = tuple(f".{name}" for name in FORMATS)


def read(
    path: Path,
    notation: Notation | None = None,
    written: Callable[[Sequence[str]], Collection[str]] = lambda names: (),
) -> FileTable:
    """Return a .csv or .parquet file as a whole; arguments as of files.read. Raises DataError if it cannot be read or has no rows."""
    try:
        with path.open("rb") as source:
            return files.read(source, files.format_of(path), notation, written)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ManifoldError as error:
        raise DataError(f"{path}: {error.message.removeprefix('file: ')}") from error
