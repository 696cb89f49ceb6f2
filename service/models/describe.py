"""What the service says of a model: a line of the list, the manifest's public part, what it has done."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from manifold.runtime.errors import NotFound, Unavailable
from manifold.service.models.entries import Entry


def summary(entry: Entry, default: str | None) -> dict[str, Any]:
    """A line of GET /models."""
    manifest, model = entry.manifest, entry.model
    return {
        "name": entry.name, "version": entry.version, "family": manifest.family if manifest else "", "description": manifest.description if manifest else "",
        "tasks": list(manifest.tasks) if manifest else [], "endpoints": entry.endpoints, "state": entry.state,
        "reason": entry.reason, "device": model.device if model else None, "note": model.note if model else None,
        "classes": list(manifest.classes) if manifest and manifest.classes else None,
        "conditions": list(manifest.conditions.names) if manifest and manifest.conditions else None, "data": manifest.spec.summary() if manifest else None,
        "default": entry.name == default, "reproducible": _is_reproducible(entry),
    }  # fmt: skip


def _is_reproducible(entry: Entry) -> bool | None:
    """Whether all graphs are; None if neither loading nor the manifest has told."""
    if entry.manifest is None:
        return None
    if entry.manifest.drawing:
        return False
    return True if entry.model is not None else entry.manifest.reproducible


def preview(path: Path, field: str) -> os.stat_result:
    """Return the status of a model's preview, which can be read. Raises NotFound if there is none, and Unavailable if it cannot be read."""
    name = path.parent.parent.name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{name} has no preview", field=field) from None
    except OSError as error:
        raise Unavailable(f"the preview of {name} cannot be read: {error.strerror}", field=field) from None
    return status


def stats(entry: Entry) -> dict[str, Any]:
    """What GET /models/{name}/stats says."""
    batcher = entry.batcher
    assert batcher is not None and entry.model is not None
    tasks = {
        name: {
            "runs": tally.runs, "rows": tally.rows, "requests": tally.requests, "failed": tally.failed,
            "seconds": tally.seconds, "rows_a_run": tally.rows / max(tally.runs, 1),
        }
        for name, tally in batcher.tallies.items()
    }  # fmt: skip
    return {
        "model": entry.name, "version": entry.version, "state": entry.state, "device": entry.model.device,
        "queued_rows": batcher.rows, "queued_bytes": batcher.bytes, "expected_wait_ms": 1000 * batcher.wait(), "tasks": tasks,
    }  # fmt: skip


def public(entry: Entry) -> dict[str, Any]:
    """The manifest without what only the loader needs."""
    if entry.manifest is None:
        return {}
    return entry.manifest.model_dump(mode="json", exclude_none=True, exclude={"files", "golden"})
