"""The range of values that an input may have, by its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manifold.runtime.kinds.base import BELOW_ONE
from manifold.runtime.manifest.conditions import BYTES, Classes, Item
from manifold.runtime.manifest.tensors import InputSpec

if TYPE_CHECKING:
    from manifold.runtime.manifest.document import Manifest


def between(manifest: Manifest, tensor: InputSpec) -> tuple[float, float] | None:
    """Return the smallest and the largest value that an input may have; None if every finite value is allowed."""
    match tensor.source:
        case "data":
            return manifest.spec.limits
        case "number" | "integer":
            return tensor.limits
        case "tokens":
            return 0, BYTES - 1
        case "mask" | "token_mask":
            return 0, 1
        case "codes" if manifest.codes is not None:
            return 0, manifest.codes.levels - 1
        case "uniform":
            return 0, BELOW_ONE
        case "temperature":
            return float(np.finfo(np.float32).tiny), np.inf
        case "condition":
            return _of_condition(manifest, tensor)
        case _:
            return None


def _of_condition(manifest: Manifest, tensor: InputSpec) -> tuple[float, float] | None:
    """Return the range of class weights or of items; None for real values."""
    condition = manifest.condition_of(tensor)
    if isinstance(condition, Item):
        return condition.data.limits
    return (0, np.inf) if isinstance(condition, Classes) else None
