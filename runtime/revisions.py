"""New versions of artifacts that are published already: a published version never changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manifold.runtime import lineage, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model, load
from manifold.runtime.manifest import Manifest

Change = Callable[[Path, Manifest], Manifest]


def publish(model: Model, root: Path, change: Change) -> Path:
    """Publish a changed copy of an artifact in `root`, as its next version. Return the new folder.

    `change` gets the folder of the copy, which holds all files but the manifest, and the manifest with the new version. It changes files in
    the folder and returns the manifest; checksums are added afterwards. Nothing is published if `change` or the loading of the copy fails.
    """
    plain = manifests.read(model.folder)  # as it is stored: the engine may have padded its own
    lineage.check_manifest(root, plain)
    with repository.staging(root, plain.name) as folder:
        repository.copy(model.folder, folder)
        numbered = plain.model_copy(update={"version": repository.next_version(root, plain.name)})
        made = write(folder, change(folder, numbered))
        load(folder, device="cpu")
        return repository.publish_next(folder, root, made)


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Write a manifest with the checksums of the files in the folder. Return it."""
    manifest = manifest.model_copy(update={"files": repository.records(folder)})
    repository.save(folder, manifest)
    return manifest
