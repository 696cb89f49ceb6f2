"""The ONNX graphs of samplers with loops. Each step is a torch module that is exported separately; onnx.helper builds the loops around them.

Values are connected by name. A loop body can use the values of the graph around it, so a step's input `x` is the value with the name `x` in
its scope. A value that a loop carries from one turn to the next is the step's input `x` and its output `next_x`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from manifold.training.exporting import graphs


def export(
    module: nn.Module, inputs: Mapping[str, Any], outputs: Sequence[str], batch_axes: Mapping[str, int], rows: int = 1
) -> onnx.ModelProto:
    """Export one step. `batch_axes` is the batch dimension of each input, whose size is a multiple of `rows`.

    The tensors of an input that is a list are named NAME0, NAME1, and so on.
    """
    batch: Any = torch.export.Dim("batch", min=1, max=65536)
    batch = rows * batch if rows > 1 else batch
    shapes: list[Any] = []
    names: list[str] = []
    for name, given in inputs.items():
        listed = isinstance(given, list)
        names += [f"{name}{number}" for number in range(len(given))] if listed else [name]
        shapes.append([{} for _ in given] if listed else {batch_axes[name]: batch} if name in batch_axes else {})
    return graphs.to_onnx(module, tuple(inputs.values()), names, list(outputs), tuple(shapes))


def grid_sampler(steps: Mapping[str, onnx.ModelProto], height: int, width: int) -> onnx.ModelProto:
    """Build one graph: setup; for each row the row step, and for each column in it the pixel step; finish. An optional step `known` runs first.

    Inputs are uniforms, condition, temperature and those of `known`. Outputs are codes and data. The names are those of the steps in
    training.networks.sampler.
    """
    parts = {name: scoped(model, name) for name, model in steps.items()}
    kind = _kind(parts)
    outer = loop_body(
        "row", [*_row(parts), helper.make_node("Identity", ["next_prev_row"], ["finished_row"])],
        {"prev_row": ("next_prev_row", kind), "row_cache": ("next_row_cache", TensorProto.FLOAT), "v_cache": ("next_v_cache", TensorProto.FLOAT)},
        scanned=[("finished_row", kind)],
    )  # fmt: skip
    start = {name: f"first_{name}" for name in ("prev_row", "row_cache", "v_cache")}
    nodes = [
        *(parts["known"].node if "known" in parts else ()),
        *renamed(parts["setup"].node, start),
        helper.make_node(
            "Loop", ["height", "", *start.values()], ["last_row", "last_row_cache", "last_v_cache", "rows"], body=outer
        ),
        *parts["finish"].node,
    ]
    given = _given(parts)
    inputs = [given[name] for name in ("uniforms", "condition", "temperature", "given", "mask") if name in given]
    constants = _constants(height=height, width=width, zero=0)
    return assembled(
        steps, nodes, "sampler", inputs, list(parts["finish"].output), [*constants, *_initializers(parts.values())]
    )


def sequence(steps: Mapping[str, onnx.ModelProto], length: int, scanned: str, inputs: Sequence[str]) -> onnx.ModelProto:
    """Build one graph: before and setup; for each position the step; finish, which takes the `scanned` outputs of the steps as `values`.

    The names are those of the steps in training.networks.running. `inputs` are the names of the graph's inputs, which `before` takes.
    """
    parts = {name: scoped(model, name) for name, model in steps.items()}
    body = loop_body(
        "turn", [*parts["step"].node], {"state": ("next_state", TensorProto.FLOAT)}, scanned=[(scanned, TensorProto.FLOAT)]
    )  # fmt: skip
    nodes = [
        *parts["before"].node,
        *renamed(parts["setup"].node, {"state": "first_state"}),
        helper.make_node("Loop", ["length", "", "first_state"], ["last_state", "values"], body=body),
        *parts["finish"].node,
    ]
    given = {value.name: value for value in parts["before"].input}
    constants = [*_constants(length=length), *_initializers(parts.values())]
    return assembled(
        steps, nodes, "sequence", [given[name] for name in inputs], list(parts["finish"].output), constants
    )


def row_sampler(steps: Mapping[str, onnx.ModelProto], width: int) -> dict[str, onnx.ModelProto]:
    """Build the same sampler as three graphs (setup, row, finish), for a caller that runs it row by row (see `by_rows`)."""
    parts = {name: scoped(model, name) for name, model in steps.items()}
    names = ("row", "prev_row", "row_cache", "v_cache", "classes", "h_cache", "empty_column", "uniforms", "temperature")
    made = {value.name: value for part in parts.values() for value in part.output}
    known = {**made, **_given(parts)}
    values = made["prev_row"].type.tensor_type
    shape = ["batch", width, values.shape.dim[2].dim_value]
    row = helper.make_tensor_value_info("next_prev_row", values.elem_type, shape)
    model = assembled(
        steps, _row(parts), "row", [known[name] for name in names], [row, made["next_row_cache"], made["next_v_cache"]],
        [*_constants(width=width, zero=0), *_initializers((parts["row"], parts["pixel"]))],
    )  # fmt: skip
    return {"setup": steps["setup"], "row": model, "finish": steps["finish"]}


Run = Callable[[str, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]  # graph name and inputs to outputs
CACHES = {"row_cache": 1, "v_cache": 2, "classes": 1}  # batch dimension of each cache; it is 0 for other values


def by_rows(
    run: Run, inputs: Mapping[str, NDArray[Any]], height: int, keep: Callable[[int], NDArray[np.bool_]] | None = None
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Sample row by row with the graphs of `row_sampler`. Return codes, items and batch indices of the items that were kept to the end.

    After each row of the grid, `keep` is called with the row's index. It returns a mask (B,) of the items to continue; the others are dropped.
    """
    n = len(inputs["uniforms"])
    state = dict(run("setup", {name: inputs[name] for name in ("uniforms", "condition") if name in inputs}))
    state |= {name: inputs[name] for name in ("uniforms", "temperature")}
    left, rows = np.arange(n), []
    for row in range(height):
        after = run("row", {**state, "row": np.asarray(row, np.int64)})
        state |= {
            "prev_row": after["next_prev_row"],
            "row_cache": after["next_row_cache"],
            "v_cache": after["next_v_cache"],
        }
        rows.append(state["prev_row"])
        kept = np.ones(len(left), bool) if keep is None else keep(row)[left]
        if not kept.all():
            left, rows = left[kept], [one[kept] for one in rows]
            state = {name: np.compress(kept, value, axis=CACHES.get(name, 0)) for name, value in state.items()}
        if not len(left):
            break
    if not len(left):
        return np.zeros((0, height, rows[0].shape[1]), rows[0].dtype), np.zeros((0,)), left
    finished = run("finish", {"rows": np.stack(rows)})
    return finished["codes"], finished["data"], left


