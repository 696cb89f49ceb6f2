"""Files of fitted priors: npz with LATENT.PRIOR.weights (K,), LATENT.PRIOR.means (K, L) and LATENT.PRIOR.choleskys (K, L, L)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime import manifest as manifests
from manifold.runtime import npz, repository
from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest import PRIORS_FILE, FittedPrior, GaussianPrior, LatentSpec, Manifest

PARTS = ("weights", "means", "choleskys")
COMPONENTS = 1024  # limit for the components of a mixture


def every(manifest: Manifest) -> Iterator[tuple[str, LatentSpec, FittedPrior]]:
    """Yield the fitted priors of every latent, each with its key in a file."""
    for role, latent in manifest.latents.items():
        for name, prior in latent.fitted():
            yield f"{role}.{name}", latent, prior


def load(folder: Path, manifest: Manifest) -> None:
    """Read the numbers of all priors that are stored in files. Raises ArtifactError for a file that cannot be read or is incomplete."""
    for key, latent, prior in every(manifest):
        if prior.file is not None:
            most = 1 if isinstance(prior, GaussianPrior) else COMPONENTS
            prior.load(_read(folder / prior.file, key, latent.count, most))


def _read(path: Path, key: str, size: int, most: int) -> tuple[Any, Any, Any]:
    """Read weights (K,), means (K, size) and factors (K, size, size) of at most `most` components."""

    def check(name: str, shape: npz.Shape, dtype: np.dtype[Any]) -> str | None:
        wanted = {"weights": (), "means": (size,), "choleskys": (size, size)}[name.rpartition(".")[2]]
        fits = len(shape) == len(wanted) + 1 and 1 <= shape[0] <= most and shape[1:] == wanted
        components = 1 if most == 1 else f"1 to {most}"
        return None if fits and dtype.kind == "f" else f"not float{[components, *wanted]}"

    names = [f"{key}.{part}" for part in PARTS]
    try:
        arrays = npz.read(path, names, check)
    except npz.Unreadable as error:
        raise ArtifactError(f"{path}: cannot be read: {error}; export the model again") from error
    if missing := [name for name in names if name not in arrays]:
        raise ArtifactError(f"{path}: has no array {missing[0]}; a prior needs {', '.join(names)}")
    weights, means, choleskys = (np.asarray(arrays[name], np.float64) for name in names)
    if len({len(weights), len(means), len(choleskys)}) != 1 or not all(
        np.isfinite(each).all() for each in arrays.values()
    ):
        raise ArtifactError(
            f"{path}: {key} has different numbers of weights, means and choleskys, or values that are not finite; export the model again"
        )
    if (weights < 0).any() or not np.isclose(weights.sum(), 1, rtol=1e-6):
        raise ArtifactError(
            f"{path}: {key}.weights add up to {weights.sum():g}; they must be at least 0 and add up to 1"
        )
    return weights, means, choleskys


def stored(folder: Path, manifest: Manifest) -> Manifest:
    """Write the numbers of all fitted priors into a file in the folder of the artifact. Return the manifest that refers to the file."""
    arrays = {
        f"{key}.{part}": array
        for key, _, prior in every(manifest)
        for part, array in zip(PARTS, prior.components, strict=True)
    }
    if not arrays:
        return manifest
    with repository.replacing(folder / PRIORS_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    latents = {role: _referring(latent) for role, latent in manifest.latents.items()}
    update = latents if manifest.has_named_latents else next(iter(latents.values()))
    return manifest.model_copy(update={"latent": update})


def are_inside(manifest: Manifest) -> bool:
    """Return whether the manifest contains the numbers of a fitted prior, instead of the name of a file."""
    return any(prior.file is None for _, _, prior in every(manifest))


def move(folder: Path) -> None:
    """Move the numbers of fitted priors from the manifest of an artifact into a file next to it. Nothing else changes."""
    manifest = manifests.read(folder)
    if not are_inside(manifest):
        return
    load(folder, manifest)
    moved = stored(folder, manifest)
    if manifest.files:
        record = repository.digest(folder / PRIORS_FILE)
        moved = moved.model_copy(update={"files": dict(sorted({**manifest.files, PRIORS_FILE: record}.items()))})
    repository.save(folder, moved)


def _referring(latent: LatentSpec) -> LatentSpec:
    """Return the latent with priors that refer to the file."""
    referring = {name: type(prior).model_validate({"file": PRIORS_FILE}) for name, prior in latent.fitted()}
    for name, prior in latent.fitted():
        referring[name].load(prior.components)
    return latent.model_copy(update={"priors": {**latent.priors, **referring}})
