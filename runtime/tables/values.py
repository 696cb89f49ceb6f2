"""The reading of one value of a table. A request, a CSV or Parquet file and training data all follow these rules.

A value is missing, a number, a truth value, a date or time, or a text. JSON and Parquet values have a type; a cell of a CSV is a text. A text
means what it spells: "12.5" is the number 12.5 on every path. docs/reference/tables.md lists the rules for users.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np

Decimals = Literal[".", ","]

# texts that stand for a missing value, compared without case; a category of the same spelling comes first
MISSING = ("", "-", "?", "#N/A", "<NA>", "N/A", "NA", "NaN", "NaT", "null")
# further ones in columns of numbers, as programs write them; elsewhere they may be categories
MISSING_NUMBERS = (
    ".", "--", "None", "nil", "\\N", "n.a.", "missing", "unknown", "#NA", "#N/A N/A", "-NaN", "NaN(ind)", "-NaN(ind)", "1.#IND", "-1.#IND",
    "1.#QNAN", "-1.#QNAN",
)  # fmt: skip
TRUE, FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")
EXACT = 2**53  # whole numbers up to this have a float64 of their own
DIGITS = 400  # of a whole number at most

# characters without ink, which are removed at the ends of a text: blanks, byte order marks, and marks that spreadsheets copy along
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
SPACES = " '\u2019\u00a0\u202f\u2009"  # between groups of three digits, beside the comma or the point
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


def _pattern(decimal: str, group: str) -> re.Pattern[str]:
    """Return the pattern of a number: sign, digits with or without groups of three, fraction, exponent."""
    point, between = re.escape(decimal), f"[{re.escape(group)}{SPACES}]"
    whole = rf"(?:[1-9]\d{{0,2}}(?P<group>{between})\d{{3}}(?:(?P=group)\d{{3}})*|\d+)"
    return re.compile(rf"[+\-\u2212]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?")


_NUMBERS = {".": _pattern(".", ","), ",": _pattern(",", ".")}
_CODE = re.compile(r"0\d+")
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp]\.?[Mm]\.?)?"
_ZONE = r"( ?(Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",  # 2026-01-31
    r"\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})",  # 31.01.2026, 1/31/26
    rf"\d{{1,2}}[ -]{_MONTH}[ ,-]*(\d{{4}}|\d{{2}})",  # 31 Jan 2026
    rf"{_MONTH} \d{{1,2}}(st|nd|rd|th)?,? \d{{4}}",  # January 31, 2026
    r"(19|20)\d{2}-(0[1-9]|1[0-2]|W\d{2}(-\d)?)",  # 2026-01, 2026-W05
)
_WEEKDAY = r"((mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? )?"
_MOMENT = re.compile(rf"{_WEEKDAY}({'|'.join(_DAY)})([T ,]+{_CLOCK})?{_ZONE}|{_CLOCK}{_ZONE}", re.IGNORECASE)


@dataclass(frozen=True)
class Notation:
    """The notation of a table's texts: those that stand for a missing value, and the sign before decimals."""

    missing: frozenset[str]  # in lower case
    decimal: Decimals = "."
    in_numbers: frozenset[str] = frozenset()  # further ones in columns of numbers

    @classmethod
    def of(cls, missing: Sequence[str] = MISSING, decimal: Decimals = ".") -> Notation:
        """Return the notation with these texts for missing values; an empty text is always one, MISSING_NUMBERS are unless others are stated."""
        stated = frozenset(trimmed(text).lower() for text in missing)
        further = frozenset(text.lower() for text in MISSING_NUMBERS if stated == _USUAL)
        return cls(stated | {""}, decimal, further)

    @property
    def of_numbers(self) -> frozenset[str]:
        """All texts that stand for a missing value in a column of numbers, in lower case."""
        return self.missing | self.in_numbers


def trimmed(text: str) -> str:
    """Return a text without blanks around it, invisible characters among them."""
    return text.strip() if text.isascii() else text.strip(BLANKS)


_USUAL = frozenset(text.lower() for text in MISSING)
DEFAULT = Notation.of()


def text_of(value: str) -> str:
    """Return a text without blanks around it, in Unicode's composed form (NFC)."""
    text = trimmed(value)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_missing(value: Any, notation: Notation, *, numeric: bool = False) -> bool:
    """Return whether a value is missing: None, NaN, NaT, or a text that stands for that; in a column of numbers (`numeric`) more texts do."""
    if value is None:
        return True
    if isinstance(value, str):
        text = trimmed(value).lower()
        return text in notation.missing or (numeric and text in notation.in_numbers)
    return bool(isinstance(value, float | np.floating | np.datetime64 | Decimal) and value != value)