def _row(parts: Mapping[str, onnx.GraphProto]) -> list[onnx.NodeProto]:
    """Return the nodes of one row: its vertical step, and the loop over its columns."""
    kind = _kind(parts)
    inner = loop_body(
        "column", [*parts["pixel"].node],
        {"prev": ("value", kind), "column_cache": ("next_column_cache", TensorProto.FLOAT), "h_cache_in_row": ("next_h_cache", TensorProto.FLOAT)},
        scanned=[("value", kind)], rename={"h_cache": "h_cache_in_row"},
    )  # fmt: skip
    return [
        *parts["row"].node,
        # the first column has no left neighbour: `prev` may be any value, as it is masked there, and the caches are empty
        helper.make_node("Gather", ["prev_row", "zero"], ["any_value"], axis=1),
        helper.make_node("Loop", ["width", "", "any_value", "empty_column", "h_cache"], ["last_value", "last_cache", "last_h_cache", "values"], body=inner),
        helper.make_node("Transpose", ["values"], ["next_prev_row"], perm=[1, 0, 2]),
    ]  # fmt: skip


def _kind(parts: Mapping[str, onnx.GraphProto]) -> int:
    """Return the element type of the grid's values: int64 levels, or floats."""
    kind: int = next(value.type.tensor_type.elem_type for value in parts["setup"].output if value.name == "prev_row")
    return kind


def _given(parts: Mapping[str, onnx.GraphProto]) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for part in parts.values() for value in part.input}


def _constants(**values: int) -> list[onnx.TensorProto]:
    return [helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in values.items()]


def assembled(
    steps: Mapping[str, onnx.ModelProto], nodes: Sequence[onnx.NodeProto], name: str, inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto], initializers: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    opsets = {opset.domain: opset.version for model in steps.values() for opset in model.opset_import}
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    )
    model.ir_version = max(step.ir_version for step in steps.values())
    onnx.checker.check_model(model, full_check=True)
    return model


def scoped(model: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """Return the graph with a prefix on all inner names. Inputs and outputs keep their names."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names = {name for node in graph.node for name in (*node.input, *node.output)} | {
        tensor.name for tensor in graph.initializer
    }
    rename = {name: f"{prefix}/{name}" for name in names - kept}
    nodes = renamed(graph.node, rename)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        tensor.name = rename.get(tensor.name, tensor.name)
    for node in graph.node:
        node.ClearField("name")  # the names of its values say the same
    return graph


def renamed(nodes: Any, rename: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return copies of the nodes with their values renamed."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for names in (copy.input, copy.output):
            names[:] = [rename.get(name, name) for name in names]
        copies.append(copy)
    return copies


def loop_body(
    counter: str,
    nodes: Sequence[onnx.NodeProto],
    carried: Mapping[str, tuple[str, int]],
    scanned: Sequence[tuple[str, int]],
    rename: Mapping[str, str] | None = None,
) -> onnx.GraphProto:
    """Return a Loop body. `carried` maps an input name to its output name and element type. Shape inference finds the ranks."""
    going, still = f"{counter}_going", f"{counter}_still_going"
    body = [helper.make_node("Identity", [going], [still]), *renamed(nodes, rename or {})]
    scans = []
    for name, kind in scanned:  # one name cannot be both a carried and a scanned output
        body.append(helper.make_node("Identity", [name], [f"{name}_scanned"]))
        scans.append(helper.make_tensor_value_info(f"{name}_scanned", kind, None))
    inputs = [
        helper.make_tensor_value_info(counter, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
    ]
    inputs += [helper.make_tensor_value_info(name, kind, None) for name, (_, kind) in carried.items()]
    outputs = [helper.make_tensor_value_info(still, TensorProto.BOOL, [])]
    outputs += [helper.make_tensor_value_info(name, kind, None) for name, kind in carried.values()]
    return helper.make_graph(body, f"{counter}s", inputs, [*outputs, *scans])


def _initializers(parts: Any) -> list[onnx.TensorProto]:
    """Return all weights. They are placed in the main graph, so that every loop body can use them."""
    return [tensor for graph in parts for tensor in graph.initializer]
