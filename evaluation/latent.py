"""The continuity of a latent space: whether near latents decode to similar images, and whether images change evenly along a path.

Latent distances are measured in units whitened by the aggregate posterior q(z) = E q(z | x), so that a model does not look smooth only
because its codes are spread out. Image distances are measured in the extractor's features. The completeness of the space (whether every
latent decodes to a recognisable image) is measured by `confident` in evaluation.evaluate_images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]

PAIRS, STEPS = 256, 16
FLAT = 1e-6  # fraction of the largest variance; directions that vary less are scaled by the largest deviation


@dataclass(frozen=True)
class Continuity:
    """The figures of interpolations. Distances are Euclidean."""

    per_unit: float  # mean feature distance per whitened unit of latent distance, over all steps
    per_unit_95: float  # 95th percentile of the same over all steps
    largest_step: float  # share of a path's feature length in its largest step, mean over paths; 1 / steps is even
    feature_length: float  # mean over paths
    latent_length: float  # mean over paths, in whitened units


def aggregate_covariance(mean: Array, log_variance: Array | None) -> Float64:
    """Return the covariance (L, L) of q(z): the covariance of the posterior means (N, L), plus the mean posterior variance on the diagonal."""
    covariance = np.cov(mean.astype(np.float64).T).reshape(mean.shape[1], mean.shape[1])
    if log_variance is not None:
        covariance = covariance + np.diag(np.exp(log_variance.astype(np.float64)).mean(axis=0))
    return covariance


def whitening(covariance: Float64) -> Float64:
    """Return the symmetric matrix W (L, L) for which W covariance W is the identity in every direction that varies."""
    values, vectors = np.linalg.eigh(covariance)
    flat = values <= FLAT * values.max()
    scale = 1 / np.sqrt(np.where(flat, values.max(), values))
    white: Float64 = (vectors * scale) @ vectors.T
    return white


def continuity(latents: Array, features: Array, white: Float64) -> Continuity:
    """Return the figures of P paths from their latents (P, S, L) and the features of the decoded images (P, S, d)."""
    moved = np.linalg.norm(np.diff(latents.astype(np.float64), axis=1) @ white, axis=2)  # (P, S - 1)
    changed = np.linalg.norm(np.diff(features.astype(np.float64), axis=1), axis=2)
    lengths, steps = changed.sum(axis=1), changed.shape[1]
    shares = np.full(len(lengths), 1 / steps)  # a path along which nothing changes counts as even
    np.divide(changed.max(axis=1), lengths, out=shares, where=lengths > 0)
    rates = np.zeros_like(changed)
    np.divide(changed, moved, out=rates, where=moved > 0)
    return Continuity(
        float(rates.mean()), float(np.quantile(rates, 0.95)), float(shares.mean()), float(lengths.mean()), float(moved.sum(axis=1).mean())
    )  # fmt: skip
