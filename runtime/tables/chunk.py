"""The rows of a table in a file, in chunks or as a whole, whatever the format of the file is, and the checks that all formats share."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import LISTED, Malformed, TooLarge, shown
from manifold.runtime.tables import csv_files
from manifold.runtime.tables.csv_files import MAX_COLUMNS
from manifold.runtime.tables.values import DEFAULT, Notation

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

Array = NDArray[Any]

MAX_CELLS = 500_000_000  # limit for a file that is read as a whole: 4 GB as numbers
CELL_BYTES = 4096  # a longer cell is neither a number nor a category, and its row is invalid
WHOLE_CELL_BYTES = 2**20  # limit for the average size of a cell, if a Parquet file is read as a whole
REQUESTED = "left out on request"
UNNAMED = "has no name in the header of the file; columns of row numbers often have none"


@dataclass
class Chunk:
    """Rows of a file, in order. `bad` contains the invalid rows by number, with the reason; do not use their cells, if any."""

    numbers: NDArray[np.int64]  # (n,), numbers of the rows that were read
    table: dict[str, Array]  # columns (n,)
    bad: dict[int, str] = field(default_factory=dict)
    also: dict[str, Any] = field(
        default_factory=dict
    )  # additional columns as Arrow arrays (n,): texts for CSV, the types of the file for Parquet
    notation: Notation = DEFAULT  # notation of the texts
    notes: dict[int, list[str]] = field(
        default_factory=dict
    )  # by row number: cells of additional columns that were left out


@dataclass(frozen=True)
class FileTable:
    """A whole file. Columns with types that rows cannot have are left out and listed."""

    numbers: NDArray[np.int64]  # (n,), row numbers
    columns: dict[str, Array]  # (n,): numbers with NaN for missing values, or plain values
    notation: Notation
    bad: dict[int, str] = field(default_factory=dict)  # invalid rows by number, with the reason
    left_out: dict[str, str] = field(default_factory=dict)  # columns that were left out, with the reason
    notes: tuple[str, ...] = ()  # assumptions about the file
    vectors: tuple[str, ...] = ()  # the columns that are the numbers of a vector


def too_long(name: str, size: int) -> str:
    return f"{name}: a cell of {size} bytes; the limit is {CELL_BYTES}"


def note_long(chunk: Chunk, at: int, name: str, size: int) -> None:
    chunk.notes.setdefault(int(chunk.numbers[at]), []).append(f"passed: {too_long(name, size)}; it was left out")


def check_columns(there: Iterable[str], spec: TableSpec, also: Sequence[str]) -> list[str]:
    """Return the columns in `also` that the file has. Raises Malformed if a column of the model is missing, or if one occurs twice."""
    count = Counter(there)
    if count.total() > MAX_COLUMNS:
        raise TooLarge(f"file: has {count.total()} columns; the limit is {MAX_COLUMNS}", field="file")
    if absent := [name for name in spec.names if name not in count]:
        has = ", ".join(map(shown, itertools.islice(count, LISTED))) + (", …" if len(count) > LISTED else "")
        lacks = f"the column{'s' * (len(absent) > 1)} {', '.join(map(shown, absent[:LISTED]))}"
        raise Malformed(
            f"file: lacks {lacks}; it has {has}. {_remedy(absent, count, len(spec.names))}",
            field="file",
            valid=spec.names,
        )
    if twice := [name for name in (*spec.names, *also) if count[name] > 1]:
        raise csv_files.two_columns(twice[0])
    return [name for name in dict.fromkeys(also) if name in count]


def _remedy(absent: Sequence[str], there: Collection[str], needed: int) -> str:
    """Return advice about missing columns, of which the model needs `needed`. The file may have some in other upper and lower case."""
    folded = {name.casefold(): name for name in there}
    alike = [name for name in absent if name.casefold() in folded]
    if len(absent) - len(alike) > needed / 2:
        return "Most columns of the model are missing: choose a model that fits this file, or add the columns"
    renamed = ", ".join(f"{shown(folded[name.casefold()])} to {shown(name)}" for name in alike[:LISTED])
    advice = [f"Upper and lower case differ: rename {renamed}"] if alike else []
    if len(alike) < len(absent):
        rest = "Add the other columns" if alike else "Add them"
        advice.append(f"{rest}; cells without a value may be empty")
    return ". ".join(advice)


def first_of(bad: dict[int, str]) -> str:
    """Return the reason why the first invalid row is invalid, as an addition to a message."""
    return f" that can be read (row {min(bad)}: {bad[min(bad)]})" if bad else ""


def unnamed(header: Iterable[str]) -> dict[str, str]:
    return {"": UNNAMED} if "" in header else {}


def check_cells(cells: int) -> None:
    """Raise TooLarge if a file that is read as a whole has too many cells."""
    if cells > MAX_CELLS:
        raise TooLarge(f"file: has {cells} cells; the limit is {MAX_CELLS}, so use a sample of the rows", field="file")
