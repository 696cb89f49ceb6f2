"""Decisions from calibrated scores: by a false positive rate, by a false discovery rate, by cost, or by budget.

By false discovery rate: the procedure of Benjamini and Hochberg (1995, Journal of the Royal Statistical Society B 57) on the conformal p-values of
the rows that are scored together. These p-values depend on each other, because they share a calibration sample, but only positively, so the
expected share of normal rows among the flagged ones is at most the rate (Bates et al., 2021, arXiv 2104.08279, theorem 2), if normal rows and
calibration rows are exchangeable. For a calibration by folds this holds approximately.

By cost: a row is flagged if the expected cost of a missed anomaly is higher than the cost of a false alarm. This needs the odds of an anomaly.
A p-value does not give the odds, but it bounds them: for p < 1/e, no distribution of anomalies makes p more than 1 / (-e p log p) times as
likely as under normal data (Sellke, Bayarri and Berger, 2001, The American Statistician 55, eq. 3). A row is flagged if
flagging pays with the odds at this bound.

Without a calibration, only a budget gives decisions. A rate below the resolution of the calibration, 1 / (n + 1), only decides that rows below
some calibration item are normal. Undecided rows are neither flagged nor normal; `Judged.notes` contains the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, UnsupportedTask, shown
from manifold.runtime.manifest import Manifest, Scoring
from manifold.runtime.scores.scoring import Calibrated, Float64, Threshold, risk

DEFAULT_RATE = 0.01
BLOCKED = 0.1  # the default rate for blocking, as a share of the rate for review
BANDS = ("allow", "review", "block")
STATES = ("ok", "below_resolution", "uncalibrated", "unknown")
UNCALIBRATED = (
    "uncalibrated: the model has no calibration, so no item is decided; give a budget, or calibrate the model"
)
UNKNOWN = ("unknown_category", "missing")  # warnings that start with one of these give a row the state unknown


def _is_number(value: object, *, whole: bool = False) -> bool:
    """Return whether a value is a number, and no truth value or text."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _between(value: Any, low: float, high: float) -> bool:
    """Return whether a value is a number between two limits, which are excluded."""
    return _is_number(value) and bool(low < value < high)


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


@dataclass(frozen=True)
class Costs:
    """The costs of errors, in any common unit, and the share of anomalies among the rows."""

    false_positive: float
    false_negative: float
    prevalence: float

    def __post_init__(self) -> None:
        """Raise InvalidValue for costs that are not above 0 or not finite, and for a prevalence that is not between 0 and 1."""
        for name in ("false_positive", "false_negative"):
            if not _between(getattr(self, name), 0, math.inf):
                raise InvalidValue(
                    f"costs.{name}: {_said(getattr(self, name))} is not allowed; give a finite number above 0",
                    field=f"costs.{name}",
                )
        if not _between(self.prevalence, 0, 1):
            raise InvalidValue(
                f"costs.prevalence: {_said(self.prevalence)} is not allowed; give a number between 0 and 1",
                field="costs.prevalence",
            )

    @property
    def rate(self) -> float:
        """The largest p-value for which flagging can pay, at most 1/e: -e p log p = prevalence c_fn / ((1 - prevalence) c_fp)."""
        # computed with logarithms, since costs may be tiny or differ by many orders of magnitude
        odds = math.log(self.prevalence) - math.log1p(-self.prevalence)
        gain = odds + math.log(self.false_negative) - math.log(self.false_positive)
        low, high = 0.0, 1 / math.e
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if 1 + math.log(middle) + math.log(-math.log(middle)) < gain else (low, middle)
        return high


