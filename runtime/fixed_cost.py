"""Whether the shapes of an ONNX graph's inputs bound its time, whatever the values in them are.

A graph whose loops, branches or sizes depend on values may take a microsecond for one input and a minute for another one of the same shape.
Such a graph is found by following the inputs' values through its nodes: the cost depends on them if they reach what controls a loop, a
branch or the size of an output. Shapes are no values: what only `Shape` and `Size` pass on is harmless.

The file is read without the package onnx, which the runtime needs for nothing else: protobuf's wire format, of which the few fields that
matter are looked at, and the weights are not (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Buffer: TypeAlias = "memoryview[int]"

GRAPH, NODE, GRAPH_INPUT, INITIALIZER = 7, 1, 11, 5  # fields of ModelProto, then of GraphProto
NODE_INPUT, NODE_OUTPUT, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 4, 5, 7  # of NodeProto
VALUE_NAME, INITIALIZER_NAME = 1, 8  # of ValueInfoProto and of TensorProto
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

SHAPES = frozenset({"Shape", "Size"})  # pass on shapes and no values
# operators with graphs inside, which are not followed
NESTED = frozenset({"Loop", "Scan", "If", "SequenceMap"})
# operators by the inputs that set the size of their outputs
SIZED: dict[str, tuple[int, ...]] = {
    "Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1,),
    "OneHot": (1,), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "MelWeightMatrix": (0, 1), "AffineGrid": (1,),
    "CenterCropPad": (1,), "Col2Im": (1, 2), "MaxUnpool": (2,), "DFT": (1,), "STFT": (1, 3), "SplitToSequence": (1,), "ImageDecoder": (0,),
}  # fmt: skip
STANDARD = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
)  # domains of operators that a library brings; others are functions of the file


@dataclass(frozen=True)
class Node:
    """One operator of a graph."""

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def has_fixed_cost(path: Path) -> bool:
    """Return whether the shapes of the inputs bound the time. A file that is not understood has no fixed cost."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            return all(_graph_is_fixed(view[start:stop]) for number, start, stop in _fields(view) if number == GRAPH)
        except (IndexError, ValueError, UnicodeDecodeError):
            return False
        finally:
            view.release()


def _graph_is_fixed(graph: Buffer) -> bool:
    inputs, weights, nodes = set[str](), set[str](), list[Node]()
    for number, start, stop in _fields(graph):
        if number == GRAPH_INPUT:
            inputs.add(_text(graph[start:stop], VALUE_NAME))
        elif number == INITIALIZER:
            weights.add(_text(graph[start:stop], INITIALIZER_NAME))
        elif number == NODE:
            nodes.append(_node(graph[start:stop]))
    values = inputs - weights  # names whose values depend on a request; nodes come in an order that computes
    for node in nodes:
        if node.kind in NESTED or node.domain not in STANDARD:
            return False
        if any(name in values for place in SIZED.get(node.kind, ()) for name in node.inputs[place : place + 1]):
            return False
        if node.kind not in SHAPES and not values.isdisjoint(node.inputs):
            values.update(node.outputs)
    return True


def _node(message: Buffer) -> Node:
    found: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], OP_TYPE: [], DOMAIN: []}
    for number, start, stop in _fields(message):
        if number in found:
            found[number].append(bytes(message[start:stop]).decode())
    kind, domain = "".join(found[OP_TYPE][-1:]), "".join(found[DOMAIN][-1:])
    return Node(kind, domain, tuple(found[NODE_INPUT]), tuple(found[NODE_OUTPUT]))


def _text(message: Buffer, wanted: int) -> str:
    """The text of one field; empty if the field is absent."""
    return next((bytes(message[a:b]).decode() for number, a, b in _fields(message) if number == wanted), "")


def _fields(message: Buffer) -> Iterator[tuple[int, int, int]]:
    """The fields with a length: number, start and stop of each. Raises IndexError or ValueError if this is no message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its message")
            yield number, at, at + size
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
