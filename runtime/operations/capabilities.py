"""The capabilities of a model: which endpoints its tasks support.

The module of a use case lists its endpoints in CAPABILITIES. All lists of endpoints are built from these.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.common import Capability


@cache
def capabilities() -> dict[str, Capability]:
    """Return every capability by the name of its endpoint, in the order in which they are listed."""
    package = importlib.import_module("manifold.runtime.operations")
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    known = [capability for module in modules for capability in getattr(module, "CAPABILITIES", ())]
    return {capability.endpoint: capability for capability in sorted(known, key=lambda each: each.place)}


def endpoints(manifest: Manifest) -> list[str]:
    """Return the endpoints that a model supports."""
    return [name for name, capability in capabilities().items() if capability.supports(manifest)]


def supports(manifest: Manifest, endpoint: str) -> bool:
    """Return whether a model supports an endpoint."""
    return capabilities()[endpoint].supports(manifest)


def why_not(manifest: Manifest, endpoint: str) -> str:
    """Return why a model does not support an endpoint, as the end of a sentence; empty if no reason is known."""
    return capabilities()[endpoint].why_not(manifest)


def abilities(manifest: Manifest) -> str:
    """Return what a model supports, as the end of an error: its endpoints, or its tasks if no endpoint is built from them."""
    can = endpoints(manifest)
    return (
        f"it supports {', '.join('/' + name for name in can)}"
        if can
        else f"it has the tasks {', '.join(manifest.tasks)}"
    )


def check_supports(manifest: Manifest, endpoint: str) -> None:
    """Raise UnsupportedTask, with what the model supports, if it does not support an endpoint."""
    if not supports(manifest, endpoint):
        raise UnsupportedTask(
            f"{manifest.name} does not support /{endpoint}{why_not(manifest, endpoint)}; {abilities(manifest)}",
            field="model",
            valid=endpoints(manifest),
        )
