"""Priors fitted to the latent positions of the training items, after training, and the choice of the default prior.

A VAE is trained towards a standard normal, but its aggregate posterior is another distribution, and an autoencoder has no prior at all. A
mixture that is fitted after training makes better samples at little cost (Ghosh et al., 2020, "From variational to deterministic
autoencoders", arXiv 1903.12436, section 4).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.manifest import FittedPrior, GaussianPrior, LatentSpec, Manifest, MixturePrior, Prior
from manifold.runtime.operations.capabilities import abilities
from manifold.training.data import Data, Part
from manifold.training.data.parts import batches

Array = NDArray[Any]

COMPONENTS = 10
SEED = 0
DIGITS = 9  # significant digits of numbers in a manifest, which represent float32 exactly
BATCH = 1024


def posterior_means(model: Model, data: Data, part: Part, to_model: Callable[[Array], Array] | None = None) -> Array:
    """Return the latent positions of the items of a split: float32 (N, L).

    `to_model` converts stored items to model inputs; by default the specification of the data set is used. A conditional encoder is conditioned

    on each item's own class or factors.
    """
    if not len(part):
        return np.empty((0, model.manifest.space.count if model.manifest.space else 0), np.float32)
    task = model.manifest.tasks["encode"]
    to_model = to_model or data.spec.to_model
    means = []
    for held in batches(part, BATCH):
        classes = conditions(model.manifest, data, held) if task.input("condition") else None
        means.append(model.encode(to_model(held.items), classes=classes).placed)
    return np.concatenate(means)


def reader_for(model: Model, data: Data) -> Callable[[Array], Array]:
    """Return a function that converts stored items of a data set to inputs of a model. Raises InvalidValue for data of another kind."""
    to_model = model.manifest.spec.reader_of(data.spec)
    if to_model is None:
        trained = model.manifest.data_name or "other data"
        raise InvalidValue(
            f"data: {data.name} does not fit {model.manifest.name}, which was trained on {trained}", field="data"
        )
    return to_model


def conditions(manifest: Manifest, data: Data, part: Part) -> Any:
    """Return the conditions of a split's items: their factors or their classes."""
    if manifest.conditions is not None:
        return data.of_factors(part, manifest.conditions.names)
    return [int(label) for label in part.labels]


def fit(means: Array) -> dict[str, Prior]:
    """Fit to posterior means (N, L): `gaussian` with full covariance, and by EM `mixture` of COMPONENTS Gaussians with full covariances."""
    from sklearn.mixture import GaussianMixture

    means = means.astype(np.float64)
    size = means.shape[1]
    covariance = np.cov(means.T).reshape(size, size)
    jitter = 1e-9 * np.trace(covariance) / size  # needed if an unused dimension has no variance
    fitted: dict[str, Prior] = {
        "gaussian": GaussianPrior(
            mean=_rounded(means.mean(axis=0)), cholesky=_rounded(np.linalg.cholesky(covariance + jitter * np.eye(size)))
        )
    }
    if len(means) >= 20 * COMPONENTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mixture that has not fully converged is good enough
            mixture = GaussianMixture(COMPONENTS, random_state=SEED, max_iter=200).fit(means)
        fitted["mixture"] = MixturePrior(
            weights=_rounded(mixture.weights_ / mixture.weights_.sum()),
            means=_rounded(mixture.means_),
            choleskys=_rounded(np.linalg.cholesky(mixture.covariances_)),
        )
    return fitted


def _rounded(array: Array) -> Any:
    """Return nested tuples of numbers with DIGITS significant digits."""
    if array.ndim:
        return tuple(_rounded(part) for part in array)
    return float(f"{array:.{DIGITS}g}")


def added(latent: LatentSpec, fitted: dict[str, Prior]) -> LatentSpec:
    """Return the latent with the fitted priors added. Existing priors are kept."""
    new = {name: prior for name, prior in fitted.items() if name not in latent.priors}
    return latent.model_copy(update={"priors": {**latent.priors, **new}})


def can_fit(manifest: Manifest) -> bool:
    """Return whether items are encoded into a latent with a posterior. A latent that is the noise of a path has N(0, I) by construction."""
    encoder = manifest.task("encode")
    return manifest.space is not None and encoder is not None and "mean" in encoder.roles


def check_can(manifest: Manifest) -> None:
    """Raise UnsupportedTask for a model without a latent that items are encoded into, or whose latent is the noise of a path."""
    if not can_fit(manifest):
        lacks = "it has no latent" if manifest.space is None else "it has no encoder into its latent"
        if manifest.space is not None and "encode" in manifest.tasks:
            lacks = "its latent is the noise that it was trained with, which is normal"
        raise UnsupportedTask(f"{manifest.name}: no prior can be fitted: {lacks}; {abilities(manifest)}", field="model")


def densities(latent: LatentSpec, held_out: Array) -> dict[str, float]:
    """Return the mean log density in nats of each prior at the posterior means of held-out items (N, L).

    There is none without items, or if a position is not finite.

    The density at items that were used neither for training nor for the fit says how well a prior covers the positions that the decoder has
    learned. A prior whose mean density is not finite is left out.
    """
    if not len(held_out) or not np.isfinite(held_out).all():
        return {}
    found = {name: float(log_density(prior, held_out).mean()) for name, prior in latent.priors.items()}
    return {name: round(density, 4) for name, density in found.items() if math.isfinite(density)}


def with_default(latent: LatentSpec, found: dict[str, float]) -> LatentSpec:
    """Return the latent with the prior of the highest density as default. Without a finite density the present default stays."""
    known = {name: density for name, density in found.items() if math.isfinite(density)}
    default = max(known, key=lambda name: known[name]) if known else latent.prior
    return latent.model_copy(update={"default_prior": default})


def log_density(prior: Prior, latents: Array) -> Array:
    """Return the log density of a prior in nats at latents (N, L): float64 (N,)."""
    from scipy.special import logsumexp
    from scipy.stats import Covariance, multivariate_normal

    latents = latents.astype(np.float64)
    size = latents.shape[1]
    if not isinstance(prior, FittedPrior):
        return np.atleast_1d(multivariate_normal.logpdf(latents, np.zeros(size)))
    parts = [
        np.log(weight) + np.atleast_1d(multivariate_normal.logpdf(latents, mean, Covariance.from_cholesky(factor)))
        for weight, mean, factor in zip(*prior.components, strict=True)
        if weight > 0
    ]
    densities: Array = logsumexp(parts, axis=0)
    return densities
