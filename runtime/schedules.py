"""The noise of the discrete steps of diffusion models."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Objective = Literal["flow", "ddpm"]
Schedule = Literal["linear", "cosine"]

STEPS = 1000  # number of steps


def betas(schedule: Schedule) -> NDArray[np.float64]:
    """Return the variances beta of the 1000 steps.

    linear: from 1e-4 to 0.02 (Ho et al., 2020, arXiv 2006.11239); cosine: Nichol and Dhariwal, 2021, arXiv 2102.09672.
    """
    if schedule == "linear":
        return np.linspace(1e-4, 0.02, STEPS)
    share = np.cos((np.arange(STEPS + 1) / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    limited: NDArray[np.float64] = np.minimum(1 - share[1:] / share[:-1], 0.999)
    return limited


def signal(schedule: Schedule) -> NDArray[np.float64]:
    """Return a^2 for the steps 0 to 1000, the share of the data's variance; a^2 = 1 at step 0."""
    return np.concatenate([[1.0], np.cumprod(1 - betas(schedule))])
