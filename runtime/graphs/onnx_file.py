"""A reader of the parts of an ONNX file that ONNX Runtime does not expose: files with weights, operators, and their constants.

It parses the protobuf wire format itself (https://protobuf.dev/programming-guides/encoding), since the service is installed without the
package `onnx`. Field numbers come from onnx.proto. The file is mapped into memory and tensors are skipped, so that even a file of gigabytes
needs almost no memory.
"""

from __future__ import annotations

import functools
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifold.runtime.errors import GraphError

Buffer = Any  # bytes or a map of a file

DEPTH = 64  # limit for nested messages; protobuf itself stops at 100
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; ONNX does not use groups (3, 4)
BOOL = 9  # TensorProto.DataType
LARGEST_FLAG = 64  # limit for a tensor that may be a flag, in bytes

# operators that need a closer analysis, since they may draw random numbers or mix rows (see runtime.graphs.chance)
SUSPECTS = re.compile(rb"Random|Multinomial|Bernoulli|Dropout|BatchNorm|Sampling")


class Broken(ValueError):
    """The error of bytes that are not a protobuf message."""


def fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, a, b) for each field. For a varint, a is its value; for other types, a and b are start and end of the bytes."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise Broken("a field is longer than the message that contains it")
            yield key >> 3, wire, at, at + size
            at += size
        elif wire == VARINT:
            value, at = _varint(data, at, end)
            yield key >> 3, wire, value, 0
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            if size > end - at:
                raise Broken("a number is incomplete")
            yield key >> 3, wire, at, at + size
            at += size
        else:
            raise Broken(f"unknown wire type {wire}")


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise Broken("a number has more than 64 bits")
    raise Broken("a number is incomplete")


def _text(data: Buffer, start: int, end: int) -> str:
    return str(data[start:end], "utf-8", "replace")


# --- what a file refers to ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outline:
    """The facts about a file that a single fast pass finds."""

    external: tuple[str, ...]  # locations of files with weights, as written in the file, each once
    suspect: bool  # true if an operator may draw or mix rows; then `read` is needed


