"""Mean, deviation and skewness of the numbers of a column, also if their powers would not fit into float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

POWERS = 1e-100, 1e100  # range of absolute values whose third powers fit into a float64


def _unit(values: Array) -> float:
    """Return the divisor of numbers before powers are computed: 1, or their largest absolute value if the powers would not fit into float64."""
    size = float(np.abs(values).max())
    return 1.0 if POWERS[0] <= size <= POWERS[1] or not size else size


def mean_and_deviation(values: Array) -> tuple[float, float]:
    """Return the mean and the standard deviation of numbers (n,)."""
    unit = _unit(values)
    scaled = values if unit == 1 else values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit


def skewness(values: Array) -> float:
    """Return the skewness of numbers (n,); 0 if they are all equal."""
    values = values / _unit(values)
    centred = values - values.mean()
    return float((centred**3).mean() / max(float((centred**2).mean()) ** 1.5, 1e-300))
