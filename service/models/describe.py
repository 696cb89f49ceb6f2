"""Descriptions of a model: its summary, the public part of its manifest, and its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from manifold.runtime import figures, operations
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import NUMBERS, Manifest
from manifold.runtime.manifest.conditions import Classes, Item, Text, Values
from manifold.service.aside import LARGE, ROW
from manifold.service.models.entries import Entry
from manifold.service.models.registry import UNKNOWN, Registry

# the fields of a summary that come from the manifest, for a model whose manifest cannot be read
UNREAD: dict[str, Any] = {
    "family": "", "description": "", "tasks": [], "classes": None, "conditions": None, "data": None, "items": None,
    "conditioned": None, "inputs": None, "dataset": None, "figures": [], "temperature": False,
}  # fmt: skip


def summaries(registry: Registry, entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """Yield the summaries of models for GET /models."""
    versions: dict[str, list[int]] = {}
    for name, version in sorted(registry.entries):
        if version != UNKNOWN:
            versions.setdefault(name, []).append(version)
    for entry in entries:
        model, manifest = entry.model, entry.manifest
        yield {
            "name": entry.name, "version": entry.version, **(UNREAD if manifest is None else _of_manifest(entry, manifest)),
            "endpoints": entry.endpoints, "state": entry.state, "reason": entry.reason, "device": model.device if model else None,
            "note": model.note if model else None, "default": entry.name == registry.settings.default_model,
            "reproducible": _is_reproducible(entry), "featured": registry.featured.get(entry.name),
            "versions": versions.get(entry.name, []), "files": entry.files,
        }  # fmt: skip


def summary(registry: Registry, entry: Entry) -> dict[str, Any]:
    """Return the summary of one model."""
    return next(summaries(registry, (entry,)))


def work(entries: Iterable[Entry]) -> float:
    """Return the cost of the summaries in bytes (service.aside). The first one of a manifest takes about 2 ms, later ones 10 µs."""
    return sum(ROW if entry.described is not None else LARGE for entry in entries)


def _of_manifest(entry: Entry, manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a summary that come from the manifest. They are made once for each manifest, because GET /models is polled."""
    kept = entry.described
    if kept is None or kept[0] is not manifest:
        kept = entry.described = manifest, _described(manifest)
    return kept[1]


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "family": manifest.family, "description": manifest.description, "tasks": list(manifest.served),
        "classes": list(manifest.classes) if manifest.classes else None,
        "conditions": list(manifest.conditions.names) if manifest.conditions else None,
        "data": _data(manifest.spec), "items": _items(manifest), "conditioned": _conditioned(manifest), "inputs": _inputs(manifest),
        "dataset": manifest.data_name, "figures": figures.stated(manifest),
        "temperature": operations.makes_items(manifest) and operations.takes_temperature(manifest, None, None),
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
