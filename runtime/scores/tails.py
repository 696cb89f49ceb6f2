"""Log-survival of one term: -log P(V >= v), from a sample of V. Continuous, increasing and unbounded.

Within the sample it is the empirical survival at mid-ranks, interpolated between values; beyond the sample's upper tenth it follows a
generalised Pareto law of the excesses (Pickands, 1975), fitted by probability-weighted moments (Hosking and Wallis, 1987, eq. 7 to 9).
Empirical p-values tie at 1 / (n + 1) for everything beyond the sample; this does not, so the most anomalous rows of many stay in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SHARE, LEAST, MOST = 0.1, 10, 500  # of the sample, that the tail is fitted to
SHAPE = (0.0, 0.9)  # below 0 a tail ends somewhere, and beyond it all would tie; from 1 on it has no mean


@dataclass(frozen=True)
class Tail:
    """A fitted log-survival; call it with values (n,) for nats (n,), at least 0."""

    values: Float64  # different values of the sample up to the threshold, ascending
    nats: Float64  # there
    threshold: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, sample: Float64) -> Tail:
        """Fit to a sample (n,) of finite numbers, in any order. Raises ValueError for an empty one."""
        ordered = np.sort(np.asarray(sample, np.float64))
        n = len(ordered)
        if n == 0:
            raise ValueError("a tail needs at least one value")
        values, first, count = np.unique(ordered, return_index=True, return_counts=True)
        nats = -np.log((n - first - 0.5 * count) / n)
        upper = min(max(int(n * SHARE), LEAST), MOST, n // 2)
        threshold = float(ordered[n - upper - 1])
        within = values <= threshold
        excess = ordered[ordered > threshold] - threshold
        return cls(values[within], nats[within], threshold, *_pareto(excess, _spread(ordered)))

    def __call__(self, values: Float64) -> Float64:
        """Return -log P(V >= v), nats (n,)."""
        beyond = np.maximum(np.asarray(values, np.float64) - self.threshold, 0) / self.scale
        extra = np.log1p(self.shape * beyond) / self.shape if self.shape > 0 else beyond
        nats: Float64 = np.interp(values, self.values, self.nats) + extra
        return nats


def _pareto(excess: Float64, spread: float) -> tuple[float, float]:
    """Return scale and shape of excesses (k,), ascending; those of an exponential law as wide as the sample if there are too few."""
    k = len(excess)
    if k < 2:
        return spread, 0.0
    mean = float(excess.mean())
    weighted = float(((1 - (np.arange(1, k + 1) - 0.35) / k) * excess).mean())
    shape = 2 - mean / (mean - 2 * weighted) if mean > 2 * weighted else SHAPE[1]
    shape = float(np.clip(shape, *SHAPE))
    return mean * (1 - shape), shape


def _spread(ordered: Float64) -> float:
    """Return a width for a sample whose tail has none: its deviation, or its size if it is constant."""
    deviation = float(ordered.std())
    return deviation if deviation > 0 else max(abs(float(ordered[-1])), 1.0)
