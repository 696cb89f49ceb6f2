"""A few rows of a file, read again for a report: as the file has them, and as a request would have them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import files


@dataclass(frozen=True)
class JudgedFile:
    """The file that judged rows come from, and the number of each of them in it, from 1; known anomalies are the last."""

    path: Path
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class FileRow:
    """One row of a file."""

    cells: dict[
        str, str | None
    ]  # by column, as the file has them; those of the model and those that it copies to the output
    given: dict[str, Any]  # by column of the model


def read(path: Path, spec: TableSpec, numbers: Collection[int]) -> dict[int, FileRow]:
    """Return rows by number. The file is read as a stream; in memory are one chunk and these rows."""
    wanted = np.asarray(sorted(numbers), np.int64)
    also = [*spec.carried.names, *spec.names]
    found: dict[int, FileRow] = {}
    with path.open("rb") as source:
        for chunk in spec.chunks(source, files.format_of(path), files.CHUNK_ROWS, also):
            places = np.flatnonzero(np.isin(chunk.numbers, wanted))
            if not len(places):
                continue
            cells = {name: _texts(column, places) for name, column in chunk.also.items()}
            rows = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
            for number, row, given in zip(
                chunk.numbers[places].tolist(), rows, spec.given(chunk.table, places), strict=True
            ):
                found[number] = FileRow(row, given)
            if len(found) == len(wanted):
                break
    return found


def _texts(column: Any, places: NDArray[np.int64]) -> list[str | None]:
    return [None if value is None else str(value) for value in column.take(places).to_pylist()]
