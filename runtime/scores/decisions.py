"""From calibrated scores to decisions: by a false positive rate, by cost, or by budget. Nothing is looked up twice for a row of many.

By cost: flag where what is lost by letting an anomaly pass outweighs what a false alarm costs. That takes the odds of an anomaly, and a
p-value alone does not give them; it bounds them. For p < 1/e no anomalies at all, however they lie, make p more likely than
1 / (-e p log p) times (Sellke, Bayarri and Berger, 2001, The American Statistician 55, eq. 3), so a row is flagged where even then it pays.

Without a calibration, only a budget decides. A rate below the calibration's resolution, 1 / (n + 1), decides only that rows below some
calibration item are normal. Rows that are not decided are neither flagged nor normal, and `Judged.notes` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.manifest import Manifest, Scoring
from manifold.runtime.scores.scoring import Calibrated, Float64, Threshold, risk

DEFAULT_RATE = 0.01
BLOCKED = 0.1  # of the rate for review, where no rate for blocking is given
BANDS = ("allow", "review", "block")
STATES = ("ok", "below_resolution", "uncalibrated", "unknown")
UNCALIBRATED = (
    "uncalibrated: the model has no calibration, so that no item is decided; give a budget, or calibrate the model"
)
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

    def __post_init__(self) -> None:
        """Raise InvalidValue for more than one way to decide, and for rates that are not possible together."""
        ways = [name for name, value in self._stated().items() if value is not None and name != "block_rate"]
        if len(ways) > 1:
            raise InvalidValue(f"{' and '.join(ways)} exclude each other", field=ways[-1])
        for name, rate in (("false_positive_rate", self.rate), ("block_rate", self.block)):
            if rate is not None and not 0 < rate < 1:
                raise InvalidValue(f"{name}: {rate:g} is not between 0 and 1", field=name)
        if self.budget is None and self.block_rate > self.review_rate:
            raise InvalidValue(
                f"block_rate: {self.block_rate:g} is above the rate for review, {self.review_rate:g}",
                field="block_rate",
            )

    def _stated(self) -> dict[str, object]:
        """Return what was stated by the names of a request's fields; None if it was left out."""
        return {
            "false_positive_rate": self.rate, "budget": self.budget, "costs": self.costs, "block_rate": self.block,
        }  # fmt: skip

    def check(self, manifest: Manifest) -> None:
        """Raise UnsupportedTask for a rate, or for costs, and a model without a calibration: it cannot decide by them."""
        if manifest.scoring is None or manifest.scoring.calibration is not None:
            return
        named = next((name for name, value in self._stated().items() if value is not None and name != "budget"), None)
        if named is not None:
            how = "calibrate it with `manifold calibrate`" if manifest.spec.in_files else "export it with a calibration"
            raise UnsupportedTask(
                f"{named}: {manifest.name} has no calibration, so that it cannot decide by it; {how}, or give a budget",
                field=named, valid=["budget"],
            )  # fmt: skip

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
    flagged: NDArray[np.bool_]  # false too for the rows that are not decided
    undecided: NDArray[np.bool_]
    bands: NDArray[np.int64] | None  # places in BANDS
    risk: NDArray[np.int64] | None
    states: NDArray[np.int64]  # places in STATES
    parts: dict[str, tuple[Float64, Float64 | None]]  # values and p-values of each term and of the combination
    threshold: Threshold
    block_p_value: float | None
    notes: tuple[str, ...] = ()  # why rows are not decided

    def item(self, i: int) -> dict[str, Any]:
        """Return row i as an answer has it, without warnings and explanation."""
        return {
            "score": float(self.score[i]),
            "p_value": None if self.p_value is None else float(self.p_value[i]),
            "is_anomaly": None if self.undecided[i] else bool(self.flagged[i]),
            "band": None if self.bands is None or self.undecided[i] else BANDS[self.bands[i]],
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
    """Decide on rows that are scored together, by their terms (n,) and a rule.

    `unknown` (n,) are rows with values that training does not know. `chosen` (n,) are the rows that a budget took, if it is spent on
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
        undecided, notes = np.full(len(score), chosen is None), (UNCALIBRATED,) if chosen is None else ()
        return Judged(
            score, None, flagged, undecided, None, None, np.where(unknown, 3, 2), parts, line, None, notes
        )  # fmt: skip
    p = {name: calibrated.p_values(name, values) for name, values in placed.items()}
    p_value = p[scoring.score]
    line, block = (
        calibrated.threshold(scoring.score, rule.review_rate),
        calibrated.threshold(scoring.score, rule.block_rate),
    )
    undecided, notes = np.zeros(len(score), bool), ()
    if chosen is None:
        flagged = _below(p_value, line)
        if line.score is None and line.interval is None:  # the rate is below what the calibration resolves
            undecided = p_value <= 1 / (calibrated.n + 1)
            notes = (_too_low(rule.review_rate, calibrated.n),)
    else:
        flagged = chosen
        line = calibrated.line_at(scoring.score, _least(score, flagged))
    if rule.block is not None and block.score is None:
        notes = (
            *notes,
            f"block_rate: {rule.block:.3g} is below what {calibrated.n} calibration items resolve: no item is in the band block",
        )
    bands = np.where(flagged, np.where(_below(p_value, block), 2, 1), 0)
    states = np.where(unknown, 3, np.where(p_value <= 1 / (calibrated.n + 1), 1, 0))
    return Judged(
        score, p_value, flagged, undecided, bands, risk(p_value), states,
        {name: (values, p[name]) for name, values in placed.items()}, line, None if block.score is None else block.p_value, notes,
    )  # fmt: skip


def _too_low(rate: float, n: int) -> str:
    """Return why a rate decides nothing for the rows beyond all calibration items."""
    return (
        f"below_resolution: {n} calibration items resolve no false positive rate below {1 / (n + 1):.3g}, and {rate:.3g} was asked for: items beyond "
        "all of them are not decided; ask for a higher rate, give a budget, or calibrate on more items"
    )


def strangest(score: Float64, budget: int) -> NDArray[np.bool_]:
    """Return which `budget` rows have the highest scores (n,); of equal ones, those that came first."""
    flagged = np.zeros(len(score), bool)
    flagged[np.argsort(-score, kind="stable")[:budget]] = True
    return flagged


def are_unknown(warnings: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return which rows (n,) one of their warnings makes unknown."""
    return np.asarray([any(warning.startswith(UNKNOWN) for warning in each) for each in warnings], bool)


def _below(p_value: Float64, line: Threshold) -> NDArray[np.bool_]:
    if line.score is None or line.p_value is None:  # the rate is below what the calibration resolves
        return np.zeros(len(p_value), bool)
    return np.asarray(p_value <= line.p_value, bool)


def _least(score: Float64, flagged: NDArray[np.bool_]) -> float | None:
    return float(score[flagged].min()) if flagged.any() else None
