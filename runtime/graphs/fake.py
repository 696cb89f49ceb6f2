"""A backend without graphs, for tests: smooth, deterministic functions of each row, in the right shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.graphs import chance
from manifold.runtime.graphs.chance import Chance
from manifold.runtime.graphs.forms import Forms
from manifold.runtime.manifest import TaskSpec, TensorSpec

Array = NDArray[Any]
Graph = Callable[[Mapping[str, Array]], dict[str, Array]]


class FakeBackend:
    """A backend without graphs: smooth, deterministic functions of each row, in the right shapes. The whole stack can run without weights."""

    device: str = "cpu"
    note: str | None = None

    def open(self, task: TaskSpec, forms: Forms) -> tuple[Graph, int | None]:
        """Return the function that replaces a graph. It uses the form of the service."""

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            rows = len(next(iter(inputs.values())))
            phase = np.zeros(rows)
            for place, spec in enumerate(task.inputs):
                values = inputs[spec.graph_name].reshape(rows, -1).astype(np.float64)
                values = (
                    np.nan_to_num(values, nan=-0.75) if spec.missing else values
                )  # a missing value counts as one fixed value
                phase += (np.sin(np.arange(1, values.shape[1] + 1) * (place + 1)) * values).sum(axis=1)
            outputs = {}
            for place, output in enumerate(task.outputs):
                shape = _shape_of(output, task, inputs)
                waves = 0.5 + 0.5 * np.sin(phase[:, None] + np.arange(int(np.prod(shape))) * 0.1 + place)
                whole = np.rint(waves) if output.dtype == "int64" else waves
                outputs[output.graph_name] = whole.astype(output.dtype).reshape(rows, *shape)
            return outputs

        return run, None

    def chance(self, task: TaskSpec) -> Chance:
        """Return NONE: the fake draws no random numbers, and its rows do not influence each other."""
        return chance.NONE


def _shape_of(output: TensorSpec, task: TaskSpec, inputs: Mapping[str, Array]) -> tuple[int, ...]:
    """Return the shape of one item of an output. Its free axes have the length of the inputs."""
    if not output.free:
        return output.shape
    length = next(inputs[tensor.graph_name].shape[axis + 1] for tensor in task.inputs for axis in tensor.free or ())
    return tuple(length if axis in output.free else size for axis, size in enumerate(output.shape))
