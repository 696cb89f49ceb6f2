"""The ONNX graph of a solver of the family `flow`: one Loop around one copy of the network (see networks.solving.Loop for its torch form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from manifold.training.exporting import loops
from manifold.training.networks.paths import LOOP_COLUMNS

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Node = onnx.NodeProto


class Graph:
    """The nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node. Return its first output."""
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), **attributes))
        return outputs[0]

    def constant(self, name: str, values: Any, dtype: Any = np.int64) -> str:
        """Add a constant. Return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


@dataclass(frozen=True)
class Plan:
    """The parts of a solver's graph. `draws` is the number of normal draws of an ancestral solver; 0: it has no such input."""

    shape: tuple[int, ...]
    classes: int
    backwards: bool
    guided: bool
    clips: bool
    draws: int
    known: bool  # whether known pixels are kept, which are given by data and mask


def solver(
    network: onnx.ModelProto, tables: NDArray[np.float32], counts: Sequence[int], steps: Sequence[int], plan: Plan
) -> onnx.ModelProto:
    """Build the graph of a solver.

    The network maps x (N, C, H, W), time (N,) and, if there are classes, condition (N, K) to prediction (N, C, H, W). The inputs of the graph
    are latent (or, backwards, data) and, where they apply, condition, guidance, steps, draws, data and mask. Its output is data, or latent.
    Images are in [0, 1] outside of the graph.
    """
    net, g, shape = loops.scoped(network, "network"), Graph(), plan.shape
    for name, values in {
        "one": [1], "two": [2], "items_shape": [-1, *shape], "ones": [1] * (len(shape) + 1), "per_item": [-1, *[1] * len(shape)],
        "first_place": 0, "last_place": -1, "zero_at": [0], "counts": counts, "offered": steps,
    }.items():  # fmt: skip
        g.constant(name, values)
    for name, number in {"unit": 1.0, "half": 0.5, "nought": 0.0, "doubled": 2.0, "lowest": -1.0}.items():
        g.constant(name, number, np.float32)
    g.constant("tables", tables, np.float32)
    # the table for the number of steps
    g.node("Gather", ["steps", "first_place"], "wanted", axis=0)
    g.node("Equal", ["offered", "wanted"], "is_wanted")
    g.node("Cast", ["is_wanted"], "is_wanted_number", to=INT)
    g.node("ArgMax", ["is_wanted_number"], "option", axis=0, keepdims=0)
    g.node("Gather", ["tables", "option"], "table", axis=0)
    g.node("Gather", ["counts", "option"], "turns", axis=0)
    _conditions(g, plan)
    if plan.backwards:
        g.node("Mul", ["data", "doubled"], "scaled_up")
        g.node("Sub", ["scaled_up", "unit"], "first_point")
    else:
        g.node("Identity", ["latent"], "first_point")
    g.node("Mul", ["first_point", "nought"], "first_before")
    if plan.known:
        g.node("Mul", ["data", "doubled"], "given_up")
        g.node("Sub", ["given_up", "unit"], "given_x")
        g.node("Greater", ["mask", "nought"], "is_known")
    body = _body(net, plan)
    # ONNX Runtime only optimises convolutions whose weights are in their own graph
    body.initializer.extend(net.initializer)
    carried = ["turns", "", "first_point", "first_point", "first_before"]
    g.node("Loop", carried, "last_point", "last_base", "last_before", body=body)
    if plan.backwards:
        g.node("Identity", ["last_point"], "encoded")
    else:
        g.node("Add", ["last_point", "unit"], "moved")
        g.node("Mul", ["moved", "half"], "unclipped")
        g.node("Clip", ["unclipped", "nought", "unit"], "clipped")
        g.node(
            *(("Where", ["is_known", "data", "clipped"], "made") if plan.known else ("Identity", ["clipped"], "made"))
        )
    made = _info("encoded" if plan.backwards else "made", shape)
    used = {name for node in (*g.nodes, *body.node) for name in node.input}
    constants = [tensor for tensor in g.constants if tensor.name in used]
    return loops.assembled({"network": network}, g.nodes, "solver", _inputs(plan), [made], constants)


def _inputs(plan: Plan) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a solver's graph."""
    inputs = [_info("data" if plan.backwards else "latent", plan.shape), *_condition(plan.classes)]
    if plan.guided:
        inputs.append(helper.make_tensor_value_info("guidance", FLOAT, ["batch"]))
    inputs.append(helper.make_tensor_value_info("steps", INT, ["batch"]))
    if plan.draws:
        inputs.append(_info("draws", (plan.draws, *plan.shape)))
    if plan.known:
        inputs += [_info("data", plan.shape), _info("mask", (1, *plan.shape[1:]))]
    return inputs


