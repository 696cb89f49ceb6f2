"""Metrics on features and probabilities. They are pure functions of arrays, compute in float64, and draw random numbers only from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError

Array = NDArray[Any]
Float64 = NDArray[np.float64]

SPLITS = 10  # number of splits for the Inception Score
BLOCKS = 20  # number of blocks for the standard error of KID
NEIGHBOURS = 3  # k of precision and recall
ROWS = 1000  # number of rows of a distance matrix that are computed at a time


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error (KID) or its deviation over splits (Inception Score)."""

    value: float
    error: float


# --- kernel distance ----------------------------------------------------------------------------------------------------------


def kernel_distance(real: Array, fake: Array, seed: int, blocks: int = BLOCKS) -> Estimate:
    """Return KID (Bińkowski et al., 2018, arXiv 1801.01401): unbiased MMD² under k(x, y) = (x·y / d + 1)³, over all pairs of rows.

    real (M, d), fake (N, d). Published values average over 100 subsets of 1000. This uses all pairs: the expectation is the same and the
    variance is the smallest. The standard error comes from the components of variance of a U-statistic, estimated from the pairs of `blocks`
    random blocks of both sets (see `_error`). Raises EvaluationError for fewer than 2 rows per block.
    """
    if min(len(real), len(fake)) < 2 * blocks:
        raise EvaluationError(
            f"n: KID needs at least {2 * blocks} images in each set, but there are {len(real)} and {len(fake)}; use more images"
        )
    generator = np.random.Generator(np.random.Philox(seed))
    x, y = (_blocks(rows, blocks, generator) for rows in (real, fake))
    within_x, within_y = _block_sums(x, x), _block_sums(y, y)
    across = _block_sums(x, y)
    for sums, rows in ((within_x, x), (within_y, y)):  # a row is not paired with itself
        sums[np.diag_indices(blocks)] -= [float(_kernel_diagonal(block).sum()) for block in rows]
    sizes = np.asarray([[len(block) for block in rows] for rows in (x, y)], np.float64)
    m, n = sizes.sum(axis=1)
    value = within_x.sum() / (m * (m - 1)) + within_y.sum() / (n * (n - 1)) - 2 * across.sum() / (m * n)
    of_x, of_y = (np.outer(each, each) for each in sizes)
    means = across / np.outer(*sizes)
    return Estimate(float(value), _error(within_x / of_x + within_y / of_y - means - means.T))


def _error(pairs: Float64) -> float:
    """Return the standard error of a U-statistic from its means over pairs of blocks, (B, B), of which the diagonal is not used.

    The mean over a pair of blocks is μ + a + a' + e, with a term for each block and one for the pair. Over all pairs, their variances have
    the weights 4 / B and 2 / B². The variance of the pair does not vanish if both sets have the same distribution, where that of the block
    does (the U-statistic is degenerate). A jackknife counts the variance of the pair twice, and its error is then √2 times too large. The
    estimate of a block's variance can be negative. It then counts as zero, so that the error is never smaller than for equal distributions.
    """
    blocks = len(pairs)
    above = np.triu_indices(blocks, 1)
    mean = pairs[above].mean()
    centred = np.where(np.eye(blocks, dtype=bool), 0.0, pairs - mean)
    effects = centred.sum(axis=1) / (blocks - 2)  # the least-squares estimates of the terms of the blocks
    rest = centred[above] - effects[above[0]] - effects[above[1]]
    of_pair = (rest**2).sum() / (blocks * (blocks - 3) / 2)
    of_block = (effects**2).sum() / (blocks - 1) - of_pair / (blocks - 2)
    return float(np.sqrt(4 * max(of_block, 0.0) / blocks + 2 * of_pair / blocks**2))


def _blocks(rows: Array, count: int, generator: np.random.Generator) -> list[Float64]:
    return [rows[part].astype(np.float64) for part in np.array_split(generator.permutation(len(rows)), count)]


def _block_sums(x: list[Float64], y: list[Float64]) -> Float64:
    """Return the sums of the kernel over each pair of blocks."""
    return np.asarray([[_kernel_sum(a, b) for b in y] for a in x])


def _kernel_sum(a: Float64, b: Float64) -> float:
    """Return Σ (x·y / d + 1)³ over all pairs of rows. The cube is computed by products, as `**` takes ten times as long."""
    base = a @ b.T
    base /= a.shape[1]
    base += 1
    return float(np.einsum("ij,ij,ij->", base, base, base))


def _kernel_diagonal(rows: Float64) -> Float64:
    diagonal: Float64 = ((rows * rows).sum(axis=1) / rows.shape[1] + 1) ** 3
    return diagonal


# --- Inception Score ----------------------------------------------------------------------------------------------------------


