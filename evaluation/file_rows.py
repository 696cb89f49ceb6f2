"""The rows of a file that a report shows. They are read again as texts of the file and as values of a request."""

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
    """The file of the evaluated rows, and the number of each row in it, from 1. Known anomalies come last."""

    path: Path
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class FileRow:
    """One row of a file."""

    cells: dict[str, str | None]  # texts of the file, by column: the model's, and those that it copies to the output
    given: dict[str, Any]  # values of a request, by column of the model


def read(path: Path, spec: TableSpec, numbers: Collection[int]) -> dict[int, FileRow]:
    """Return the rows with these numbers, by number. The file is read as a stream: one chunk and these rows are in memory."""
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
