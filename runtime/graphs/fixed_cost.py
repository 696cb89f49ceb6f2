"""A test whether the cost of an ONNX graph depends only on the shapes of its inputs and not on their values.

A graph whose loops, branches or sizes depend on values may take a microsecond for one input and a minute for another one of the same shape.
The test follows the values of the inputs through the nodes. The cost depends on them if they reach an input that controls a loop, a branch or
the size of an output. Shapes are not values, so `Shape` and `Size` stop the propagation.
"""

from __future__ import annotations

from pathlib import Path

from manifold.runtime.errors import GraphError
from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.onnx_file import Content

SHAPES = frozenset({"Shape", "Size"})  # operators whose outputs depend on shapes, not on values
# by operator, the indices of the inputs that set the size of its outputs
SIZED: dict[str, tuple[int, ...]] = {
    "Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1,),
    "OneHot": (1,), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "MelWeightMatrix": (0, 1), "AffineGrid": (1,),
    "CenterCropPad": (1,), "Col2Im": (1, 2), "MaxUnpool": (2,), "DFT": (1,), "STFT": (1, 3), "SplitToSequence": (1,), "ImageDecoder": (0,),
    "NonZero": (0,), "Compress": (1,), "Unique": (0,), "NonMaxSuppression": (0, 1, 2, 3, 4), "Slice": (1, 2, 3, 4), "TopK": (1,),
    "Split": (1,), "Reshape": (1,),
}  # fmt: skip
# domains of the operators that ONNX Runtime contains; other domains are functions in the file
STANDARD = ("", "ai.onnx.ml", "com.microsoft")


def has_fixed_cost(path: Path) -> bool:
    """Return whether the cost depends only on the shapes of the inputs; False for a file that cannot be read."""
    try:
        return _is_fixed(onnx_file.read(path))
    except GraphError:
        return False


def _is_fixed(content: Content) -> bool:
    # names of tensors that depend on the values in a request; nodes are in topological order
    values = set(content.graph.inputs) - content.graph.weights
    for node in content.graph.nodes:
        # loops, branches and functions in the file are not analysed
        if any(node.inner) or node.domain not in STANDARD or (node.domain, node.op) in content.functions:
            return False
        if any(name in values for place in SIZED.get(node.op, ()) for name in node.inputs[place : place + 1]):
            return False
        if node.op not in SHAPES and not values.isdisjoint(node.inputs):
            values.update(node.outputs)
    return True
