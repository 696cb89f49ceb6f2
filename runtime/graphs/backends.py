"""The libraries that run a graph: ONNX Runtime, TorchScript (the only importer of torch, and lazily), and a deterministic fake for tests.

A backend opens the graphs of one artifact on one device and gives, for each task, a function from arrays by graph name to arrays by
graph name. It checks nothing about values: the engine does. Whatever ONNX Runtime or torch raises leaves it as a GraphError.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import extras
from manifold.runtime.errors import GraphError, Unavailable, cannot_run, reason, shown
from manifold.runtime.graphs import chance, onnx_file
from manifold.runtime.graphs.bound import BoundGraph
from manifold.runtime.graphs.chance import Chance
from manifold.runtime.graphs.fixed_cost import has_fixed_cost
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec, TensorSpec

Array = NDArray[Any]
Graph = Callable[[Mapping[str, Array]], dict[str, Array]]
DEVICES = ("auto", "cpu", "cuda")
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0",
}  # fmt: skip

MOST_ROWS = 64  # that a manifest may name as min_rows
PIECE = 64  # rows: a run of no more is never divided
PIECE_SECONDS = 0.1  # of a piece; graphs take up to 2 MB a millisecond

_loading = threading.Lock()  # concurrent session creation is reported racy (microsoft/onnxruntime#27089)


class Backend(Protocol):
    """The graphs of one artifact on one device."""

    device: str  # "cpu" or "cuda", where it really runs
    note: str | None  # what `auto` fell back from, and why

    def open(self, task: TaskSpec) -> Graph:
        """Return the function that runs a task. Raises GraphError if graph and manifest disagree."""
        ...

    def chance(self, task: TaskSpec) -> Chance:
        """Return what the operators of a task that has been opened say of random numbers and of rows that influence each other."""
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
        options.log_severity_level = 4  # fatal errors: all others are raised, with the same text
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many models share the cores
        path = self.folder / task.graph
        recorded = self.device == "cuda" and not task.is_sampler
        try:
            session = self._session(path, options, recorded)
        except GraphError:
            if not recorded:
                raise
            recorded, session = False, self._session(path, options, False)  # it has loops, or nodes that run on the CPU
        if self.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise Unavailable(
                f"{path.name}: ONNX Runtime fell back to {session.get_providers()[0]}; are the CUDA and cuDNN libraries installed?",
                expected=True,
                field="device",
            )
        _check_session(path, task, session)
        if self.device == "cuda":
            plain = functools.partial(self._session, path, options, False) if recorded else None
            return _guarded(path.name, BoundGraph(onnxruntime, session, task, "cuda", plain=plain))
        return OnnxGraph(
            path.name,
            session,
            [spec.graph_name for spec in task.outputs],
            fixed_cost=has_fixed_cost(path),
            divided=not task.is_sampler and PIECE % task.min_rows == 0,
        )

    def chance(self, task: TaskSpec) -> Chance:
        """Return what the operators say."""
        return chance.of_onnx(self.folder / task.graph, [spec.graph_name for spec in task.outputs])

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
            raise GraphError(f"{path.name}: ONNX Runtime cannot load it: {reason(error)}", graph=path.name) from error


class OnnxGraph:
    """A session of ONNX Runtime.

    Its memory arena keeps what the largest run has needed. So a large run is divided into pieces of about PIECE_SECONDS, which costs
    nothing, as larger ones are no faster; and the last piece gives the arena's memory back.
    """

    def __init__(
        self, graph: str, session: Any, names: list[str], *, fixed_cost: bool = False, divided: bool = False
    ) -> None:
        self.graph, self.session, self.names = graph, session, names
        self.fixed_cost = fixed_cost  # whether the shapes of its inputs bound its time
        self.divided = divided  # whether rows may be run in pieces: loops gain from running all of them at once
        self._row_seconds = math.inf  # that a row has taken, at best

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        if rows <= PIECE:
            return self._run(inputs)
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

    def _run(self, inputs: Mapping[str, Array], *, shrink: bool = False) -> dict[str, Array]:
        options = _shrinking() if shrink else None
        try:
            return dict(zip(self.names, self.session.run(self.names, dict(inputs), options), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise cannot_run(self.graph, "ONNX Runtime", error) from error

    def trim(self, inputs: Mapping[str, Array]) -> None:
        """One run that gives back what larger ones before it have made the memory arena grow to."""
        self._run(inputs, shrink=True)


def _shrinking() -> Any:
    """Return options of a run after which the arena has no more memory than the run itself needed first."""
    options = _onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _guarded(name: str, graph: Graph) -> Graph:
    """Return the graph with its errors turned into GraphErrors."""

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return graph(inputs)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise cannot_run(name, "ONNX Runtime", error) from error

    return run


def cuda_missing() -> str | None:
    """Return why CUDA is not available on this machine; None if it is."""
    return _cuda_missing(_onnxruntime())


def _cuda_missing(onnxruntime: Any) -> str | None:
    """Return why CUDA is not available; None if it is."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"this installation of ONNX Runtime has no CUDA; install the extra gpu instead of cpu: {extras.command('gpu')}"
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


