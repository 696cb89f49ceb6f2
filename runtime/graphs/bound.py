"""Graphs on a GPU: fixed shapes, buffers that stay on the device, and CUDA graphs.

The rows of a run are padded to a power of two (a bucket), so that a graph sees a dozen shapes instead of hundreds. Each new shape costs a
search for kernels, and memory that is never released (microsoft/onnxruntime#19838, #22297). A bucket keeps its input and output buffers on
the device. Feed-forward graphs are recorded as CUDA graphs at their first run, one per bucket. ONNX Runtime cannot record graphs with loops;
these are opened without recording, and so is a graph whose recording fails, which is logged.

The device may also be the CPU, which the tests use. On CUDA this module is not verified.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import reason
from manifold.runtime.manifest import TaskSpec, TensorSpec

Array = NDArray[Any]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bucket:
    """The buffers for one number of rows, bound to a session."""

    binding: Any
    inputs: dict[str, Any]  # OrtValue by graph name
    outputs: dict[str, Any]
    options: Any  # RunOptions


class BoundGraph:
    """A session whose inputs and outputs are bound to buffers. Runs are serialised, since a session has only one stream of the device."""

    def __init__(
        self, library: Any, session: Any, task: TaskSpec, device: str, *, plain: Callable[[], Any] | None = None
    ) -> None:
        self.library = library  # onnxruntime, which only one module imports
        self.session, self.task, self.device = session, task, device
        self.plain = (
            plain  # opens a session without recording, for use if recording fails; None if this session does not record
        )
        self._buckets: dict[
            int | tuple[int, int], Bucket
        ] = {}  # by rows, or by rows and length if the task has free axes
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        size = 1 << (rows - 1).bit_length()
        with self._lock:
            try:
                return self._run(inputs, rows, size)
            except Exception as error:  # the errors of ONNX Runtime share no base class
                if self.plain is None:
                    raise
                LOG.warning(
                    "%s: recording it as a CUDA graph failed, so it runs unrecorded: %s", self.task.graph, reason(error)
                )
                self.session, self.plain = self.plain(), None
                self._buckets.clear()
                return self._run(inputs, rows, size)

    def _run(self, inputs: Mapping[str, Array], rows: int, size: int) -> dict[str, Array]:
        bucket = self._bucket(size, self._length(inputs))
        for name, value in bucket.inputs.items():
            value.update_inplace(_padded(inputs[name], size - rows))
        self.session.run_with_iobinding(bucket.binding, bucket.options)
        bucket.binding.synchronize_outputs()
        return {name: np.array(value.numpy()[:rows]) for name, value in bucket.outputs.items()}

    def _length(self, inputs: Mapping[str, Array]) -> int | None:
        """Return the length of the free axes; None if there are no free axes."""
        free = ((tensor, axis) for tensor in self.task.inputs for axis in tensor.free or ())
        return next((inputs[tensor.graph_name].shape[axis + 1] for tensor, axis in free), None)

    def _bucket(self, size: int, length: int | None) -> Bucket:
        key = size if length is None else (size, length)
        if key not in self._buckets:
            inputs, outputs = (self._buffers(specs, size, length) for specs in (self.task.inputs, self.task.outputs))
            binding = self.session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
            options = self.library.RunOptions()
            if self.plain is not None:  # this session records; the id 0 is reserved by ONNX Runtime
                options.add_run_config_entry("gpu_graph_id", str(len(self._buckets) + 1))
            self._buckets[key] = Bucket(binding, inputs, outputs, options)
        return self._buckets[key]

    def _buffers(self, specs: Sequence[TensorSpec], size: int, length: int | None) -> dict[str, Any]:
        make = self.library.OrtValue.ortvalue_from_shape_and_type
        return {
            spec.graph_name: make([size, *spec.sized(length)], np.dtype(spec.dtype).type, self.device, 0)
            for spec in specs
        }


def _padded(array: Array, padding: int) -> Array:
    whole = np.concatenate([array, array[-1:].repeat(padding, axis=0)]) if padding else array
    return np.ascontiguousarray(whole)
