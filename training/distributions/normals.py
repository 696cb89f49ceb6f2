"""The standard normal distribution function Φ and its inverse, as functions of logarithms of probabilities.

They consist of operations that ONNX has, and keep their precision in float32 in both tails. log Φ(-a) for a ≥ 0 is the approximation of Press et
al. ("Numerical Recipes in C", 2nd edition, section 6.2, erfcc), whose error in log Φ is below 2e-7. Φ⁻¹ is Wichura's PPND7 (1988, "Algorithm AS
241: the percentage points of the normal distribution"), whose relative error is below 2e-7. It is defined for probabilities from exp(-700).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TAIL = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip
# numerators and denominators of Φ⁻¹, from the constant on: the centre, the tails up to exp(-25), and the tails beyond
CENTRE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
NEAR = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)
FAR = (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997), (1.0, 0.24197894225, 0.012258202635)
HALF_WIDTH = 0.425  # distance from ½ up to which a probability is in the centre


def log_probabilities(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Φ(u) and log Φ(-u) = log(1 - Φ(u))."""
    positive = u >= 0
    size = u * torch.where(positive, 1.0, -1.0)  # |u|, with a derivative at 0
    t = 1 / (1 + size / 8**0.5)
    tail = (0.5 * t).log() - 0.5 * u**2 + _polynomial(TAIL, t)
    rest = _log_of_rest(tail.exp())
    return torch.where(positive, rest, tail), torch.where(positive, tail, rest)


def _log_of_rest(p: Tensor) -> Tensor:
    """Return log(1 - p) for p from 0 to ½, by its series for small p, as 1 - p rounds to 1. ONNX has no log1p."""
    small = p.clamp(max=0.1)
    series = torch.full_like(p, 1 / 8)
    for n in range(7, 0, -1):
        series = series * small + 1 / n
    return torch.where(p < 0.1, -small * series, (1 - p.clamp(min=0.1)).log())


def quantile(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return Φ⁻¹(p), given log p and log q = log(1 - p)."""
    q = (0.5 * (log_p.exp() - log_q.exp())).clamp(-HALF_WIDTH, HALF_WIDTH)  # p - ½
    centre = q * _ratio(CENTRE, HALF_WIDTH**2 - q**2)
    r = (-torch.minimum(log_p, log_q)).sqrt()
    tail = torch.where(r < 5, _ratio(NEAR, r - 1.6), _ratio(FAR, r - 5))
    tail = torch.where(log_p < log_q, -tail, tail)
    return torch.where(q.abs() < HALF_WIDTH, centre, tail)


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: Tensor) -> Tensor:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Return the value at x of a polynomial with these coefficients, from the constant on."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
