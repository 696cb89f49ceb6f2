"""The most important of what is known about scored rows: the main reasons of a row, and the most anomalous rows of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from manifold.runtime.scores.scored_rows import ScoredRows
from manifold.runtime.tables import values

REASONS = 3  # the largest number of reasons of a row
LEAST_SHARE = 0.05  # the smallest share of a reason, except the first
DIGITS = 4  # significant digits of an expected value, which is an estimate
MOST_DIGITS = 15  # significant digits of a value, and the most of an expected value that is near to it


@dataclass(frozen=True)
class Reason:
    """A column that makes a row anomalous. Values are texts, None if missing."""

    column: str
    value: str | None
    expected: str | None  # None if it was not computed
    share: float  # the part of the excess over the usual values, 0 to 1

    def __str__(self) -> str:
        said = f"{self.column} is missing" if self.value is None else f"{self.column} = {self.value}"
        if self.expected is not None:
            same = self.value == self.expected
            said += ", unusual although it is the expected value" if same else f", expected {self.expected}"
        return f"{said} ({self.share:.0%})"


def reasons(explanation: dict[str, Any] | None) -> list[Reason]:
    """Return the main reasons of a row's explanation, the most important first; empty if no column is above its usual value."""
    if explanation is None:
        return []
    found = [
        Reason(
            each["column"], _text(each["value"], MOST_DIGITS), _expected(each["value"], each["expected"]), each["share"]
        )
        for each in explanation["columns"][:REASONS]
        if each["share"]
    ]
    return [reason for place, reason in enumerate(found) if place == 0 or reason.share >= LEAST_SHARE]


def _text(value: Any, digits: int) -> str | None:
    """Return a value as a text; floats with a number of significant digits."""
    if value is None:
        return None
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def _expected(value: Any, expected: Any) -> str | None:
    """Return an expected value as a text with so many digits that rounding changes little of its difference from the value.

    The text is that of the value if both are equal.
    """
    if not isinstance(expected, int | float | np.floating):
        return _text(expected, DIGITS)
    number, exact = values.number(value, values.DEFAULT), float(expected)
    if number == exact:
        return _text(value, MOST_DIGITS)
    if exact.is_integer():
        return _text(expected, MOST_DIGITS)
    difference = 0.0 if number is None else abs(number - exact)
    digits = DIGITS
    while difference and digits < MOST_DIGITS and abs(float(f"{exact:.{digits}g}") - exact) > difference / 10:
        digits += 1
    return _text(float(f"{exact:.{digits}g}"), MOST_DIGITS)  # 53210, not 5.321e+04


@dataclass(frozen=True)
class TopRow:
    """A flagged row."""

    number: int
    id: Any  # None if no column is the id
    score: float
    p_value: float | None
    reason: Reason | None  # the main reason, if explanations were requested


class TopRows:
    """The `most` most anomalous flagged rows of a stream. Among equal scores, earlier rows come first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: list[TopRow] = []

    def add(self, scored: ScoredRows) -> None:
        """Add the rows of a chunk."""
        judged = scored.judged
        if judged is None:
            return
        flagged = np.flatnonzero(judged.flagged)
        for at in flagged[np.argsort(-judged.score[flagged], kind="stable")[: self.most]].tolist():
            carried = None if scored.carried is None else scored.carried.id
            why = [] if scored.explanations is None else reasons(scored.explanations[at])
            self.rows.append(TopRow(
                int(scored.numbers[at]), None if carried is None else carried[at].as_py(), float(judged.score[at]),
                None if judged.p_value is None else float(judged.p_value[at]), why[0] if why else None,
            ))  # fmt: skip
        self.rows = sorted(self.rows, key=lambda row: -row.score)[: self.most]
