"""What runs a graph: ONNX Runtime, TorchScript (the only importer of torch, and lazily), and a deterministic fake for tests.

A backend opens the graphs of one artifact on one device and gives, for each task, a function from arrays by graph name to arrays by
graph name. It checks nothing about values: the engine does.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.bound import BoundGraph
from runtime.errors import ArtifactError, Unavailable
from runtime.fixed_cost import has_fixed_cost
from runtime.manifest import Manifest, TaskSpec

Array = NDArray[Any]
Graph = Callable[[Mapping[str, Array]], dict[str, Array]]
DEVICES = ("auto", "cpu", "cuda")
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0",
}  # fmt: skip

PIECE = 64  # rows: a run of no more is never divided
PIECE_SECONDS = 0.1  # of a piece; graphs take up to 2 MB a millisecond

_loading = threading.Lock()  # concurrent session creation is reported racy (microsoft/onnxruntime#27089)


class Backend(Protocol):
    """The graphs of one artifact on one device."""

    device: str  # "cpu" or "cuda", where it really runs
    note: str | None  # what `auto` fell back from, and why

    def open(self, task: TaskSpec) -> Graph:
        """The function that runs a task. Raises ArtifactError where graph and manifest disagree."""
        ...


def open_backend(folder: Path, manifest: Manifest, device: str, threads: int) -> Backend:
    """The manifest's backend. Raises Unavailable where a package or the device is missing."""
    if manifest.backend == "fake":
        return FakeBackend()
    return (OnnxBackend if manifest.backend == "onnx" else TorchScriptBackend)(folder, device, threads)


def _onnxruntime() -> Any:
    """ONNX Runtime with its telemetry off: recent builds collect and upload unless told not to."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the module is first imported
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_ahead(folders: Iterable[Path]) -> None:
    """Imports what the artifacts in `folders` will run on, as far as it is installed: a program with an event loop does so before it
    starts, as importing torch holds the interpreter's lock for a quarter of a second."""
    _onnxruntime()
    if any(map(_holds_torchscript, folders)):
        with contextlib.suppress(ImportError):  # their models will say what is missing
            import torch  # noqa: F401


def _holds_torchscript(folder: Path) -> bool:
    try:
        return any(name.endswith(".pt") for name in os.listdir(folder))
    except OSError:  # its model will say why it cannot be read
        return False


class OnnxBackend:
    """ONNX Runtime."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        onnxruntime = _onnxruntime()
        self.folder, self.threads, self.device = folder, threads, device
        self.note: str | None = None
        if device != "cpu":
            reason = _cuda_missing(onnxruntime)
            if reason is None:
                self.device = "cuda"
                onnxruntime.preload_dlls()  # CUDA and cuDNN from PyPI's packages, where they are installed
            elif device == "cuda":
                raise Unavailable(f"device is cuda, but {reason}", expected=True, field="device")
            else:
                self.device, self.note = "cpu", f"on the CPU: {reason}"

    def open(self, task: TaskSpec) -> Graph:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many models share the cores
        path = self.folder / task.graph
        recorded = self.device == "cuda" and not task.is_sampler
        try:
            session = self._session(path, options, recorded)
        except ArtifactError:
            if not recorded:
                raise
            recorded, session = False, self._session(path, options, False)  # it has loops, or nodes that run on the CPU
        if self.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise Unavailable(
                f"{path.name}: ONNX Runtime fell back to {session.get_providers()[0]}; are the CUDA and cuDNN libraries installed?",
                expected=True,
                field="device",
            )
        _check_names(
            path.name,
            task,
            {tensor.name for tensor in session.get_inputs()},
            {tensor.name for tensor in session.get_outputs()},
        )
        if self.device == "cuda":
            plain = functools.partial(self._session, path, options, False) if recorded else None
            return BoundGraph(onnxruntime, session, task, "cuda", plain=plain)
        return OnnxGraph(
            session,
            [spec.graph_name for spec in task.outputs],
            fixed_cost=has_fixed_cost(path),
            divided=not task.is_sampler and PIECE % task.min_rows == 0,
        )

    def _session(self, path: Path, options: Any, recorded: bool) -> Any:
        onnxruntime = _onnxruntime()
        cuda = (
            "CUDAExecutionProvider",
            {**CUDA_OPTIONS, **({"enable_cuda_graph": "1"} if recorded else {})},
        )
        providers: list[Any] = [*([cuda] if self.device == "cuda" else []), "CPUExecutionProvider"]
        try:
            with _loading:
                return onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ArtifactError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error


class OnnxGraph:
    """A session of ONNX Runtime.

    Its memory arena keeps what the largest run has needed. So a large run is divided into pieces of about PIECE_SECONDS, which costs
    nothing, as larger ones are no faster; and the last piece gives the arena's memory back.
    """

    def __init__(self, session: Any, names: list[str], *, fixed_cost: bool = False, divided: bool = False) -> None:
        self.session, self.names = session, names
        self.fixed_cost = fixed_cost  # whether the shapes of its inputs bound its time
        self.divided = divided  # whether rows may be run in pieces: loops gain from running all of them at once
        self._row_seconds = math.inf  # that a row has taken, at best

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        if rows <= PIECE:
            return dict(zip(self.names, self.session.run(self.names, dict(inputs)), strict=True))
        if not self.divided:
            return self._run(inputs, shrink=True)
        pieces, stop = [], 0
        while stop < rows:
            start, stop = stop, min(stop + self._piece(), rows)
            piece = {name: array[start:stop] for name, array in inputs.items()}
            began = time.perf_counter()
            pieces.append(self._run(piece, shrink=start > 0 and stop == rows))
            self._row_seconds = min(self._row_seconds, (time.perf_counter() - began) / (stop - start))
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self.names}

    def _piece(self) -> int:
        """Return the rows of a piece, a multiple of PIECE."""
        return PIECE * max(1, int(PIECE_SECONDS / self._row_seconds / PIECE))

    def _run(self, inputs: Mapping[str, Array], *, shrink: bool) -> dict[str, Array]:
        options = _shrinking() if shrink else None
        return dict(zip(self.names, self.session.run(self.names, dict(inputs), options), strict=True))

    def trim(self, inputs: Mapping[str, Array]) -> None:
        """One run that gives back what larger ones before it have made the memory arena grow to."""
        self._run(inputs, shrink=True)


def _shrinking() -> Any:
    """Return options of a run after which the arena has no more memory than the run itself needed first."""
    options = _onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def cuda_missing() -> str | None:
    """Why CUDA cannot be had on this machine, or None."""
    return _cuda_missing(_onnxruntime())


def _cuda_missing(onnxruntime: Any) -> str | None:
    """Why CUDA cannot be had, or None."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this installation of ONNX Runtime has no CUDA: install the extra manifold[gpu] instead of manifold[cpu]"
    if not _cuda_device():
        return "there is no CUDA device or driver on this machine"
    return None