# what ONNX Runtime calls the types of numbers
TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool", "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def _check_session(path: Path, task: TaskSpec, session: Any) -> None:
    """Compare the graph's inputs and outputs with the manifest. Raises GraphError with one line for each that differs."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    _check_names(path.name, task, inputs, outputs)
    scalars = _scalars(path, task, inputs)
    problems: list[tuple[TensorSpec, str]] = []
    for spec in task.inputs:
        given = inputs[spec.graph_name]
        dims = [] if spec.graph_name in scalars else given.shape or None  # no shape at all may be any
        problems += [(spec, line) for line in _input_problems(task, spec, _type(given.type), dims)]
    for output in task.outputs:  # shapes of outputs are only hints, which ONNX Runtime does not hold a graph to
        if (kind := _type(outputs[output.graph_name].type)) != output.dtype:
            problems.append(
                (output, f"output {output.graph_name!r} is {kind} in the graph, the manifest says {output.described}")
            )
    if problems:
        lines = "\n  ".join(line for _, line in problems)
        first = problems[0][0]
        raise GraphError(f"{path.name}: {lines}", graph=path.name, tensor=first.graph_name, expected=first.described)


def _scalars(path: Path, task: TaskSpec, inputs: Mapping[str, Any]) -> set[str]:
    """Return the inputs of rank 0. ONNX Runtime says of them what it says of those without a shape."""
    if all(inputs[spec.graph_name].shape for spec in task.inputs):
        return set()
    return onnx_file.read(path).graph.scalars


def _type(name: str) -> str:
    """Return numpy's name of a type such as `tensor(float)`, and any other type as it is."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return TYPES.get(inner, name)


def _input_problems(task: TaskSpec, spec: InputSpec, kind: str, dims: list[int | str | None] | None) -> list[str]:
    """Return what is wrong with an input of the type `kind`. `dims` holds a number for each fixed dimension; it is None for any shape."""
    fits = dims is None or (
        len(dims) == 1 + len(spec.shape)
        and all(not isinstance(have, int) or have == size for have, size in zip(dims[1:], spec.shape, strict=True))
    )
    fixed_axes = [axis for axis in spec.free or () if dims is not None and fits and isinstance(dims[axis + 1], int)]
    if fixed_axes and kind == spec.dtype:
        return [
            f"input {spec.graph_name!r} is {kind}{_shown(dims or [])} in the graph, whose axis {fixed_axes[0]} after the batch is fixed, but the "
            f"manifest says that it is free; export it with a dynamic axis, or leave `free` out"
        ]
    if kind != spec.dtype or not fits:
        shape = "" if dims is None else _shown(dims)
        return [
            f"input {spec.graph_name!r} is {kind}{shape} in the graph, the manifest says {spec.described} (without the batch)"
        ]
    rows = dims[0] if dims else None
    if isinstance(rows, int) and not task.min_rows == task.max_rows == rows:
        fixed = f"set min_rows {rows}, max_rows {rows}, or " if rows <= MOST_ROWS else ""
        first = "" if all(isinstance(dim, int) for dim in dims or []) else "; the batch must be its first dimension"
        return [
            f"input {spec.graph_name!r} is {kind}{_shown(dims or [])} in the graph: the graph takes {rows} row{'s' * (rows != 1)} at a time: "
            f"{fixed}export it with a free batch{first}"
        ]
    return []


def _shown(dims: list[int | str | None]) -> str:
    """Return dimensions as text, the free ones by their names."""
    names = ["B", *"?" * len(dims)]
    return f"[{', '.join(str(name if dim is None else dim) for dim, name in zip(dims, names, strict=False))}]"