def outline(path: Path) -> Outline:
    """Return the outline of an ONNX file. Raises GraphError for another format, OSError for a file that cannot be read."""
    status = path.stat()
    return _outline(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _outline(path: Path, inode: int, size: int, changed: int) -> Outline:
    """Compute an outline once for each state of a file. It is needed for the check of files and again when the graph is opened."""
    external: dict[str, None] = {}
    suspect = False
    with _mapped(path) as data:
        for number, wire, start, end in fields(data, 0, len(data)):
            if wire == BYTES and number in (7, 25):  # ModelProto.graph, functions
                node = 1 if number == 7 else 7
                suspect |= _outline_nodes(data, start, end, node, external)
    return Outline(tuple(external), suspect)


def _outline_nodes(data: Buffer, start: int, end: int, node: int, external: dict[str, None]) -> bool:
    """Walk a graph, or a function, whose nodes are in field `node`; return whether one of them is suspect."""
    suspect = False
    for number, wire, a, b in fields(data, start, end):
        if wire != BYTES:
            continue
        if number == node:
            content = data[a:b]
            suspect = suspect or SUSPECTS.search(content) is not None
            if b"location" in content:
                _outline_node(content, 0, len(content), external, 0)
        elif node == 7 and number == 11:  # FunctionProto.attribute_proto: default values
            _outline_attribute(data, a, b, external, 0)
        elif node == 1 and number == 5:  # GraphProto.initializer
            _outline_tensor(data, a, b, external)
        elif node == 1 and number == 15:  # GraphProto.sparse_initializer
            _outline_sparse(data, a, b, external)
    return suspect


def _outline_node(data: Buffer, start: int, end: int, external: dict[str, None], depth: int) -> None:
    """Collect the external files of the tensors and graphs among a node's attributes."""
    if depth > DEPTH:
        raise Broken(f"graphs are nested more than {DEPTH} levels deep")
    for number, wire, a, b in fields(data, start, end):
        if wire == BYTES and number == 5:  # NodeProto.attribute
            _outline_attribute(data, a, b, external, depth)


def _outline_attribute(data: Buffer, start: int, end: int, external: dict[str, None], depth: int) -> None:
    for number, wire, a, b in fields(data, start, end):
        if wire != BYTES:
            continue
        if number in (5, 10):  # AttributeProto.t, tensors
            _outline_tensor(data, a, b, external)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _outline_sparse(data, a, b, external)
        elif number in (6, 11):  # g, graphs
            _outline_inner(data, a, b, external, depth + 1)


def _outline_inner(data: Buffer, start: int, end: int, external: dict[str, None], depth: int) -> None:
    for number, wire, a, b in fields(data, start, end):
        if wire == BYTES and number == 1:
            _outline_node(data, a, b, external, depth)
        elif wire == BYTES and number == 5:
            _outline_tensor(data, a, b, external)
        elif wire == BYTES and number == 15:
            _outline_sparse(data, a, b, external)


def _outline_sparse(data: Buffer, start: int, end: int, external: dict[str, None]) -> None:
    for number, wire, a, b in fields(data, start, end):
        if wire == BYTES and number in (1, 2):  # SparseTensorProto.values, indices
            _outline_tensor(data, a, b, external)


def _outline_tensor(data: Buffer, start: int, end: int, external: dict[str, None]) -> None:
    """Add the file that a tensor names. `data_location` is ignored: protobuf merges parts of a message, so it may be in another part."""
    for number, wire, a, b in fields(data, start, end):
        if number == 13 and wire == BYTES:  # TensorProto.external_data: StringStringEntryProto
            entry = {part: (c, d) for part, kind, c, d in fields(data, a, b) if kind == BYTES}
            if 1 in entry and data[slice(*entry[1])] == b"location":
                external[_text(data, *entry[2]) if 2 in entry else ""] = None


class _mapped:  # noqa: N801 - a context manager, used as a function
    """The content of a file, mapped into memory. Errors in the format become a GraphError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Buffer:
        with self.path.open("rb") as file:
            try:
                self.data: Buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:  # an empty file cannot be mapped
                self.data = b""
        return self.data

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(self.data, mmap.mmap):
            self.data.close()
        if isinstance(error, Broken | IndexError):
            raise GraphError(
                f"{self.path.name}: is not a valid ONNX file: {error}; export it again", graph=self.path.name
            ) from None


# --- operators ----------------------------------------------------------------------------------------------------------------


@dataclass
class Attribute:
    """An attribute of a node; only some of its fields are read."""

    number: int = 0
    flag: bool | None = None  # the value of a tensor with one boolean
    graphs: list[Graph] = field(default_factory=list)


@dataclass
class Node:
    """An operator with its inputs and outputs in the graph."""

    domain: str = ""
    op: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def inner(self) -> Iterator[Graph]:
        """The inner graphs of the node: branches, and the bodies of loops."""
        for attribute in self.attributes.values():
            yield from attribute.graphs


@dataclass
class Graph:
    """The nodes of a graph or of a function."""

    nodes: list[Node] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)  # boolean constants, by name
    inputs: list[str] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)  # names of initializers; older files also list them as inputs
    outputs: list[str] = field(default_factory=list)
    scalars: set[str] = field(default_factory=set)  # inputs of rank 0


@dataclass
class Content:
    """A whole file."""

    graph: Graph
    functions: Mapping[tuple[str, str], Graph]  # by domain and name


def read(path: Path) -> Content:
    """Return the operators of an ONNX file. Raises GraphError for another format."""
    graph, functions = Graph(), dict[tuple[str, str], Graph]()
    with _mapped(path) as data:
        for number, wire, start, end in fields(data, 0, len(data)):
            if wire == BYTES and number == 7:
                _read_graph(data, start, end, graph, 0)
            elif wire == BYTES and number == 25:
                name, function = _read_function(data, start, end)
                functions.setdefault(name, Graph()).nodes.extend(function.nodes)  # the nodes of all overloads
                functions[name].flags.update(function.flags)
    return Content(graph, functions)


def used(graph: Graph) -> set[str]:
    """Return the names that the nodes of a graph and of its inner graphs use, and the outputs."""
    names = set(graph.outputs)
    for node in graph.nodes:
        names.update(node.inputs)
        for inner in node.inner:
            names |= used(inner)
    return names


def opset(path: Path) -> int | None:
    """Return the version of the standard operators that a file uses; None if it does not state one."""
    found: int | None = None
    with _mapped(path) as data:
        for number, wire, start, end in fields(data, 0, len(data)):
            if wire == BYTES and number == 8:  # ModelProto.opset_import: 1 is the domain, 2 the version
                stated = {each: (a, b) for each, _, a, b in fields(data, start, end)}
                domain = _text(data, *stated[1]) if 1 in stated else ""
                if domain in ("", "ai.onnx"):
                    found = stated[2][0] if 2 in stated else found
    return found


def _read_graph(data: Buffer, start: int, end: int, graph: Graph, depth: int) -> Graph:
    if depth > DEPTH:
        raise Broken(f"graphs are nested more than {DEPTH} levels deep")
    for number, wire, a, b in fields(data, start, end):
        if wire != BYTES:
            continue
        if number == 1:
            _add_node(graph, _read_node(data, a, b, depth))
        elif number == 5:
            name, flag = _read_tensor(data, a, b)
            graph.weights.add(name)
            if flag is not None:
                graph.flags[name] = flag
        elif number == 11:  # GraphProto.input
            name, is_scalar = _read_value(data, a, b)
            graph.inputs.append(name)
            graph.scalars |= {name} if is_scalar else set()
        elif number == 12:  # output
            graph.outputs.append(_read_value(data, a, b)[0])
    return graph


def _read_function(data: Buffer, start: int, end: int) -> tuple[tuple[str, str], Graph]:
    name, domain, graph = "", "", Graph()
    for number, wire, a, b in fields(data, start, end):
        if wire != BYTES:
            continue
        if number == 1:  # FunctionProto.name
            name = _text(data, a, b)
        elif number == 10:  # domain
            domain = _domain(data, a, b)
        elif number == 7:
            _add_node(graph, _read_node(data, a, b, 0))
    return (domain, name), graph


def _add_node(graph: Graph, node: Node) -> None:
    graph.nodes.append(node)
    value = node.attributes.get("value")
    if node.op == "Constant" and node.outputs and value is not None and value.flag is not None:
        graph.flags[node.outputs[0]] = value.flag


def _read_node(data: Buffer, start: int, end: int, depth: int) -> Node:
    node = Node()
    for number, wire, a, b in fields(data, start, end):
        if wire != BYTES:
            continue
        if number == 1:
            node.inputs.append(_text(data, a, b))
        elif number == 2:
            node.outputs.append(_text(data, a, b))
        elif number == 4:
            node.op = _text(data, a, b)
        elif number == 7:
            node.domain = _domain(data, a, b)
        elif number == 5:
            name, attribute = _read_attribute(data, a, b, depth)
            node.attributes[name] = attribute
    return node


def _domain(data: Buffer, start: int, end: int) -> str:
    """Return a domain with a unique name. The standard domain has two names."""
    name = _text(data, start, end)
    return "" if name == "ai.onnx" else name


def _read_attribute(data: Buffer, start: int, end: int, depth: int) -> tuple[str, Attribute]:
    name, attribute = "", Attribute()
    for number, wire, a, b in fields(data, start, end):
        if number == 1 and wire == BYTES:
            name = _text(data, a, b)
        elif number == 3 and wire == VARINT:
            attribute.number = a
        elif number == 5 and wire == BYTES:
            attribute.flag = _read_tensor(data, a, b)[1]
        elif number in (6, 11) and wire == BYTES:
            attribute.graphs.append(_read_graph(data, a, b, Graph(), depth + 1))
    return name, attribute


def _read_tensor(data: Buffer, start: int, end: int) -> tuple[str, bool | None]:
    """Return the name of a tensor, and its value if it is one boolean."""
    name, kind, flag = "", 0, None
    for number, wire, a, b in fields(data, start, end):
        if number == 8 and wire == BYTES:  # TensorProto.name
            name = _text(data, a, b)
        elif number == 2 and wire == VARINT:  # data_type
            kind = a
        elif number in (5, 9) and wire == BYTES and 0 < b - a <= LARGEST_FLAG:  # int32_data (packed), raw_data
            flag = any(data[a:b])
        elif number == 5 and wire == VARINT:
            flag = a != 0
    return name, flag if kind == BOOL else None


def _read_value(data: Buffer, start: int, end: int) -> tuple[str, bool]:
    """Return the name of an input or output, and whether it is declared as a scalar: a shape without dimensions."""
    name, is_scalar = "", False
    for number, wire, a, b in fields(data, start, end):
        if number == 1 and wire == BYTES:  # ValueInfoProto.name
            name = _text(data, a, b)
        elif number == 2 and wire == BYTES:  # type
            for part, kind, c, d in fields(data, a, b):
                if part == 1 and kind == BYTES:  # TypeProto.tensor_type
                    shapes = [(e, f) for field_, how, e, f in fields(data, c, d) if field_ == 2 and how == BYTES]
                    is_scalar = bool(shapes) and all(e == f for e, f in shapes)
    return name, is_scalar


def below(location: str) -> str | None:
    """Return the path of an external file relative to the folder of its graph, as listed under `files`; None if it is outside the folder."""
    parts = location.split("/")
    if location.startswith("/") or ".." in parts:
        return None
    return "/".join(part for part in parts if part not in ("", "."))