def _conditions(g: Graph, plan: Plan) -> None:
    """Add the number of copies of each item in a run of the network, 1 or with guidance 2, and the network's conditions."""
    if plan.guided:
        g.constant("by_class", [1])
        g.node("ReduceSum", ["condition", "by_class"], "weight", keepdims=0)
        g.node("Greater", ["weight", "nought"], "has_class")  # without a class both predictions are the same
        g.node("Where", ["has_class", "guidance", "unit"], "strength")
        g.node("Equal", ["strength", "unit"], "is_plain")
        g.node("Cast", ["is_plain"], "is_plain_number", to=INT)
        g.node("ReduceMin", ["is_plain_number"], "all_plain", keepdims=1)
        g.node("Sub", ["two", "all_plain"], "copies")
        g.node("Sub", ["strength", "unit"], "excess_flat")
        g.node("Reshape", ["excess_flat", "per_item"], "excess")
        g.constant("classes_shape", [-1, plan.classes])
        g.node("Unsqueeze", ["condition", "zero_at"], "condition_once")
        g.node("Mul", ["condition_once", "nought"], "no_class")
        g.node("Concat", ["condition_once", "no_class"], "condition_twice", axis=0)
        g.node("Slice", ["condition_twice", "zero_at", "copies", "zero_at"], "condition_copies")
        g.node("Reshape", ["condition_copies", "classes_shape"], "network_condition")
    elif plan.classes:
        g.node("Identity", ["condition"], "network_condition")


def _body(net: onnx.GraphProto, plan: Plan) -> onnx.GraphProto:
    """Return the body of the loop: one row of the table (see networks.paths)."""
    b = Graph()
    b.node("Gather", ["table", "turn"], "row", axis=0)
    b.node("Split", ["row"], *(f"at_{name}" for name in LOOP_COLUMNS), axis=0, num_outputs=len(LOOP_COLUMNS))
    if plan.guided:
        b.node("Unsqueeze", ["point", "zero_at"], "x_unit")
        b.node("Concat", ["copies", "ones"], "copies_shape", axis=0)
        b.node("Expand", ["x_unit", "copies_shape"], "x_copies")
        b.node("Reshape", ["x_copies", "items_shape"], "network_x")
    else:
        b.node("Identity", ["point"], "network_x")
    b.node("Shape", ["network_x"], "network_items", start=0, end=1)
    b.node("Expand", ["at_time", "network_items"], "network_time")
    rename = {"x": "network_x", "time": "network_time", "condition": "network_condition"}
    b.nodes += loops.renamed(net.node, rename)
    if plan.guided:
        b.node("Concat", ["copies", "items_shape"], "pair_shape", axis=0)
        b.node("Reshape", ["prediction", "pair_shape"], "pair")
        b.node("Gather", ["pair", "first_place"], "with_class", axis=0)
        b.node("Gather", ["pair", "last_place"], "without_class", axis=0)
        b.node("Sub", ["with_class", "without_class"], "difference")
        b.node("Mul", ["excess", "difference"], "extra")
        b.node("Add", ["with_class", "extra"], "guided")
    else:
        b.node("Identity", ["prediction"], "guided")
    if plan.clips:
        b.node("Equal", ["at_span", "nought"], "is_free")
        b.node("Where", ["is_free", "unit", "at_span"], "divisor")
        b.node("Mul", ["at_span", "guided"], "noise_part")
        b.node("Sub", ["point", "noise_part"], "data_part")
        b.node("Div", ["data_part", "at_signal"], "x_free")
        b.node("Clip", ["x_free", "lowest", "unit"], "x_clipped")
        b.node("Mul", ["x_clipped", "at_signal"], "clipped_part")
        b.node("Sub", ["point", "clipped_part"], "e_part")
        b.node("Div", ["e_part", "divisor"], "e_clipped")
        b.node("Where", ["is_free", "guided", "e_clipped"], "d")
    else:
        b.node("Identity", ["guided"], "d")
    b.node("Mul", ["d", "at_now"], "by_now")
    b.node("Mul", ["before", "at_before"], "by_before")
    b.node("Mul", ["base", "at_keep"], "kept")
    b.node("Add", ["kept", "by_now"], "moved_now")
    last = b.node("Add", ["moved_now", "by_before"], "moved_both")
    if plan.draws:
        b.node("Gather", ["draws", "turn"], "draw", axis=1)
        b.node("Mul", ["draw", "at_noise"], "by_draw")
        last = b.node("Add", [last, "by_draw"], "moved_by_draw")
    if plan.known:
        b.node("Mul", ["given_x", "at_data"], "known_x")
        b.node("Mul", ["first_point", "at_chance"], "known_e")
        b.node("Add", ["known_x", "known_e"], "known_point")
        last = b.node("Where", ["is_known", "known_point", last], "moved_known")
    b.node("Identity", [last], "next_point")
    b.node("Greater", ["at_moves", "nought"], "does_move")
    b.node("Where", ["does_move", "next_point", "base"], "next_base")
    b.node("Identity", ["d"], "next_before")
    return loops.loop_body(
        "turn",
        b.nodes,
        {"point": ("next_point", FLOAT), "base": ("next_base", FLOAT), "before": ("next_before", FLOAT)},
        scanned=[],
    )


