"""The schema of a table, and the encoding of rows by it. The runtime reads and encodes values (runtime.tables.values, .columns).

The schema is fitted to the training rows only and stored in the manifest. docs/reference/tables.md explains the rules for users. In short:

- Columns with two values, texts and booleans are categories.
- Other numbers are numeric. Non-negative skewed ones (skewness above 2) are transformed by log(1 + v). They are standardised by mean and
  standard deviation; numbers beyond ten deviations are compressed by a logarithm. A given kind can select scaling by the range or a quantile transform instead.
- The numbers of vectors (training.data.vector_columns) share one scale.
- A column with a single value is a category without alternatives.
- Identifiers (texts that rarely repeat), dates, times and columns without values are left out. The manifest lists them with the reason.
- Missing values are ignored, in the schema and in the likelihood.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import LISTED, cut, near, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns, files, rows
from manifold.runtime.tables.chunk import REQUESTED
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import (
    DEFAULT,
    EXACT,
    MISSING,
    Notation,
    exact_number,
    is_code,
    is_moment,
    number,
    spelling,
    trimmed,
    truth,
)
from manifold.training.data import moments, vector_columns
from manifold.training.data.vector_columns import VECTOR
from manifold.training.errors import DataError, TrainingError

Array = NDArray[Any]
MAX_STRINGS = 1000  # text columns with more values are identifiers, not categories
FEW_NUMBERS = 20  # a column with more different numbers, and few other texts, is numeric
WRONG = 0.1  # largest share of other texts in a numeric column; their rows are invalid
MOSTLY = 0.5  # share of other texts above which a column does not count as mostly numbers
MOMENTS = 0.5  # share of dates or times above which a column counts as one of them
UNIX_TIMES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
UNIX_SPAN = (946_684_800, 2_524_608_000)  # the years 2000 to 2050, in seconds since 1970
LEAST_NUMBERED = 30  # smallest number of rows for which a column can count as row numbers
# names that programs give to a column without a name, such as pandas to a table's index
NO_NAME = re.compile(r"unnamed: \d+(_level_\d+)?|__index_level_\d+__", re.IGNORECASE)
CHANCE = 1e-6  # if random numbers would all differ with a lower probability, the numbers were assigned, not measured
SLIGHTEST = float(np.finfo(np.float64).tiny)  # smallest scale of a column
KNOTS = 101  # number of knots of a quantile transform
LARGEST = 1e300  # largest absolute value of a column's numbers
SAME = 1e-12  # relative deviation below which numbers differ only by rounding
ROUNDING = 1e-6  # relative scale of such numbers; the resolution of float32 is 6e-8
IDENTIFIER, MIXED = "is an identifier", "has numbers, but other texts"  # reasons start with these
SIGNED = "has numbers with signs or in another notation"  # and with this
HINTED = 10_000  # number of values of a column that are checked for hints
WRITTEN = Notation.of((), "."), Notation.of((), ",")
SIGNS = re.compile(r"[\s$\u00a3\u00a5\u20ac\u20b9%\u2030]|\b[A-Z]{3}\b")  # currency and per cent signs next to numbers
KINDS = ("numeric", "range", "quantile", VECTOR, "categorical", "ignore")
OTHERS = "*"  # stands for all numeric columns whose kind is not given by name


@dataclass(frozen=True)
class ColumnSettings:
    """The user's settings for columns, by name. All other properties are derived from the data."""

    decimals: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)  # values of KINDS; the name `*` stands for all other numbers
    missing: tuple[str, ...] = MISSING  # texts that mean a missing value
    decimal: Literal[".", ","] = "."  # decimal separator in texts
    left_out: Mapping[str, str] = field(default_factory=dict)  # columns that are left out, with the reason
    vectors: tuple[str, ...] = ()  # columns that are the numbers of a vector; their kind is `vector` if none is given

    def __post_init__(self) -> None:
        for name, kind in self.kinds.items():
            if kind not in KINDS:
                raise TrainingError(
                    f"column {shown(name)}: unknown kind {shown(kind)}; valid are {', '.join(KINDS)}",
                    field=name,
                    valid=list(KINDS),
                )

    @cached_property
    def of_vectors(self) -> frozenset[str]:
        """The columns of `vectors` without a given kind; none if there is a kind for all numbers."""
        return frozenset() if OTHERS in self.kinds else frozenset(self.vectors) - set(self.kinds)

    @property
    def ignored(self) -> list[str]:
        """The columns that are left out on request."""
        return [name for name, kind in self.kinds.items() if kind == "ignore" and name != OTHERS]

    @property
    def notation(self) -> Notation:
        """The notation of texts that these settings define."""
        return Notation.of(self.missing, self.decimal)


