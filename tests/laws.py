"""The laws of training.distributions at several parameters, each with the same law in scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from manifold.training import distributions as laws
from manifold.training.distributions import Law


def number(value: float) -> Tensor:
    """Return a parameter without dimensions, in float64."""
    return torch.tensor(value, dtype=torch.float64)


def made(kind: type[Law], *values: float) -> Law:
    """Return a law with these parameters."""
    return kind(*map(number, values))


def triangular(low: float, mode: float, high: float) -> Any:
    return stats.triang((mode - low) / (high - low), low, high - low)


INVERSE_CDF = [
    (laws.Exponential, (0.4,), stats.expon(scale=1 / 0.4)),
    (laws.Exponential, (30.0,), stats.expon(scale=1 / 30)),
    (laws.Cauchy, (-1.0, 0.3), stats.cauchy(-1, 0.3)),
    (laws.Cauchy, (0.0, 5.0), stats.cauchy(0, 5)),
    (laws.Logistic, (2.0, 0.1), stats.logistic(2, 0.1)),
    (laws.Logistic, (-3.0, 4.0), stats.logistic(-3, 4)),
    (laws.Rayleigh, (0.2,), stats.rayleigh(scale=0.2)),
    (laws.Rayleigh, (7.0,), stats.rayleigh(scale=7)),
    (laws.Pareto, (1.0, 0.5), stats.pareto(0.5, scale=1)),
    (laws.Pareto, (3.0, 6.0), stats.pareto(6, scale=3)),
    (laws.Gumbel, (1.0, 0.5), stats.gumbel_r(1, 0.5)),
    (laws.Gumbel, (-1.0, 3.0), stats.gumbel_r(-1, 3)),
]  # fmt: skip
LOCATION_SCALE = [
    (laws.Gaussian, (1.5, 0.2), stats.norm(1.5, 0.2)),
    (laws.Gaussian, (-1.0, 9.0), stats.norm(-1, 9)),
    (laws.Laplace, (0.5, 2.0), stats.laplace(0.5, 2)),
    (laws.Laplace, (-4.0, 0.1), stats.laplace(-4, 0.1)),
    (laws.Uniform, (-2.0, 0.5), stats.uniform(-2, 2.5)),
    (laws.Triangular, (-1.0, 0.0, 1.0), triangular(-1, 0, 1)),
    (laws.Triangular, (2.0, 2.1, 5.0), triangular(2, 2.1, 5)),
    (laws.LogNormal, (0.3, 0.5), stats.lognorm(0.5, scale=np.exp(0.3))),
    (laws.LogNormal, (-1.0, 2.0), stats.lognorm(2, scale=np.exp(-1))),
]  # fmt: skip
OF_GAMMAS = [
    *((laws.Gamma, (shape, 2.5), stats.gamma(shape, scale=0.4)) for shape in (0.1, 0.5, 1.0, 1.7, 10.0, 300.0)),
    *((laws.ChiSquared, (df,), stats.chi2(df)) for df in (0.7, 2.0, 15.0)),
    *((laws.Student, (df, 0.5, 2.0), stats.t(df, 0.5, 2)) for df in (0.6, 1.5, 3.0, 30.0)),
    *((laws.Beta, pair, stats.beta(*pair)) for pair in ((0.3, 0.3), (1.0, 1.0), (5.0, 0.5), (20.0, 60.0))),
    *((laws.F, pair, stats.f(*pair)) for pair in ((1.0, 3.0), (5.0, 0.8), (12.0, 44.0))),
]  # fmt: skip
ALL = [*INVERSE_CDF, *LOCATION_SCALE, *OF_GAMMAS]


def name(case: Any) -> str | None:
    """Return the name of a case for pytest."""
    return case.__name__ if isinstance(case, type) else str(case) if isinstance(case, tuple) else "scipy"
