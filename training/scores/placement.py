"""The places of the training items in latent space, measured when a model is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifold.runtime.kinds import Kind
from manifold.training.batches import Batch, in_order
from manifold.training.data import Part
from manifold.training.likelihoods import filled
from manifold.training.scores.options import ScoreOptions

BATCH = 5000  # items, or fewer if they are large

Posterior = tuple[Tensor, Tensor | None]  # mean and log-variance (B, L) of items; no log-variance without a posterior


@dataclass(frozen=True)
class Placement:
    """The places of the training items: float64, except for the references."""

    centre: Tensor  # (L,) mean of the posterior means
    covariance: Tensor  # (L, L) of the posterior means
    whitening: Tensor  # (L, L) of q(z) = E q(z | x), whose covariance adds the mean variance
    latents: Tensor | None  # (N, L) posterior means of the references, whitened
    inputs: Tensor | None  # (N, D) the references themselves with 0 in constant columns, if the artifact carries them
    known: Tensor | None = (
        None  # (N, D) 0 where a value of a reference is missing, 1 elsewhere; None if none is missing
    )


def carries(spec: Kind) -> bool:
    """Return whether an artifact carries the references themselves. Pictures are large: of those it carries latents alone."""
    return not spec.pictures


def place(
    posterior: Callable[[Batch], Posterior], part: Part, spec: Kind, options: ScoreOptions, device: torch.device
) -> Placement:
    """Return the aggregate posterior of a part, and its references: items of it, drawn with the run's seed."""
    z, variance = _aggregate(posterior, part, device)
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + variance.diag())).T
    latents = inputs = known = None
    if options.references:
        rows = np.random.Generator(np.random.Philox(options.seed)).permutation(len(part))[: options.references]
        latents = ((z[torch.from_numpy(rows).to(device)] - z.mean(0)) @ whitening).float().cpu()
        if carries(spec):
            inputs, known = _inputs(torch.from_numpy(part.batch(rows).items), spec)
    if options.stored == "float16":  # as the weights are
        latents, inputs = (None if each is None else each.half().float() for each in (latents, inputs))
    return Placement(z.mean(0).cpu(), covariance.cpu(), whitening.cpu(), latents, inputs, known)


def _aggregate(posterior: Callable[[Batch], Posterior], part: Part, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the posterior means (N, L) of a part, and the mean of the posterior variances (L,), float64."""
    means, variances = [], []
    for batch in in_order(part, BATCH, torch.Generator(device)):
        mean, log_variance = posterior(batch)
        means.append(mean)
        if log_variance is not None:
            variances.append(log_variance.double().exp().sum(0) / len(part))
    z = torch.cat(means).double()
    return z, sum(variances, torch.zeros(z.shape[1], device=device, dtype=torch.float64))


def _inputs(held: Tensor, spec: Kind) -> tuple[Tensor, Tensor | None]:
    """Return references with 0 for missing values and in constant columns, and a mask of the values that are there if some are missing.

    Constant columns would only make the products of `Neighbours` larger and their digits fewer.
    """
    known = (held == held).float()
    return filled(held) * (1 - torch.from_numpy(spec.constants)), None if bool(known.all()) else known