def fit(table: Mapping[str, Array], stated: ColumnSettings | None = None) -> TableSpec:
    """Fit the schema of `table`. Raises TrainingError if no column is left to learn from."""
    stated = stated or ColumnSettings()
    stated_names = [name for part in (stated.decimals, stated.units, stated.kinds) for name in part if name != OTHERS]
    if unknown := [name for name in stated_names if name not in table and name not in stated.left_out]:
        raise TrainingError(
            f"column {shown(unknown[0])}: there is no such column{near(unknown[0], table)}; the table has {', '.join(map(cut, list(table)[:LISTED]))}",
            field=unknown[0],
            valid=list(table),
        )
    kept: list[NumericColumn | CategoricalColumn] = []
    ignored, of_vectors = dict(stated.left_out), list[str]()
    for name, values in table.items():
        if name in ignored:
            continue
        column = _fit_column(name, values, stated, of_vectors)
        if isinstance(column, str):
            ignored[name] = column
        else:
            kept.append(column)
    if not kept:
        reasons = "; ".join(f"{cut(name) or 'a column'}: {reason}" for name, reason in ignored.items())
        raise TrainingError(
            f"data: no column is left to learn from ({reasons}); add columns with numbers or categories"
        )
    kept = vector_columns.with_one_scale(kept, of_vectors)
    constant = {column.name: value for column in kept if (value := _constant(column)) is not None}
    if len(constant) == len(kept):
        each = ", ".join(f"{cut(name)} is always {cut(value)}" for name, value in list(constant.items())[:LISTED])
        raise TrainingError(f"data: all columns are constant ({each}); at least one needs two different values")
    return TableSpec(columns=tuple(kept), ignored=ignored, missing=stated.missing, decimal=stated.decimal)


def _constant(column: NumericColumn | CategoricalColumn) -> str | None:
    """Return the value of a column that is constant, as text; None for other columns."""
    if isinstance(column, CategoricalColumn):
        return column.categories[0] if column.width == 1 else None
    return spelling(column.minimum) if column.minimum == column.maximum else None


def _fit_column(
    name: str, values: Array, stated: ColumnSettings, of_vectors: list[str]
) -> NumericColumn | CategoricalColumn | str:
    """Return the column, or the reason why it is left out. The name of a number of a vector is added to `of_vectors`."""
    kind, notation = stated.kinds.get(name, VECTOR if name in stated.of_vectors else None), stated.notation
    if kind == "ignore":
        return REQUESTED
    if _is_nested(values):
        return "holds lists, structures, bytes or durations; only numbers, texts and booleans can be learned"
    present = values[~columns.missing_values(values, notation)]
    if len(present) == 0:
        return "has no values"
    numbers = columns.numbers(present, notation)
    if kind is None:
        kind, reason = _kind(present, numbers, notation, stated.kinds.get(OTHERS, "numeric"))
        if kind == "ignore":
            return reason
    if kind == "categorical":
        return _categorical(name, present, notation, np.isnan(numbers))
    finite = np.isfinite(numbers)
    if not finite.any():
        first = present.item(0)
        said = shown(first) if isinstance(first, str) else cut(spelling(first))
        raise TrainingError(
            f"column {shown(name)}: it has no finite number (a value is {said}); remove --column {cut(name)}={kind}",
            field=name,
        )
    if kind == VECTOR:
        of_vectors.append(name)
        return vector_columns.column(name, numbers[finite])
    # a single number, or whole numbers that are equal as floating-point numbers
    if numbers[finite].min() == numbers[finite].max():
        return _categorical(name, present[finite], notation, np.zeros(int(finite.sum()), bool))
    return _numeric(name, numbers[finite], kind, stated)


