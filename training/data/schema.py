"""The schema of a table, and rows encoded by it. The encoding itself is the runtime's (runtime.tables.columns).

The rules are fitted on training rows alone and kept in the manifest. Strings, booleans and whole numbers with at most 20 different values
are categories; other numbers are numeric, with log(1 + v) where they are non-negative and skewed (skewness above 2), standardised by mean
and standard deviation and clipped at ten of them. If a kind is stated, they are scaled by their range instead, or take a quantile transform.
The number of decimals is the training rows' too, unless it is stated. A column with a single value, of any kind, has one category: another
value later is one that training never saw. Left out and named in the manifest: identifiers (strings that hardly ever repeat), columns
without values. A missing value (an empty cell, null, NaN) takes no part: not in the
schema, not in the likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from manifold.runtime.errors import LISTED, cut, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns, files, rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.errors import DataError, TrainingError

Array = NDArray[Any]
MAX_CATEGORIES = 20  # whole numbers with more values are numbers
MAX_STRINGS = 1000  # string columns with more values are identifiers, not categories
KNOTS = 101  # of a quantile transform
SAME = 1e-12  # a number whose deviation is less, as a share of its size, differs by rounding alone
ROUNDING = 1e-6  # scale of such a number, as a share of its size; float32 keeps 6e-8
KINDS = ("numeric", "range", "quantile", "categorical", "ignore")
OTHERS = "*"  # the name that states a kind for every number that has none of its own


@dataclass(frozen=True)
class ColumnSettings:
    """Decimals, units and kinds of columns by name. Everything else follows from the data by rules."""

    decimals: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)  # one of KINDS each; `*` stands for all other numbers

    def __post_init__(self) -> None:
        for name, kind in self.kinds.items():
            if kind not in KINDS:
                raise TrainingError(
                    f"column {name!r}: unknown kind {kind!r}; valid are {', '.join(KINDS)}",
                    field=name,
                    valid=list(KINDS),
                )


def fit(table: Mapping[str, Array], stated: ColumnSettings | None = None) -> TableSpec:
    """Return the schema of `table`. Raises TrainingError for infinite numbers, and where no column is left to learn from."""
    stated = stated or ColumnSettings()
    stated_names = [name for part in (stated.decimals, stated.units, stated.kinds) for name in part if name != OTHERS]
    if unknown := [name for name in stated_names if name not in table]:
        raise TrainingError(
            f"there is no column {shown(unknown[0])}; the table has {', '.join(map(cut, list(table)[:LISTED]))}",
            field=unknown[0],
            valid=list(table),
        )
    kept: list[NumericColumn | CategoricalColumn] = []
    ignored = {}
    for name, values in table.items():
        column = _fit_column(name, values, stated)
        if isinstance(column, str):
            ignored[name] = column
        else:
            kept.append(column)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in ignored.items())
        raise TrainingError(f"data: no column is left to learn from ({reasons})")
    constant = [column for column in kept if isinstance(column, CategoricalColumn) and column.width == 1]
    if len(constant) == len(kept):
        each = ", ".join(f"{cut(column.name)} is always {cut(column.categories[0])}" for column in constant[:LISTED])
        raise TrainingError(f"data: no column varies ({each}); at least one needs two different values")
    return TableSpec(columns=tuple(kept), ignored=ignored)


def _fit_column(name: str, values: Array, stated: ColumnSettings) -> NumericColumn | CategoricalColumn | str:
    """Return the column, or why it is left out."""
    kind = stated.kinds.get(name)
    if kind == "ignore":
        return "left out on request"
    _check_values(name, values)
    present = values[~columns.missing_values(values)]
    if len(present) == 0:
        return "has no values"
    numeric = np.issubdtype(present.dtype, np.number)
    whole = numeric and bool(np.all(present == np.floor(present)))
    if kind is None:
        few = whole and len(np.unique(present)) <= MAX_CATEGORIES
        kind = "categorical" if not numeric or few else stated.kinds.get(OTHERS, "numeric")
    if kind == "categorical":
        # numpy's own scalars: 0.1 as float32 has the spelling 0.1, as a Python float it has 17 digits
        different = np.unique(present) if numeric else present
        categories = sorted({rows.canonical(value) for value in different}, key=_natural)
        if (longest := max(map(len, categories))) > files.CELL_BYTES // 4:  # a character has up to four bytes
            return f"has a text of {longest} characters, the limit is {files.CELL_BYTES // 4}"
        if len(categories) > MAX_STRINGS or (not numeric and len(categories) > max(2, len(present) // 2)):
            return f"is an identifier: {len(categories)} different values in {len(present)} rows"
        return CategoricalColumn(name=name, categories=tuple(categories))
    if not numeric:
        raise TrainingError(f"column {shown(name)}: {shown(present.tolist()[0])} is not a number", field=name)
    numbers = present.astype(np.float64)
    if not np.all(np.isfinite(numbers)):
        raise DataError(f"data: column {shown(name)} has values that are not finite")
    if numbers.min() == numbers.max():
        return CategoricalColumn(name=name, categories=(rows.canonical(present[0]),))
    transform: dict[str, Any] = {"transform": "identity"}
    if kind == "quantile":
        transform = _quantiles(numbers)
    elif kind == "numeric" and numbers.min() >= 0 and _skewness(numbers) > 2:
        transform = {"transform": "log1p"}
    plain: dict[str, Any] = {
        "name": name,
        "mean": 0.0,
        "scale": 1.0,
        "minimum": float(numbers.min()),
        "maximum": float(numbers.max()),
    }
    transformed = rows.transform(numbers, NumericColumn.model_validate({**plain, **transform}))
    scale, size = float(transformed.std()), float(np.abs(transformed).max())
    rounding = scale <= SAME * size
    if rounding:
        scale = max(ROUNDING * size, float(np.finfo(np.float64).tiny))
    decimals = stated.decimals.get(name, _decimals(numbers))
    centre = float(transformed.mean())
    if kind == "range" and not rounding:
        centre, scale = plain["minimum"], plain["maximum"] - plain["minimum"]
    measured = {"mean": centre, "scale": scale, "decimals": decimals, "unit": stated.units.get(name)}
    return NumericColumn.model_validate({**plain, **transform, **measured})


def _check_values(name: str, values: Array) -> None:
    """Raise DataError for a column of lists, structures, bytes or durations, which can be neither numbers nor categories."""
    others = (list, tuple, dict, bytes, np.ndarray)
    if values.dtype.kind == "m" or (values.dtype == object and any(isinstance(each, others) for each in values)):
        raise DataError(
            f"data: column {shown(name)} holds lists, structures, bytes or durations; numbers, texts or booleans are needed: "
            f"leave it out by --column {cut(name)}=ignore",
            field=name,
        )


def _quantiles(numbers: Array) -> dict[str, Any]:
    """Return knots at the quantiles, and the normal quantiles of their shares; ties share the middle of theirs."""
    shares = np.linspace(0, 1, KNOTS)
    normal = ndtri(np.clip(shares, 0.5 / len(numbers), 1 - 0.5 / len(numbers)))
    knots, place = np.unique(np.quantile(numbers, shares), return_inverse=True)
    scores = np.bincount(place, normal) / np.bincount(place)
    return {
        "transform": "quantile", "knots": tuple(knots.tolist()), "scores": tuple(scores.tolist()), "slope": float(1 / numbers.std()),
    }  # fmt: skip


def _decimals(numbers: Array) -> int | None:
    """Return the digits after the point that all numbers make do with, at most 6; None where they need more."""
    return next((digits for digits in range(7) if np.array_equal(numbers, np.round(numbers, digits))), None)


def _natural(category: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers in numeric order, before words."""
    try:
        return (0, float(category), category)
    except ValueError:
        return (1, 0.0, category)


def _skewness(values: Array) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(float((centred**2).mean()) ** 1.5, 1e-300))


def encode(table: Mapping[str, Array], spec: TableSpec) -> Array:
    """Encode columns as float32 (n, width), missing values as NaN. Raises DataError for the first row that cannot be."""
    encoded = columns.encode(table, spec, unknown=True, missing=True)
    if encoded.bad:
        row = min(encoded.bad)
        raise DataError(f"data: row {row + 1}: {encoded.bad[row]}")
    return encoded.data
