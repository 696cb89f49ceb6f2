"""A test whether recent scores still have the distribution of the calibration sample. p-values are only valid while they do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

RECENT = 2000  # number of recent values that are compared


@dataclass(frozen=True)
class Distance:
    """The result of a two-sample Kolmogorov-Smirnov test."""

    n: int  # recent values
    statistic: float  # largest difference of the two empirical distribution functions, 0 to 1
    p_value: float  # asymptotic (Smirnov, 1948)


class Recent:
    """The latest values of one term, at most `size` of them."""

    def __init__(self, size: int = RECENT) -> None:
        self._values = np.empty(size)
        self._count = 0

    def add(self, values: Float64) -> None:
        """Add values (k,) in their order of arrival."""
        size = len(self._values)
        values = values[-size:]
        places = (self._count + np.arange(len(values))) % size
        self._values[places] = values
        self._count += len(values)

    def copy(self) -> Recent:
        """Return a copy for another thread."""
        copied = Recent(0)
        copied._values, copied._count = self._values.copy(), self._count
        return copied

    def against(self, sample: Float64) -> Distance | None:
        """Compare the values with a sample (m,) in ascending order. Return None if there are no values yet."""
        n = min(self._count, len(self._values))
        return kolmogorov_smirnov(self._values[:n], sample) if n else None


def kolmogorov_smirnov(values: Float64, sample: Float64) -> Distance:
    """Compare values (n,) in any order with a sample (m,) in ascending order."""
    ordered = np.sort(values)
    n, m = len(ordered), len(sample)
    at = np.concatenate([ordered, sample])
    ours = np.searchsorted(ordered, at, side="right") / n
    theirs = np.searchsorted(sample, at, side="right") / m
    statistic = float(np.abs(ours - theirs).max())
    return Distance(n, statistic, _tail(statistic * math.sqrt(n * m / (n + m))))


def _tail(x: float) -> float:
    """Compute P(K > x) for the Kolmogorov distribution: 2 sum (-1)^(k-1) exp(-2 k² x²)."""
    if x < 0.2:  # the series would need many terms, and equals 1 to twelve digits
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * ((-1.0) ** (k - 1) * np.exp(-2 * k**2 * x * x)).sum(), 0, 1))
