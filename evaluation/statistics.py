"""The streaming first and second moments of features, in float64. Moments of several shards merge exactly.

The algorithm is that of Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance". It avoids the cancellation of
"sum of squares minus squared sum". Rows are folded in blocks of a fixed size, so the bits do not depend on the caller's batches. While there
are fewer rows than dimensions, the rows themselves are kept: they are smaller than the covariance and are an exact factor of it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError

Array = NDArray[Any]
Float64 = NDArray[np.float64]

BLOCK = 256  # number of rows that are folded at a time
NEGATIVE = 1e-6  # size of a negative eigenvalue, relative to the largest, that is accepted, as some tools compute in single precision


class Moments:
    """The count, mean (d,) and scatter (d, d) of the feature rows that were added so far."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions, self.n = dimensions, 0
        self._folded = 0
        self._mean: Float64 = np.zeros(dimensions)
        self._scatter: Float64 | None = None  # computed when there are more rows than dimensions
        self._rows: list[Float64] = []  # rows that are not yet folded

    def add(self, features: Array) -> None:
        """Add rows (n, d). Raises EvaluationError if they are not finite or d is not `dimensions`."""
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise EvaluationError(f"features: shape {list(rows.shape)}; it must be [rows, {self.dimensions}]")
        if not np.isfinite(rows).all():
            raise EvaluationError("features: some are not finite; check that all image values are in range")
        self._rows.append(rows.copy())
        self.n += len(rows)
        self._fold()

    def _fold(self) -> None:
        """Merge whole blocks, if there are more rows than dimensions."""
        pending = self.n - self._folded
        if self.n <= self.dimensions or pending < BLOCK:
            return
        rows = np.concatenate(self._rows)
        whole = pending // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._merge_block(rows[start : start + BLOCK])
        self._rows = [rows[whole:]] if whole < pending else []

    def _merge_block(self, rows: Float64) -> None:
        mean = rows.mean(axis=0)
        centred = rows - mean
        self._merge(len(rows), mean, centred.T @ centred)

    def _merge(self, n: int, mean: Float64, scatter: Float64) -> None:
        """Merge by Chan's update, eq. 2.1: the joint scatter is the sum of both scatters and of the scatter between the two means."""
        total = self._folded + n
        difference = mean - self._mean
        between = np.outer(difference, difference) * (self._folded * n / total)
        self._scatter = scatter + between if self._scatter is None else self._scatter + scatter + between
        self._mean = self._mean + difference * (n / total)
        self._folded = total

    def merged(self, other: Moments) -> Moments:
        """Return the joint moments of both. Neither is changed."""
        if other.dimensions != self.dimensions:
            raise EvaluationError(
                f"features: {self.dimensions} and {other.dimensions} dimensions cannot be merged; use one extractor for both"
            )
        both = Moments(self.dimensions)
        for part in (self, other):
            if part._scatter is not None:
                both._merge(part._folded, part._mean, part._scatter)
            both._rows += part._rows
        both.n = self.n + other.n
        both._fold()
        return both

    def gaussian(self) -> FeatureGaussian:
        """Return the Gaussian with this mean and the unbiased covariance. Raises EvaluationError for fewer than 2 rows."""
        if self.n < 2:
            raise EvaluationError(f"n: {self.n} image(s); a covariance needs at least 2")
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, self.dimensions))
        if self._scatter is None and self.n <= self.dimensions:
            mean = rows.mean(axis=0)
            return FeatureGaussian(mean, self.n, rows=(rows - mean) / np.sqrt(self.n - 1))
        whole = Moments(self.dimensions)
        if self._scatter is not None:
            whole._merge(self._folded, self._mean, self._scatter)
        if len(rows):
            whole._merge_block(rows)
        assert whole._scatter is not None
        return FeatureGaussian(whole._mean, self.n, covariance=whole._scatter / (self.n - 1))


class FeatureGaussian:
    """A Gaussian for the Fréchet distance: a mean, and a covariance or, if there are few rows, a factor of it.

    `rows` (n, d) are centred and scaled so that rowsᵀ rows is the covariance. Derived values are cached, so a reference that is compared
    with many others computes its factor once.
    """

    def __init__(
        self, mean: Float64, n: int | None, *, covariance: Float64 | None = None, rows: Float64 | None = None
    ) -> None:
        if (covariance is None) == (rows is None):
            raise ValueError("covariance, rows: exactly one of them must be given")
        self.mean, self.n, self.rows = mean, n, rows
        self._covariance = covariance

    def same_as(self, other: FeatureGaussian) -> bool:
        """Return whether both contain the same numbers, bit for bit."""
        ours, theirs = (part.rows if part.rows is not None else part.covariance for part in (self, other))
        return np.array_equal(self.mean, other.mean) and np.array_equal(ours, theirs)

    @property
    def dimensions(self) -> int:
        """Return the number of dimensions, d."""
        return len(self.mean)

    @cached_property
    def covariance(self) -> Float64:
        """Return the covariance (d, d)."""
        if self._covariance is not None:
            return self._covariance
        assert self.rows is not None
        return self.rows.T @ self.rows

    @cached_property
    def trace(self) -> float:
        """Return the trace of the covariance."""
        return float((self.rows**2).sum()) if self.rows is not None else float(np.trace(self.covariance))

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Return the indices of the features that vary. A constant one (a dead ReLU) has a row of zeros and does not change the trace term."""
        return np.flatnonzero(self.covariance.diagonal() > 0)

    def block(self, index: NDArray[np.int64]) -> Float64:
        """Return the covariance of the features with these indices."""
        return self.covariance if len(index) == self.dimensions else self.covariance[np.ix_(index, index)]

    @cached_property
    def cholesky(self) -> Float64 | None:
        """Return L, lower triangular, with L Lᵀ the covariance of the features that vary; None if it is not positive definite."""
        if self.rows is not None or not len(self.live):
            return None
        try:
            lower: Float64 = np.linalg.cholesky(self.block(self.live)).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            return None
        return lower

    @cached_property
    def factor(self) -> Float64:
        """Return B (d, r) with B Bᵀ the covariance: the rows, a Cholesky factor, or eigenvectors without the null space (λ < λmax d ε)."""
        if self.rows is not None:
            return self.rows.T
        if self.cholesky is not None:
            placed = np.zeros((self.dimensions, len(self.live)))
            placed[self.live] = self.cholesky
            return placed
        values, vectors = np.linalg.eigh(self.covariance)
        _check_spectrum(values)
        keep = values > max(values[-1], 0.0) * self.dimensions * np.finfo(np.float64).eps
        return np.ascontiguousarray(vectors[:, keep] * np.sqrt(values[keep]))

    @cached_property
    def spectrum(self) -> Float64:
        """Return the eigenvalues of the covariance in ascending order, clipped at 0."""
        if self.rows is not None:
            return np.sort(np.linalg.svd(self.rows, compute_uv=False) ** 2)
        values = np.linalg.eigvalsh(self.covariance)
        _check_spectrum(values)
        return np.clip(values, 0.0, None)


def _check_spectrum(values: Array) -> None:
    """Raise EvaluationError for eigenvalues that are negative by more than rounding error."""
    if values[0] < -NEGATIVE * max(float(values[-1]), 0.0):
        raise EvaluationError(
            f"sigma: eigenvalues from {values[0]:g} to {values[-1]:g}; a covariance must be positive semi-definite"
        )


def of_rows(features: Array) -> FeatureGaussian:
    """Return the Gaussian of feature rows (n, d) in memory."""
    moments = Moments(features.shape[1])
    moments.add(features)
    return moments.gaussian()
