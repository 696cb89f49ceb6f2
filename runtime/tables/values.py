"""The rules for reading one value of a table. They apply to requests, CSV and Parquet files, and training data.

A value is missing, a number, a boolean, a date or time, or a text. JSON and Parquet values have a type; a cell of a CSV file is a text. A text
of a number counts as a number: "12.5" is the number 12.5 everywhere. docs/reference/tables.md lists the rules for users.
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

# texts that stand for a missing value, compared without regard to case; a category with the same text has priority
MISSING = ("", "-", "?", "#N/A", "<NA>", "N/A", "NA", "NaN", "NaT", "null")
# additional texts that programs write for missing numbers; in other columns they may be categories
MISSING_NUMBERS = (
    ".", "--", "None", "nil", "\\N", "n.a.", "missing", "unknown", "#NA", "#N/A N/A", "-NaN", "NaN(ind)", "-NaN(ind)", "1.#IND", "-1.#IND",
    "1.#QNAN", "-1.#QNAN",
)  # fmt: skip
TRUE, FALSE = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")
EXACT = 2**53  # whole numbers up to this are exact as float64
DIGITS = 400  # limit for the digits of a whole number

# invisible characters that are removed at both ends of a text: blanks, byte order marks, and marks that spreadsheets add
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
SPACES = " '\u2019\u00a0\u202f\u2009"  # separators between groups of three digits, in addition to the comma or point
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
    """The notation of a table: the texts that stand for a missing value, and the decimal separator."""

    missing: frozenset[str]  # in lower case
    decimal: Decimals = "."
    in_numbers: frozenset[str] = frozenset()  # additional texts for missing values in columns of numbers

    @classmethod
    def of(cls, missing: Sequence[str] = MISSING, decimal: Decimals = ".") -> Notation:
        """Return the notation with these texts for missing values. The empty text is always added; MISSING_NUMBERS only to the default texts."""
        stated = frozenset(trimmed(text).lower() for text in missing)
        further = frozenset(text.lower() for text in MISSING_NUMBERS if stated == _USUAL)
        return cls(stated | {""}, decimal, further)

    @property
    def of_numbers(self) -> frozenset[str]:
        """All texts that stand for a missing value in a column of numbers, in lower case."""
        return self.missing | self.in_numbers


def trimmed(text: str) -> str:
    """Return a text without surrounding blanks and invisible characters."""
    return text.strip() if text.isascii() else text.strip(BLANKS)


_USUAL = frozenset(text.lower() for text in MISSING)
DEFAULT = Notation.of()


def text_of(value: str) -> str:
    """Return a text without surrounding blanks, in Unicode's composed form (NFC)."""
    text = trimmed(value)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_missing(value: Any, notation: Notation, *, numeric: bool = False) -> bool:
    """Return whether a value is missing: None, NaN, NaT, or a text for a missing value. Columns of numbers (`numeric`) have more such texts."""
    if value is None:
        return True
    if isinstance(value, str):
        text = trimmed(value).lower()
        return text in notation.missing or (numeric and text in notation.in_numbers)
    return bool(isinstance(value, float | np.floating | np.datetime64 | Decimal) and value != value)


def number(value: Any, notation: Notation) -> float | None:
    """Return a value, or the text of a number, as a number, which may be infinite. Return None for others, also for booleans."""
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
    """Convert a number into a float64. A float32 or float16 stands for its shortest text: 0.1, not 0.10000000149."""
    return float(str(value)) if isinstance(value, np.float32 | np.float16) else float(value)


def _number_of(text: str, notation: Notation) -> float | None:
    plain = _plain(text, notation)
    if plain is not None:
        return float(plain)
    return float(text) if _INFINITE.fullmatch(text) else None


def _plain(text: str, notation: Notation) -> str | None:
    """Return the text of a number in Python's notation; None if it is not a number."""
    found = _NUMBERS[notation.decimal].fullmatch(text)
    if found is None:
        return None
    if (group := found.group("group")) is not None:
        text = text.replace(group, "")
    return text.replace(notation.decimal, ".").replace("\u2212", "-")


def is_code(text: str) -> bool:
    """Return whether a text is a whole number with leading zeros, such as a postal code."""
    return _CODE.fullmatch(text) is not None


def is_moment(value: Any) -> bool:
    """Return whether a value is a date, a time or both, also as text."""
    if isinstance(value, str):
        return _MOMENT.fullmatch(trimmed(value)) is not None
    return isinstance(value, datetime.date | datetime.time | np.datetime64)


def truth(value: Any) -> bool | None:
    """Return a boolean, also from a text (docs/reference/tables.md lists the words); None if the value is not a boolean."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    text = trimmed(value).lower() if isinstance(value, str) else spelling(value)
    return True if text in TRUE else False if text in FALSE else None


def spelling(value: Any) -> str:
    """Return the normalised text of a value: 3 and 3.0 are "3", True is "true", a date is in ISO 8601."""
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
    """The categories of a column, by name and by meaning: "1.0" and 1 find the category "1"; true finds "yes" if the other one is "no"."""

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
        for key in shared:  # if both "1" and "1.0" are categories, each is found only by its exact name
            del self._alike[key]

    def named(self, value: Any) -> bool:
        """Return whether a text is exactly the name of a category."""
        return isinstance(value, str) and trimmed(value) in self._exact

    def find(self, value: Any, notation: Notation) -> int | None:
        """Return the index of the category that a value names; None if there is none."""
        place = self._exact.get(value if isinstance(value, str) else spelling(value))
        if place is None and isinstance(value, str):
            place = self._exact.get(text_of(value))
        if place is not None:
            return place
        return next((self._alike[key] for key in self._keys(value, notation) if key in self._alike), None)

    def _keys(self, value: Any, notation: Notation) -> Iterator[Hashable]:
        """Yield the meanings of a value, the most certain one first."""
        if self._truths and (found := truth(value)) is not None:
            yield found, "truth"
        if (exact := exact_number(value, notation)) is not None:
            yield exact, "number"
        if self._moments and (moment := _moment(value)) is not None:
            yield moment, "moment"


def exact_number(value: Any, notation: Notation) -> int | float | None:
    """Return a value as the exact number that a category can be compared with; None for others and for codes with leading zeros."""
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
    """Return a date or time, also from a text in ISO 8601; None for any other value."""
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
