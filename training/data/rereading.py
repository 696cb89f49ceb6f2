"""The check that scoring reads the rows of a file exactly as training read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import files
from manifold.runtime.tables.columns import EncodedTable
from manifold.training.data import reading
from manifold.training.data.parts import Array, Arrays
from manifold.training.data.splits import Data
from manifold.training.errors import DataError

Table = Mapping[str, Array]
FAULT = "this is a bug in Manifold; please report it with the row"


def check_again(data: Data, spec: TableSpec, path: Path) -> None:
    """Read the fitted file again as scoring reads it, with the published `spec`, and compare the rows. Raises DataError for a difference."""
    whole = reading.read(path, spec.notation, ignored=spec.ignored)
    place_of = {number: place for place, number in enumerate(whole.numbers.tolist())}
    with path.open("rb") as source:
        for chunk in spec.chunks(source, files.format_of(path), files.CHUNK_ROWS):
            scored = spec.encode(chunk.table, missing=True)
            invalid = {**chunk.bad, **{int(chunk.numbers[at]): reason for at, reason in scored.bad.items()}}
            both = np.asarray([number for number in chunk.numbers.tolist() if number in place_of], np.int64)
            learned = _encoded_at(whole.columns, spec, [place_of[number] for number in both.tolist()])
            bad = {**whole.bad, **{int(both[at]): reason for at, reason in learned.bad.items()}}
            here = {number: bad[number] for number in (*chunk.numbers.tolist(), *chunk.bad) if number in bad}
            for number in invalid.keys() ^ here.keys():
                raise DataError(
                    f"{path}: row {number} is invalid only for {'scoring' if number in invalid else 'training'} ({(invalid | here)[number]}); {FAULT}"
                )
            valid = ~np.isin(both, list(invalid))
            rows = np.searchsorted(chunk.numbers, both[valid])
            _compare(spec, learned.data[valid], scored.data[rows], both[valid])
    if data.rows is not None:
        tested = _encoded_at(whole.columns, spec, [place_of[at] for at in data.rows.test.tolist()])
        _compare(spec, Arrays.of(data.test).items, tested.data, data.rows.test)


def _encoded_at(table: Table, spec: TableSpec, places: list[int]) -> EncodedTable:
    """Encode the rows of a table at these places."""
    return spec.encode({name: table[name][places] for name in spec.names}, missing=True)


def _compare(spec: TableSpec, learned: Array, scored: Array, numbers: NDArray[np.int64]) -> None:
    """Raise DataError for the first row that differs, with the column and both values."""
    differ = ~((learned == scored) | (np.isnan(learned) & np.isnan(scored)))
    for at, place in np.argwhere(differ).tolist():
        column = next(column.name for column, block in spec.placed if block.start <= place < block.stop)
        raise DataError(
            f"data: row {numbers[at]}: column {shown(column)} is encoded as {learned[at, place]:g} for training, but as {scored[at, place]:g} for "
            f"scoring; {FAULT}"
        )
