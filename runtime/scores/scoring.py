"""Calibrated p-values, thresholds and risk, computed from the terms of the score. Explanations are in runtime.scores.reasons.

The score ranks items: it is one term, or several combined by their log-survivals (runtime.scores.tails); it is continuous and unbounded. The
p-value decides: it is conformal (Vovk et al., 2005; Bates et al., 2021, arXiv 2104.08279), p = (1 + k) / (n + 1), where k of n calibration
scores are at least as high. The calibration items were not used in training. So p is at least 1 / (n + 1), and the realised false positive rate
at level alpha has the distribution Beta(k, n + 1 - k), k = floor((n + 1) alpha). A combination is calibrated as a whole, since its terms
depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import npz
from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest import COMBINED, Calibration, Combination, Scoring
from manifold.runtime.scores.measured import NOTHING, Measured, MeasuredRate
from manifold.runtime.scores.tails import Tail

Float64 = NDArray[np.float64]

# the risk is a fixed function of p, linear in log p between these points, so that 900 has the same meaning after retraining
RISK = ((1.0, 0), (0.1, 600), (0.02, 900), (0.001, 980), (1e-6, 999))


@dataclass(frozen=True)
class Threshold:
    """A threshold of the anomaly score."""

    score: float | None  # items above it are anomalies; None if the rate is below the resolution of the calibration
    p_value: float | None
    false_positive_rate: float | None
    # 95% interval of the realised rate over calibration sets of this size, for items that are exchangeable with the calibration items
    interval: tuple[float, float] | None
    shift: str | None = None  # the reason why test items and calibration items are not exchangeable
    measured: MeasuredRate | None = (
        None  # the measured rate whose requested rate is nearest; None without a rate or a measurement
    )


class Calibrated:
    """The calibration of one artifact, with the p-values and thresholds that follow from it."""

    def __init__(
        self,
        calibration: Calibration | None,
        scores: dict[str, Float64],
        combination: Combination | None = None,
        measured: Measured = NOTHING,
    ) -> None:
        self.calibration, self.scores, self.combination, self.measured = calibration, scores, combination, measured
        self.tails = {name: Tail.fit(scores[name]) for name in combination.terms} if combination and scores else {}

    @classmethod
    def read(cls, folder: Path, scoring: Scoring | None, measured: Measured = NOTHING) -> Calibrated:
        """Read the calibration arrays of an artifact. Raises ArtifactError if they do not match the manifest.

        `measured` are the false positive rates that were measured with this calibration.
        """
        if scoring is None or scoring.calibration is None:
            return cls(None, {})
        path = folder / scoring.calibration.file
        names = [*(term.name for term in scoring.terms), *([COMBINED] if scoring.combination else [])]
        expected = (scoring.calibration.n,)
        try:
            held = npz.read(path, names, lambda name, shape, _: None if shape == expected else f"not {list(expected)}")
        except npz.Unreadable as error:
            raise ArtifactError(f"{path}: cannot be read: {error}; calibrate the model again") from error
        scores = {name: np.asarray(values, np.float64) for name, values in held.items()}
        for name in names:
            values = scores.get(name)
            if (
                values is None
                or values.shape != (scoring.calibration.n,)
                or not np.isfinite(values).all()
                or (np.diff(values) < 0).any()
            ):
                raise ArtifactError(
                    f"{path}: {name!r} is not {scoring.calibration.n} finite numbers in ascending order; calibrate the model again"
                )
        return cls(scoring.calibration, scores, scoring.combination, measured)

    @property
    def n(self) -> int:
        """The number of calibration items; 0 without a calibration."""
        return self.calibration.n if self.calibration else 0

    def place(self, terms: Mapping[str, Float64]) -> dict[str, Float64]:
        """Return the terms (n,), with their combination added if there is one."""
        if self.combination is None or not self.tails:
            return dict(terms)
        return {**terms, COMBINED: combine(self.combination, self.tails, terms)}

    def p_values(self, term: str, values: Float64) -> Float64:
        """Return conformal p-values (n,) of one term."""
        calibration = self.scores[term]
        at_least = len(calibration) - np.searchsorted(calibration, values, side="left")
        p: Float64 = (1 + at_least) / (len(calibration) + 1)
        return p

    def line_at(self, term: str, score: float | None) -> Threshold:
        """Return the threshold at a score, with its p-value if there is a calibration."""
        p = float(self.p_values(term, np.asarray([score]))[0]) if self.n and score is not None else None
        return Threshold(score, p, None, None, self.measured.shift)

    def threshold(self, term: str, rate: float) -> Threshold:
        """Return the threshold for a false positive rate."""
        k = math.floor((self.n + 1) * rate * (1 + 1e-12))
        shift, measured = self.measured.shift, self.measured.nearest(term, rate)
        if k < 1:
            return Threshold(None, rate, rate, None, shift, measured)
        score = float(self.scores[term][max(self.n - k, 0)]) if k <= self.n else -math.inf
        finite = score if math.isfinite(score) else None
        return Threshold(finite, k / (self.n + 1), rate, rate_interval(self.n, k), shift, measured)


def combine(combination: Combination, tails: Mapping[str, Tail], terms: Mapping[str, Float64]) -> Float64:
    """Combine terms (n,) into nats (n,): the weighted sum of their log-survivals, or the largest."""
    nats = np.stack([tails[name](terms[name]) for name in combination.terms])
    if combination.weights is not None:
        nats *= np.asarray(combination.weights)[:, None]
    combined: Float64 = nats.sum(axis=0) if combination.method == "fisher" else nats.max(axis=0)
    return combined


def cross_combined(combination: Combination, terms: Mapping[str, Float64], *, folds: int = 10) -> Float64:
    """Return the combination of calibration items (n,), each computed with tails that were fitted without it, as for future items.

    This is cross-fitting, as in cross-conformal prediction (Vovk, 2015): each fold uses tails fitted on the other folds, so that no items need
    to be reserved for the tails. The order of the items must be random or irrelevant. With fewer items than folds, each item is its own fold.
    """
    n = len(next(iter(terms.values())))
    if n < 2:
        raise ValueError(f"terms: {n} items are too few to calibrate a combination; give at least 2")
    fold = np.arange(n) % min(folds, n)
    combined = np.empty(n)
    for held_out in range(min(folds, n)):
        rest, here = fold != held_out, fold == held_out
        tails = {name: Tail.fit(terms[name][rest]) for name in combination.terms}
        combined[here] = combine(combination, tails, {name: terms[name][here] for name in combination.terms})
    return combined


@lru_cache(maxsize=256)
def rate_interval(n: int, k: int, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of Beta(k, n + 1 - k), by bisection on P(Beta(k, n + 1 - k) <= x) = P(Binomial(n, x) >= k)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    tail = np.arange(k, n + 1)
    log_choose = log_factorial[n] - log_factorial[tail] - log_factorial[n - tail]

    def below(x: float) -> float:
        logs = log_choose + tail * math.log(x) + (n - tail) * math.log1p(-x)
        return float(np.exp(logs).sum())

    def quantile(target: float) -> float:
        low, high = 1e-12, 1 - 1e-12
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < target else (low, middle)
        return (low + high) / 2

    return (0.0, 1.0) if k > n else (quantile((1 - level) / 2), quantile((1 + level) / 2))


def risk(p: Float64) -> NDArray[np.int64]:
    """Return the risk, 0 to 999, of p-values (n,). It is a fixed function: 0.1 is 600, 0.02 is 900, 0.001 is 980."""
    logs = [-math.log(point) for point, _ in RISK]
    return np.interp(-np.log(p), logs, [value for _, value in RISK]).astype(np.int64)
