"""The fitting of priors to an artifact that is already published. The result is its next version."""

from __future__ import annotations

from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import priors as stores
from manifold.runtime import revisions
from manifold.runtime.engine import Model, load
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import draws_items
from manifold.training.data import Data
from manifold.training.exporting import priors, shown
from manifold.training.exporting.calibrated import DENSITIES


def add_to_artifact(model: Model, data: Data, root: Path) -> Path:
    """Publish the artifact in `root` as its next version, with priors fitted to the training split and the better one as default.

    Priors are fitted through the artifact's own encoder. Return the new folder, or the old one if nothing changes. Raises UnsupportedTask for
    an artifact without a latent that items can be placed in, InvalidValue for data of another kind.
    """
    priors.check_can(model.manifest)
    before = latent = model.manifest.space
    assert before is not None and latent is not None
    to_model = priors.reader_for(model, data)
    fitted = {}
    if not {"gaussian", "mixture"} <= latent.priors.keys():
        fitted = priors.fit(priors.posterior_means(model, data, data.train, to_model))
    plain = manifests.read(model.folder)  # the stored manifest: the engine may have changed the padding in its own copy
    stores.load(model.folder, plain)
    latent = priors.added(latent, fitted)
    found = priors.densities(latent, priors.posterior_means(model, data, data.calibration, to_model))
    latent = priors.with_default(latent, found)
    if (latent.prior, list(latent.priors)) == (before.prior, list(before.priors)):
        return model.folder
    provenance = {**plain.provenance, **({DENSITIES: found} if found else {})}

    def change(folder: Path, manifest: Manifest) -> Manifest:
        manifest = stores.stored(folder, manifest.model_copy(update={"latent": latent, "provenance": provenance}))
        if (folder / shown.PREVIEW).exists() and draws_items(manifest):
            revisions.write(folder, manifest)
            engine = load(folder, device="cpu")
            (folder / shown.PREVIEW).write_bytes(shown.preview(engine, data.test, to_model))
        return manifest

    return revisions.publish(model, root, change)
