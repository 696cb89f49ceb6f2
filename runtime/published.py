"""The record of published versions: the content of each version of each artifact. It is the file `published.json` in the folder of artifacts.

An artifact never changes under one version, because pictures carry recipes that name a version, and scores and thresholds are compared by it.
The record keeps an entry for versions that are no longer in the folder, so that a number is never used twice. Figures that an evaluation
records later (`metrics` in the manifest) are not part of the content. runtime.shipped adds versions to the record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError

FILE = "published.json"
KEY = re.compile(manifests.NAME.strip("^$") + "/[1-9][0-9]{0,8}")
RULE = (
    "an artifact never changes under one version. Publish the new content as the next version, or restore the old files"
)


def identity(folder: Path) -> str:
    """Return the SHA-256 of an artifact's content: its manifest as it is stored, without figures. It holds the checksum of every other file."""
    return identity_of(manifests.stated(folder))


def identity_of(stated: Mapping[str, Any]) -> str:
    """Return the identity of the artifact with these fields in its manifest, as they are stored."""
    content = {name: value for name, value in stated.items() if name != "metrics"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(root: Path) -> dict[str, str]:
    """Return the identity of each published version by NAME/VERSION; nothing if the folder has no record. Raises ArtifactError."""
    path = root / FILE
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text())
    except ValueError:
        raise ArtifactError(f"{path}: is not JSON; restore the file") from None
    if not isinstance(recorded, dict) or not all(
        KEY.fullmatch(key) and isinstance(value, str) for key, value in recorded.items()
    ):
        raise ArtifactError(f"{path}: must be an object with a SHA-256 for each NAME/VERSION; restore the file")
    return recorded


def versions(root: Path) -> dict[str, list[int]]:
    """Return the names in the record with their versions, ascending."""
    found: dict[str, list[int]] = {}
    for key in read(root):
        name, _, version = key.rpartition("/")
        found.setdefault(name, []).append(int(version))
    return {name: sorted(numbers) for name, numbers in found.items()}


def key_of(folder: Path) -> str:
    """Return NAME/VERSION of an artifact, from its manifest."""
    manifest = manifests.read(folder)
    return f"{manifest.name}/{manifest.version}"


def is_recorded(folder: Path) -> bool:
    """Return whether the record of the folder of artifacts that `folder` lies in has this version."""
    return key_of(folder) in read(_root_of(folder))


def problem_of(folder: Path, root: Path | None = None) -> str | None:
    """Return what differs from the record in `root`, by default the folder of artifacts that `folder` lies in; None if nothing does."""
    recorded, key = read(root or _root_of(folder)), key_of(folder)
    if key not in recorded or recorded[key] == identity(folder):
        return None
    return f"{key}: its content is not the one that was published under this version; {RULE}"


def _root_of(folder: Path) -> Path:
    """Return the folder of artifacts that ROOT/NAME/VERSION lies in."""
    return folder.resolve().parent.parent
