"""The export of torch modules to graph files: ONNX by the dynamo exporter, TorchScript by tracing (scripting for loops)."""

from __future__ import annotations

import hashlib
import itertools
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper
from torch import Tensor, nn

from manifold.training.exporting.tasks import Task

Array = NDArray[Any]

OPSET = 20
WEIGHTS = "weights.bin"
INLINE_FLOATS = 64  # values; smaller weights stay in their graph, where they take less than a reference to the file
INLINE = 1024  # bytes; smaller tensors of other types, such as shapes, also stay, so that shape inference can use them
ALIGNMENT = 64


def to_onnx(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], dynamic_shapes: Any
) -> onnx.ModelProto:
    """Export the module as an ONNX model that contains its weights."""
    from manifold.training.exporting import (
        registry,  # it imports the exporter, which takes a second and which `_of_trace` does not need
    )

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    registry.share()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            module.eval(), arguments, input_names=list(inputs), output_names=list(outputs), dynamic_shapes=dynamic_shapes,
            opset_version=OPSET, dynamo=True, verbose=False, external_data=False,
        )  # fmt: skip
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with paths of this machine
        node.doc_string = ""
    del model.graph.value_info[:], model.graph.metadata_props[:]
    return model


def task_to_onnx(task: Task, examples: Sequence[Tensor]) -> onnx.ModelProto:
    """Export a task as a graph with a dynamic batch dimension."""
    if task.to_onnx is not None:
        model: onnx.ModelProto = task.to_onnx()
        return model
    if task.quick:
        return _of_trace(task, examples)
    batch = torch.export.Dim("batch", min=1, max=65536)
    shapes: Any = tuple({0: batch} for _ in examples)
    if any(
        parameter.kind.name == "VAR_POSITIONAL" for parameter in _parameters(task.module)
    ):  # forward(a, *rest): rest is one tuple
        positional = sum(parameter.kind.name != "VAR_POSITIONAL" for parameter in _parameters(task.module))
        if len(shapes) > positional:
            shapes = (*shapes[:positional], shapes[positional:])
    return to_onnx(
        task.module, tuple(examples), [spec.role for spec in task.inputs], [spec.role for spec in task.outputs], shapes
    )


