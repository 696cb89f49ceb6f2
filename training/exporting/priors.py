"""The priors that are fitted to the latents of the training items when a model is exported.

A VAE is trained towards a standard normal, but its aggregate posterior is another distribution, and an autoencoder has no prior at all.
Fitting a mixture afterwards improves samples at a very low cost (Ghosh et al., 2020, "From variational to deterministic autoencoders",
arXiv 1903.12436, section 4).
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
from manifold.training.data import Data, Part
from manifold.training.data.parts import batches

Array = NDArray[Any]

COMPONENTS = 10
SEED = 0
DIGITS = 9  # significant digits of numbers in a manifest, which represent float32 exactly
BATCH = 1024


def posterior_means(model: Model, data: Data, part: Part) -> Array:
    """Return the posterior means of a split, float32 (N, L). A conditional encoder receives each item's own class or factors."""
    task = model.manifest.tasks["encode"]
    means = []
    for held in batches(part, BATCH):
        classes = conditions(model.manifest, data, held) if task.input("condition") else None
        means.append(model.encode(data.inputs(held), classes=classes).placed)
    return np.concatenate(means)


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
    """Return the latent with the fitted priors added. The priors of the family are kept."""
    new = {name: prior for name, prior in fitted.items() if name not in latent.priors}
    return latent.model_copy(update={"priors": {**latent.priors, **new}})


def add_to_artifact(model: Model, data: Data) -> Path:
    """Fit priors to the training split with the artifact's own encoder, and write them into its manifest. Return its folder.

    Raises UnsupportedTask for an artifact that does not encode items into a latent space.
    """
    latent = model.manifest.space
    if latent is None or "encode" not in model.manifest.tasks:
        raise UnsupportedTask(
            f"model: {model.manifest.name} cannot encode into a latent space; its tasks are {', '.join(model.manifest.tasks)}"
        )
    fitted = fit(posterior_means(model, data, data.train))
    manifest = manifests.read(model.folder)  # read again, as the engine may have changed the padding of its copy
    stores.load(model.folder, manifest)
    manifest = manifest.model_copy(update={"latent": added(latent, fitted)})
    manifest = stores.stored(model.folder, manifest)
    files = {**manifest.files, manifests.PRIORS_FILE: repository.digest(model.folder / manifests.PRIORS_FILE)}
    repository.save(model.folder, manifest.model_copy(update={"files": files if manifest.files else {}}))
    return model.folder
