"""The facts that a graph states: names, types and dimensions of its inputs and outputs; and the outputs of a trial run."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import GraphError, InvalidValue, shown
from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.backends import signature, trial
from manifold.runtime.manifest.graph_forms import GraphType

Array = NDArray[Any]
SUFFIXES = {
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
}
LARGEST = 2**27  # limit for the values of an input in a trial run
ROWS = 8  # number of rows of a trial run
SERVED = frozenset(get_args(GraphType))  # the types that conversions exist for


@dataclass(frozen=True)
class Seen:
    """An input or output of a graph. Dimensions are numbers where they are fixed; None stands for dimensions that are not known."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None

    @property
    def word(self) -> str:
        """The name without the scope before it, and without the number that TensorFlow appends, as z of model/z:0."""
        return re.sub(r":\d+$", "", self.name).rpartition("/")[2]

    @property
    def role(self) -> str:
        """The name with the characters that a role may have."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", self.name)[:64]

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
    unused: frozenset[str] = frozenset()  # inputs that no operator uses
    dropped: list[Seen] = field(default_factory=list)  # outputs of types that cannot be served

    @property
    def rows(self) -> int | None:
        """The fixed number of rows that the inputs with several axes have in common; None if there is none."""
        firsts = {seen.dims[0] for seen in self.inputs if seen.dims is not None and len(seen.dims) > 1}
        first = next(iter(firsts), None)
        return first if len(firsts) == 1 and isinstance(first, int) else None


Shapes = Mapping[
    str, tuple[str, tuple[int, ...] | None]
]  # types and shapes after the batch by name; None for a number without a batch


def read(path: Path, method: str | None = None, stated: Shapes | None = None, used: Collection[str] = ()) -> Foreign:
    """Read what the graph in a file states. `stated` gives types and shapes of inputs by name: for a script, and for axes without a fixed length. `used`
    are the names of further inputs that the user has stated.

    Raises InvalidValue for a file of another kind, and GraphError for a file that cannot be loaded.
    """
    backend = SUFFIXES.get(path.suffix.lower())
    check_file(path)
    if backend is None:
        raise InvalidValue(
            f"{path}: unknown suffix {shown(path.suffix)}; give an ONNX file (.onnx), a TorchScript archive (.pt) or an exported program (.pt2)",
            field="file",
        )
    if backend == "onnx":
        inputs, outputs = signature(path)
        content = onnx_file.read(path).graph
        seen = [Seen(name, kind, () if name in content.scalars else dims) for name, kind, dims in inputs]
        _check_types(path, seen)
        return Foreign(
            path, backend, [_fixed(each, (stated or {}).get(each.name)) for each in seen], [Seen(*each) for each in outputs],
            opset=onnx_file.opset(path), unused=frozenset(each.name for each in seen) - onnx_file.used(content),
        )  # fmt: skip
    from manifold.runtime.graphs.backends import arguments

    taken = arguments(path, method, {*(stated or {}), *used})
    known: dict[str, tuple[str, tuple[int, ...] | None]] = {
        name: (kind, None) for name, kind in taken.items() if kind is not None
    }
    known |= stated or {}
    if missing := [name for name in taken if name not in known]:
        raise InvalidValue(
            f"{path.name}: a TorchScript archive does not state the type and shape of its inputs {', '.join(missing)}; give --shape for each, such as "
            f"--shape {missing[0]}=float32[B,64]",
            field="shape",
        )
    seen = [
        Seen(name, kind, () if shape is None else ("B", *shape))
        for name, (kind, shape) in ((each, known[each]) for each in taken)
    ]
    _check_types(path, seen)
    return Foreign(path, backend, seen, [], method)


def check_file(path: Path) -> None:
    """Raise InvalidValue for a path that is no file, or a file that stands for another one."""
    if path.is_dir():
        raise InvalidValue(
            f"{path}: this is a folder; give the files of its graphs, such as {path}/model.onnx", field="file"
        )
    if not path.is_file():
        raise InvalidValue(f"{path}: there is no such file; check the path", field="file")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise InvalidValue(
            f"{path}: this is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`", field="file"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InvalidValue(f"{path}: this is a web page; download the file itself", field="file")
    if not start:
        raise InvalidValue(f"{path}: the file is empty", field="file")


def _check_types(path: Path, inputs: Sequence[Seen]) -> None:
    """Raise InvalidValue for an input of a type that cannot be served, such as texts."""
    for seen in inputs:
        if seen.dtype not in SERVED:
            what, advice = (
                (
                    "texts",
                    "remove the tokenizer from the graph, or give --columns FILE if the inputs are columns of a table",
                )
                if seen.dtype == "string"
                else (f"values of the type {seen.dtype}", "export it with another type, such as float32")
            )
            raise InvalidValue(
                f"{path.name}: input {seen} takes {what}, but Manifold gives graphs numbers only; {advice}",
                field=seen.name,
            )


def _fixed(seen: Seen, stated: tuple[str, tuple[int, ...] | None] | None) -> Seen:
    """Return an input with the stated shape of one item. Raises InvalidValue if it contradicts the graph."""
    if stated is None:
        return seen
    if stated[1] is None:
        raise InvalidValue(
            f"--shape: the input {seen} of the graph states its shape; remove it, or give that of one item",
            field="shape",
        )
    if stated[0] not in ("float32", seen.dtype):
        raise InvalidValue(
            f"--shape: the input {seen} of the graph is not {stated[0]}; leave out the type, such as --shape {seen.name}=64",
            field="shape",
        )
    dims = ("B", *stated[1])
    known = seen.dims if seen.dims is not None else ("B",) + (None,) * len(stated[1])
    if len(known) != len(dims) or any(
        isinstance(have, int) and have != size for have, size in zip(known[1:], dims[1:], strict=True)
    ):
        raise InvalidValue(
            f"--shape: the input {seen} of the graph cannot have the shape {list(stated[1])} after the batch; correct it",
            field="shape",
        )
    return Seen(seen.name, seen.dtype, (known[0], *stated[1]))


def run(graph: Foreign, examples: Mapping[str, Array]) -> None:
    """Run the graph on examples by name, and keep its outputs. Raises GraphError if it fails."""
    try:
        made = trial(graph.path, graph.backend, graph.method, examples)
    except GraphError as error:
        if "bfloat16" in error.message.lower():
            raise GraphError(
                f"{error.message}; convert the inputs and outputs to float32 or float16", graph=graph.path.name
            ) from error
        if graph.backend == "onnx":
            raise  # an ONNX graph states its number of rows
        raise GraphError(
            f"{error.message}; the trial run had {len_of(examples)} rows: if the graph was traced for a fixed number of rows, state it, such as --rows 1",
            graph=graph.path.name,
        ) from error
    graph.made = {name: array for name, array in made.items() if isinstance(array, np.ndarray)}
    if not made and graph.backend != "onnx":
        raise GraphError(
            f"{graph.path.name}: it returns no tensor, and no tuple or dictionary of tensors; nested ones cannot be served: return the tensors themselves",
            graph=graph.path.name,
        )
    graph.dropped = [seen for seen in graph.outputs if seen.name in made.keys() - graph.made.keys()]
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
    if math.prod(shape) > LARGEST:
        raise InvalidValue(
            f"input {seen}: {math.prod(shape):,} numbers are too many for a trial run; correct the graph",
            field=seen.name,
        )
    if value is not None:
        return np.broadcast_to(np.asarray(value, kind), shape).copy() if shape else np.asarray(value, kind)
    generator = np.random.Generator(np.random.Philox(seed))
    if kind.kind in "iu":
        values = generator.integers(0, high, shape)
        if values.size:
            values.flat[-1] = high - 1  # an index one past the end shows in any number of rows
        return values.astype(kind)
    if kind.kind == "b":
        return np.ones(shape, bool)
    return generator.standard_normal(shape).astype(kind)
