"""Descriptions of a table's columns for people: the decision about each, and the changes that a model cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifold.runtime.errors import cut
from manifold.runtime.tables import rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import DEFAULT, number

if TYPE_CHECKING:
    from manifold.runtime.kinds.table import TableSpec

WHOLE = 10**15  # whole numbers below it are written with all of their digits
SHOWN = 8  # categories that are named
TRANSFORMS = {"identity": "", "log1p": ", log(1 + v)", "quantile": ", by quantiles"}


@dataclass(frozen=True)
class Description:
    """The decision about one column."""

    column: str
    kind: str  # numeric, category, constant or left out
    values: str  # the range, the categories, or why the column is left out
    unseen: str  # changes that a model cannot see; empty if there are none

    def __str__(self) -> str:
        return f"{cut(self.column)}: {self.kind}: {self.values}" + (f" ({self.unseen})" if self.unseen else "")


def describe(spec: TableSpec, label: object = None, classes: Sequence[str] | None = None) -> list[Description]:
    """Return a description of each column of a table, those that are left out last. `label` names the column of the classes, if there are any."""
    kept = [_numeric(column) if isinstance(column, NumericColumn) else _categorical(column) for column in spec.columns]
    left_out = [
        Description(name or "(no name)", "left out", reason, "no change is seen")
        for name, reason in spec.ignored.items()
        if not (classes and name == label)
    ]
    of_label = (
        [
            Description(
                label, "class", f"{_listed(classes)}; /classify tells them apart, and rows need no such column", ""
            )
        ]
        if isinstance(label, str) and classes
        else []
    )
    return kept + of_label + left_out


def _listed(values: Sequence[str]) -> str:
    """Return how many values there are, and the first ones."""
    return f"{len(values)} values: {', '.join(map(cut, values[:SHOWN]))}" + (", …" if len(values) > SHOWN else "")


def _numeric(column: NumericColumn) -> Description:
    unit = f" {column.unit}" if column.unit else ""
    values = f"{_written(column.minimum)} to {_written(column.maximum)}{unit}{TRANSFORMS[column.transform]}"
    if column.beyond == "log":
        return Description(column.name, "numeric", values, "")
    low, high = rows.clipped_at(column)
    return Description(
        column.name, "numeric", values, f"all values below {_written(low)} look alike, and all above {_written(high)}"
    )


def _written(value: float) -> str:
    """Return a number with six digits; a whole one has all of its digits, up to fifteen."""
    if value.is_integer() and abs(value) < WHOLE:
        return str(int(value))
    return f"{float(f'{value:.6g}'):.15g}"


def _categorical(column: CategoricalColumn) -> Description:
    if column.width == 1:
        return Description(
            column.name, "constant", f"{cut(column.categories[0])}; any other value counts as never seen", ""
        )
    numbers = all(number(category, DEFAULT) is not None for category in column.categories)
    unseen = f"other numbers count alike, as never seen; --column {cut(column.name)}=numeric makes them differ"
    return Description(column.name, "category", _listed(column.categories), unseen if numbers else "")
