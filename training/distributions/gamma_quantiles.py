"""The quantile function of the gamma law at Φ(n) for normal n, and its log density, as polynomials that ONNX can compute.

With z = F⁻¹(Φ(n); α) for shape α and rate 1, the function h(n, α) = √α log(z / α) is smooth and close to n for large α. Here it is a sum of
products of Chebyshev polynomials of n, for |n| ≤ LIMIT, and powers of 1 / √(α + 0.2), mapped to [-1, 1]. The coefficients interpolate the
inverse of the incomplete gamma function of scipy. The error of h is below 2e-5, and below 1e-5 for |n| < 5, so draws differ from exact ones by
2e-5 / √α in log z at most. Derivatives of draws are those of the quantile function, which are the implicit derivatives of Figurnov et al., 2018
(arXiv 1805.08498).

A draw needs one normal, where the sampler in `gammas` needs eight and nine uniforms, and is a continuous function of it. `gammas` is exact, and
takes any shape parameter.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHAPES = (0.3, 1e4)  # the range of α
LIMIT = 7.0  # normals are clipped to this size
OF_NOISE, OF_SHAPE = 40, 20  # number of polynomials of n, and of powers
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def _position(shape: float) -> float:
    return 1 / math.sqrt(shape + 0.2)


HIGH, LOW = _position(SHAPES[0]), _position(SHAPES[1])


@functools.cache
def table() -> Tensor:
    """Return coefficients (OF_SHAPE, OF_NOISE + 1) in float64: by power, those of the polynomials of n, and at last those of δ(α).

    δ(α) = log Γ(α) - ((α - ½) log α - α + ½ log 2π) is the remainder of Stirling's formula.
    """
    from scipy import special  # it takes a second to import, and few models need it

    noise, places = _nodes(OF_NOISE), _nodes(OF_SHAPE)
    n, a = LIMIT * noise[:, None], ((HIGH + LOW + (HIGH - LOW) * places) / 2) ** -2 - 0.2
    z = np.where(
        n < 0, special.gammaincinv(a, special.ndtr(n)), special.gammainccinv(a, special.ndtr(-n))
    )  # each tail from its own probability
    small = (special.log_ndtr(n) + special.gammaln(a + 1)) / a  # log z for F(z) = z^α / Γ(α + 1)
    log_z = np.where(small < -30, small, np.log(np.maximum(z, np.finfo(float).tiny)))
    h = np.linalg.solve(_values(noise), np.sqrt(a) * (log_z - np.log(a)))
    remainder = special.gammaln(a) - ((a - 0.5) * np.log(a) - a + HALF_LOG_TWO_PI)
    rows = np.concatenate([h, remainder[None]])  # (OF_NOISE + 1, OF_SHAPE)
    series = np.linalg.solve(_values(places), rows.T)
    return torch.from_numpy(np.stack([np.polynomial.chebyshev.cheb2poly(each) for each in series.T], 1))


def _nodes(count: int) -> NDArray[np.float64]:
    """Return the zeros of a Chebyshev polynomial."""
    return np.cos(np.pi * (np.arange(count, dtype=np.float64) + 0.5) / count)


def _values(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Chebyshev polynomials at the nodes, (N, N)."""
    return np.polynomial.chebyshev.chebvander(nodes, len(nodes) - 1).astype(np.float64)


def log_draw(table: Tensor, shape: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(z / α) and the log density of log z at draws z of the gamma law with this shape α and rate 1.

    The shapes (B, L) must be within SHAPES. The noise and the results are (S, B, L).
    """
    terms = _coefficients(table, shape)
    ratio = _series(terms[..., :-1], noise.clamp(-LIMIT, LIMIT) / LIMIT) * shape.rsqrt()
    return ratio, 0.5 * shape.log() - HALF_LOG_TWO_PI - terms[..., -1] - shape * excess(ratio)


def log_median(table: Tensor, shape: Tensor) -> Tensor:
    """Return log(z / α) for the median z, which is the draw whose noise is 0, for shapes of any size."""
    even = _coefficients(table, shape)[
        ..., :-1:2
    ]  # at 0, these polynomials are 1, -1, 1, ..., and those of odd degree are 0
    signs = 1 - 2 * (torch.arange(OF_NOISE // 2, device=shape.device) % 2)
    return (even * signs).sum(-1) * shape.rsqrt()


def _coefficients(table: Tensor, shape: Tensor) -> Tensor:
    """Return the coefficients of the polynomials of n, and δ, (B, L, OF_NOISE + 1), by float64, which mixed precision leaves as it is."""
    x = (2 * (shape.double() + 0.2).rsqrt() - HIGH - LOW) / (HIGH - LOW)
    powers = x[..., None] ** torch.arange(OF_SHAPE, dtype=torch.float64, device=x.device)
    return (powers @ table.double()).to(shape.dtype)


def excess(r: Tensor) -> Tensor:
    """Return exp(r) - 1 - r, by its series near 0, where the difference would lose its digits."""
    near = r.clamp(-0.5, 0.5)
    series = torch.ones_like(r)
    for n in range(9, 2, -1):
        series = 1 + near * series / n
    return torch.where(r.abs() < 0.5, 0.5 * near**2 * series, r.exp() - 1 - r)


def _series(coefficients: Tensor, x: Tensor) -> Tensor:
    """Return the sums of Chebyshev polynomials of x (S, B, L) with coefficients (B, L, N).

    Clenshaw's recurrence needs no array (S, B, L, N). A graph gets the formula with cosines instead, as the export of each operation takes time.
    """
    if torch.compiler.is_compiling():
        degrees = torch.arange(OF_NOISE, dtype=x.dtype, device=x.device)
        return (coefficients * (degrees * x.acos()[..., None]).cos()).sum(-1)
    first, *others = coefficients.unbind(-1)
    one, two, double = others[-1].expand(x.shape), torch.zeros_like(x), 2 * x
    for coefficient in reversed(others[:-1]):
        one, two = coefficient - two + double * one, one
    return first + x * one - two
