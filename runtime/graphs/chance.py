"""A search for operators that draw random numbers, or that let the rows of a batch influence each other.

A graph that draws random numbers cannot be made reproducible, so the artifact is served with `reproducible: false`. A graph that mixes rows
could put data of one request into the response to another, so it is rejected. Most such operators are known by name; the others are found by
test runs (see runtime.engine).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.onnx_file import Content, Graph, Node

STANDARD = ("", "com.microsoft")  # the domains of the operators below
DRAW = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Sampling",
}  # fmt: skip
# draw in training mode: by operator, the index of the input that sets the mode
DROPOUT = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}

TORCH_DRAW = {
    "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "normal_", "normal_functional",
    "uniform", "uniform_", "bernoulli", "bernoulli_", "multinomial", "exponential", "exponential_", "geometric", "geometric_",
    "cauchy", "cauchy_", "log_normal", "log_normal_", "random", "random_", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet",
}  # fmt: skip
# draw if their argument `train` or `training` is true
TORCH_TRAIN = {
    "dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout",
    "feature_alpha_dropout_", "native_dropout", "rrelu", "rrelu_", "rrelu_with_noise", "rrelu_with_noise_", "lstm", "gru", "rnn_tanh",
    "rnn_relu",
}  # fmt: skip
# mix rows if that argument is true
TORCH_NORM = {"batch_norm", "native_batch_norm", "_batch_norm_impl_index", "cudnn_batch_norm", "miopen_batch_norm"}
TORCH_SHARES = {"scaled_dot_product_attention": "dropout_p"}  # draw if this argument, the dropout rate, is above 0
TORCH_CALLS = {
    "prim::CallMethod",
    "prim::CallFunction",
}  # calls that could not be inlined, such as those of an interface


@dataclass(frozen=True)
class Chance:
    """The findings about the operators of one task."""

    draws: tuple[str, ...] = ()  # names of operators that draw random numbers
    unsure: tuple[str, ...] = ()  # names of operators that may draw, depending on a value that is only known in a run
    mixes: tuple[str, ...] = ()  # names of operators that let rows influence each other


NONE = Chance()


# --- ONNX ---------------------------------------------------------------------------------------------------------------------


def of_onnx(path: Path, outputs: Collection[str]) -> Chance:
    """Return the findings about the operators that the outputs depend on. Raises GraphError for a file that is not ONNX."""
    if not onnx_file.outline(path).suspect:
        return NONE
    content = onnx_file.read(path)
    operators: dict[str, dict[str, None]] = {"draws": {}, "unsure": {}, "mixes": {}}
    followed: set[tuple[str, str]] = set()
    for node in _needed(content.graph, outputs):
        _judge(node, [content.graph.flags], content, operators, followed)
    return Chance(**{kind: tuple(names) for kind, names in operators.items()})


def _needed(graph: Graph, outputs: Collection[str]) -> list[Node]:
    """Return the nodes that the outputs depend on. Noise that only affects other outputs is harmless."""
    maker = {name: node for node in graph.nodes for name in node.outputs if name}
    open_, reached, needed = list(outputs), set(outputs), []
    taken: set[int] = set()
    while open_:
        node = maker.get(open_.pop())
        if node is None or id(node) in taken:
            continue
        taken.add(id(node))
        needed.append(node)
        for name in _uses(node):
            if name not in reached:
                reached.add(name)
                open_.append(name)
    return needed


def _uses(node: Node) -> Iterator[str]:
    """Yield the names of the tensors that a node uses, including those of its inner graphs."""
    yield from node.inputs
    for graph in node.inner:
        yield from graph.outputs
        for inner in graph.nodes:
            yield from _uses(inner)


def _judge(
    node: Node,
    scopes: list[Mapping[str, bool]],
    content: Content,
    operators: dict[str, dict[str, None]],
    followed: set[tuple[str, str]],
) -> None:
    """Add the findings about a node, its inner graphs and the function that it calls.

    `scopes` contain the constants that are visible to the node. Each function is analysed once, since all calls have the same result.
    """
    called = (node.domain, node.op)
    if called in content.functions:
        function = content.functions[called]
        nodes = [] if called in followed else function.nodes
        followed.add(called)
        for inner in nodes:
            _judge(inner, [function.flags], content, operators, followed)
    elif node.domain in STANDARD and (kind := _kind(node, scopes)):
        operators[kind][node.op] = None
    for graph in node.inner:
        for inner in graph.nodes:
            _judge(inner, [graph.flags, *scopes], content, operators, followed)


def _kind(node: Node, scopes: list[Mapping[str, bool]]) -> str | None:
    """Return the kind of finding for a node: `draws`, `unsure` or `mixes`; None if it is harmless."""
    if node.op in DRAW:
        return "draws"
    if node.op in DROPOUT:
        place = DROPOUT[node.op]
        name = node.inputs[place] if len(node.inputs) > place else ""
        if not name:
            return None
        training = next((scope[name] for scope in scopes if name in scope), None)
        return "unsure" if training is None else "draws" if training else None
    if node.op == "BatchNormInternal":  # batch normalisation in training mode
        return "mixes"
    if node.op == "BatchNormalization":
        mode = node.attributes.get("training_mode")
        # before opset 14, the operator is in training mode if the statistics of the batch are among its outputs
        trains = len([name for name in node.outputs if name]) > 1 if mode is None else mode.number != 0
        return "mixes" if trains else None
    return None


# --- TorchScript --------------------------------------------------------------------------------------------------------------


def of_torchscript(method: Any) -> Chance:
    """Return the findings about the operators of a method, including all that it calls. The module is in evaluation mode."""
    operators: dict[str, dict[str, None]] = {"draws": {}, "unsure": {}, "mixes": {}}
    for node in _torch_nodes(method.inlined_graph):
        if kind := _torch_kind(node):
            operators[kind][node.kind()] = None
    return Chance(**{kind: tuple(names) for kind, names in operators.items()})


def _torch_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _torch_nodes(inner)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from _torch_nodes(node.g(name))
            elif node.kindOf(name) == "gs":
                for graph in node.gs(name):
                    yield from _torch_nodes(graph)


def _torch_kind(node: Any) -> str | None:
    kind: str = node.kind()
    if kind in TORCH_CALLS:
        return "unsure"
    name = kind.removeprefix("aten::")
    if name == kind:
        return None
    if name in TORCH_DRAW:
        return "draws"
    if name in TORCH_SHARES:
        share = _argument(node, TORCH_SHARES[name])
        return "unsure" if share is None else "draws" if share > 0 else None
    if name in TORCH_TRAIN or name in TORCH_NORM:
        trains = _argument(node, "train", "training")
        if not trains or _no_share(node):
            return None
        return "mixes" if name in TORCH_NORM else "draws"
    return None


def _argument(node: Any, *names: str) -> Any:
    """Return the value of the first argument with one of these names, if it is a constant; None if it is not."""
    for place, given in enumerate(node.inputs()):
        if node.schema() != "(no schema)" and _argument_name(node, place) in names:
            maker = given.node()
            return given.toIValue() if maker.kind() == "prim::Constant" else None
    return None


def _argument_name(node: Any, place: int) -> str:
    """Return the name of an argument by its index in a schema such as `aten::dropout(Tensor input, float p, bool train) -> Tensor`."""
    given = node.schema().split("(", 1)[1].rsplit(") ->", 1)[0].replace("*, ", "")
    parts = given.split(", ")
    return parts[place].split("=")[0].split(" ")[-1] if place < len(parts) else ""


def _no_share(node: Any) -> bool:
    """Return whether a dropout, or a recurrent network with dropout, has the rate 0."""
    share = _argument(node, "p", "dropout")
    return isinstance(share, float) and share == 0
