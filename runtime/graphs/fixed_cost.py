"""A test of ONNX graphs: do the shapes of the inputs bound the time, whatever the values in them are?

A graph whose loops, branches or sizes depend on values may take a microsecond for one input and a minute for another one of the same shape.
Such a graph is found by following the inputs' values through its nodes: the cost depends on them if they reach what controls a loop, a
branch or the size of an output. Shapes are no values: what only `Shape` and `Size` pass on is harmless.
"""

from __future__ import annotations

from pathlib import Path

from manifold.runtime.errors import GraphError
from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.onnx_file import Content

SHAPES = frozenset({"Shape", "Size"})  # pass on shapes and no values
# operators by the inputs that set the size of their outputs
SIZED: dict[str, tuple[int, ...]] = {
    "Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1,),
    "OneHot": (1,), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "MelWeightMatrix": (0, 1), "AffineGrid": (1,),
    "CenterCropPad": (1,), "Col2Im": (1, 2), "MaxUnpool": (2,), "DFT": (1,), "STFT": (1, 3), "SplitToSequence": (1,), "ImageDecoder": (0,),
    "NonZero": (0,), "Compress": (1,), "Unique": (0,), "NonMaxSuppression": (0, 1, 2, 3, 4), "Slice": (1, 2, 3, 4), "TopK": (1,),
    "Split": (1,), "Reshape": (1,),
}  # fmt: skip
# domains of operators that a library brings; others are functions of the file
STANDARD = ("", "ai.onnx.ml", "com.microsoft")


def has_fixed_cost(path: Path) -> bool:
    """Return whether the shapes of the inputs bound the time. A file that is not understood has no fixed cost."""
    try:
        return _is_fixed(onnx_file.read(path))
    except GraphError:
        return False


def _is_fixed(content: Content) -> bool:
    # names whose values depend on a request; nodes come in an order that computes
    values = set(content.graph.inputs) - content.graph.weights
    for node in content.graph.nodes:
        # loops, branches and functions of the file are not followed
        if any(node.inner) or node.domain not in STANDARD or (node.domain, node.op) in content.functions:
            return False
        if any(name in values for place in SIZED.get(node.op, ()) for name in node.inputs[place : place + 1]):
            return False
        if node.op not in SHAPES and not values.isdisjoint(node.inputs):
            values.update(node.outputs)
    return True
