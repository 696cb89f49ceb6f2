"""From calibrated scores to decisions: by a false positive rate, by cost, or by budget. Nothing is looked up twice for a row of many.

By cost: flag where what is lost by letting an anomaly pass outweighs what a false alarm costs. That takes the odds of an anomaly, and a
p-value alone does not give them; it bounds them. For p < 1/e no anomalies at all, however they lie, make p more likely than
1 / (-e p log p) times (Sellke, Bayarri and Berger, 2001, The American Statistician 55, eq. 3), so a row is flagged where even then it pays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.manifest import Scoring
from manifold.runtime.scores.scoring import Calibrated, Float64, Threshold, risk

DEFAULT_RATE = 0.01
BLOCKED = 0.1  # of the rate for review, where no rate for blocking is given
BANDS = ("allow", "review", "block")
STATES = ("ok", "below_resolution", "uncalibrated", "unknown")
UNKNOWN = ("unknown_category", "missing")  # beginnings of the warnings that make a row's state unknown


@dataclass(frozen=True)
class Costs:
    """Costs of errors, in any one unit, and the share of anomalies among the rows."""

    false_positive: float
    false_negative: float
    prevalence: float

    @property
    def rate(self) -> float:
        """The p-value up to which flagging pays at best, at most 1/e: -e p log p = prevalence c_fn / ((1 - prevalence) c_fp)."""
        # as logarithms: costs may be as small, or as far apart, as floats are
        odds = math.log(self.prevalence) - math.log1p(-self.prevalence)
        gain = odds + math.log(self.false_negative) - math.log(self.false_positive)
        low, high = 0.0, 1 / math.e
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if 1 + math.log(middle) + math.log(-math.log(middle)) < gain else (low, middle)
        return high


@dataclass(frozen=True)
class Rule:
    """Rule of decision: one of rate, budget and costs (the rate 0.01 if none is given), and the rate for `block`."""

    rate: float | None = None
    budget: int | None = None  # this many, the most anomalous, of what is scored together
    costs: Costs | None = None
    block: float | None = None  # the false positive rate for blocking, a tenth of that for review where left out

    @property
    def review_rate(self) -> float:
        """The false positive rate that is aimed at."""
        if self.costs is not None:
            return self.costs.rate
        return DEFAULT_RATE if self.rate is None else self.rate

    @property
    def block_rate(self) -> float:
        """The same for blocking."""
        return self.review_rate * BLOCKED if self.block is None else self.block


@dataclass(frozen=True)
class Judged:
    """Rows with their decisions, all (n,). p-values and what follows from them are None without a calibration."""

    score: Float64
    p_value: Float64 | None
    flagged: NDArray[np.bool_]
    bands: NDArray[np.int64] | None  # places in BANDS
    risk: NDArray[np.int64] | None
    states: NDArray[np.int64]  # places in STATES
    parts: dict[str, tuple[Float64, Float64 | None]]  # values and p-values of each term and of the combination
    threshold: Threshold
    block_p_value: float | None

    def item(self, i: int) -> dict[str, Any]:
        """Row i as it stands on the wire, without warnings and explanation."""
        return {
            "score": float(self.score[i]),
            "p_value": None if self.p_value is None else float(self.p_value[i]),
            "is_anomaly": bool(self.flagged[i]),
            "band": None if self.bands is None else BANDS[self.bands[i]],
            "risk": None if self.risk is None else int(self.risk[i]),
            "state": STATES[self.states[i]],
            "parts": {
                name: {"value": float(values[i]), "p_value": None if p is None else float(p[i])}
                for name, (values, p) in self.parts.items()
            },
        }


def judge(
    scoring: Scoring,
    calibrated: Calibrated,
    terms: Mapping[str, Float64],
    unknown: NDArray[np.bool_],
    rule: Rule,
    *,
    chosen: NDArray[np.bool_] | None = None,
) -> Judged:
    """Terms (n,) of rows that are scored together, under a rule.

    `unknown` (n,) are rows with values that training does not know. `chosen` (n,) are the rows that a budget took, where it is spent on
    more rows than these.
    """
    placed = calibrated.place(terms)
    score = placed[scoring.score]
    if chosen is None and rule.budget is not None:
        chosen = strangest(score, rule.budget)
    if not calibrated.n:
        flagged = np.zeros(len(score), bool) if chosen is None else chosen
        line = calibrated.line_at(scoring.score, _least(score, flagged))
        parts: dict[str, tuple[Float64, Float64 | None]] = {name: (values, None) for name, values in placed.items()}
        return Judged(score, None, flagged, None, None, np.where(unknown, 3, 2), parts, line, None)
    p = {name: calibrated.p_values(name, values) for name, values in placed.items()}
    p_value = p[scoring.score]
    line, block = (
        calibrated.threshold(scoring.score, rule.review_rate),
        calibrated.threshold(scoring.score, rule.block_rate),
    )
    if chosen is None:
        flagged = _below(p_value, line)
    else:
        flagged = chosen
        line = calibrated.line_at(scoring.score, _least(score, flagged))
    bands = np.where(flagged, np.where(_below(p_value, block), 2, 1), 0)
    states = np.where(unknown, 3, np.where(p_value <= 1 / (calibrated.n + 1), 1, 0))
    return Judged(
        score, p_value, flagged, bands, risk(p_value), states,
        {name: (values, p[name]) for name, values in placed.items()}, line, None if block.score is None else block.p_value,
    )  # fmt: skip


def strangest(score: Float64, budget: int) -> NDArray[np.bool_]:
    """The first `budget` rows by score (n,); of equal ones, those that came first."""
    flagged = np.zeros(len(score), bool)
    flagged[np.argsort(-score, kind="stable")[:budget]] = True
    return flagged


def are_unknown(warnings: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Rows (n,) that one of their warnings makes unknown."""
    return np.asarray([any(warning.startswith(UNKNOWN) for warning in each) for each in warnings], bool)


def _below(p_value: Float64, line: Threshold) -> NDArray[np.bool_]:
    if line.score is None or line.p_value is None:  # the rate is below what the calibration resolves
        return np.zeros(len(p_value), bool)
    return np.asarray(p_value <= line.p_value, bool)


def _least(score: Float64, flagged: NDArray[np.bool_]) -> float | None:
    return float(score[flagged].min()) if flagged.any() else None
