"""A fingerprint of the arithmetic of a machine: checksums of the outputs of tasks for fixed inputs.

The same artifact can give outputs that differ in the last bits on another processor or with another version of ONNX Runtime. Logits are
rounded before they are used, so such a file usually decodes if it is small. If it does not, the fingerprints name the outputs that differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.compression.stack import seeds
from manifold.runtime.engine import Model
from manifold.runtime.manifest import InputSpec, Manifest

Array = NDArray[Any]
ROWS = 2
BITS = 16  # length of each checksum


def prints(model: Model, tasks: Sequence[str]) -> dict[str, int]:
    """Return the checksum of each output of the tasks by TASK.ROLE, 0 to 2^16 - 1."""
    found = {}
    for name in tasks:
        task = model.manifest.tasks[name]
        outputs = model.run(name, {tensor.role: _input(tensor, model.manifest) for tensor in task.inputs})
        for tensor in task.outputs:
            array = outputs[tensor.role]
            found[f"{name}.{tensor.role}"] = zlib.crc32(array.astype(array.dtype.newbyteorder("<")).tobytes()) >> (
                32 - BITS
            )
    return found


def _input(tensor: InputSpec, manifest: Manifest) -> Array:
    """Return a valid input (ROWS, *shape) that is the same on every machine and for every version of numpy."""
    shape = (ROWS, *tensor.shape)
    numbers = seeds(int(np.prod(shape))).reshape(shape)
    units = numbers / 2**32  # in [0, 1), exact
    if tensor.source == "codes":
        assert manifest.codes is not None
        return (numbers % manifest.codes.levels).astype(np.int64)
    if tensor.source == "condition":
        return np.eye(tensor.shape[0], dtype=np.float32)[np.arange(ROWS) % tensor.shape[0]]
    if tensor.source == "data":
        low, high = manifest.spec.limits or (0.0, 1.0)
        return (low + (high - low) * np.rint(units * 255) / 255).astype(np.float32)
    return (4 * units - 2).astype(np.float32)
