"""The places of the featured models in a service: the list `featured.json` of its folder of models (runtime.featured)."""

from __future__ import annotations

from pathlib import Path

import structlog

from manifold.runtime import featured
from manifold.runtime.errors import ArtifactError

log = structlog.get_logger()


def places(root: Path) -> dict[str, int]:
    """Return the places of the featured models, from 1, by name. An invalid list is logged and ignored, since all models can be served."""
    try:
        return {name: place for place, name in enumerate(featured.read(root), 1)}
    except ArtifactError as error:
        log.warning("list of featured models ignored", reason=error.message)
        return {}
