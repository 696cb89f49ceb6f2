"""The continuity of a latent space: near latents decode to images that look alike, and along a path nothing jumps.

Latents are measured in units whitened by the aggregate posterior q(z) = E q(z | x), so that a model cannot look smooth by spreading its
codes out; images in the extractor's features. That every place decodes to something (completeness) is `confident` in evaluation.evaluate_images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]

PAIRS, STEPS = 256, 16
FLAT = 1e-6  # of the largest variance: directions that vary less are measured in the largest deviation


@dataclass(frozen=True)
class Continuity:
    """Figures of interpolations; distances are Euclidean."""

    per_unit: float  # mean feature distance per whitened unit of latent distance, over all steps
    per_unit_95: float  # its 95th percentile over steps
    largest_step: (
        float  # mean over paths: the part of the path's feature length that its largest step makes; 1 / steps is even
    )
    feature_length: float  # mean over paths
    latent_length: float  # mean over paths, whitened


def aggregate_covariance(mean: Array, log_variance: Array | None) -> Float64:
    """Return the covariance (L, L) of q(z) from posterior means and log variances (N, L): of the means, plus the mean variance on the diagonal."""
    covariance = np.cov(mean.astype(np.float64).T).reshape(mean.shape[1], mean.shape[1])
    if log_variance is not None:
        covariance = covariance + np.diag(np.exp(log_variance.astype(np.float64)).mean(axis=0))
    return covariance


def whitening(covariance: Float64) -> Float64:
    """Return W (L, L), symmetric, with W covariance W = 1 in every direction that varies."""
    values, vectors = np.linalg.eigh(covariance)
    flat = values <= FLAT * values.max()
    scale = 1 / np.sqrt(np.where(flat, values.max(), values))
    white: Float64 = (vectors * scale) @ vectors.T
    return white


def continuity(latents: Array, features: Array, white: Float64) -> Continuity:
    """Return the figures of paths: latents (P, S, L), features of what they decode to (P, S, d)."""
    moved = np.linalg.norm(np.diff(latents.astype(np.float64), axis=1) @ white, axis=2)  # (P, S - 1)
    changed = np.linalg.norm(np.diff(features.astype(np.float64), axis=1), axis=2)
    lengths, steps = changed.sum(axis=1), changed.shape[1]
    shares = np.full(len(lengths), 1 / steps)  # where nothing changes, nothing jumps
    np.divide(changed.max(axis=1), lengths, out=shares, where=lengths > 0)
    rates = np.zeros_like(changed)
    np.divide(changed, moved, out=rates, where=moved > 0)
    return Continuity(
        float(rates.mean()), float(np.quantile(rates, 0.95)), float(shares.mean()), float(lengths.mean()), float(moved.sum(axis=1).mean())
    )  # fmt: skip
