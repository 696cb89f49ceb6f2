"""Descriptions of a model: its summary, the public part of its manifest, and its statistics."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from manifold.runtime.errors import NotFound, Unavailable
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import NUMBERS, Manifest
from manifold.runtime.manifest.conditions import Classes, Item, Text, Values
from manifold.service.models.entries import Entry


def summary(entry: Entry, default: str | None) -> dict[str, Any]:
    """Return the summary of a model for GET /models."""
    manifest, model = entry.manifest, entry.model
    return {
        "name": entry.name, "version": entry.version, "family": manifest.family if manifest else "", "description": manifest.description if manifest else "",
        "tasks": list(manifest.served) if manifest else [], "endpoints": entry.endpoints, "state": entry.state,
        "reason": entry.reason, "device": model.device if model else None, "note": model.note if model else None,
        "classes": list(manifest.classes) if manifest and manifest.classes else None,
        "conditions": list(manifest.conditions.names) if manifest and manifest.conditions else None,
        "data": _data(manifest.spec) if manifest else None, "items": _items(manifest) if manifest else None,
        "conditioned": _conditioned(manifest) if manifest else None, "inputs": _inputs(manifest) if manifest else None,
        "default": entry.name == default, "reproducible": _is_reproducible(entry),
    }  # fmt: skip


def _data(spec: Kind) -> dict[str, Any]:
    """Return the description of items for clients: the data spec, the name of their field in JSON, and the media types of a file with them."""
    return {**spec.summary(), "field": spec.wire.many, "media_types": list(spec.wire.media_types)}


def _items(manifest: Manifest) -> dict[str, Any] | None:
    """Return the descriptions of items by output; None for a model with one output."""
    return {role: _data(spec) for role, spec in manifest.items.items()} if len(manifest.items) > 1 else None


def _conditioned(manifest: Manifest) -> dict[str, Any]:
    """Return the conditions that a request may state, by name."""
    return {name: _condition(one) for name, one in manifest.conditioned.items()}


def _condition(one: Classes | Values | Text | Item) -> dict[str, Any]:
    named = {"names": list(one.names)} if isinstance(one, Classes | Values) else {}
    optional = {"optional": True} if isinstance(one, Classes) and one.optional else {}
    return {"kind": one.kind, **named, **optional, **({"data": _data(one.data)} if isinstance(one, Item) else {})}


def _inputs(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the numeric inputs that a request may state. Default and range may differ between tasks."""
    return [
        {
            "name": tensor.role, "task": name, "kind": tensor.source,
            "default": None, "minimum": None, "maximum": None, **tensor.stated,
        }
        for name, task in manifest.tasks.items()
        for tensor in task.inputs
        if tensor.source in NUMBERS
    ]  # fmt: skip


def _is_reproducible(entry: Entry) -> bool | None:
    """Return whether all graphs are reproducible; None before that is known."""
    if entry.manifest is None:
        return None
    if entry.manifest.drawing:
        return False
    return True if entry.model is not None else entry.manifest.reproducible


def preview(path: Path, field: str) -> os.stat_result:
    """Return the file status of a model's preview. Raise NotFound if there is none, and Unavailable if it cannot be read."""
    name = path.parent.parent.name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{name} has no preview; it is made when a model is exported", field=field) from None
    except OSError as error:
        raise Unavailable(f"the preview of {name} cannot be read: {error.strerror}", field=field) from None
    return status


def stats(entry: Entry) -> dict[str, Any]:
    """Return the response of GET /models/{name}/stats."""
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
    """Return the manifest without the fields that only the loader needs."""
    if entry.manifest is None:
        return {}
    return entry.manifest.model_dump(mode="json", exclude_none=True, exclude={"files", "golden"})
