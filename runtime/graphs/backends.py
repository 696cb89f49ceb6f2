"""The backends that run a graph: ONNX Runtime, TorchScript, and a deterministic fake for tests. Only this module imports torch, and lazily.

A backend opens the graphs of one artifact on one device. For each task it returns a function from input arrays to output arrays, both by their
names in the graph. It does not check values; the engine does. All errors of ONNX Runtime and torch become a GraphError.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import extras
from manifold.runtime.errors import GraphError, InvalidValue, Unavailable, cannot_run, reason, shown
from manifold.runtime.graphs import chance, onnx_file
from manifold.runtime.graphs.bound import BoundGraph
from manifold.runtime.graphs.chance import Chance
from manifold.runtime.graphs.fixed_cost import has_fixed_cost
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec, TensorSpec

Array = NDArray[Any]
LOG = logging.getLogger(__name__)
Graph = Callable[[Mapping[str, Array]], dict[str, Array]]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0",
}  # fmt: skip

MOST_ROWS = 64  # largest min_rows in a manifest
PIECE = 64  # runs of at most so many rows are not split
PIECE_SECONDS = 0.1  # intended duration of a piece; graphs allocate up to 2 MB per millisecond

_loading = threading.Lock()  # creating sessions concurrently is reported to have races (microsoft/onnxruntime#27089)


def known_device(given: object) -> Device:
    """Return the device. Raises InvalidValue for an unknown one."""
    for device in DEVICES:
        if device == given:
            return device
    raise InvalidValue(
        f"device: {shown(given)} is unknown; give one of {', '.join(DEVICES)}", field="device", valid=DEVICES
    )


class Backend(Protocol):
    """The graphs of one artifact on one device."""

    device: str  # "cpu" or "cuda": the device in use
    note: str | None  # why `auto` chose the CPU although the library supports CUDA

    def open(self, task: TaskSpec) -> Graph:
        """Return the function that runs a task. Raises GraphError if graph and manifest disagree."""
        ...

    def chance(self, task: TaskSpec) -> Chance:
        """Return the findings about operators that draw random numbers or mix rows. The task must have been opened."""
        ...


def open_backend(folder: Path, manifest: Manifest, device: str, threads: int) -> Backend:
    """Return the backend that the manifest names. Raises Unavailable if a package or the device is missing."""
    if manifest.backend == "fake":
        return FakeBackend()
    return (OnnxBackend if manifest.backend == "onnx" else TorchScriptBackend)(folder, device, threads)


def _onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry disabled: recent builds collect and upload data by default."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read at the first import
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_ahead(folders: Iterable[Path]) -> None:
    """Import the libraries that the artifacts in `folders` need, if they are installed.

    A program with an event loop calls it before the loop starts: importing torch blocks all threads for a quarter of a second.
    """
    _onnxruntime()
    if any(map(_holds_torchscript, folders)):
        with contextlib.suppress(ImportError):  # reported when the model is loaded
            import torch  # noqa: F401


def _holds_torchscript(folder: Path) -> bool:
    try:
        return any(name.endswith(".pt") for name in os.listdir(folder))
    except OSError:  # reported when the model is loaded
        return False


class OnnxBackend:
    """The backend for ONNX graphs, which run in ONNX Runtime."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        onnxruntime = _onnxruntime()
        self.folder, self.threads, self.device = folder, threads, device
        self.sessions: dict[str, Any] = {}  # those that tasks of one graph can share
        self.note: str | None = None
        if device != "cpu":
            missing = _cuda_missing(onnxruntime)
            if missing is None:
                self.device = "cuda"
                onnxruntime.preload_dlls()  # CUDA and cuDNN from PyPI packages, if they are installed
            elif device == "cuda":
                raise Unavailable(f"device: cuda was requested, but {missing}", expected=True, field="device")
            else:
                self.device = "cpu"
                if _has_cuda(onnxruntime):  # a build for the CPU does not fall back: it was installed for the CPU
                    self.note = f"running on the CPU: {missing}"

    def open(self, task: TaskSpec) -> Graph:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # only fatal errors; all others are raised as exceptions with the same text
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many models share the cores
        path = self.folder / task.graph
        recorded = self.device == "cuda" and not task.is_sampler
        try:
            session = self._session(path, options, recorded)
        except GraphError as error:
            if not recorded:
                raise
            LOG.info("%s; it runs without a CUDA graph", error.message)  # it has loops, or nodes that run on the CPU
            recorded, session = False, self._session(path, options, False)
        if self.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise Unavailable(
                f"{path.name}: ONNX Runtime fell back to {session.get_providers()[0]}; install the CUDA and cuDNN libraries",
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
        """Return the findings about the operators."""
        return chance.of_onnx(self.folder / task.graph, [spec.graph_name for spec in task.outputs])

    def _session(self, path: Path, options: Any, recorded: bool) -> Any:
        onnxruntime = _onnxruntime()
        cuda = (
            "CUDAExecutionProvider",
            {**CUDA_OPTIONS, **({"enable_cuda_graph": "1"} if recorded else {})},
        )
        providers: list[Any] = [*([cuda] if self.device == "cuda" else []), "CPUExecutionProvider"]
        if not recorded and path.name in self.sessions:  # another task of the same graph
            return self.sessions[path.name]
        try:
            with _loading:
                session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            if not recorded:  # a recorded CUDA graph belongs to one task
                self.sessions[path.name] = session
            return session
        except Exception as error:  # the errors of onnxruntime share no base class
            raise GraphError(
                f"{path.name}: ONNX Runtime cannot load the graph: {reason(error)}", graph=path.name
            ) from error


class OnnxGraph:
    """A session of ONNX Runtime.

    Its memory arena keeps the memory that the largest run needed. So a large run is split into pieces of about PIECE_SECONDS, and the last
    piece releases the memory of the arena. Splitting costs nothing, since larger pieces are not faster.
    """

    def __init__(
        self, graph: str, session: Any, names: list[str], *, fixed_cost: bool = False, divided: bool = False
    ) -> None:
        self.graph, self.session, self.names = graph, session, names
        self.fixed_cost = fixed_cost  # whether the run time depends only on the shapes of the inputs
        self.divided = divided  # whether rows may be run in pieces; graphs with loops are faster with all rows at once
        self._row_seconds = math.inf  # shortest time per row so far

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
        """Return the number of rows of a piece, a multiple of PIECE."""
        return PIECE * max(1, int(PIECE_SECONDS / self._row_seconds / PIECE))

    def _run(self, inputs: Mapping[str, Array], *, shrink: bool = False) -> dict[str, Array]:
        options = _shrinking() if shrink else None
        try:
            return dict(zip(self.names, self.session.run(self.names, dict(inputs), options), strict=True))
        except Exception as error:  # the errors of onnxruntime share no base class
            raise cannot_run(self.graph, "ONNX Runtime", error) from error

    def trim(self, inputs: Mapping[str, Array]) -> None:
        """Run the graph once and release the memory that earlier, larger runs have left in the arena."""
        self._run(inputs, shrink=True)


def _shrinking() -> Any:
    """Return options for a run after which the arena shrinks to its initial size."""
    options = _onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _guarded(name: str, graph: Graph) -> Graph:
    """Return the graph with all its errors converted to GraphError."""

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return graph(inputs)
        except Exception as error:  # the errors of onnxruntime share no base class
            raise cannot_run(name, "ONNX Runtime", error) from error

    return run


def cuda_missing() -> str | None:
    """Return why CUDA is not available on this machine; None if it is."""
    return _cuda_missing(_onnxruntime())


def _cuda_missing(onnxruntime: Any) -> str | None:
    """Return why CUDA is not available; None if it is."""
    if not _has_cuda(onnxruntime):
        return f"this installation of ONNX Runtime has no CUDA; install the extra gpu instead of cpu: {extras.command('gpu')}"
    if not _cuda_device():
        return "there is no CUDA device or driver on this machine"
    return None


def _has_cuda(onnxruntime: Any) -> bool:
    """Return whether this build of ONNX Runtime supports CUDA."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _cuda_device() -> bool:
    import ctypes

    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


# from ONNX Runtime's names of types to numpy's
TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool", "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def _check_session(path: Path, task: TaskSpec, session: Any) -> None:
    """Compare the inputs and outputs of the graph with the manifest. Raises GraphError with one line for each difference."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    _check_names(path.name, task, inputs, outputs)
    scalars = _scalars(path, task, inputs)
    problems: list[tuple[TensorSpec, str]] = []
    for spec in task.inputs:
        given = inputs[spec.graph_name]
        dims = [] if spec.graph_name in scalars else given.shape or None  # without a shape, any shape may fit
        problems += [(spec, line) for line in _input_problems(task, spec, _type(given.type), dims)]
    for output in task.outputs:  # shapes of outputs are only hints; ONNX Runtime does not enforce them
        if (kind := _type(outputs[output.graph_name].type)) != output.dtype:
            problems.append(
                (
                    output,
                    f"output {output.graph_name!r} is {kind} in the graph, but the manifest says {output.described}; make them equal",
                )
            )
    if problems:
        lines = "\n  ".join(line for _, line in problems)
        first = problems[0][0]
        raise GraphError(f"{path.name}: {lines}", graph=path.name, tensor=first.graph_name, expected=first.described)


def _scalars(path: Path, task: TaskSpec, inputs: Mapping[str, Any]) -> set[str]:
    """Return the inputs of rank 0. ONNX Runtime does not distinguish them from inputs without a shape."""
    if all(inputs[spec.graph_name].shape for spec in task.inputs):
        return set()
    return onnx_file.read(path).graph.scalars


def _type(name: str) -> str:
    """Return numpy's name of a type such as `tensor(float)`; other types are returned unchanged."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return TYPES.get(inner, name)


def _input_problems(task: TaskSpec, spec: InputSpec, kind: str, dims: list[int | str | None] | None) -> list[str]:
    """Return the problems of an input of the type `kind`. `dims` has a number for each fixed dimension; None stands for any shape."""
    fits = dims is None or (
        len(dims) == 1 + len(spec.shape)
        and all(not isinstance(have, int) or have == size for have, size in zip(dims[1:], spec.shape, strict=True))
    )
    fixed_axes = [axis for axis in spec.free or () if dims is not None and fits and isinstance(dims[axis + 1], int)]
    if fixed_axes and kind == spec.dtype:
        return [
            f"input {spec.graph_name!r} is {kind}{_shown(dims or [])} in the graph: axis {fixed_axes[0]} after the batch is fixed, but the "
            f"manifest says that it is free; export the graph with a dynamic axis, or remove `free`"
        ]
    if kind != spec.dtype or not fits:
        shape = "" if dims is None else _shown(dims)
        return [
            f"input {spec.graph_name!r} is {kind}{shape} in the graph, but the manifest says {spec.described} (without the batch); make them equal"
        ]
    rows = dims[0] if dims else None
    if isinstance(rows, int) and not task.min_rows == task.max_rows == rows:
        fixed = f"set min_rows {rows}, max_rows {rows}, or " if rows <= MOST_ROWS else ""
        first = "" if all(isinstance(dim, int) for dim in dims or []) else " as the first dimension"
        return [
            f"input {spec.graph_name!r} is {kind}{_shown(dims or [])} in the graph: the graph takes {rows} row{'s' * (rows != 1)} at a time: "
            f"{fixed}export it with a dynamic batch axis{first}"
        ]
    return []


def _shown(dims: list[int | str | None]) -> str:
    """Return dimensions as text, with names for the free ones."""
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
            f"{graph}: the input(s) {', '.join(sorted(missing))} are not in the manifest; add them to the inputs of the task",
            graph=graph,
            tensor=min(missing),
        )


class TorchScriptBackend:
    """The backend for torch.jit archives. One file may contain several tasks as methods."""

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
            raise Unavailable(
                "device: cuda was requested, but torch finds no CUDA device; use cpu or auto",
                expected=True,
                field="device",
            )
        if device == "auto" and self.device == "cpu" and torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
            self.note = "running on the CPU: torch finds no CUDA device"

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
            except Exception as error:  # scripts may raise any error
                raise cannot_run(task.graph, "torch", error) from error

        return run

    def chance(self, task: TaskSpec) -> Chance:
        """Return the findings about the operators."""
        return chance.of_torchscript(self._method(task))

    def _method(self, task: TaskSpec) -> Any:
        """Return the method of the archive that runs a task."""
        if task.graph not in self.modules:
            try:
                jit: Any = self.torch.jit  # untyped
                loaded = jit.load(str(self.folder / task.graph), map_location=self.device)
                self.modules[task.graph] = loaded.eval()
            except Exception as error:  # for other files, torch raises errors of many types
                raise GraphError(
                    f"{task.graph}: torch cannot load the graph: {reason(error)}", graph=task.graph
                ) from error
        name = task.method or "forward"
        method = getattr(self.modules[task.graph], name, None)
        if not hasattr(method, "inlined_graph"):
            raise GraphError(
                f"{task.graph}: has no method {name!r}; name an exported method of the module", graph=task.graph
            )
        return method

    def _arrays(self, task: TaskSpec, outputs: Any) -> dict[str, Array]:
        """Return the outputs of a method by graph name. Raises GraphError unless they are tensors, as many as in the manifest."""
        given = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        expected = ", ".join(spec.graph_name for spec in task.outputs)
        if wrong := [type(value).__name__ for value in given if not isinstance(value, self.torch.Tensor)]:
            raise GraphError(
                f"{task.graph}: {task.method or 'forward'} returns a {wrong[0]}; it must return a tensor, or a tuple of tensors in the order of "
                f"the manifest's outputs: {expected}",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        if len(given) != len(task.outputs):
            raise GraphError(
                f"{task.graph}: returns {len(given)} outputs, but the manifest names {len(task.outputs)} ({expected}); make them equal",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        return {spec.graph_name: output.cpu().numpy() for spec, output in zip(task.outputs, given, strict=True)}


class FakeBackend:
    """A backend without graphs: smooth, deterministic functions of each row, in the right shapes. The whole stack can run without weights."""

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
                )  # a missing value counts as one fixed value
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
        """Return NONE: the fake draws no random numbers, and its rows do not influence each other."""
        return chance.NONE


def _shape_of(output: TensorSpec, task: TaskSpec, inputs: Mapping[str, Array]) -> tuple[int, ...]:
    """Return the shape of one item of an output. Its free axes have the length of the inputs."""
    if not output.free:
        return output.shape
    length = next(inputs[tensor.graph_name].shape[axis + 1] for tensor in task.inputs for axis in tensor.free or ())
    return tuple(length if axis in output.free else size for axis, size in enumerate(output.shape))