@dataclass(frozen=True)
class Rule:
    """A decision rule: one of rate, budget, costs and fdr (by default the rate 0.01), and the rate for `block`."""

    rate: float | None = None
    budget: int | None = None  # number of rows to flag, the most anomalous of those that are scored together
    costs: Costs | None = None
    block: float | None = None  # false positive rate for blocking, by default a tenth of the rate for review
    fdr: float | None = (
        None  # largest expected share of normal rows among the flagged ones, of rows that are scored together
    )

    def __post_init__(self) -> None:
        """Raise InvalidValue for more than one way to decide, for values that are not numbers, and for rates that contradict each other."""
        ways = [name for name, value in self._stated().items() if value is not None and name != "block_rate"]
        if len(ways) > 1:
            raise InvalidValue(f"{ways[-1]}: {' and '.join(ways)} are given; give only one of them", field=ways[-1])
        for name, rate in (
            ("false_positive_rate", self.rate), ("block_rate", self.block), ("false_discovery_rate", self.fdr),
        ):  # fmt: skip
            if rate is not None and not _between(rate, 0, 1):
                raise InvalidValue(
                    f"{name}: {_said(rate)} is out of range; give a number above 0 and below 1", field=name
                )
        if self.budget is not None and not (_is_number(self.budget, whole=True) and self.budget >= 1):
            raise InvalidValue(
                f"budget: {shown(self.budget)} is not allowed; give an integer of 1 or more", field="budget"
            )
        if self.budget is None and self.fdr is None and self.block_rate > self.review_rate:
            raise InvalidValue(
                f"block_rate: {self.block_rate:g} is above the rate for review; give at most {self.review_rate:g}",
                field="block_rate",
            )

    def _stated(self) -> dict[str, object]:
        """Return the given values by the names of the request fields; None for those that were not given."""
        return {
            "false_positive_rate": self.rate, "budget": self.budget, "costs": self.costs, "block_rate": self.block,
            "false_discovery_rate": self.fdr,
        }  # fmt: skip

    def check(self, manifest: Manifest) -> None:
        """Raise UnsupportedTask if a rate or costs are given for a model without a calibration, which cannot use them."""
        if manifest.scoring is None or manifest.scoring.calibration is not None:
            return
        named = next((name for name, value in self._stated().items() if value is not None and name != "budget"), None)
        if named is not None:
            how = "calibrate it with `manifold calibrate`" if manifest.spec.in_files else "export it with a calibration"
            raise UnsupportedTask(
                f"{named}: {manifest.name} has no calibration, so it cannot use {named}; {how}, or give a budget",
                field=named, valid=["budget"],
            )  # fmt: skip

    @property
    def review_rate(self) -> float:
        """The target false positive rate."""
        if self.costs is not None:
            return self.costs.rate
        return DEFAULT_RATE if self.rate is None else self.rate

    @property
    def block_rate(self) -> float:
        """The target false positive rate for blocking."""
        return self.review_rate * BLOCKED if self.block is None else self.block


class Discoveries:
    """The procedure of Benjamini and Hochberg on the conformal p-values of rows that are scored together.

    Such a p-value is one of 1 / (n + 1) to 1, so counting them takes constant memory for any number of rows.
    """

    def __init__(self, n: int, rate: float) -> None:
        self.n, self.rate = n, rate  # number of calibration items; false discovery rate
        self._counts = np.zeros(n + 1, np.int64)  # number of rows with the p-value (i + 1) / (n + 1)
        self._limit: float | None = None  # `limit`, once it is computed for these rows

    def add(self, p_values: Float64) -> Discoveries:
        """Add the p-values (n,) of rows."""
        places = np.rint(p_values * (self.n + 1)).astype(np.int64) - 1
        self._counts += np.bincount(places, minlength=self.n + 1)
        self._limit = None
        return self

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self._counts.sum())

    @property
    def limit(self) -> float:
        """The largest p-value that is flagged; 0 if no row is."""
        if self._limit is None:
            ranks = np.arange(1, self.n + 2)
            meets = ranks * self.rows <= self.rate * np.cumsum(self._counts) * (self.n + 1) * (1 + 1e-12)
            found = np.flatnonzero(meets & (self._counts > 0))
            self._limit = float(ranks[found[-1]] / (self.n + 1)) if len(found) else 0.0
        return self._limit

    @property
    def note(self) -> str | None:
        """The reason why no row is flagged, if one above all calibration items would not be; None if it would, or if some are flagged."""
        least = math.ceil(self.rows / (self.rate * (self.n + 1)) * (1 - 1e-12))
        if self.limit or least <= 1:
            return None
        if least > self.rows:
            return (
                f"false_discovery_rate: no item is flagged. With {self.n} calibration items the smallest p-value is {1 / (self.n + 1):.3g}, so no item "
                f"can be flagged at a rate of {self.rate:g}; calibrate on more items, or use a higher rate"
            )
        return (
            f"false_discovery_rate: no item is flagged. With {self.rows} items and {self.n} calibration items, items above all calibration items are "
            f"flagged if there are at least {least} of them; calibrate on more items, score fewer items together, or use a higher rate"
        )