def _kind(present: Array, numbers: NDArray[np.float64], notation: Notation, otherwise: str) -> tuple[str, str]:
    """Return the kind of a column with values (n,), of which `numbers` are the numeric values. If it is "ignore", also return the reason."""
    wrong = np.isnan(numbers)
    if not wrong.any():
        if are_codes(present):
            return "categorical", ""
        different = _exactly(present, numbers, notation)
        if not np.isfinite(numbers).any():
            return "ignore", f"has no finite numbers, only {', '.join(sorted(map(spelling, different)))}"
        whole = all(isinstance(each, int) or each.is_integer() for each in different)
        apart = whole or numbers.max() - numbers.min() > SAME * np.abs(numbers).max()
        if len(different) == 1 or (len(different) == 2 and apart):
            return "categorical", ""
        if whole and len(different) == len(present) and max(map(abs, different)) > EXACT:
            return "ignore", f"{IDENTIFIER}: {len(different)} different whole numbers, some above 2^53"
        if len(np.unique(numbers)) < len(different):  # above 2^53, where different whole numbers are equal as float64
            return "categorical", ""
        if (written := _as_moments(numbers)) is not None:
            return (
                "ignore",
                f"{_moments(spelling(present.item(0)) + written)}; to use it as a number, give --column NAME=numeric",
            )
        return otherwise, ""
    if np.mean([is_moment(value) for value in present.tolist()]) >= MOMENTS:
        example = next(value for value in present.tolist() if is_moment(value))
        return "ignore", _moments(cut(spelling(example)))
    others = wrong & ~columns.missing_values(present, notation, numeric=True)
    if others.mean() <= WRONG and len(np.unique(numbers[~wrong])) > FEW_NUMBERS and not are_codes(present[~wrong]):
        return otherwise, ""
    return "categorical", ""


def _moments(example: str) -> str:
    """Return the reason why a column of dates or times is left out."""
    return f"holds dates or times, such as {example}, and new rows always have later ones; add the hour, the weekday or an age as a separate column"


def _as_moments(numbers: NDArray[np.float64]) -> str | None:
    """Return the format if all numbers (n,) are dates or times: time since 1970 (in the years 2000 to 2050) or YYYYMMDD. None otherwise."""
    numbers = numbers[np.isfinite(numbers)]
    if len(np.unique(numbers)) <= FEW_NUMBERS:
        return None
    for unit, size in UNIX_TIMES.items():
        if numbers.min() >= UNIX_SPAN[0] * size and numbers.max() < UNIX_SPAN[1] * size:
            return f" ({unit} since 1970)"
    years, days = np.divmod(numbers, 10_000)
    months, days = np.divmod(days, 100)
    parts = ((years, 1900, 2100), (months, 1, 12), (days, 1, 31))
    written = (numbers == np.floor(numbers)).all() and all(
        ((low <= part) & (part <= high)).all() for part, low, high in parts
    )
    return " (YYYYMMDD)" if written else None


def _exactly(present: Array, numbers: NDArray[np.float64], notation: Notation) -> set[int | float]:
    """Return the different numbers in values (n,), which are all numbers or texts of numbers. Whole numbers are exact."""
    if present.dtype.kind in "iuf":
        return set(np.unique(present).tolist())
    read = (
        (exact_number(value, notation), number)
        for value, number in zip(present.tolist(), numbers.tolist(), strict=True)
    )
    return {number if exact is None else exact for exact, number in read}


def are_codes(present: Array) -> bool:
    """Return whether all texts have one length and some are whole numbers with leading zeros, as in postal codes and two-digit months."""
    if present.dtype.kind not in "OU":
        return False
    different = {value for value in present.tolist() if isinstance(value, str)}
    return len(different) > 0 and len({len(text) for text in different}) == 1 and any(map(is_code, different))


