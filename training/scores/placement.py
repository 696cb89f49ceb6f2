"""The positions of the training items in latent space, measured when a model is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifold.runtime.kinds import Kind
from manifold.training.batches import Batch, in_order
from manifold.training.data import Part
from manifold.training.detectors import edges
from manifold.training.detectors.edges import EdgeTerms
from manifold.training.likelihoods import filled
from manifold.training.scores.options import ScoreOptions

WIDE = 128  # rows with more values are stored in half precision, which halves the artifact
LEAST = (
    1e-4  # smallest variance of a dimension in units of the mean one, if the encoder gives no variances; see `place`
)
BATCH = 5000  # number of items in a batch, or fewer if they are large

# mean and log-variance (B, L); no log-variance if the encoder is deterministic
Posterior = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class References:
    """Training items in an artifact."""

    inputs: Tensor  # (N, D) with 0 in constant columns and for missing values
    known: Tensor | None = None  # (N, D) 0 for missing values, 1 for others; None if none is missing


def references(part: Part, rows: NDArray[np.int64], spec: Kind, options: ScoreOptions) -> References:
    """Return at most `options.references` of the items of a split with these indices, drawn with the run's seed."""
    chosen = rows[np.random.Generator(np.random.Philox(options.seed)).permutation(len(rows))[: options.references]]
    inputs, known = _inputs(torch.from_numpy(part.batch(chosen).items), spec)
    half = options.stored == "float16" or inputs.shape[1] > WIDE
    return References(inputs.half().float() if half else inputs, known)


@dataclass(frozen=True)
class Placement:
    """The distribution of the training items in latent space, in float64, and the references, in float32."""

    centre: Tensor  # (L,) mean of the posterior means
    covariance: Tensor  # (L, L) covariance of the posterior means
    whitening: Tensor  # (L, L) whitens q(z) = E q(z | x), whose covariance also includes the mean posterior variance
    latents: Tensor | None  # (N, L) posterior means of the references, whitened
    held: References | None  # the references themselves, if the artifact carries them
    edges: EdgeTerms | None = None  # the terms that describe images by their edges; None for other data


def carries(spec: Kind) -> bool:
    """Return whether an artifact contains the reference items themselves. For images, which are large, it contains only their latents."""
    return not spec.pictures


def place(
    posterior: Callable[[Batch], Posterior], part: Part, spec: Kind, options: ScoreOptions, device: torch.device
) -> Placement:
    """Return the aggregate posterior of a split and its references, which are items drawn with the run's seed.

    Without posterior variances, LEAST is added to the variance of each dimension. A dimension that is hardly used would otherwise be scaled up
    until rounding errors of the encoder decide the distances.
    """
    z, variance = _aggregate(posterior, part, device)
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    if not variance.any():
        variance = variance + LEAST * covariance.diag().mean()
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + variance.diag())).T
    latents = held = None
    rows = np.random.Generator(np.random.Philox(options.seed)).permutation(len(part))[: options.references]
    if options.references:
        latents = ((z[torch.from_numpy(rows).to(device)] - z.mean(0)) @ whitening).float().cpu()
        latents = latents.half().float() if options.stored == "float16" else latents  # the precision of the weights
        held = references(part, np.arange(len(part)), spec, options) if carries(spec) else None
    described = edges.fit(part, rows, options) if spec.pictures else None
    return Placement(z.mean(0).cpu(), covariance.cpu(), whitening.cpu(), latents, held, described)


def _aggregate(posterior: Callable[[Batch], Posterior], part: Part, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the posterior means (N, L) of a split, and the mean of the posterior variances (L,), in float64."""
    means, variances = [], []
    for batch in in_order(part, BATCH, torch.Generator(device)):
        mean, log_variance = posterior(batch)
        means.append(mean)
        if log_variance is not None:
            variances.append(log_variance.double().exp().sum(0) / len(part))
    z = torch.cat(means).double()
    return z, sum(variances, torch.zeros(z.shape[1], device=device, dtype=torch.float64))


def _inputs(held: Tensor, spec: Kind) -> tuple[Tensor, Tensor | None]:
    """Return references with 0 for missing values and constant columns, and a mask of the present values if any are missing.

    Constant columns are set to 0 because they would only make the products in `Neighbours` larger and less precise.
    """
    known = (held == held).float()
    return filled(held) * (1 - torch.from_numpy(spec.constants)), None if bool(known.all()) else known
