"""The rows that a report page shows, as tables: with the reasons of the model, and with all values as they are in the file."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import file_rows
from manifold.evaluation.file_rows import JudgedFile
from manifold.evaluation.judged_items import JudgedItems
from manifold.runtime.engine import Model
from manifold.runtime.errors import cut
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import reasons
from manifold.runtime.tables import rows
from manifold.runtime.tables.schema import NumericColumn

Column = tuple[str, Sequence[str]]  # a heading, and a text for each row

SHORT = 12  # largest number of columns of a short row
LEAST_SHARE = 0.01  # smallest share of a column that is listed as a reason


class ShownRows:
    """The rows at some places among the evaluated items. They are read from the file once; without a file, they are decoded model inputs."""

    def __init__(
        self, model: Model, spec: TableSpec, judged: JudgedItems, file: JudgedFile | None, places: Collection[int]
    ) -> None:
        self.model, self.spec, self.judged = model, spec, judged
        self.numbers = {} if file is None else {place: int(file.numbers[place]) for place in places}
        self.rows = {} if file is None else file_rows.read(file.path, spec, set(self.numbers.values()))

    def table(self, places: Sequence[int], first: Sequence[Column], *, explained: bool = True) -> str:
        """Return an HTML table of rows: the columns `first`, the number in the file, what is copied, the reasons, and all values.

        If `explained` is false, the reasons are left out, and the values of a short row are shown at first.
        """
        spec = self.spec
        items = np.concatenate([self.judged.items(place, place + 1) for place in places])
        decoded = decode(items, spec)
        read = [self.rows.get(self.numbers.get(place, 0)) for place in places]
        cells = [row if own is None else own.cells for row, own in zip(decoded, read, strict=True)]
        columns = list(first)
        if self.numbers:
            columns.append(("row", [str(self.numbers[place]) for place in places]))
        if spec.id:
            columns.append(("id", [_cell(row.get(spec.id)) for row in cells]))
        columns += [(name, [_cell(row.get(name)) for row in cells]) for name in spec.carried.passed]
        if explained:
            given = [row if own is None else own.given for row, own in zip(decoded, read, strict=True)]
            columns.append(("reasons", self._reasons(items, given, cells)))
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in (*(name for name, _ in columns), "all values"))
        lines = [
            "".join(f"<td>{html.escape(text)}</td>" for text in texts)
            + f"<td>{_values(row, spec, opened=not explained)}</td>"
            for texts, row in zip(zip(*(texts for _, texts in columns), strict=True), cells, strict=True)
        ]
        return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def _reasons(
        self, items: NDArray[Any], given: Sequence[dict[str, Any]], cells: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Return the reasons of the model for each item (n, *shape); empty texts if the model has none."""
        scores = self.model.score(items)
        if scores.surprise is None:
            return ["" for _ in items]
        why = self.model.runner.drive(reasons.find(self.model.manifest, items, scores, self.model.calibrated))
        return [_because(reason, row) for reason, row in zip(self.spec.explain(why, given), cells, strict=True)]


def decode(items: NDArray[Any], spec: TableSpec) -> list[dict[str, Any]]:
    """Return model inputs as rows, with None for a missing value and for a category that did not occur in training."""
    decoded = rows.decode(np.nan_to_num(items, nan=0.0), spec, held=False)
    for row, item in zip(decoded, items, strict=True):
        for column, block in spec.placed:
            if np.isnan(item[block.start]) or (not isinstance(column, NumericColumn) and not item[block].any()):
                row[column.name] = None
    return decoded


def _values(row: Mapping[str, Any], spec: TableSpec, *, opened: bool) -> str:
    """Return all values of a row as HTML. A click opens it; a short row is open at first if `opened`."""
    values = ", ".join(f"{name} = {_cell(row.get(name))}" for name in spec.names)
    state = " open" if opened and len(spec.names) <= SHORT else ""
    return f"<details{state}><summary>show</summary>{html.escape(values)}</details>"


def _because(reason: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the three columns with the largest excess, each with its value in the file and the expected value."""
    columns = ", ".join(
        f"{column['column']} = {_cell(row.get(column['column']))}, expected {_cell(column['expected'])} ({column['share']:.0%})"
        for column in reason["columns"][:3]
        if column["excess"] > 0 and column["share"] >= LEAST_SHARE
    )
    return columns or "an unusual position in latent space"


def _cell(value: Any) -> str:
    """Return a cell of a file unchanged but shortened, and a computed number with four digits."""
    return "(none)" if value is None else f"{value:.4g}" if isinstance(value, float) else cut(str(value))
