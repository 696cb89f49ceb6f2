"""The cost of the trace term of the Fréchet distance at d = 2048, compared with other methods on the same matrices in one run.

    python benchmarks/distance.py [--dimensions 2048] [--rounds 3]

Methods: scipy.linalg.sqrtm of the product (pytorch-fid, clean-fid), eigenvalues of the product (torch-fidelity, torchmetrics), ours without
a cache, and ours with the reference's factor kept from an earlier comparison. Rounds are interleaved; ratios are ratios of medians.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import linalg

from manifold.evaluation import frechet
from manifold.evaluation.statistics import FeatureGaussian, of_rows

Float64 = NDArray[np.float64]


def features(n: int, d: int, seed: int, spectrum: Float64, dead: float = 0.0) -> Float64:
    """Return rows with a decaying spectrum in a rotated basis, rectified. A share `dead` of the features is constant."""
    generator = np.random.Generator(np.random.Philox(seed))
    mixing = np.random.Generator(np.random.Philox(0)).normal(size=(d, d)) / np.sqrt(d)
    x = np.maximum(generator.normal(size=(n, d)) * spectrum @ mixing + 0.3, 0)
    x[:, : int(dead * d)] = 0
    return x


def copy(gaussian: FeatureGaussian) -> FeatureGaussian:
    """Return the same statistics without cached values."""
    if gaussian.rows is not None:
        return FeatureGaussian(gaussian.mean, gaussian.n, rows=gaussian.rows)
    return FeatureGaussian(gaussian.mean, gaussian.n, covariance=gaussian.covariance)


def distance_by(
    root_trace: Callable[[Float64, Float64], float], first: FeatureGaussian, second: FeatureGaussian
) -> float:
    """Return the distance with another method for the trace term."""
    gap = first.mean - second.mean
    return float(gap @ gap) + first.trace + second.trace - 2 * root_trace(first.covariance, second.covariance)


def by_sqrtm(a: Float64, b: Float64) -> float:
    """Compute the trace term as pytorch-fid does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.trace(linalg.sqrtm(a @ b)).real)


def by_eigenvalues(a: Float64, b: Float64) -> float:
    """Compute the trace term as torch-fidelity does."""
    return float(np.sqrt(np.linalg.eigvals(a @ b).astype(np.complex128)).real.sum())


def main() -> None:
    """Print one table for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    d = options.dimensions
    decay = np.logspace(0.5, -1, d)
    cases = {
        f"full rank, {5 * d} and {5 * d // 2} rows": (
            features(5 * d, d, 1, decay),
            features(5 * d // 2, d, 2, decay * 1.1),
        ),
        f"reference full, {d // 4} rows": (features(5 * d, d, 1, decay), features(d // 4, d, 2, decay * 1.1)),
        f"{d // 4} and {d // 4} rows": (features(d // 4, d, 1, decay), features(d // 4, d, 2, decay * 1.1)),
        "5% of the features dead": (features(5 * d, d, 1, decay, 0.05), features(5 * d // 2, d, 2, decay * 1.1, 0.05)),
    }
    print(f"d = {d}, scipy {scipy.__version__}, numpy {np.__version__}, {options.rounds} rounds, medians in seconds")
    for case, (x, y) in cases.items():
        first, second = of_rows(x), of_rows(y)
        _ = first.covariance, second.covariance  # computed before the measurement, which does not include it
        kept = copy(first)
        frechet.distance(kept, copy(second))
        ways: dict[str, Callable[[], float]] = {
            "sqrtm": lambda first=first, second=second: distance_by(by_sqrtm, first, second),
            "eigenvalues": lambda first=first, second=second: distance_by(by_eigenvalues, first, second),
            "ours": lambda first=first, second=second: frechet.distance(copy(first), copy(second)),
            "ours, reference kept": lambda kept=kept, second=second: frechet.distance(kept, copy(second)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        values: dict[str, float] = {}
        for _ in range(options.rounds):
            for way, run in ways.items():
                began = time.perf_counter()
                values[way] = run()
                times[way].append(time.perf_counter() - began)
        median = {way: float(np.median(seconds)) for way, seconds in times.items()}
        exact = frechet._nuclear_norm(first.factor, second.factor)
        gap = first.mean - second.mean
        truth = float(gap @ gap) + first.trace + second.trace - 2 * exact
        print(f"\n{case}: distance {truth:.6f}; to itself {frechet.distance(first, copy(first)):.2g}")
        for way in ways:
            ratios = f"sqrtm/this {median['sqrtm'] / median[way]:6.1f}, eigenvalues/this {median['eigenvalues'] / median[way]:6.1f}"
            print(f"  {way:22} {median[way]:8.3f} s   {ratios}   error {abs(values[way] - truth):.1e}")


if __name__ == "__main__":
    main()
