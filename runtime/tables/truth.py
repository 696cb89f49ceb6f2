"""The rule that marks the known anomalies in a file: a column, and the values or numbers that mean an anomaly.

`fit` determines the rule from its file and records it in the manifest, so that `calibrate` and `judge` apply the same rule to other files. Values
are read by runtime.tables.values in the notation of the file, and compared without regard to case. Numbers are compared as numbers, so 1 and
1.0 are equal. A row without a value in the column is unlabelled: neither a known anomaly nor known to be normal.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from manifold.runtime.errors import InvalidValue, cut, near, shown
from manifold.runtime.records import Record
from manifold.runtime.tables import values as reading
from manifold.runtime.tables.values import DEFAULT, FALSE, TRUE, Notation

NORMAL = (
    "normal",
    "benign",
    "genuine",
    "legitimate",
    "legit",
    "ok",
    "good",
    "regular",
)  # texts that mean normal, if a column has two values
LISTED = 10  # most values that an error lists
DISTINCT = 10_000  # most distinct values that are counted; a column with more is not a label

ANOMALOUS, OTHER, UNLABELLED = 1, 0, -1  # the marks of rows

_OPERATOR = re.compile(r"!=|<>|==|<=|>=|=|<|>|\s+not\s+in\s+|\s+in\s+", re.IGNORECASE)
_TESTS = {"=": "in", "==": "in", "in": "in", "!=": "not in", "<>": "not in", "not in": "not in"}

Test = Literal["in", "not in", "<", "<=", ">", ">="]


class Truth(Record):
    """A rule that marks known anomalies by the values of a column. Values are in lower case."""

    column: str
    test: Test = Field(description="`in`, `not in`, or a comparison with a number")
    values: tuple[str, ...] = Field(
        min_length=1, description="the values, or the number, with which the column is compared"
    )
    others: tuple[str, ...] | None = Field(
        default=None, description="the values of rows that are not anomalies; if present, any other value is an error"
    )

    @model_validator(mode="after")
    def _check(self) -> Truth:
        if self.test not in ("in", "not in") and (len(self.values) != 1 or _number(self.values[0]) is None):
            raise ValueError(f"values: {list(self.values)} is not one number; the test {self.test} needs exactly one")
        return self

    def __str__(self) -> str:
        if self.values in (TRUE, FALSE):
            return f"{self.column} is {'true' if self.values == TRUE else 'false'}"
        sign = {"in": "==", "not in": "!="}.get(self.test, self.test) if len(self.values) == 1 else f" {self.test} "
        return f"{self.column}{sign}{','.join(self.values)}"

    def marks(self, values: Iterable[Any], notation: Notation = DEFAULT) -> NDArray[np.int8]:
        """Return the mark of each row (n,): ANOMALOUS, OTHER or UNLABELLED. Raises InvalidValue for a value that the rule does not cover.

        `notation` is the notation of the file.
        """
        known: dict[Any, int] = {}
        found = []
        for value in values:
            if isinstance(value, list | dict):
                value = str(value)
            place = (type(value), value)  # with the type, since True and 1 are the same dictionary key
            if place not in known:
                known[place] = self._mark(value, notation)
            found.append(known[place])
        return np.asarray(found, np.int8)

    def _mark(self, value: Any, notation: Notation) -> int:
        found = key(value, notation)
        name = _word(value) if found is None else found
        if found is None and name not in self.values:
            return UNLABELLED
        if self.test in ("in", "not in"):
            here = name in self.values
            if not here and self.others is not None and name not in self.others:
                raise InvalidValue(
                    f"truth: column {shown(self.column)} has the value {shown(value)}, but the rule covers only {_few(self.values)} (anomalous) and "
                    f"{_few(self.others)}; give a new rule, such as --truth {shown(f'{self.column}=={self.values[0]}')}",
                    field="truth",
                )
            return ANOMALOUS if here == (self.test == "in") else OTHER
        number, bound = _number(name), _number(self.values[0])
        if number is None or bound is None:
            raise InvalidValue(
                f"truth: column {shown(self.column)} has the value {shown(value)}, which is not a number, so {self} cannot compare it; give a rule such as "
                "--truth COLUMN==VALUE",
                field="truth",
            )
        held = {"<": number < bound, "<=": number <= bound, ">": number > bound, ">=": number >= bound}
        return ANOMALOUS if held[self.test] else OTHER


@dataclass(frozen=True)
class Expression:
    """A truth in the form in which a user gives it: a column, alone or with a test."""

    text: str
    column: str
    test: Test | None = None
    values: tuple[str, ...] = ()  # as written by the user


def parse(text: str, columns: Collection[str]) -> Expression:
    """Parse COLUMN, COLUMN==VALUE, COLUMN!=VALUE, COLUMN in A,B, COLUMN not in A,B or COLUMN>NUMBER. Raises InvalidValue for other texts."""
    if text in columns:
        return Expression(text, text)
    for found in _OPERATOR.finditer(text):
        column, given = _bare(text[: found.start()]), text[found.end() :].strip()
        if column not in columns or not given:
            continue
        sign = " ".join(found.group().lower().split())
        if sign not in _TESTS:
            if all(reading.number(given, Notation.of(decimal=decimal)) is None for decimal in (".", ",")):
                raise InvalidValue(
                    f"truth: {shown(text)} compares with {shown(given)}, which is not a number; give a number",
                    field="truth",
                )
            return Expression(text, column, sign, (given,))  # type: ignore[arg-type]
        values = _listed(given) if sign.endswith("in") else [_bare(given)]
        return Expression(text, column, _TESTS[sign], tuple(values))  # type: ignore[arg-type]
    first = _OPERATOR.search(text)
    named = _bare(text[: first.start()]) if first else text
    if first and named in columns:
        raise InvalidValue(
            f"truth: {shown(text)} has no value after {first.group().strip()}; write COLUMN, COLUMN!=VALUE, COLUMN==VALUE, COLUMN in A,B or COLUMN>NUMBER",
            field="truth",
        )
    raise InvalidValue(
        f"truth: there is no column {shown(named)}{near(named, columns)}; the file has {', '.join(map(shown, list(columns)[:LISTED]))}; "
        "write COLUMN, COLUMN!=VALUE, COLUMN==VALUE, COLUMN in A,B or COLUMN>NUMBER",
        field="truth",
        valid=list(columns),
    )


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _listed(text: str) -> list[str]:
    """Split A,B or (A, "B, C") into its values."""
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1]
    return [_bare(part) for part in next(csv.reader([text], skipinitialspace=True), []) if part.strip()]


class Counts:
    """The values of a column with their numbers of rows, and one spelling for each. `notation` is the notation of the file."""

    def __init__(self, values: Iterable[Any] = (), notation: Notation = DEFAULT) -> None:
        self.notation = notation
        self.rows: Counter[str] = Counter()
        self.spelled: dict[str, str] = {}
        self.missing: Counter[str] = Counter()  # by word
        self.add(values)

    def add(self, values: Iterable[Any]) -> None:
        """Count more rows. If a column has more than DISTINCT values, only the first ones are counted."""
        for value in values:
            name = key(value, self.notation)
            if name is None:
                self.missing[_word(value)] += 1
            elif name in self.rows or len(self.rows) < DISTINCT:
                self.rows[name] += 1
                self.spelled.setdefault(name, cut(str(value).strip(), 40))

    def __str__(self) -> str:
        most = ", ".join(f"{shown(self.spelled[name])} ({n})" for name, n in self.rows.most_common(LISTED))
        return most + (", …" if len(self.rows) > LISTED else "")


def settle(stated: Expression, counts: Counts, *, present: bool = True) -> tuple[Truth, str]:
    """Return the rule for a column with these values, and a sentence that explains it.

    With `present`, each value in the expression must occur in the column; else InvalidValue is raised. It is also raised if the expression is
    only a column, and the column has neither exactly two values nor only boolean values.
    """
    names = list(counts.rows)
    boolean = bool(names) and set(names) <= {*TRUE, *FALSE}
    if stated.test is None:
        return _of_column(stated.column, counts, boolean)
    if stated.test not in ("in", "not in"):
        bound = _stated(stated.values[0], counts)
        if _number(bound) is None:
            raise InvalidValue(
                f"truth: {shown(stated.values[0])} is not a number in the notation of the file; write decimals after {shown(counts.notation.decimal)}",
                field="truth",
            )
        rule = Truth(column=stated.column, test=stated.test, values=(bound,))
        return rule, f"truth: rows with {rule} are known anomalies"
    values = tuple(_stated(value, counts) for value in stated.values)
    found = {*counts.rows, *counts.missing}
    absent = [given for given, value in zip(stated.values, values, strict=True) if value not in found]
    if not values or (absent and present):
        raise InvalidValue(
            f"truth: no row has {shown(absent[0] if absent else '')} in column {shown(stated.column)}; use one of its values: {counts}"
            + (
                f"; for several values write {shown(f'{stated.column} in {absent[0]}')}"
                if "," in "".join(absent)
                else ""
            ),
            field="truth",
            valid=[counts.spelled[name] for name in names],
        )
    if boolean and len(values) == 1 and values[0] in (*TRUE, *FALSE):
        true = (values[0] in TRUE) == (stated.test == "in")
        rule = Truth(column=stated.column, test="in", values=TRUE if true else FALSE, others=FALSE if true else TRUE)
    else:
        rule = Truth(column=stated.column, test=stated.test, values=values)
    return rule, f"truth: rows with {rule} are known anomalies"


def _of_column(column: str, counts: Counts, boolean: bool) -> tuple[Truth, str]:
    if boolean:
        rule = Truth(column=column, test="in", values=TRUE, others=FALSE)
        return rule, f"truth: rows whose {shown(column)} is true (1, true, yes) are known anomalies"
    (common, most), *rest = counts.rows.most_common() or [("", 0)]
    example = counts.spelled.get(next((name for name in counts.rows if name in NORMAL), common), "normal")
    numbers = len(counts.rows) > LISTED and all(_number(name) is not None for name in counts.rows)
    sign = ">" if numbers else "!="
    advice = f"state which rows are anomalies, such as --truth {shown(f'{column}{sign}{example}')}"
    if len(rest) != 1:
        number = f"{len(counts.rows)}{' or more' if len(counts.rows) == DISTINCT else ''}"
        has = (
            f"has {number} values: {counts}" if rest else f"has the single value {counts}" if most else "has no values"
        )
        raise InvalidValue(f"truth: column {shown(column)} {has}; {advice}", field="truth")
    ((other, fewer),) = rest
    usual = [name for name in (common, other) if name in NORMAL]
    if fewer == most and len(usual) != 1:
        raise InvalidValue(f"truth: column {shown(column)} has {counts}, as many rows of each; {advice}", field="truth")
    anomalous = other if len(usual) != 1 else ({common, other} - set(usual)).pop()
    (normal,) = {common, other} - {anomalous}
    made = Truth(column=column, test="in", values=(anomalous,), others=(normal,))
    rarer = "the rarer value " if anomalous == other else ""
    share = f"{counts.rows[anomalous]} of {most + fewer}"
    said = f"truth: rows with {rarer}{shown(counts.spelled[anomalous])} in {shown(column)} ({share}) count as known anomalies"
    return made, f"{said}; to mean the others, write --truth {shown(f'{column}=={counts.spelled[normal]}')}"


def key(value: Any, notation: Notation = DEFAULT) -> str | None:
    """Return the normalised text by which values are compared; None for a missing value. Leading zeros of a number are ignored."""
    if reading.is_missing(value, notation):
        return None
    plain = isinstance(value, str) and reading.is_code(reading.trimmed(value))
    number = reading.exact_number(reading.trimmed(value).lstrip("0") or "0" if plain else value, notation)
    return reading.spelling(value).casefold() if number is None else reading.spelling(number)


def _stated(text: str, counts: Counts) -> str:
    """Return the normalised text of a value given by a user, in the notation of the file or with a decimal point."""
    found = key(text, counts.notation)
    if found is not None and found not in counts.rows and (other := key(text)) is not None:
        number = reading.number(text, counts.notation) is None and reading.number(text, DEFAULT) is not None
        found = other if number else found
    return found or _word(text)


def _word(value: Any) -> str:
    """Return the text of a missing value in lower case; an empty text for None and NaN."""
    return reading.text_of(value).casefold() if isinstance(value, str) else ""


def _number(text: str) -> float | None:
    number = reading.number(text, DEFAULT)
    return number if number is not None and math.isfinite(number) else None


def _few(values: Sequence[str]) -> str:
    return ", ".join(map(shown, values[:3]))
