"""Descriptions of the columns of a table for users: how each column is read, and which changes the model cannot see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from manifold.runtime.errors import cut
from manifold.runtime.tables import rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import DEFAULT, number

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

WHOLE = 10**15  # smaller whole numbers are written with all digits
SHOWN = 8  # number of categories that are listed
MANY = 20  # number of adjacent columns of numbers that are described together, if their names are numbered
NUMBERED = re.compile(r"(.*?)(0|[1-9]\d{0,8})")
TRANSFORMS = {"identity": "", "log1p": ", log(1 + v)", "quantile": ", by quantiles"}


@dataclass(frozen=True)
class Description:
    """The description of one column."""

    column: str
    kind: str  # numeric, category, constant or left out
    values: str  # the range, the categories, or why the column is left out
    unseen: str  # changes that the model cannot see; empty if there are none

    def __str__(self) -> str:
        return f"{cut(self.column)}: {self.kind}: {self.values}" + (f" ({self.unseen})" if self.unseen else "")


def describe(spec: TableSpec, label: object = None, classes: Sequence[str] | None = None) -> list[Description]:
    """Return a description of each column of a table; columns that are left out come last. `label` is the column of the classes, if any."""
    kept = [_together(run) for run in _runs(spec.columns)]
    left_out = [
        Description(name or "(no name)", "left out", reason, "its values do not influence the score")
        for name, reason in spec.ignored.items()
        if not (classes and name == label)
    ]
    of_label = (
        [Description(label, "class", f"{_listed(classes)}; /classify predicts them, so rows need no such column", "")]
        if isinstance(label, str) and classes
        else []
    )
    return kept + of_label + left_out


def _runs(columns: Sequence[NumericColumn | CategoricalColumn]) -> Iterator[list[NumericColumn | CategoricalColumn]]:
    """Yield the columns. At least MANY adjacent columns of numbers whose names are numbered, such as x0 to x383, are yielded together."""

    def series(at: int) -> tuple[str, int] | int:
        """Return a key that is equal for columns of the same series, and different for all others."""
        found = NUMBERED.fullmatch(columns[at].name)
        return (found[1], int(found[2]) - at) if found and isinstance(columns[at], NumericColumn) else at

    for _, group in groupby(range(len(columns)), series):
        run = [columns[at] for at in group]
        yield from [run] if len(run) >= MANY else ([column] for column in run)


def _together(run: Sequence[NumericColumn | CategoricalColumn]) -> Description:
    first = run[0]
    if len(run) == 1:
        return _numeric(first) if isinstance(first, NumericColumn) else _categorical(first)
    numbers = [column for column in run if isinstance(column, NumericColumn)]
    low, high = min(column.minimum for column in numbers), max(column.maximum for column in numbers)
    values = f"{len(run)} columns, {_written(low)} to {_written(high)}"
    return Description(f"{first.name} … {run[-1].name}", "numeric", values, "")


def _listed(values: Sequence[str]) -> str:
    """Return the number of values and the first ones, as text."""
    return f"{len(values)} values: {', '.join(map(cut, values[:SHOWN]))}" + (", …" if len(values) > SHOWN else "")


def _numeric(column: NumericColumn) -> Description:
    unit = f" {column.unit}" if column.unit else ""
    values = f"{_written(column.minimum)} to {_written(column.maximum)}{unit}{TRANSFORMS[column.transform]}"
    if column.beyond == "log":
        return Description(column.name, "numeric", values, "")
    low, high = rows.clipped_at(column)
    return Description(
        column.name,
        "numeric",
        values,
        f"the model cannot distinguish values below {_written(low)}, nor values above {_written(high)}",
    )


def _written(value: float) -> str:
    """Return a number as text with six digits; a whole number with all its digits, up to fifteen."""
    if value.is_integer() and abs(value) < WHOLE:
        return str(int(value))
    return f"{float(f'{value:.6g}'):.15g}"


def _categorical(column: CategoricalColumn) -> Description:
    if column.width == 1:
        return Description(
            column.name, "constant", f"{cut(column.categories[0])}; any other value counts as unknown", ""
        )
    numbers = all(number(category, DEFAULT) is not None for category in column.categories)
    unseen = f"all other numbers count as the same unknown value; --column {cut(column.name)}=numeric makes them differ"
    return Description(column.name, "category", _listed(column.categories), unseen if numbers else "")
