"""The models that a folder of artifacts features: those that pages and tables show first. They are listed in the file `featured.json` in the folder.

The file is a JSON list of names, the first one first. A folder without the file features no models.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError, shown

FILE = "featured.json"
MAX_BYTES = 64 * 1024
FORM = 'write a JSON list of names of models, such as ["mnist-vae", "mnist-cvae"]'


def read(root: Path) -> list[str]:
    """Return the names in the order of the file; empty if the folder has no such file. Raises ArtifactError for an invalid file."""
    path = root / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}; correct the file or remove it") from None
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{path}: has more than {MAX_BYTES} bytes; {FORM}")
    try:
        names = json.loads(content)
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: is not JSON; {FORM}") from None
    if not isinstance(names, list):
        raise ArtifactError(f"{path}: is no list; {FORM}")
    for place, name in enumerate(names):
        if not isinstance(name, str) or re.fullmatch(manifests.NAME, name) is None:
            raise ArtifactError(f"{path}: {shown(name)} is not the name of a model; {FORM}")
        if name in names[:place]:
            raise ArtifactError(f"{path}: {name} is listed twice; list each model once")
    return names
