"""The reading of whole CSV, Parquet and .npy files as columns, with the same reader as in scoring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from manifold.runtime.errors import ManifoldError
from manifold.runtime.tables import files
from manifold.runtime.tables.files import FORMATS, FileTable
from manifold.runtime.tables.values import Notation
from manifold.training.errors import DataError

SUFFIXES = tuple(f".{name}" for name in FORMATS)
LISTED_SUFFIXES = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]}"


def read(
    path: Path,
    notation: Notation | None = None,
    written: Callable[[Sequence[str]], Collection[str]] = lambda names: (),
    ignored: Collection[str] = (),
) -> FileTable:
    """Read a whole .csv, .parquet or .npy file. The arguments are those of files.read. Raises DataError if it is unreadable or has no rows."""
    with _named(path), path.open("rb") as source:
        return files.read(source, files.format_of(path), notation, written, ignored)


def names(path: Path, ignored: Collection[str] = ()) -> list[str]:
    """Return the names of the columns of a .csv, .parquet or .npy file, from its header. Raises DataError if it is unreadable.

    List columns in `ignored` are not read as vectors.
    """
    with _named(path), path.open("rb") as source:
        return files.header(source, files.format_of(path), ignored=ignored)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the errors of a file into DataErrors that name it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror}; check the path and its permissions") from error
    except ManifoldError as error:
        raise DataError(f"{path}: {error.message.removeprefix('file: ')}") from error