def _check_names(graph: str, task: TaskSpec, inputs: Collection[str], outputs: Collection[str]) -> None:
    kinds: tuple[tuple[str, Sequence[TensorSpec], Collection[str]], ...] = (
        ("input", task.inputs, inputs), ("output", task.outputs, outputs),
    )  # fmt: skip
    for kind, specs, have in kinds:
        for spec in specs:
            if spec.graph_name not in have:
                raise GraphError(
                    f"{graph}: has no {kind} {shown(spec.graph_name)} (role {shown(spec.role)}); it has {', '.join(sorted(have))}",
                    graph=graph, tensor=spec.graph_name, expected=spec.described,
                )  # fmt: skip
    if missing := set(inputs) - {spec.graph_name for spec in task.inputs}:
        raise GraphError(
            f"{graph}: the manifest does not fill its input(s) {', '.join(sorted(missing))}",
            graph=graph,
            tensor=min(missing),
        )


class TorchScriptBackend:
    """torch.jit archives; one file may hold several tasks as methods."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        try:
            import torch
        except ImportError:
            raise Unavailable(f"TorchScript artifacts need torch: {extras.advice('torch')}", expected=True) from None
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
        """Return the function that runs a method."""
        torch, method = self.torch, self._method(task)

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            try:
                with torch.inference_mode(), torch.jit.optimized_execution(False):
                    outputs = method(
                        *(
                            torch.from_numpy(np.require(inputs[spec.graph_name], requirements=["C", "W"])).to(
                                self.device
                            )
                            for spec in task.inputs
                        )
                    )
                return self._arrays(task, outputs)
            except GraphError:
                raise
            except Exception as error:  # scripts may raise what they like
                raise cannot_run(task.graph, "torch", error) from error

        return run

    def chance(self, task: TaskSpec) -> Chance:
        """Return what the operators say."""
        return chance.of_torchscript(self._method(task))

    def _method(self, task: TaskSpec) -> Any:
        """Return the method of the archive that runs a task."""
        if task.graph not in self.modules:
            try:
                jit: Any = self.torch.jit  # untyped
                loaded = jit.load(str(self.folder / task.graph), map_location=self.device)
                self.modules[task.graph] = loaded.eval()
            except Exception as error:  # torch raises errors of many kinds for files that are none of its own
                raise GraphError(f"{task.graph}: torch cannot load it: {reason(error)}", graph=task.graph) from error
        name = task.method or "forward"
        method = getattr(self.modules[task.graph], name, None)
        if not hasattr(method, "inlined_graph"):
            raise GraphError(f"{task.graph}: has no method {name!r}", graph=task.graph)
        return method

    def _arrays(self, task: TaskSpec, outputs: Any) -> dict[str, Array]:
        """Return a method's outputs by graph name. Raises GraphError for anything but tensors, as many as the manifest names."""
        given = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        expected = ", ".join(spec.graph_name for spec in task.outputs)
        if wrong := [type(value).__name__ for value in given if not isinstance(value, self.torch.Tensor)]:
            raise GraphError(
                f"{task.graph}: {task.method or 'forward'} gives a {wrong[0]}; it must give a tensor, or a tuple of tensors in the order of "
                f"the manifest's outputs: {expected}",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        if len(given) != len(task.outputs):
            raise GraphError(
                f"{task.graph}: gives {len(given)} outputs, the manifest names {len(task.outputs)}: {expected}",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        return {spec.graph_name: output.cpu().numpy() for spec, output in zip(task.outputs, given, strict=True)}


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
                values = (
                    np.nan_to_num(values, nan=-0.75) if spec.missing else values
                )  # missing is like a value of its own
                phase += (np.sin(np.arange(1, values.shape[1] + 1) * (place + 1)) * values).sum(axis=1)
            outputs = {}
            for place, output in enumerate(task.outputs):
                shape = _shape_of(output, task, inputs)
                waves = 0.5 + 0.5 * np.sin(phase[:, None] + np.arange(int(np.prod(shape))) * 0.1 + place)
                whole = np.rint(waves) if output.dtype == "int64" else waves
                outputs[output.graph_name] = whole.astype(output.dtype).reshape(rows, *shape)
            return outputs

        return run

    def chance(self, task: TaskSpec) -> Chance:
        """Return NONE: the fake draws nothing, and its rows do not influence each other."""
        return chance.NONE


def _shape_of(output: TensorSpec, task: TaskSpec, inputs: Mapping[str, Array]) -> tuple[int, ...]:
    """Return the shape of one item of an output, whose free axes have the length of the inputs'."""
    if not output.free:
        return output.shape
    length = next(inputs[tensor.graph_name].shape[axis + 1] for tensor in task.inputs for axis in tensor.free or ())
    return tuple(length if axis in output.free else size for axis, size in enumerate(output.shape))
