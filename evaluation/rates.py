"""Measured false positive rates: the flagged shares of held-out items, their intervals, and tests whether the requested rates can be trusted.

A requested rate holds for items that are exchangeable with the calibration items, such as two random samples of the same rows. For them the
number of flagged items among m has a known law (below), so that the measured rate can be compared with an interval. Two tests find other items:

- `comparison`: a two-sample Kolmogorov-Smirnov test of the scores of the held-out items against the calibration scores.
- `order`: the same test of the scores in the first half of a file against those in the second half. Rows that are drawn from the file at random
  are exchangeable with each other even if the file is ordered by time, but then the rows of tomorrow are not exchangeable with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.report import rounded
from manifold.runtime.scores.drift import Distance, kolmogorov_smirnov
from manifold.runtime.scores.measured import interval_text, is_outside
from manifold.runtime.scores.scoring import Calibrated, Float64

RATES = (0.001, 0.01, 0.05, 0.1)
LEVEL = 0.95  # level of the interval
INTERVAL = (
    "central 95% of Beta-Binomial(m, k, n + 1 - k) / m: the measured rate on m items that are exchangeable with n calibration items, "
    "k = floor((n + 1) rate)"
)
UNLIKELY = 0.001  # a test with a p-value below this is reported as a warning
EXPLAINED = 0.25  # largest Kolmogorov-Smirnov distance that a stated shift explains without a warning
LEAST_ORDERED = 40  # smallest number of rows whose order is tested


def measure(calibrated: Calibrated, term: str, p: Float64) -> list[dict[str, Any]]:
    """Return for each rate the share of the p-values (m,) that its threshold flags, with its interval; empty if there are no p-values.

    Rates below the resolution of the calibration are left out.
    """
    found: list[dict[str, Any]] = []
    for rate in RATES if len(p) else ():
        line = calibrated.threshold(term, rate)
        if line.score is not None and line.p_value is not None:
            met, k = float((p <= line.p_value).mean()), round(line.p_value * (calibrated.n + 1))
            expected = [rounded(end) for end in interval(calibrated.n, len(p), k)]
            found.append({"asked": rate, "met": rounded(met), "expected": expected})
    return found


def interval(n: int, m: int, k: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of the share of m items that are flagged if p <= k / (n + 1), for items exchangeable with n calibration items.

    An item is flagged if its score is above the k-th largest calibration score. The share of all items above it has the law
    Beta(k, n + 1 - k) for continuous scores, so the number among m items has the law Beta-Binomial(m, k, n + 1 - k). The interval contains at
    least `level` of it: it includes the sampling error of the n calibration items as well as that of the m items. Equal scores lower the rate.
    """
    from scipy.stats import betabinom

    low, high = betabinom(m, k, n + 1 - k).ppf([(1 - level) / 2, (1 + level) / 2]) / m
    return float(low), float(high)


def interval_of(rate: Mapping[str, Any]) -> str:
    """Return the interval of a rate as text, with a mark if the rate lies outside."""
    return interval_text(rate["met"], rate["expected"])


def outside(rate: Mapping[str, Any]) -> bool:
    """Return whether a measured rate lies outside its interval."""
    return is_outside(rate["met"], rate["expected"])


def not_exchangeable(shift: str, noun: str) -> str:
    """Return the sentence that explains a `shift` beside measured rates."""
    return (
        f"The scores of test {noun} and calibration {noun} are not exchangeable: {shift}. A measured rate may therefore differ from the requested one by "
        "more than the interval says."
    )


def comparison(calibrated: Calibrated, term: str, scores: Float64) -> Distance | None:
    """Compare the scores (m,) of held-out items with the calibration scores. Return None if there are none."""
    return kolmogorov_smirnov(scores, calibrated.scores[term]) if len(scores) and calibrated.n else None


def order(scores: Float64, numbers: NDArray[np.int64]) -> Distance | None:
    """Compare the scores (m,) of the first and the second half of the rows, by their numbers (m,) in a file. Return None for few rows."""
    if len(scores) < LEAST_ORDERED:
        return None
    ordered = scores[np.argsort(numbers, kind="stable")]
    half = len(ordered) // 2
    return kolmogorov_smirnov(ordered[:half], np.sort(ordered[half:]))


def warnings(
    noun: str, *, shift: str, compared: Distance | None, ordered: Distance | None, labelled: bool
) -> list[str]:
    """Return warnings about the two tests. A stated `shift` explains a small difference from the calibration, so there is no warning about it.

    `labelled`: the items are known to be normal, so that they contain no anomalies.
    """
    found = []
    if compared is not None and compared.p_value < UNLIKELY and (not shift or compared.statistic > EXPLAINED):
        causes = [shift, "" if labelled else "they contain anomalies", "they come from another source or time"]
        why = ", or ".join(filter(None, causes))
        found.append(
            f"the scores of the held-out {noun} differ from those of the calibration {noun} ({_said(compared)}), so the requested rates do not hold for "
            f"them: {why}"
        )
    if ordered is not None and ordered.p_value < UNLIKELY:
        found.append(
            f"the scores in the first half of the file differ from those in the second half ({_said(ordered)}): the {noun} are ordered by something that "
            f"the score depends on. If this is time or a group, new {noun} differ from the calibration {noun} and the false positive rate will not "
            f"be the requested one: run `manifold calibrate` on the newest {noun}, and `manifold judge --data` on later ones"
        )
    return found


def _said(distance: Distance) -> str:
    return f"Kolmogorov-Smirnov distance {distance.statistic:.2f}, p = {distance.p_value:.1g}"