def inception_score(probabilities: Array, seed: int, prior: Array | None = None, splits: int = SPLITS) -> Estimate:
    """Return exp E KL(p(y | x) || q(y)) (Salimans et al., 2016, arXiv 1606.03498): mean and deviation over splits shuffled by the seed.

    probabilities (N, C). q is the marginal of each split, as published (`is_marginal`), or a given prior (C,), the class distribution of
    the data (`is_prior`). log is_prior = log is_marginal + KL(marginal || prior), so the two differ if a model drops classes.
    Raises EvaluationError for fewer images than splits.
    """
    n = len(probabilities)
    if n < splits:
        raise EvaluationError(
            f"n: the Inception Score needs at least one image for each of {splits} splits, but there are {n}; use more images"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(n)
    scores = []
    for part in np.array_split(order, splits):
        p = probabilities[part].astype(np.float64)
        q = p.mean(axis=0) if prior is None else np.asarray(prior, np.float64)
        scores.append(np.exp(_divergence(p, q).mean()))
    finite = bool(np.isfinite(scores).all())
    return Estimate(float(np.mean(scores)), float(np.std(scores)) if finite else np.inf)


def _divergence(p: Float64, q: Float64) -> Float64:
    """Return KL(p || q) of each row, in nats. 0 log 0 is 0. The result is infinite if q is 0 for a class where p is not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    total: Float64 = terms.sum(axis=-1)
    return total


def class_divergence(probabilities: Array, prior: Array) -> float:
    """Return KL(marginal of the images || class distribution of the data) in nats. It is 0 if every class is as frequent as in the data."""
    return float(_divergence(probabilities.astype(np.float64).mean(axis=0), np.asarray(prior, np.float64)))


# --- precision and recall -----------------------------------------------------------------------------------------------------


def precision_recall(real: Array, fake: Array, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return precision, the share of `fake` in the manifold of `real`, and recall, the share of `real` in the manifold of `fake`.

    Kynkäänniemi et al., 2019, arXiv 1904.06991, eq. 1 and 2. A manifold is the union of balls around its points. The radius of a ball is the
    distance to the point's k-th nearest neighbour. real (M, d), fake (N, d).
    """
    if min(len(real), len(fake)) <= neighbours:
        raise EvaluationError(
            f"n: precision and recall need more than {neighbours} images in each set, but there are {len(real)} and {len(fake)}; use more images"
        )
    centre = real.mean(axis=0, dtype=np.float64)  # centred, as squared distances of large numbers lose digits
    x, y = real - centre, fake - centre
    radius_x, radius_y = (_radii(rows, neighbours) for rows in (x, y))
    recalled = np.zeros(len(x), bool)
    precise = 0
    for start in range(0, len(y), ROWS):
        squares = squared_distances(y[start : start + ROWS], x)
        precise += int((squares <= radius_x).any(axis=1).sum())
        recalled |= (squares <= radius_y[start : start + ROWS, None]).any(axis=0)
    return precise / len(y), float(recalled.mean())


def _radii(rows: Float64, neighbours: int) -> Float64:
    """Return the squared distance of each row to its k-th nearest other row."""
    radii = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        squares = squared_distances(part, rows)
        squares[np.arange(len(part)), start + np.arange(len(part))] = -1.0  # the row itself, always the nearest
        radii.append(np.partition(squares, neighbours, axis=1)[:, neighbours])
    return np.concatenate(radii)


def squared_distances(x: Array, y: Array) -> Float64:
    """Return the squared Euclidean distances (n, m) between the rows of x and of y. They are ≥ 0."""
    squares: Float64 = x @ y.T
    squares *= -2
    squares += (x * x).sum(axis=1)[:, None]
    squares += (y * y).sum(axis=1)
    return np.maximum(squares, 0.0, out=squares)


def confident(probabilities: Array, threshold: float) -> float:
    """Return the share of the images (N, C) whose most probable class is above the threshold."""
    return float((probabilities.max(axis=1) > threshold).mean())


# --- pictures and codes -------------------------------------------------------------------------------------------------------


def psnr(errors: Float64) -> float:
    """Return the mean over images of 10 log₁₀(1 / MSE), in dB, for mean squared errors of values in [0, 1]. An exact image counts as 100 dB."""
    return float(np.minimum(-10 * np.log10(np.maximum(errors, 1e-300)), 100.0).mean())


def code_usage(codes: Array, levels: int) -> tuple[float, float]:
    """Return the share of the codebook that is used, and the perplexity exp H of the code frequencies, over all codes (N, ...)."""
    if codes.min() < 0 or codes.max() >= levels:
        raise EvaluationError(f"codes: values from {codes.min()} to {codes.max()}; they must be 0 to {levels - 1}")
    counts = np.bincount(codes.ravel(), minlength=levels)
    p = counts[counts > 0] / counts.sum()
    return float((counts > 0).mean()), float(np.exp(-(p * np.log(p)).sum()))