def number(value: Any, notation: Notation) -> float | None:
    """Return the number that a value is or spells, which may be infinite; None if it is no number. A truth value is none."""
    if type(value) is float:
        return value
    if isinstance(value, str):
        return _number_of(trimmed(value), notation)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating | Decimal):
        return None
    try:
        return _float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _float(value: Any) -> float:
    """Return a number as a float64. A float32 or float16 stands for its shortest text: 0.1, not 0.10000000149."""
    return float(str(value)) if isinstance(value, np.float32 | np.float16) else float(value)


def _number_of(text: str, notation: Notation) -> float | None:
    plain = _plain(text, notation)
    if plain is not None:
        return float(plain)
    return float(text) if _INFINITE.fullmatch(text) else None


def _plain(text: str, notation: Notation) -> str | None:
    """Return a number's text as Python writes numbers, None if it is none."""
    found = _NUMBERS[notation.decimal].fullmatch(text)
    if found is None:
        return None
    if (group := found.group("group")) is not None:
        text = text.replace(group, "")
    return text.replace(notation.decimal, ".").replace("\u2212", "-")


def is_code(text: str) -> bool:
    """Return whether a text is a whole number with zeros in front, such as a postal code."""
    return _CODE.fullmatch(text) is not None


def is_moment(value: Any) -> bool:
    """Return whether a value is or spells a date, a time or both."""
    if isinstance(value, str):
        return _MOMENT.fullmatch(trimmed(value)) is not None
    return isinstance(value, datetime.date | datetime.time | np.datetime64)


def truth(value: Any) -> bool | None:
    """Return the truth value that a value is or spells (docs/reference/tables.md lists the words); None if it is none."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    text = trimmed(value).lower() if isinstance(value, str) else spelling(value)
    return True if text in TRUE else False if text in FALSE else None


def spelling(value: Any) -> str:
    """Return the text that a value is called by: 3 and 3.0 are "3", True is "true", a date is as in ISO 8601."""
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole and value.adjusted() < DIGITS else str(value.normalize())
    if isinstance(value, np.datetime64):
        return spelling(value.astype("datetime64[us]").item())
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


class Categories:
    """The categories of a column by name, and by what a name means: "1.0" and 1 are the category "1", and true is "yes" beside "no"."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = {name: place for place, name in enumerate(names)}
        truths = {truth(name) for name in names}
        self._truths = None not in truths and len(truths) == len(names)
        self._moments = any(is_moment(name) for name in names)
        self._alike: dict[Hashable, int] = {}
        shared = set()
        for place, name in enumerate(names):
            for key in self._keys(name, DEFAULT):
                if self._alike.setdefault(key, place) != place:
                    shared.add(key)
        for key in shared:  # "1" and "1.0" side by side: each is found by its name alone
            del self._alike[key]

    def named(self, value: Any) -> bool:
        """Return whether a text is the name of a category, as it stands."""
        return isinstance(value, str) and trimmed(value) in self._exact

    def find(self, value: Any, notation: Notation) -> int | None:
        """Return the place of the category that a value names; None if there is none."""
        place = self._exact.get(value if isinstance(value, str) else spelling(value))
        if place is None and isinstance(value, str):
            place = self._exact.get(text_of(value))
        if place is not None:
            return place
        return next((self._alike[key] for key in self._keys(value, notation) if key in self._alike), None)

    def _keys(self, value: Any, notation: Notation) -> Iterator[Hashable]:
        """Yield what a value means, the surest first."""
        if self._truths and (found := truth(value)) is not None:
            yield found, "truth"
        if (exact := exact_number(value, notation)) is not None:
            yield exact, "number"
        if self._moments and (moment := _moment(value)) is not None:
            yield moment, "moment"


def exact_number(value: Any, notation: Notation) -> int | float | None:
    """Return the number that a value names as a category: a whole one exactly. None if it is no number, or a code with zeros in front."""
    if isinstance(value, str):
        text = trimmed(value)
        plain = None if is_code(text) else _plain(text, notation)
        if plain is None:
            return None
        value = Decimal(plain)
    if isinstance(value, int | np.integer | np.bool_):
        return int(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        whole = abs(value.adjusted()) < DIGITS and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if not isinstance(value, float | np.floating) or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else _float(value)


def _moment(value: Any) -> Hashable:
    """Return a date or time that is written as in ISO 8601; None for any other value."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str):
        text = trimmed(value)
        for kind in (datetime.datetime, datetime.time):
            try:
                value = kind.fromisoformat(text)
            except ValueError:
                continue
            break
        else:
            return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time.min)
    return value if isinstance(value, datetime.datetime | datetime.time) else None