def denoiser(network: onnx.ModelProto, shape: tuple[int, ...], *, classes: int) -> onnx.ModelProto:
    """Build the graph of the network itself: noisy (B, C, H, W), time (B,) and, if there are classes, condition (B, K) to prediction."""
    net = loops.scoped(network, "network")
    nodes = loops.renamed(net.node, {"x": "noisy"})
    inputs = [_info("noisy", shape), helper.make_tensor_value_info("time", FLOAT, ["batch"]), *_condition(classes)]
    return loops.assembled(
        {"network": network}, nodes, "denoiser", inputs, [_info("prediction", shape)], list(net.initializer)
    )


def score(
    network: onnx.ModelProto, data: NDArray[np.float32], chance: NDArray[np.float32], time: NDArray[np.float32], noise: NDArray[np.float32],
    shape: tuple[int, ...], *, classes: int, is_flow: bool, outputs: Sequence[str],
) -> onnx.ModelProto:  # fmt: skip
    """Build the graph of families.flow.Score: `data`, `chance` (K, 1, 1, 1), `time` (K,) and `noise` (K, C, H, W) are its constants."""
    net = loops.scoped(network, "network")
    g, count = Graph(), len(time)
    (
        g.constant("doubled", 2.0, np.float32),
        g.constant("unit", 1.0, np.float32),
        g.constant("axis", [1]),
        g.constant("pixels", [1, 2, 3]),
    )
    (
        g.constant("shares", data, np.float32),
        g.constant("noise_part", chance * noise, np.float32),
        g.constant("noise", noise, np.float32),
    )
    g.constant("times", time[None], np.float32), g.constant("all", [-1]), g.constant("items_shape", [-1, *shape])
    g.constant("pairs_shape", [-1, count, *shape]), g.constant("repeats", [count])
    g.node("Mul", ["data", "doubled"], "scaled")
    g.node("Sub", ["scaled", "unit"], "centred")
    g.node("Unsqueeze", ["centred", "axis"], "x")
    g.node("Mul", ["x", "shares"], "data_part")
    g.node("Add", ["data_part", "noise_part"], "noisy_pairs")
    g.node("Reshape", ["noisy_pairs", "items_shape"], "noisy")
    g.node("Shape", ["data"], "batch", start=0, end=1)
    g.node("Concat", ["batch", "repeats"], "times_shape", axis=0)
    g.node("Expand", ["times", "times_shape"], "time_pairs")
    g.node("Reshape", ["time_pairs", "all"], "time")
    if classes:
        g.constant("no_class", np.zeros((1, classes)), np.float32), g.constant("classes", [classes])
        g.node("Shape", ["noisy"], "rows", start=0, end=1)
        g.node("Concat", ["rows", "classes"], "condition_shape", axis=0)
        g.node("Expand", ["no_class", "condition_shape"], "condition")
    g.nodes += loops.renamed(net.node, {"x": "noisy"})
    g.node("Reshape", ["prediction", "pairs_shape"], "predicted")
    if is_flow:
        g.node("Sub", ["x", "noise"], "target")
    else:
        g.node("Identity", ["noise"], "target")
    g.node("Sub", ["predicted", "target"], "error")
    g.node("Mul", ["error", "error"], "squared")
    g.node("ReduceMean", ["squared", "axis"], outputs[1], keepdims=0)
    g.node("ReduceMean", [outputs[1], "pixels"], outputs[0], keepdims=0)
    made = [helper.make_tensor_value_info(outputs[0], FLOAT, ["batch"]), _info(outputs[1], shape)]
    return loops.assembled(
        {"network": network}, g.nodes, "score", [_info("data", shape)], made, [*g.constants, *net.initializer]
    )


def _info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, ["batch", *shape])


def _condition(classes: int) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info("condition", FLOAT, ["batch", classes])] if classes else []
