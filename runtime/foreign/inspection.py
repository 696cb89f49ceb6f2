"""The facts that a graph states: names, types and dimensions of its inputs and outputs; and the outputs of a trial run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import GraphError, InvalidValue, shown
from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.backends import signature, trial

Array = NDArray[Any]
SUFFIXES = {
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
}
ROWS = 8  # number of rows of a trial run


@dataclass(frozen=True)
class Seen:
    """An input or output of a graph. Dimensions are numbers where they are fixed; None stands for dimensions that are not known."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "" if self.dims is None else f"[{', '.join('?' if dim is None else str(dim) for dim in self.dims)}]"
        return f"{self.name!r} {self.dtype}{dims}"


@dataclass
class Foreign:
    """A graph in a file."""

    path: Path
    backend: str
    inputs: list[Seen]
    outputs: list[Seen]
    method: str | None = None
    opset: int | None = None
    made: dict[str, Array] = field(default_factory=dict)  # the outputs of a trial run, by name


def read(
    path: Path, method: str | None = None, stated: Mapping[str, tuple[str, tuple[int, ...]]] | None = None
) -> Foreign:
    """Read what the graph in a file states. A script states no types and dimensions; `stated` gives those of its inputs by name.

    Raises InvalidValue for a file of another kind, and GraphError for a file that cannot be loaded.
    """
    backend = SUFFIXES.get(path.suffix.lower())
    if backend is None:
        raise InvalidValue(
            f"{path}: unknown suffix {shown(path.suffix)}; give an ONNX file (.onnx), a TorchScript archive (.pt) or an exported program (.pt2)",
            field="file",
        )
    if not path.is_file():
        raise InvalidValue(f"{path}: there is no such file; check the path", field="file")
    if backend == "onnx":
        inputs, outputs = signature(path)
        scalars = onnx_file.read(path).graph.scalars
        return Foreign(
            path, backend, [Seen(name, kind, () if name in scalars else dims) for name, kind, dims in inputs],
            [Seen(*each) for each in outputs], opset=onnx_file.opset(path),
        )  # fmt: skip
    from manifold.runtime.graphs.backends import arguments

    names = arguments(path, method)
    if missing := [name for name in names if name not in (stated or {})]:
        raise InvalidValue(
            f"{path.name}: a TorchScript archive does not state the type and shape of its inputs {', '.join(names)}; give --shape for each, such as "
            f"--shape {missing[0]}=float32[B,64]",
            field="shape",
        )
    seen = [Seen(name, kind, ("B", *shape)) for name, (kind, shape) in (stated or {}).items() if name in names]
    return Foreign(path, backend, seen, [], method)


def run(graph: Foreign, examples: Mapping[str, Array]) -> None:
    """Run the graph on examples by name, and keep its outputs. Raises GraphError if it fails."""
    graph.made = trial(graph.path, graph.backend, graph.method, examples)
    graph.outputs = [
        Seen(name, str(array.dtype), _with_batch(array.shape, len_of(examples))) for name, array in graph.made.items()
    ]


def len_of(examples: Mapping[str, Array]) -> int:
    """Return the number of rows of examples: the first dimension that is not 1, or 1."""
    return next((array.shape[0] for array in examples.values() if array.ndim and array.shape[0] != 1), 1)


def _with_batch(shape: tuple[int, ...], rows: int) -> tuple[int | str | None, ...]:
    """Return dimensions, with B for the first one that is the number of rows."""
    return ("B", *shape[1:]) if shape and shape[0] == rows else shape


def example(seen: Seen, rows: int, seed: int = 0, *, value: Any = None, high: int = 2) -> Array:
    """Return an example of an input: normal numbers, integers below `high`, or a stated value."""
    dims = seen.dims if seen.dims is not None else ("B",)
    free = [place for place, dim in enumerate(dims) if not isinstance(dim, int)]
    shape = [dim if isinstance(dim, int) else rows if place == free[0] else 1 for place, dim in enumerate(dims)]
    kind = np.dtype(seen.dtype)
    if value is not None:
        return np.broadcast_to(np.asarray(value, kind), shape).copy() if shape else np.asarray(value, kind)
    generator = np.random.Generator(np.random.Philox(seed))
    if kind.kind in "iu":
        return generator.integers(0, high, shape).astype(kind)
    if kind.kind == "b":
        return np.ones(shape, bool)
    if kind.kind != "f":
        raise GraphError(
            f"input {seen}: values of the type {seen.dtype} cannot be served; convert texts to numbers before the graph"
        )
    return generator.standard_normal(shape).astype(kind)


def count(dims: tuple[int | str | None, ...] | None) -> int | None:
    """Return the number of values of one item; None if a dimension is not fixed."""
    if dims is None or any(not isinstance(dim, int) for dim in dims[1:]):
        return None
    return math.prod(dim for dim in dims[1:] if isinstance(dim, int))
