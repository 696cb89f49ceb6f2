"""Which models support which use cases."""

from __future__ import annotations

from collections.abc import Callable

from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.common import makes_items
from manifold.runtime.operations.complete import completes
from manifold.runtime.operations.encode import reconstruction_task
from manifold.runtime.operations.impute import fills_missing

CAN: dict[str, Callable[[Manifest], bool]] = {
    "sample": makes_items,
    "encode": lambda m: "encode" in m.tasks,
    "reconstruct": lambda m: reconstruction_task(m) is not None,
    "interpolate": lambda m: "decode" in m.tasks and m.latent is not None,
    "score": lambda m: m.scoring is not None,
    "classify": lambda m: m.classification is not None,
    "impute": lambda m: fills_missing(m) or completes(m),
}
