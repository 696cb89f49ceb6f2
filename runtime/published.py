"""The record of published versions: the content of each version of each artifact. It is the file `published.json` in the folder of artifacts.

An artifact never changes under one version, because pictures carry recipes that name a version, and scores and thresholds are compared by it.
The record keeps an entry for versions that are no longer in the folder, so that a number is never used twice. Figures that an evaluation
records later (`metrics` in the manifest) are not part of the content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest import Manifest

FILE = "published.json"


def identity(manifest: Manifest) -> str:
    """Return the SHA-256 of an artifact's content: its manifest without figures, which holds the checksum of every other file."""
    stated = json.loads(manifests.dumps(manifest))
    stated.pop("metrics", None)
    return hashlib.sha256(json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(root: Path) -> dict[str, str]:
    """Return the identity of each published version by NAME/VERSION; nothing if the folder has no record. Raises ArtifactError."""
    path = root / FILE
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path}: is not JSON: {error}; restore the file") from None
    if not isinstance(recorded, dict) or not all(isinstance(value, str) for value in recorded.values()):
        raise ArtifactError(f"{path}: must be an object with a SHA-256 for each NAME/VERSION; restore the file")
    return recorded


def problems(root: Path) -> Iterator[str]:
    """Yield one line for each version whose content is not the one that was published."""
    recorded = read(root)
    for name, version, manifest in _present(root):
        if (problem := _problem(recorded, name, version, manifest)) is not None:
            yield problem


def problem_of(folder: Path, manifest: Manifest) -> str | None:
    """Return what differs from the record of the folder of artifacts that `folder` lies in, or None."""
    return _problem(read(folder.resolve().parents[1]), manifest.name, manifest.version, manifest)


def renew(root: Path) -> list[str]:
    """Add the versions that are not in the record yet. Return their names. Raises ArtifactError if a recorded version has changed."""
    if found := list(problems(root)):
        raise ArtifactError("\n".join(found))
    recorded = read(root)
    new = {f"{name}/{version}": identity(manifest) for name, version, manifest in _present(root)}
    added = sorted(new.keys() - recorded.keys())
    with repository.replacing(root / FILE) as temporary:
        temporary.write_text(json.dumps(dict(sorted({**recorded, **new}.items())), indent=1) + "\n")
    return added


def _present(root: Path) -> Iterator[tuple[str, int, Manifest]]:
    for name, versions in repository.scan(root).items():
        for version in versions:
            yield name, version, manifests.read(root / name / str(version))


def _problem(recorded: dict[str, str], name: str, version: int, manifest: Manifest) -> str | None:
    key = f"{name}/{version}"
    if key not in recorded or recorded[key] == identity(manifest):
        return None
    return (
        f"{key}: its content is not the one that was published under this version; an artifact never changes under one version. Publish the "
        f"new content as the next version, or restore the old files"
    )