@dataclass(frozen=True)
class Judged:
    """The rows with their decisions, all (n,). p-values and all that depends on them are None without a calibration."""

    score: Float64
    p_value: Float64 | None
    flagged: NDArray[np.bool_]  # also false for undecided rows
    undecided: NDArray[np.bool_]
    bands: NDArray[np.int64] | None  # indices into BANDS
    risk: NDArray[np.int64] | None
    states: NDArray[np.int64]  # indices into STATES
    parts: dict[str, tuple[Float64, Float64 | None]]  # values and p-values of each term and the combination
    threshold: Threshold
    block_p_value: float | None
    notes: tuple[str, ...] = ()  # why rows are undecided

    def item(self, i: int) -> dict[str, Any]:
        """Return row i in the form of a response, without warnings and explanation."""
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
    found: Discoveries | None = None,
) -> Judged:
    """Apply a decision rule to rows that are scored together, given their terms (n,).

    `unknown` (n,) marks rows with values that did not occur in training. `chosen` (n,) marks the rows selected by a budget, if the budget is
    for more rows than these. `found` has the p-values of all rows that a false discovery rate refers to, if they are more than these.
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
    if rule.fdr is not None:
        found = found or Discoveries(calibrated.n, rule.fdr).add(p_value)
        limit = found.limit
        flagged = p_value <= limit
        line = calibrated.threshold(scoring.score, limit) if limit else calibrated.line_at(scoring.score, None)
        notes = () if found.note is None else (found.note,)
    elif chosen is None:
        flagged = _below(p_value, line)
        if line.score is None and line.interval is None:  # the rate is below the resolution of the calibration
            undecided = p_value <= 1 / (calibrated.n + 1)
            notes = (_too_low(rule.review_rate, calibrated.n),)
    else:
        flagged = chosen
        line = calibrated.line_at(scoring.score, _least(score, flagged))
    if rule.block is not None and block.score is None:
        notes = (
            *notes,
            f"block_rate: {rule.block:.3g} is below the resolution of {calibrated.n} calibration items, so no item is in the band block",
        )
    bands = np.where(flagged, np.where(_below(p_value, block), 2, 1), 0)
    states = np.where(unknown, 3, np.where(p_value <= 1 / (calibrated.n + 1), 1, 0))
    return Judged(
        score, p_value, flagged, undecided, bands, risk(p_value), states,
        {name: (values, p[name]) for name, values in placed.items()}, line, None if block.score is None else block.p_value, notes,
    )  # fmt: skip


def _too_low(rate: float, n: int) -> str:
    """Return the reason why a rate gives no decision for rows with scores above all calibration items."""
    return (
        f"below_resolution: {n} calibration items resolve no false positive rate below {1 / (n + 1):.3g}, but {rate:.3g} was requested: items "
        "with scores above all of them are undecided; use a higher rate, give a budget, or calibrate on more items"
    )


def strangest(score: Float64, budget: int) -> NDArray[np.bool_]:
    """Return a mask (n,) of the `budget` rows with the highest scores. Among equal scores, earlier rows are selected."""
    flagged = np.zeros(len(score), bool)
    flagged[np.argsort(-score, kind="stable")[:budget]] = True
    return flagged


def are_unknown(warnings: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return a mask (n,) of the rows whose warnings give them the state unknown."""
    return np.asarray([any(warning.startswith(UNKNOWN) for warning in each) for each in warnings], bool)


def _below(p_value: Float64, line: Threshold) -> NDArray[np.bool_]:
    if line.score is None or line.p_value is None:  # the rate is below the resolution of the calibration
        return np.zeros(len(p_value), bool)
    return np.asarray(p_value <= line.p_value, bool)


def _least(score: Float64, flagged: NDArray[np.bool_]) -> float | None:
    return float(score[flagged].min()) if flagged.any() else None
