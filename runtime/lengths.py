"""Variable lengths: inputs with a free axis are padded with zeros to a length in the task's buckets, and outputs are cut to their length.

So requests of different lengths need only a few shapes, and requests of one bucket can share a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue
from manifold.runtime.manifest import Manifest, TaskSpec, TensorSpec

if TYPE_CHECKING:
    from manifold.runtime.operations.steps import Steps

Array = NDArray[Any]
T = TypeVar("T")


def bucketed(manifest: Manifest, steps: Steps[T]) -> Steps[T]:
    """Return the same steps, with each run padded to a length in the buckets."""
    try:
        wanted = next(steps)
        while True:
            spec = manifest.tasks[wanted.task]
            length = of(spec, wanted.inputs)
            inputs = wanted.inputs if length is None else padded(spec, wanted.inputs, length)
            wanted = steps.send(cut(spec, (yield wanted._replace(inputs=inputs)), length))
    except StopIteration as finished:
        result: T = finished.value
        return result


def of(spec: TaskSpec, inputs: Mapping[str, Array]) -> int | None:
    """Return the length of the free axes of inputs; None if the task has no free axes. Raises InvalidValue if the lengths differ."""
    if spec.longest is None:
        return None
    stated: list[tuple[str, int]] = [
        (tensor.role, inputs[tensor.role].shape[axis + 1]) for tensor in spec.inputs for axis in tensor.free or ()
    ]
    if len({length for _, length in stated}) > 1:
        listed = ", ".join(f"{role} {length}" for role, length in stated)
        raise InvalidValue(
            f"inputs: the lengths differ ({listed}); give all inputs the same length", field=stated[0][0]
        )
    return stated[0][1]


def agreed(spec: TaskSpec, inputs: dict[str, Array], given: Collection[str] = ()) -> dict[str, Array]:
    """Return the inputs with generated noise cut to the length of the given inputs. So noise at a position does not depend on the length."""
    if spec.longest is None:
        return inputs
    drawn = {each.role for each in spec.inputs if each.source in ("normal", "uniform") and each.role not in given}
    stated = [tensor for tensor in spec.inputs if tensor.free and tensor.role not in drawn]
    if not stated:
        return inputs
    length = inputs[stated[0].role].shape[1 + (stated[0].free or (0,))[0]]
    return {
        tensor.role: _shortened(inputs[tensor.role], tensor, length) if tensor.role in drawn else inputs[tensor.role]
        for tensor in spec.inputs
    }


def bucket(spec: TaskSpec, length: int) -> int:
    """Return the smallest length in the buckets that is at least `length`."""
    return next(each for each in spec.lengths if each >= length)


def padded(spec: TaskSpec, inputs: Mapping[str, Array], length: int) -> dict[str, Array]:
    """Return the inputs with zeros appended to free axes, up to the length of their bucket."""
    missing = bucket(spec, length) - length
    return {tensor.role: _extended(inputs[tensor.role], tensor, missing) for tensor in spec.inputs}


def _extended(array: Array, tensor: TensorSpec, missing: int) -> Array:
    if not tensor.free or not missing:
        return array
    widths = [(0, 0), *((0, missing if axis in tensor.free else 0) for axis in range(len(tensor.shape)))]
    return np.pad(array, widths)


def cut(spec: TaskSpec, outputs: Mapping[str, Array], length: int | None) -> dict[str, Array]:
    """Return the outputs with their free axes cut to `length`."""
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