def _categorical(name: str, present: Array, notation: Notation, wrong: NDArray[np.bool_]) -> CategoricalColumn | str:
    """Return a column of the categories of values (n,), or the reason why it is left out. `wrong` (n,) marks values that are not numbers."""
    plain = present if present.dtype.kind == "f" else present.tolist()  # numpy scalars keep the type float32
    count: dict[tuple[type, Any], int] = Counter((type(value), value) for value in plain)
    names = [_name(meaning, alike) for meaning, alike in _by_meaning(count, notation).items()]
    if (longest := max(map(len, names))) > files.CELL_BYTES // 4:  # a character has up to four bytes
        return f"has a text of {longest} characters, but the limit is {files.CELL_BYTES // 4}"
    if len(names) > MAX_STRINGS or (wrong.any() and len(names) > max(2, len(present) // 2)):
        if 0 < wrong.mean() < MOSTLY:
            text = shown(spelling(present[wrong].item(0)))
            return (
                f"{MIXED} in {wrong.sum()} of {len(present)} rows, such as {text}; if it means a missing value, give "
                f"--missing {text}, in addition to the others in the file"
            )
        signed = [name for name in names[:HINTED] if is_almost_number(name, notation)]
        if len(signed) > len(names[:HINTED]) / 2:
            return f"{SIGNED}, such as {cut(signed[0])}; write plain numbers to learn from them"
        return f"{IDENTIFIER}: {len(names)} different values in {len(present)} rows, such as {cut(names[0])}"
    return CategoricalColumn(name=name, categories=tuple(sorted(names, key=_natural)))


def _by_meaning(count: dict[tuple[type, Any], int], notation: Notation) -> dict[Any, dict[Any, int]]:
    """Count each spelling, grouped by meaning: the same boolean, the same number, or the same text."""
    are_truths = {truth(value) for _, value in count} == {True, False}
    found: dict[Any, dict[Any, int]] = {}
    for (_, value), n in count.items():
        exact = None if are_truths or isinstance(value, bool | np.bool_) else exact_number(value, notation)
        meaning = ("truth", truth(value)) if are_truths else spelling(value) if exact is None else exact
        spelled = found.setdefault(meaning, {})
        spelled[spelling(value)] = spelled.get(spelling(value), 0) + n
    return found


def _name(meaning: Any, spelled: dict[Any, int]) -> str:
    """Return the name of a category: the standard spelling of a number, or the most frequent spelling of a text."""
    return spelling(meaning) if isinstance(meaning, int | float) else max(spelled, key=lambda text: spelled[text])


def _numeric(name: str, numbers: NDArray[np.float64], kind: str, stated: ColumnSettings) -> NumericColumn | str:
    """Return the column of finite numbers (n,), of which at least two differ, or the reason why it is left out."""
    if (largest := float(np.abs(numbers).max())) > LARGEST:
        return f"has absolute values up to {largest:g}, but the limit is {LARGEST:g}; divide them by a common number"
    transform: dict[str, Any] = {"transform": "identity"}
    if kind == "quantile":
        transform = _quantiles(numbers)
    elif kind == "numeric" and numbers.min() >= 0 and moments.skewness(numbers) > 2:
        transform = {"transform": "log1p"}
    plain: dict[str, Any] = {
        "name": name,
        "mean": 0.0,
        "scale": 1.0,
        "minimum": float(numbers.min()),
        "maximum": float(numbers.max()),
    }
    transformed = rows.transform(numbers, NumericColumn.model_validate({**plain, **transform}))
    centre, scale = moments.mean_and_deviation(transformed)
    size = float(np.abs(transformed).max())
    rounding = scale <= max(SAME * size, SLIGHTEST)
    if rounding:
        scale = max(ROUNDING * size, SLIGHTEST)
    decimals = stated.decimals.get(name, decimals_of(numbers))
    if kind == "range" and not rounding:
        centre, scale = plain["minimum"], plain["maximum"] - plain["minimum"]
    measured = {"mean": centre, "scale": scale, "beyond": "log", "decimals": decimals, "unit": stated.units.get(name)}
    return NumericColumn.model_validate({**plain, **transform, **measured})


def row_numbers(table: Mapping[str, Array], stated: ColumnSettings) -> dict[str, str]:
    """Return the columns that contain row numbers, with the reason.

    The rows must be in their original order. Columns with a given kind are not checked.

    These are columns of different whole numbers that increase or decrease from row to row, or that are so dense that random numbers would
    repeat, and columns whose name means that there is no name, such as `Unnamed: 0`. The number of a new row says nothing about its content.
    """
    found = {}
    for name, values in table.items():
        if name in stated.kinds or name in stated.of_vectors or _is_nested(values):
            continue
        if NO_NAME.fullmatch(name):
            found[name] = files.UNNAMED
            continue
        numbers = columns.numbers(values, stated.notation)
        if len(numbers) < LEAST_NUMBERED or not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
            continue
        steps = np.diff(numbers)
        if (steps > 0).all() or (steps < 0).all() or _are_dealt_out(numbers):
            shape = ", ".join(spelling(number) for number in numbers[:3])
            found[name] = (
                f"numbers the rows ({shape}, …): all values differ, and those of new rows carry no information"
            )
    return found


def _are_dealt_out(numbers: NDArray[np.float64]) -> bool:
    """Return whether whole numbers (n,) all differ although that is unlikely by chance.

    Random numbers from their range all differ with a probability of exp(-n (n - 1) / 2 range).
    """
    n, among = len(numbers), float(numbers.max() - numbers.min()) + 1
    return n * (n - 1) / 2 / among > -math.log(CHANCE) and len(np.unique(numbers)) == n


def lost_numbers(spec: TableSpec) -> list[str]:
    """Return the names of columns that are left out although they hold numbers, in a notation that is not read."""
    return [name for name, reason in spec.ignored.items() if reason.startswith((MIXED, SIGNED))]


def is_almost_number(text: str, notation: Notation) -> bool:
    """Return whether a text is a number only after removal of a currency, per cent sign or brackets, or with another decimal separator."""
    if number(text, notation) is not None:
        return False
    bare = SIGNS.sub("", trimmed(text).removeprefix("(").removesuffix(")"))
    return any(number(bare, written) is not None for written in WRITTEN)


def _is_nested(values: Array) -> bool:
    """Return whether a column contains lists, structures, bytes or durations."""
    others = (list, tuple, dict, bytes, np.ndarray, datetime.timedelta)
    return values.dtype.kind in "mSV" or (values.dtype == object and any(isinstance(each, others) for each in values))


def _quantiles(numbers: Array) -> dict[str, Any]:
    """Return a quantile transform: knots at the quantiles, and their normal scores. Tied knots get the mean of their scores."""
    from scipy.special import ndtri  # it takes a second to import, and few tables need it

    shares = np.linspace(0, 1, KNOTS)
    normal = ndtri(np.clip(shares, 0.5 / len(numbers), 1 - 0.5 / len(numbers)))
    knots, place = np.unique(np.quantile(numbers, shares), return_inverse=True)
    scores = np.bincount(place, normal) / np.bincount(place)
    slope = 1 / max(moments.mean_and_deviation(numbers)[1], SLIGHTEST)
    return {
        "transform": "quantile", "knots": tuple(knots.tolist()), "scores": tuple(scores.tolist()), "slope": slope,
    }  # fmt: skip


def decimals_of(numbers: Array) -> int | None:
    """Return the number of decimals that all numbers need, at most 6; None if they need more."""
    return next((digits for digits in range(7) if np.array_equal(numbers, np.round(numbers, digits))), None)


def _natural(category: str) -> tuple[int, float, str]:
    """Return a sort key that puts numbers in numeric order before words."""
    found = number(category, DEFAULT)
    return (1, 0.0, category) if found is None else (0, found, category)


def encode(table: Mapping[str, Array], spec: TableSpec) -> Array:
    """Encode columns as float32 (n, width), with NaN for missing values. Raises DataError for the first row that cannot be encoded."""
    encoded = spec.encode(table, missing=True)
    if encoded.bad:
        row = min(encoded.bad)
        raise DataError(f"data: row {row + 1}: {encoded.bad[row]}")
    return encoded.data
