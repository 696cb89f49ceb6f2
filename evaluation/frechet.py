"""The Fréchet distance between Gaussians (Dowson and Landau, 1982; used for FID by Heusel et al., 2017, arXiv 1706.08500, eq. 6).

    d² = |μ₁ - μ₂|² + tr S₁ + tr S₂ - 2 tr √(S₁ S₂)

For any factors Sᵢ = Bᵢ Bᵢᵀ the last trace is the nuclear norm of B₁ᵀ B₂. It also exists for singular covariances, and needs no matrix square
root, no complex numbers and no diagonal jitter. If S₁ = L Lᵀ is positive definite, the trace is Σ √λ(Lᵀ S₂ L). This is faster, and exact if
the eigenvalues are well above the rounding error; `trace_term` checks that they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.statistics import FeatureGaussian, of_rows

Array = NDArray[Any]
Float64 = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
ROUNDING = 1e-10  # largest error of the fast trace term, relative to tr S₁ + tr S₂
RESOLUTION = 16 * EPS  # smallest distance that is not rounding error, relative to tr S₁ + tr S₂


def distance(reference: FeatureGaussian, other: FeatureGaussian) -> float:
    """Return d² as defined above. It is exact for singular covariances, and 0 if it is below the rounding error.

    Factors of the covariances are cached in the Gaussians. Raises EvaluationError for different dimensions, and for a matrix that is not a
    covariance.
    """
    if reference.dimensions != other.dimensions:
        raise EvaluationError(
            f"the two statistics have {reference.dimensions} and {other.dimensions} dimensions; compute both with the same extractor"
        )
    if reference.same_as(other):
        return 0.0
    gap = reference.mean - other.mean
    traces = reference.trace + other.trace
    squared = float(gap @ gap) + traces - 2 * trace_term(reference, other)
    return squared if squared > RESOLUTION * traces else 0.0


def trace_term(reference: FeatureGaussian, other: FeatureGaussian) -> float:
    """Return tr √(S₁ S₂), computed by the fastest method that is exact."""
    if other.rows is None and reference.rows is None:
        values = _product_spectrum(reference, other)
        if rounding(values) <= ROUNDING * (reference.trace + other.trace):
            return float(np.sqrt(values).sum())
    return _nuclear_norm(reference.factor, other.factor)


def rounding(values: Float64) -> float:
    """Return a bound on the error of Σ √λ, where each λ ≥ 0 of a symmetric matrix has an error of up to ε λmax: Σ ε λmax / (2 √λ)."""
    error = EPS * float(values.max(initial=0.0))
    return float(np.minimum(error / (2 * np.sqrt(np.maximum(values, error))), np.sqrt(error)).sum()) if error else 0.0


def _product_spectrum(reference: FeatureGaussian, other: FeatureGaussian) -> Float64:
    """Return the eigenvalues of Bᵀ S₂ B, which are those of S₁ S₂ (without null space), ≥ 0."""
    if reference.cholesky is not None:
        # Lᵀ S L, computed in place. Symmetry halves the cost of two products. Only the upper triangle is written.
        upper = np.asfortranarray(reference.cholesky.T)
        product, info = linalg.lapack.dsygst(np.asfortranarray(other.block(reference.live).T), upper, itype=2, lower=0)
        assert info == 0, info
    else:
        product = np.asfortranarray(reference.factor.T @ other.covariance @ reference.factor)
    values = linalg.eigvalsh(product, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    clipped: Float64 = np.clip(values, 0.0, None)
    return clipped


def _nuclear_norm(left: Float64, right: Float64) -> float:
    """Return |leftᵀ right|₊, the sum of the singular values."""
    return float(linalg.svdvals(left.T @ right, overwrite_a=True, check_finite=False).sum())


# --- distance of a perfect generator ------------------------------------------------------------------------------------------


def expected_floor(spectrum: Array, n: int, m: int) -> float:
    """Return the expected distance of n perfect samples from m real ones, to first order, for Gaussian features.

    (1/n + 1/m) [Σ λᵢ + ½ Σᵢⱼ λᵢ λⱼ (1 + δᵢⱼ) / (λᵢ + λⱼ)], where λ are the eigenvalues of the covariance. The first sum comes from the means.
    The second is the second-order expansion of the trace term under the Wishart fluctuations of both covariances.
    """
    values = spectrum[spectrum > 0]
    pairs = values[:, None] * values / (values[:, None] + values)
    return float((1 / n + 1 / m) * (values.sum() + 0.5 * (pairs.sum() + np.trace(pairs))))


def resampled_floor(features: Array, n: int, m: int, seed: int, repeats: int = 5) -> tuple[float, float]:
    """Return the mean and deviation of the distance between n and m rows resampled from features (N, d), without the Gaussian assumption."""
    generator = np.random.Generator(np.random.Philox(seed))
    distances = []
    for _ in range(repeats):
        first, second = (of_rows(features[np.sort(generator.integers(0, len(features), size))]) for size in (n, m))
        distances.append(distance(first, second))
    return float(np.mean(distances)), float(np.std(distances, ddof=1))


# --- extrapolation ------------------------------------------------------------------------------------------------------------

POINTS = 15  # the number that Chong and Forsyth use
BLOCKS = 10


def curve(reference: FeatureGaussian, features: Array, seed: int) -> list[tuple[int, float]]:
    """Return pairs (number of images, distance). The numbers are evenly spread in 1/N, from a tenth of the images to all of them.

    Each distance is a mean over up to BLOCKS disjoint parts of a seeded shuffle. The random error of a part is then nearly the same at
    every size and does not bend the line.
    """
    n = len(features)
    order = np.random.Generator(np.random.Philox(seed)).permutation(n)
    points = []
    for size in sorted({round(1 / x) for x in np.linspace(1 / n, 10 / n, POINTS) if round(1 / x) >= 2}):
        parts = [np.sort(order[start : start + size]) for start in range(0, n - size + 1, size)][:BLOCKS]
        points.append((size, float(np.mean([distance(reference, of_rows(features[part])) for part in parts]))))
    return points


def at_infinity(points: list[tuple[int, float]]) -> float:
    """Return the value at 1/N = 0 of a line fitted to the points (Chong and Forsyth, 2020, arXiv 1911.07023, eq. 5). It may be negative."""
    sizes, values = np.asarray(points, np.float64).T
    slope_and_constant = np.polyfit(1 / sizes, values, 1)
    return float(slope_and_constant[1])