def _of_trace(task: Task, examples: Sequence[Tensor]) -> onnx.ModelProto:
    """Export a task by the exporter that traces: it imports neither dynamo nor onnxscript, and records the operations of one call."""
    inputs, outputs = ([spec.role for spec in specs] for specs in (task.inputs, task.outputs))
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        path = Path(scratch) / "graph.onnx"
        warnings.simplefilter(
            "ignore"
        )  # they announce a future release, or Python numbers that the trace takes as constants
        torch.onnx.export(
            task.module.eval(), tuple(examples), path, input_names=inputs, output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        model = onnx.load_model(path)
    for node in model.graph.node:
        node.doc_string = ""
    return model


def _parameters(module: nn.Module) -> list[Any]:
    import inspect

    return list(inspect.signature(module.forward).parameters.values())


def save_onnx(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, str]:
    """Write `NAME.onnx` for each model, and equal models only once. Return the file of each model.

    Larger weights are written to one external-data file, and equal weights only once.

    Weights that are exact in half precision (see `Recipe.stored`) are stored as float16 and cast when the graph is loaded. If the exporter
    transposed a weight that another graph contains too, the weight is stored once and transposed when the graph is loaded.
    """
    stored = _Stored()
    for graph in _all_graphs(models):
        _halve(graph)
    every = _all_graphs(models)
    with (folder / WEIGHTS).open("wb") as weights:
        tensors = [tensor for graph in every for tensor in graph.initializer]
        # tensors with more dimensions first, as a matrix may be a transposed and flattened convolution
        for tensor in sorted(tensors, key=lambda tensor: -len(tensor.dims)):
            values = numpy_helper.to_array(tensor)
            if _is_large(values) and stored.find(values) is None:
                weights.write(b"\0" * (-weights.tell() % ALIGNMENT))
                stored.add(values, weights.tell())
                weights.write(values.tobytes())
        for graph in every:
            _refer(graph, stored)
    if not stored.whole:
        (folder / WEIGHTS).unlink()
    files: dict[bytes, str] = {}
    contents = {name: model.SerializeToString(deterministic=True) for name, model in models.items()}
    for name, content in contents.items():
        if content not in files:
            files[content] = f"{name}.onnx"
            (folder / files[content]).write_bytes(content)
    return {name: files[content] for name, content in contents.items()}


def _all_graphs(models: Mapping[str, onnx.ModelProto]) -> list[onnx.GraphProto]:
    """Return the graphs of all models. Inner graphs come first, since a change to the nodes of a graph replaces the graphs inside them."""
    return [graph for model in models.values() for graph in _graphs_of(model.graph)]


def _graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside the nodes of a graph, such as the bodies of loops, and then the graph itself."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs_of(attribute.g)
    yield graph


def _is_large(values: Array) -> bool:
    """Tell whether a tensor belongs in the file with the weights. Floats are counted, not their bytes, so that halving changes no answer."""
    return values.size >= INLINE_FLOATS if values.dtype.kind == "f" else values.nbytes >= INLINE


def _refer(graph: onnx.GraphProto, stored: _Stored) -> None:
    """Replace the larger weights of a graph by references to the file with the stored ones."""
    turns = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if not _is_large(values):
            continue
        place = stored.find(values)
        assert place is not None
        if place.axes is not None:
            turns += _turn(tensor, place)
        tensor.raw_data = values.tobytes()  # set_external_data needs raw tensors
        for kind in ("float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(kind)
        external_data_helper.set_external_data(tensor, WEIGHTS, place.offset, values.nbytes)
        tensor.ClearField("raw_data")
    _put_first(turns, graph)


@dataclass(frozen=True)
class _Place:
    """The position of a weight in the file. If it is transposed, also the stored shape and the order of the axes."""

    offset: int
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None


class _Stored:
    """The weights that are already written, by content, and by content for each permutation of their axes."""

    def __init__(self) -> None:
        self.whole: dict[bytes, _Place] = {}
        self.turned: dict[bytes, _Place] = {}

    def find(self, values: Array) -> _Place | None:
        """Return the position of a stored array, transposed or not; None if it is not stored."""
        key = _digest(values)
        return self.whole.get(key) or self.turned.get(key)

    def add(self, values: Array, offset: int) -> None:
        """Add an array that is stored at `offset`."""
        small = values.squeeze()
        for axes in itertools.permutations(range(small.ndim)):
            self.turned.setdefault(_digest(small.transpose(axes)), _Place(offset, small.shape, axes))
        self.whole[_digest(values)] = _Place(offset)


def _turn(tensor: onnx.TensorProto, place: _Place) -> list[onnx.NodeProto]:
    """Replace the initializer by the stored weight. Return the nodes that transpose it to its original form."""
    name, turned, shape = tensor.name, f"{tensor.name}.turned", f"{tensor.name}.shape"
    constant = onnx.helper.make_tensor(shape, onnx.TensorProto.INT64, [len(tensor.dims)], list(tensor.dims))
    tensor.name = f"{name}.stored"
    tensor.dims[:] = place.shape
    return [
        onnx.helper.make_node("Transpose", [tensor.name], [turned], perm=place.axes),
        onnx.helper.make_node("Constant", [], [shape], value=constant),
        onnx.helper.make_node("Reshape", [turned, shape], [name]),
    ]


def _digest(values: Array) -> bytes:
    return hashlib.sha256(values.dtype.str.encode() + values.tobytes()).digest()


def _put_first(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> None:
    every = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(every)


def _halve(graph: onnx.GraphProto) -> None:
    """Replace larger float32 initializers that are exact in half precision by float16 ones and a Cast, which the runtime folds."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not _is_large(values) or not np.array_equal(half.astype(np.float32), values):
            continue
        casts.append(onnx.helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.half"))
    _put_first(casts, graph)


def save_torchscript(tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Tensor]], path: Path) -> None:
    """Write all tasks as methods of one archive, in which shared weights are stored once. Loops are scripted, other tasks traced.

    The methods are defined as source code on a scripted container, because tracing a call to a scripted module breaks the alias analysis of
    torch 2.13.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but TorchScript is a supported format here
        jit: Any = torch.jit  # has no types
        box = nn.Module()
        for name, task in tasks.items():
            module = task.module.eval().requires_grad_(False)
            loops = task.to_onnx is not None and not task.traced
            compiled = jit.script(module) if loops else jit.trace(module, tuple(examples[name]), check_trace=False)
            box.add_module(f"{name}_task", compiled)
        archive = jit.script(box)
        for name, task in tasks.items():
            arguments = ", ".join(f"x{i}" for i in range(len(task.inputs)))
            archive.define(f"def {name}(self, {arguments}):\n    return self.{name}_task({arguments})\n")
        archive.save(str(path))
