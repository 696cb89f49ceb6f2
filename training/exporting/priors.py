"""Priors fitted to where the training items lie in latent space: after training, at export, never while serving.

A standard normal is what a VAE was trained towards; its aggregate posterior is another distribution, and an autoencoder has no prior at
all. A mixture fitted afterwards is the cheapest gain in quality there is (Ghosh et al., 2020, "From variational to deterministic
autoencoders", arXiv 1903.12436, section 4).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import manifest as manifests
from manifold.runtime import priors as stores
from manifold.runtime import repository
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import GaussianPrior, LatentSpec, Manifest, MixturePrior, Prior
from manifold.runtime.operations.capabilities import abilities
from manifold.training.data import Data, Part
from manifold.training.data.parts import batches

Array = NDArray[Any]

COMPONENTS = 10
SEED = 0
DIGITS = 9  # of the numbers in a manifest: what float32 holds
BATCH = 1024


def posterior_means(model: Model, data: Data, part: Part) -> Array:
    """Return where the items of a part lie: float32 (N, L). A conditional encoder is conditioned on each item's own class or factors."""
    task = model.manifest.tasks["encode"]
    means = []
    for held in batches(part, BATCH):
        classes = conditions(model.manifest, data, held) if task.input("condition") else None
        means.append(model.encode(data.inputs(held), classes=classes).placed)
    return np.concatenate(means)


def conditions(manifest: Manifest, data: Data, part: Part) -> Any:
    """Return what a conditional model is conditioned on for the items of a part: their factors, or their classes."""
    if manifest.conditions is not None:
        return data.of_factors(part, manifest.conditions.names)
    return [int(label) for label in part.labels]


def fit(means: Array) -> dict[str, Prior]:
    """Return `gaussian`, full covariance, and `mixture`, of COMPONENTS with full covariances, fitted to posterior means (N, L) by EM."""
    from sklearn.mixture import GaussianMixture

    means = means.astype(np.float64)
    size = means.shape[1]
    covariance = np.cov(means.T).reshape(size, size)
    jitter = 1e-9 * np.trace(covariance) / size  # a unit that encodes nothing has no variance at all
    fitted: dict[str, Prior] = {
        "gaussian": GaussianPrior(
            mean=_rounded(means.mean(axis=0)), cholesky=_rounded(np.linalg.cholesky(covariance + jitter * np.eye(size)))
        )
    }
    if len(means) >= 20 * COMPONENTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mixture that has not quite converged is as good
            mixture = GaussianMixture(COMPONENTS, random_state=SEED, max_iter=200).fit(means)
        fitted["mixture"] = MixturePrior(
            weights=_rounded(mixture.weights_ / mixture.weights_.sum()),
            means=_rounded(mixture.means_),
            choleskys=_rounded(np.linalg.cholesky(mixture.covariances_)),
        )
    return fitted


def _rounded(array: Array) -> Any:
    """Return nested tuples of numbers of DIGITS significant digits."""
    if array.ndim:
        return tuple(_rounded(part) for part in array)
    return float(f"{array:.{DIGITS}g}")


def added(latent: LatentSpec, fitted: dict[str, Prior]) -> LatentSpec:
    """Return the latent with the fitted priors added; what the family gave is kept."""
    new = {name: prior for name, prior in fitted.items() if name not in latent.priors}
    return latent.model_copy(update={"priors": {**latent.priors, **new}})


def check_can(manifest: Manifest) -> None:
    """Raise UnsupportedTask for a model without a latent that items are encoded into."""
    if manifest.space is None or "encode" not in manifest.tasks:
        lacks = "it has no latent" if manifest.space is None else "it has no encoder into its latent"
        raise UnsupportedTask(f"{manifest.name}: no prior can be fitted: {lacks}; {abilities(manifest)}", field="model")


def add_to_artifact(model: Model, data: Data) -> Path:
    """Fit priors to the training part through the artifact itself, and write them into its manifest. Return its folder.

    Raises UnsupportedTask for an artifact without a latent that items can be placed in.
    """
    check_can(model.manifest)
    latent = model.manifest.space
    assert latent is not None
    fitted = fit(posterior_means(model, data, data.train))
    manifest = manifests.read(model.folder)  # as it was written: the engine may have padded its own
    stores.load(model.folder, manifest)
    manifest = manifest.model_copy(update={"latent": added(latent, fitted)})
    manifest = stores.stored(model.folder, manifest)
    files = {**manifest.files, manifests.PRIORS_FILE: repository.digest(model.folder / manifests.PRIORS_FILE)}
    repository.save(model.folder, manifest.model_copy(update={"files": files if manifest.files else {}}))
    return model.folder
