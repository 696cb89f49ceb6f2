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
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import extras
from manifold.runtime.errors import GraphError, InvalidValue, Unavailable, cannot_run, reason, shown
from manifold.runtime.graphs import agreement, chance
from manifold.runtime.graphs.bound import BoundGraph
from manifold.runtime.graphs.chance import Chance
from manifold.runtime.graphs.fixed_cost import has_fixed_cost
from manifold.runtime.graphs.forms import Forms
from manifold.runtime.manifest import Manifest, TaskSpec

Array = NDArray[Any]
LOG = logging.getLogger(__name__)
Graph = Callable[[Mapping[str, Array]], dict[str, Array]]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0",
}  # fmt: skip

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

    def open(self, task: TaskSpec, forms: Forms) -> tuple[Graph, int | None]:
        """Return the function that runs a task, and the number of rows that each run needs; None if any number is allowed.

        The function converts its inputs and outputs by `forms`. Raises GraphError if graph and manifest disagree.
        """
        ...

    def chance(self, task: TaskSpec) -> Chance:
        """Return the findings about operators that draw random numbers or mix rows. The task must have been opened."""
        ...


def open_backend(folder: Path, manifest: Manifest, device: str, threads: int) -> Backend:
    """Return the backend that the manifest names. Raises Unavailable if a package or the device is missing."""
    if manifest.backend == "fake":
        from manifold.runtime.graphs.fake import FakeBackend

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

    def open(self, task: TaskSpec, forms: Forms) -> tuple[Graph, int | None]:
        """Open the graph in a session of ONNX Runtime."""
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # only fatal errors; all others are raised as exceptions with the same text
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many models share the cores
        path = self.folder / task.graph
        recorded = self.device == "cuda" and not task.is_sampler and not forms.differ
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
        rows = agreement.check(path, task, forms, session)
        if self.device == "cuda" and not forms.differ and rows is None:
            plain = functools.partial(self._session, path, options, False) if recorded else None
            return _guarded(path.name, BoundGraph(onnxruntime, session, task, "cuda", plain=plain)), None
        graph = OnnxGraph(
            path.name,
            session,
            [spec.graph_name for spec in task.outputs],
            fixed_cost=has_fixed_cost(path),
            divided=not task.is_sampler and PIECE % task.min_rows == 0 and rows is None,
            forms=forms if forms.differ else None,
        )
        return graph, rows

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
        self,
        graph: str,
        session: Any,
        names: list[str],
        *,
        fixed_cost: bool = False,
        divided: bool = False,
        forms: Forms | None = None,
    ) -> None:
        self.graph, self.session, self.names = graph, session, names
        self.fixed_cost = fixed_cost  # whether the run time depends only on the shapes of the inputs
        self.divided = divided  # whether rows may be run in pieces; graphs with loops are faster with all rows at once
        self.forms = forms  # the conversions of inputs and outputs, if any tensor differs in the graph
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
        given = dict(inputs) if self.forms is None else self.forms.to_graph(inputs)
        try:
            outputs = dict(zip(self.names, self.session.run(self.names, given, options), strict=True))
        except Exception as error:  # the errors of onnxruntime share no base class
            raise cannot_run(self.graph, "ONNX Runtime", error) from error
        return outputs if self.forms is None else self.forms.from_graph(outputs)

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

    def open(self, task: TaskSpec, forms: Forms) -> tuple[Graph, int | None]:
        """Return the function that runs a method. A script does not state a number of rows."""
        torch, method = self.torch, self._method(task)
        names = _in_order(task, [argument.name for argument in method.schema.arguments][1:])

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            given = forms.to_graph(inputs)
            arrays = [np.require(given[name], requirements=["C", "W"]) for name in names]
            try:
                with torch.inference_mode(), torch.jit.optimized_execution(False):
                    outputs = method(*(torch.from_numpy(array).to(self.device) for array in arrays))
                return forms.from_graph(self._arrays(task, outputs))
            except GraphError:
                raise
            except Exception as error:  # scripts may raise any error
                raise cannot_run(task.graph, "torch", error) from error

        return run, None

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
                weights = "constants.pkl" in str(error)  # a pickled state dict, or a whole pickled module
                why = "it holds weights or a pickled module, but no graph; save torch.jit.script(model) or torch.jit.trace(model, example)"
                raise GraphError(
                    f"{task.graph}: torch cannot load the graph: {why if weights else reason(error)}", graph=task.graph
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
        if isinstance(outputs, Mapping):
            return self._named(task, outputs)
        given = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        expected = ", ".join(spec.graph_name for spec in task.outputs)
        if wrong := [type(value).__name__ for value in given if not isinstance(value, self.torch.Tensor)]:
            raise GraphError(
                f"{task.graph}: {task.method or 'forward'} returns a {wrong[0]}; it must return a tensor, or a tuple of tensors in the order of "
                f"the manifest's outputs: {expected}",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        numbered = {f"output{place}": each for place, each in enumerate(given)}
        if len(given) > 1 and all(spec.graph_name in numbered for spec in task.outputs):
            return self._named(task, numbered)
        if len(given) != len(task.outputs):
            raise GraphError(
                f"{task.graph}: returns {len(given)} outputs, but the manifest names {len(task.outputs)} ({expected}); make them equal",
                graph=task.graph, expected=expected,
            )  # fmt: skip
        return {spec.graph_name: output.cpu().numpy() for spec, output in zip(task.outputs, given, strict=True)}

    def _named(self, task: TaskSpec, outputs: Mapping[Any, Any]) -> dict[str, Array]:
        """Return the outputs of a method that returns a dictionary. Raises GraphError for a name that it lacks, or that is not a tensor."""
        for spec in task.outputs:
            if not isinstance(outputs.get(spec.graph_name), self.torch.Tensor):
                raise GraphError(
                    f"{task.graph}: {task.method or 'forward'} returns a dictionary without the tensor {spec.graph_name!r}; it has "
                    f"{', '.join(map(str, outputs))}; name one of them",
                    graph=task.graph, tensor=spec.graph_name, expected=spec.described,
                )  # fmt: skip
        return {spec.graph_name: outputs[spec.graph_name].cpu().numpy() for spec in task.outputs}


def _in_order(task: TaskSpec, arguments: list[str]) -> list[str]:
    """Return the names of inputs and constants in the order of a method's arguments; if names differ, in the order of the manifest."""
    names = [*(spec.graph_name for spec in task.inputs), *(task.constants or {})]
    return arguments if set(arguments) == set(names) else names


# --- graphs without a manifest ------------------------------------------------------------------------------------------------

Dims: TypeAlias = "tuple[int | str | None, ...]"


def signature(path: Path) -> tuple[list[tuple[str, str, Dims | None]], list[tuple[str, str, Dims | None]]]:
    """Return name, type and dimensions of the inputs and of the outputs of an ONNX graph. Raises GraphError if it cannot be loaded."""
    session = _plain_session(path)
    inputs, outputs = (
        [(each.name, agreement.type_of(each.type), tuple(each.shape) if each.shape else None) for each in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


SCALARS = {
    "FloatType": "float32",
    "IntType": "int64",
    "BoolType": "bool",
}  # the types of arguments that are single numbers


def arguments(path: Path, method: str | None, stated: Collection[str] = ()) -> dict[str, str | None]:
    """Return the arguments of a method of a TorchScript archive by name: the type of a single number, or None for a tensor.

    The last ones that have a default value and are not in `stated` are left out. Raises GraphError if the archive cannot be loaded.
    """
    found = list(_script(path, method).schema.arguments)[1:]
    while found and found[-1].has_default_value() and found[-1].name not in stated:
        found.pop()
    return {each.name: SCALARS.get(each.type.kind()) for each in found}


def trial(path: Path, backend: str, method: str | None, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph without a manifest on inputs by name. Return its outputs by name. Raises GraphError if it fails.

    The outputs of a script have the names of its dictionary, or output, or output0, output1 and so on.
    """
    if backend == "onnx":
        session = _plain_session(path)
        names = [each.name for each in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # the errors of onnxruntime share no base class
            raise cannot_run(path.name, "ONNX Runtime", error) from error
    called = _script(path, method)
    import torch

    try:
        with torch.inference_mode():
            made = called(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))
    except Exception as error:  # scripts may raise any error
        raise cannot_run(path.name, "torch", error) from error
    if not isinstance(made, Mapping):
        several = list(made) if isinstance(made, tuple | list) else [made]
        made = {"output" if len(several) == 1 else f"output{place}": each for place, each in enumerate(several)}
    try:
        return {str(name): each.numpy() for name, each in made.items() if isinstance(each, torch.Tensor)}
    except TypeError as error:  # a type that numpy does not have, such as bfloat16
        raise GraphError(
            f"{path.name}: an output cannot be served: {reason(error)}; convert it to float32", graph=path.name
        ) from error


def _plain_session(path: Path) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return OnnxBackend(path.parent, "cpu", 1)._session(path, options, False)


def _script(path: Path, method: str | None) -> Any:
    task = TaskSpec.model_construct(graph=path.name, method=method, inputs=(), outputs=())
    return TorchScriptBackend(path.parent, "cpu", 1)._method(task)
