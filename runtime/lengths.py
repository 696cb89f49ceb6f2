"""Free lengths: inputs with a free axis are padded with zeros to one of the task's buckets, and outputs are cut back to their length.

Requests of different lengths so share few shapes, and those of one bucket share a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest, TaskSpec, TensorSpec
from manifold.runtime.operations.steps import Run, Steps, T

Array = NDArray[Any]


def bucketed(manifest: Manifest, steps: Steps[T]) -> Steps[T]:
    """Return the same use case, whose runs have the lengths of buckets."""
    try:
        wanted = next(steps)
        while True:
            spec = manifest.tasks[wanted.task]
            length = of(spec, wanted.inputs)
            inputs = wanted.inputs if length is None else padded(spec, wanted.inputs, length)
            wanted = steps.send(cut(spec, (yield Run(wanted.task, inputs)), length))
    except StopIteration as finished:
        result: T = finished.value
        return result


def of(spec: TaskSpec, inputs: Mapping[str, Array]) -> int | None:
    """Return the length of the free axes of inputs; None if the task has none. Raises InvalidValue if they differ."""
    if spec.longest is None:
        return None
    lengths: dict[str, int] = {
        tensor.role: inputs[tensor.role].shape[axis + 1] for tensor in spec.inputs for axis in tensor.free or ()
    }
    if len(set(lengths.values())) > 1:
        stated = ", ".join(f"{role} {length}" for role, length in lengths.items())
        raise InvalidValue(f"inputs: one length is needed, not {stated}", field=next(iter(lengths)))
    return next(iter(lengths.values()))


def bucket(spec: TaskSpec, length: int) -> int:
    """Return the length that a length is padded to."""
    return next(each for each in spec.lengths if each >= length)


def padded(spec: TaskSpec, inputs: Mapping[str, Array], length: int) -> dict[str, Array]:
    """Return the inputs with zeros behind the end of free axes, up to the length of their bucket."""
    missing = bucket(spec, length) - length
    return {tensor.role: _extended(inputs[tensor.role], tensor, missing) for tensor in spec.inputs}


def _extended(array: Array, tensor: TensorSpec, missing: int) -> Array:
    if not tensor.free or not missing:
        return array
    widths = [(0, 0), *((0, missing if axis in tensor.free else 0) for axis in range(len(tensor.shape)))]
    return np.pad(array, widths)


def cut(spec: TaskSpec, outputs: Mapping[str, Array], length: int | None) -> dict[str, Array]:
    """Return the outputs with free axes of their own length."""
    if length is None:
        return dict(outputs)
    return {tensor.role: _shortened(outputs[tensor.role], tensor, length) for tensor in spec.outputs}


def _shortened(array: Array, tensor: TensorSpec, length: int) -> Array:
    if not tensor.free:
        return array
    places = (
        slice(None),
        *(slice(length) if axis in tensor.free else slice(None) for axis in range(len(tensor.shape))),
    )
    return np.ascontiguousarray(array[places])