def _cuda_device() -> bool:
    import ctypes

    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _check_names(graph: str, task: TaskSpec, inputs: set[str], outputs: set[str]) -> None:
    for kind, specs, have in (("input", task.inputs, inputs), ("output", task.outputs, outputs)):
        for spec in specs:
            if spec.graph_name not in have:
                raise ArtifactError(
                    f"{graph}: has no {kind} {spec.graph_name!r} (role {spec.role!r}); it has {', '.join(sorted(have))}"
                )
    if missing := inputs - {spec.graph_name for spec in task.inputs}:
        raise ArtifactError(f"{graph}: the manifest does not fill its input(s) {', '.join(sorted(missing))}")


class TorchScriptBackend:
    """torch.jit archives; one file may hold several tasks as methods."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        try:
            import torch
        except ImportError:
            raise Unavailable(
                "TorchScript artifacts need torch: install the extra manifold[torch]", expected=True
            ) from None
        self.torch, self.folder = torch, folder
        self.note: str | None = None
        self.modules: dict[str, Any] = {}
        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        if device == "cuda" and self.device == "cpu":
            raise Unavailable("device is cuda, but torch sees no CUDA device", expected=True, field="device")
        if device == "auto" and self.device == "cpu":
            self.note = "on the CPU: torch sees no CUDA device"

    def open(self, task: TaskSpec) -> Graph:
        torch = self.torch
        if task.graph not in self.modules:
            try:
                self.modules[task.graph] = torch.jit.load(
                    str(self.folder / task.graph), map_location=self.device
                ).eval()
            except (RuntimeError, ValueError) as error:
                raise ArtifactError(f"{task.graph}: torch cannot load it: {error}") from error
        method = getattr(self.modules[task.graph], task.method or "forward", None)
        if method is None:
            raise ArtifactError(f"{task.graph}: has no method {task.method!r}")
        names = [spec.graph_name for spec in task.outputs]

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                outputs = method(
                    *(
                        torch.from_numpy(np.ascontiguousarray(inputs[spec.graph_name])).to(self.device)
                        for spec in task.inputs
                    )
                )
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if len(outputs) != len(names):
                raise ArtifactError(f"{task.graph}: gives {len(outputs)} outputs, the manifest names {len(names)}")
            return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

        return run


class FakeBackend:
    """Smooth, deterministic functions of each row's inputs in the right shapes: the whole stack runs without weights."""

    device: str = "cpu"
    note: str | None = None

    def open(self, task: TaskSpec) -> Graph:
        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            rows = len(next(iter(inputs.values())))
            phase = np.zeros(rows)
            for place, spec in enumerate(task.inputs):
                values = inputs[spec.graph_name].reshape(rows, -1).astype(np.float64)
                phase += (np.sin(np.arange(1, values.shape[1] + 1) * (place + 1)) * values).sum(axis=1)
            outputs = {}
            for place, output in enumerate(task.outputs):
                waves = 0.5 + 0.5 * np.sin(phase[:, None] + np.arange(int(np.prod(output.shape))) * 0.1 + place)
                whole = np.rint(waves) if output.dtype == "int64" else waves
                outputs[output.graph_name] = whole.astype(output.dtype).reshape(rows, *output.shape)
            return outputs

        return run
