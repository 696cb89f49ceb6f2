"""The log-survival of one term: -log P(V >= v), estimated from a sample of V. It is continuous, increasing and unbounded.

Within the sample it is the empirical survival at mid-ranks, interpolated between values. In the upper tenth of the sample and above it follows
a generalised Pareto distribution of the excesses (Pickands, 1975), fitted by probability-weighted moments (Hosking and Wallis, 1987, eq. 7
to 9). Empirical p-values are all 1 / (n + 1) above the sample; the log-survival still orders the most anomalous rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SHARE, LEAST, MOST = 0.1, 10, 500  # the tail is fitted to this share of the sample, within these limits
SHAPE = (
    0.0,
    0.9,
)  # with a shape below 0 a tail has an end, beyond which all values would be equal; from 1 on it has no mean


@dataclass(frozen=True)
class Tail:
    """A fitted log-survival. Call it with values (n,) to get nats (n,), at least 0."""

    values: Float64  # distinct values of the sample up to the threshold, ascending
    nats: Float64  # log-survival at these values
    threshold: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, sample: Float64) -> Tail:
        """Fit a tail to a sample (n,) of finite numbers in any order. Raises ValueError for an empty sample."""
        ordered = np.sort(np.asarray(sample, np.float64))
        n = len(ordered)
        if n == 0:
            raise ValueError("sample: it is empty; give at least one value")
        values, first, count = np.unique(ordered, return_index=True, return_counts=True)
        nats = -np.log((n - first - 0.5 * count) / n)
        upper = min(max(int(n * SHARE), LEAST), MOST, n // 2)
        threshold = float(ordered[n - upper - 1])
        within = values <= threshold
        excess = ordered[ordered > threshold] - threshold
        return cls(values[within], nats[within], threshold, *_pareto(excess, _spread(ordered)))

    def __call__(self, values: Float64) -> Float64:
        """Compute -log P(V >= v), nats (n,)."""
        beyond = np.maximum(np.asarray(values, np.float64) - self.threshold, 0) / self.scale
        extra = np.log1p(self.shape * beyond) / self.shape if self.shape > 0 else beyond
        nats: Float64 = np.interp(values, self.values, self.nats) + extra
        return nats


def _pareto(excess: Float64, spread: float) -> tuple[float, float]:
    """Fit scale and shape to ascending excesses (k,). With fewer than two, return an exponential distribution as wide as the sample."""
    k = len(excess)
    if k < 2:
        return spread, 0.0
    mean = float(excess.mean())
    weighted = float(((1 - (np.arange(1, k + 1) - 0.35) / k) * excess).mean())
    shape = 2 - mean / (mean - 2 * weighted) if mean > 2 * weighted else SHAPE[1]
    shape = float(np.clip(shape, *SHAPE))
    return mean * (1 - shape), shape


def _spread(ordered: Float64) -> float:
    """Return a width for a sample without a tail: its standard deviation, or the size of its values if it is constant."""
    deviation = float(ordered.std())
    return deviation if deviation > 0 else max(abs(float(ordered[-1])), 1.0)
