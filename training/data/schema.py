"""The schema of a table, and rows encoded by it. Values are read, and encoded, by the runtime (runtime.tables.values, .columns).

The rules are fitted on training rows alone and kept in the manifest; docs/reference/tables.md states them for users. In short: two values are a
category, texts and truth values are too, whole numbers with more values are counts, and other numbers are numeric, with log(1 + v) where
they are non-negative and skewed (skewness above 2), standardised by mean and standard deviation and clipped at ten of them. If a kind is
stated, they are scaled by their range instead, or take a quantile transform. A column with a single value is a category that has no other
one. Left out and named in the manifest: identifiers (texts that hardly ever repeat), dates and times, columns without values. A missing
value takes no part: not in the schema, not in the likelihood.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from manifold.runtime.errors import LISTED, cut, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns, files, rows
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
from manifold.training.errors import DataError, TrainingError

Array = NDArray[Any]
MAX_STRINGS = 1000  # text columns with more values are identifiers, not categories
FEW_NUMBERS = 20  # a column with more different numbers, and hardly any other text, is one of numbers
WRONG = 0.1  # of the values of a column of numbers that may be other texts, whose rows are then invalid
MOSTLY = 0.5  # of the values of a column of numbers are other texts, at most
MOMENTS = 0.5  # of the values of a column of dates and times
UNIX_TIMES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
UNIX_SPAN = (946_684_800, 2_524_608_000)  # 2000 to 2050, seconds since 1970
LEAST_NUMBERED = 30  # rows, for a column to be their numbers
# names that programs give to a column without one, such as pandas to the index of a table
NO_NAME = re.compile(r"unnamed: \d+(_level_\d+)?|__index_level_\d+__", re.IGNORECASE)
CHANCE = 1e-6  # of numbers that all differ, if they are drawn from their range: they are dealt out, not measured
SLIGHTEST = float(np.finfo(np.float64).tiny)  # scale of a column
KNOTS = 101  # of a quantile transform
LARGEST = 1e300  # size of a column's numbers
POWERS = 1e-100, 1e100  # size of numbers whose third powers have a float64
SAME = 1e-12  # a number whose deviation is less, as a share of its size, differs by rounding alone
ROUNDING = 1e-6  # scale of such a number, as a share of its size; float32 keeps 6e-8
IDENTIFIER, MIXED = "is an identifier", "has numbers, but other texts"  # beginnings of reasons
HINTED = 10_000  # values of a column that are looked at for advice
WRITTEN = Notation.of((), "."), Notation.of((), ",")
SIGNS = re.compile(r"[\s$\u00a3\u00a5\u20ac\u20b9%\u2030]|\b[A-Z]{3}\b")  # beside numbers: currencies and per cent
KINDS = ("numeric", "range", "quantile", "categorical", "ignore")
OTHERS = "*"  # the name that states a kind for every number that has none of its own


@dataclass(frozen=True)
class ColumnSettings:
    """Statements about columns, by name. Everything else follows from the data by rules."""

    decimals: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)  # one of KINDS each; `*` stands for all other numbers
    missing: tuple[str, ...] = MISSING  # texts that stand for a missing value
    decimal: Literal[".", ","] = "."  # sign before decimals in texts
    left_out: Mapping[str, str] = field(default_factory=dict)  # columns that are no values of a row, and why

    def __post_init__(self) -> None:
        for name, kind in self.kinds.items():
            if kind not in KINDS:
                raise TrainingError(
                    f"column {name!r}: unknown kind {kind!r}; valid are {', '.join(KINDS)}",
                    field=name,
                    valid=list(KINDS),
                )

    @property
    def notation(self) -> Notation:
        """The notation of texts that these settings state."""
        return Notation.of(self.missing, self.decimal)


def fit(table: Mapping[str, Array], stated: ColumnSettings | None = None) -> TableSpec:
    """Return the schema of `table`. Raises TrainingError where no column is left to learn from."""
    stated = stated or ColumnSettings()
    stated_names = [name for part in (stated.decimals, stated.units, stated.kinds) for name in part if name != OTHERS]
    if unknown := [name for name in stated_names if name not in table and name not in stated.left_out]:
        raise TrainingError(
            f"there is no column {shown(unknown[0])}; the table has {', '.join(map(cut, list(table)[:LISTED]))}",
            field=unknown[0],
            valid=list(table),
        )
    kept: list[NumericColumn | CategoricalColumn] = []
    ignored = dict(stated.left_out)
    for name, values in table.items():
        if name in ignored:
            continue
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
    return TableSpec(columns=tuple(kept), ignored=ignored, missing=stated.missing, decimal=stated.decimal)


def _fit_column(name: str, values: Array, stated: ColumnSettings) -> NumericColumn | CategoricalColumn | str:
    """Return the column, or why it is left out."""
    kind, notation = stated.kinds.get(name), stated.notation
    if kind == "ignore":
        return "left out on request"
    if _is_nested(values):
        return "holds lists, structures, bytes or durations; a value of a row is a number, a text or a truth value"
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
            f"column {shown(name)}: {said} is not a finite number; leave out --column {cut(name)}={kind}",
            field=name,
        )
    if (
        numbers[finite].min() == numbers[finite].max()
    ):  # alone, or whole numbers that are equal as floating-point numbers
        return _categorical(name, present[finite], notation, np.zeros(int(finite.sum()), bool))
    return _numeric(name, numbers[finite], kind, stated)


def _kind(present: Array, numbers: NDArray[np.float64], notation: Notation, otherwise: str) -> tuple[str, str]:
    """Return the kind of a column by its values (n,) and the numbers that they are or spell, and why it is to be ignored, if it is."""
    wrong = np.isnan(numbers)
    if not wrong.any():
        if _are_codes(present):
            return "categorical", ""
        different = _exactly(present, numbers, notation)
        if not np.isfinite(numbers).any():
            return "ignore", f"has no finite numbers, only {', '.join(sorted(map(spelling, different)))}"
        whole = all(isinstance(each, int) or each.is_integer() for each in different)
        apart = whole or numbers.max() - numbers.min() > SAME * np.abs(numbers).max()
        if len(different) == 1 or (len(different) == 2 and apart):
            return "categorical", ""
        if whole and len(different) == len(present) and max(map(abs, different)) > EXACT:
            return "ignore", f"{IDENTIFIER}: {len(different)} different whole numbers, some beyond 2^53"
        if len(np.unique(numbers)) < len(different):  # beyond 2^53, so that numbers would take several for one
            return "categorical", ""
        if (written := _as_moments(numbers)) is not None:
            return (
                "ignore",
                f"{_moments(spelling(present.item(0)) + written)}; --column NAME=numeric takes it as a number",
            )
        return otherwise, ""
    if np.mean([is_moment(value) for value in present.tolist()]) >= MOMENTS:
        example = next(value for value in present.tolist() if is_moment(value))
        return "ignore", _moments(cut(spelling(example)))
    others = wrong & ~columns.missing_values(present, notation, numeric=True)
    if others.mean() <= WRONG and len(np.unique(numbers[~wrong])) > FEW_NUMBERS and not _are_codes(present[~wrong]):
        return otherwise, ""
    return "categorical", ""


def _moments(example: str) -> str:
    """Return why a column of dates or times is left out."""
    return f"holds dates or times, such as {example}, and new ones always lie ahead; give the hour, the weekday or an age as a column of its own"


def _as_moments(numbers: NDArray[np.float64]) -> str | None:
    """Return how numbers (n,) write dates or times, if all of them do: as time since 1970, from 2000 on, or as YYYYMMDD. None otherwise."""
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
    """Return the different numbers of values (n,) that all are or spell numbers; whole ones are exact."""
    if present.dtype.kind in "iuf":
        return set(np.unique(present).tolist())
    read = (
        (exact_number(value, notation), number)
        for value, number in zip(present.tolist(), numbers.tolist(), strict=True)
    )
    return {number if exact is None else exact for exact, number in read}


def _are_codes(present: Array) -> bool:
    """Return whether whole numbers have zeros in front and all are of one length, as postal codes and two-digit months are."""
    if present.dtype.kind not in "OU":
        return False
    different = {value for value in present.tolist() if isinstance(value, str)}
    return len(different) > 0 and len({len(text) for text in different}) == 1 and any(map(is_code, different))


def _categorical(name: str, present: Array, notation: Notation, wrong: NDArray[np.bool_]) -> CategoricalColumn | str:
    """Return a column of the categories of values (n,), or why it is left out. `wrong` are those that are no numbers (n,)."""
    plain = present if present.dtype.kind == "f" else present.tolist()  # numpy's scalars know that a float32 is one
    count: dict[tuple[type, Any], int] = Counter((type(value), value) for value in plain)
    names = [_name(meaning, alike) for meaning, alike in _by_meaning(count, notation).items()]
    if (longest := max(map(len, names))) > files.CELL_BYTES // 4:  # a character has up to four bytes
        return f"has a text of {longest} characters, the limit is {files.CELL_BYTES // 4}"
    if len(names) > MAX_STRINGS or (wrong.any() and len(names) > max(2, len(present) // 2)):
        if 0 < wrong.mean() < MOSTLY:
            text = shown(spelling(present[wrong].item(0)))
            return (
                f"{MIXED} in {wrong.sum()} of {len(present)} rows, such as {text}; if that stands for a missing value, name it by "
                f"--missing {text}, beside the others that the file has"
            )
        return f"{IDENTIFIER}: {len(names)} different values in {len(present)} rows, such as {cut(names[0])}"
    return CategoricalColumn(name=name, categories=tuple(sorted(names, key=_natural)))


def _by_meaning(count: dict[tuple[type, Any], int], notation: Notation) -> dict[Any, dict[Any, int]]:
    """Return how often each spelling occurs, by what it means: the same truth value, the same number, or the same text."""
    are_truths = {truth(value) for _, value in count} == {True, False}
    found: dict[Any, dict[Any, int]] = {}
    for (_, value), n in count.items():
        exact = None if are_truths or isinstance(value, bool | np.bool_) else exact_number(value, notation)
        meaning = ("truth", truth(value)) if are_truths else spelling(value) if exact is None else exact
        spelled = found.setdefault(meaning, {})
        spelled[spelling(value)] = spelled.get(spelling(value), 0) + n
    return found


def _name(meaning: Any, spelled: dict[Any, int]) -> str:
    """Return the name of a category: a number as it is spelled everywhere, else the most frequent spelling."""
    return spelling(meaning) if isinstance(meaning, int | float) else max(spelled, key=lambda text: spelled[text])


def _numeric(name: str, numbers: NDArray[np.float64], kind: str, stated: ColumnSettings) -> NumericColumn | str:
    """Return the column of finite numbers (n,), of which at least two differ, or why it is left out."""
    if (largest := float(np.abs(numbers).max())) > LARGEST:
        return f"has numbers up to {largest:g} in size, the limit is {LARGEST:g}: divide them by a common number"
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
    centre, scale = _mean_and_deviation(transformed)
    size = float(np.abs(transformed).max())
    rounding = scale <= max(SAME * size, SLIGHTEST)
    if rounding:
        scale = max(ROUNDING * size, SLIGHTEST)
    decimals = stated.decimals.get(name, _decimals(numbers))
    if kind == "range" and not rounding:
        centre, scale = plain["minimum"], plain["maximum"] - plain["minimum"]
    measured = {"mean": centre, "scale": scale, "beyond": "log", "decimals": decimals, "unit": stated.units.get(name)}
    return NumericColumn.model_validate({**plain, **transform, **measured})


def row_numbers(table: Mapping[str, Array], stated: ColumnSettings) -> dict[str, str]:
    """Return the columns of a whole table, in the order of its rows, that number the rows, and why; none whose kind is stated.

    Such are whole numbers without repetition that rise or fall from row to row, or that lie so close together that chance would repeat some;
    and columns with a name that stands for none. A new row's number would lie beyond those of training, or between them.
    """
    found = {}
    for name, values in table.items():
        if name in stated.kinds or _is_nested(values):
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
                f"numbers the rows ({shape}, …): no two rows have the same, and those of new rows would say nothing"
            )
    return found


def _are_dealt_out(numbers: NDArray[np.float64]) -> bool:
    """Return whether whole numbers (n,) all differ although independent ones from their range would hardly: at most exp(-n (n - 1) / 2 range)."""
    n, among = len(numbers), float(numbers.max() - numbers.min()) + 1
    return n * (n - 1) / 2 / among > -math.log(CHANCE) and len(np.unique(numbers)) == n


def hints(table: Mapping[str, Array], spec: TableSpec, stated: ColumnSettings) -> list[str]:
    """Return sentences about the columns of a table that might be numbers, and are taken as texts since values are written in other ways."""
    notation, found = stated.notation, []
    texts = [column.name for column in spec.columns if isinstance(column, CategoricalColumn)]
    texts += [name for name, reason in spec.ignored.items() if reason.startswith((IDENTIFIER, MIXED))]
    for name in texts:
        values = table.get(name, np.zeros(0))
        if name in stated.kinds or values.dtype.kind not in "OU":
            continue
        few = values[:HINTED]
        present = few[~columns.missing_values(few, notation)].tolist()
        count = Counter(each for each in present if isinstance(each, str))
        almost = [text for text in count if _is_almost_number(text, notation)]
        words = {text: n for text, n in count.items() if number(text, notation) is None}
        if len(almost) > len(words) / 2 and len(count) > 2:
            found.append(
                f"column {cut(name)} is not numeric: values such as {shown(almost[0])} have signs beside the number, or another sign before decimals; "
                "write plain numbers to learn from them as such"
            )
        elif len(count) - len(words) > FEW_NUMBERS and len(words) < FEW_NUMBERS and not _are_codes(values):
            word = max(words, key=lambda text: words[text])
            found.append(
                f"column {cut(name)} is not numeric: {sum(words.values())} of {count.total()} values are words, such as {shown(word)}; if that stands for "
                f"a missing value, state it: --missing {shown(word)}"
            )
    return found


def _is_almost_number(text: str, notation: Notation) -> bool:
    """Return whether a text that is no number is one without its currency, per cent sign or brackets, or with another sign before decimals."""
    if number(text, notation) is not None:
        return False
    bare = SIGNS.sub("", trimmed(text).removeprefix("(").removesuffix(")"))
    return any(number(bare, written) is not None for written in WRITTEN)


def _is_nested(values: Array) -> bool:
    """Return whether a column holds lists, structures, bytes or durations."""
    others = (list, tuple, dict, bytes, np.ndarray, datetime.timedelta)
    return values.dtype.kind in "mSV" or (values.dtype == object and any(isinstance(each, others) for each in values))


def _quantiles(numbers: Array) -> dict[str, Any]:
    """Return knots at the quantiles, and the normal quantiles of their shares; ties share the middle of theirs."""
    shares = np.linspace(0, 1, KNOTS)
    normal = ndtri(np.clip(shares, 0.5 / len(numbers), 1 - 0.5 / len(numbers)))
    knots, place = np.unique(np.quantile(numbers, shares), return_inverse=True)
    scores = np.bincount(place, normal) / np.bincount(place)
    return {
        "transform": "quantile", "knots": tuple(knots.tolist()), "scores": tuple(scores.tolist()), "slope": 1 / max(_mean_and_deviation(numbers)[1], SLIGHTEST),
    }  # fmt: skip


def _decimals(numbers: Array) -> int | None:
    """Return the digits after the point that all numbers make do with, at most 6; None where they need more."""
    return next((digits for digits in range(7) if np.array_equal(numbers, np.round(numbers, digits))), None)


def _natural(category: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers in numeric order, before words."""
    found = number(category, DEFAULT)
    return (1, 0.0, category) if found is None else (0, found, category)


def _unit(values: Array) -> float:
    """Return what numbers are divided by before their powers are taken: 1, or their size if the powers would leave the range of float64."""
    size = float(np.abs(values).max())
    return 1.0 if POWERS[0] <= size <= POWERS[1] or not size else size


def _mean_and_deviation(values: Array) -> tuple[float, float]:
    unit = _unit(values)
    scaled = values if unit == 1 else values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit


def _skewness(values: Array) -> float:
    values = values / _unit(values)
    centred = values - values.mean()
    return float((centred**3).mean() / max(float((centred**2).mean()) ** 1.5, 1e-300))


def encode(table: Mapping[str, Array], spec: TableSpec) -> Array:
    """Encode columns as float32 (n, width), missing values as NaN. Raises DataError for the first row that cannot be."""
    encoded = spec.encode(table, missing=True)
    if encoded.bad:
        row = min(encoded.bad)
        raise DataError(f"data: row {row + 1}: {encoded.bad[row]}")
    return encoded.data
