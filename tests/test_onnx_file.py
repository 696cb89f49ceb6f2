"""The reader of ONNX files: it agrees with the package onnx, and damaged files give an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, helper

from manifold.runtime import manifest
from manifold.runtime.errors import GraphError
from manifold.runtime.graphs import onnx_file
from tests import graphs
from tests.graphs import (
    COPY,
    check,
    node,
    outside,
    refused,
    size_of,
    value,
)


def test_the_reader_agrees_with_the_package_onnx() -> None:
    """The test compares operators and weight files of all shipped graphs."""
    import onnx

    from tests.conftest import SHIPPED

    for path in SHIPPED.glob("*/*/*.onnx"):
        model, found = onnx.load(str(path), load_external_data=False), onnx_file.read(path)
        assert [each.op for each in found.graph.nodes] == [each.op_type for each in model.graph.node]
        assert [each.inputs for each in found.graph.nodes] == [list(each.input) for each in model.graph.node]
        assert found.graph.outputs == [each.name for each in model.graph.output]
        wanted = {
            entry.value for each in model.graph.initializer for entry in each.external_data if entry.key == "location"
        }
        assert set(onnx_file.outline(path).external) == wanted
        assert not onnx_file.outline(path).suspect


def test_files_of_weights_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """Names of files occur in constants, sparse tensors, functions, and the attribute defaults of functions."""

    def held(name: str) -> Any:
        return outside(name, f"{name}.bin", np.ones(1, np.float32))

    function = helper.make_function(
        "mine", "F", ["z"], ["x"], [node("Constant", [], ["x"], value=held("a"))], [helper.make_opsetid("", 18)]
    )
    function.attribute_proto.append(helper.make_attribute("given", held("b")))
    branch = helper.make_graph(
        [],
        "b",
        [],
        [value("q")],
        [held("c")],
        sparse_initializer=[SparseTensorProto(values=held("d"), indices=held("e"))],
    )
    sparse = SparseTensorProto(values=held("h"), indices=held("i"))
    several = helper.make_attribute("several", [SparseTensorProto(values=held("j"), indices=held("k"))])
    nodes = [node("If", ["yes"], ["x"], then_branch=branch), node("Constant", [], ["k"], value=held("f"))]
    nodes += [node("Constant", [], ["s"], sparse_value=sparse), node("Own", [], ["o"], domain="mine")]
    nodes[-1].attribute.append(several)
    path = tmp_path / "g.onnx"
    graphs.write(path, nodes, [], [], [held("g")], functions=[function])
    assert sorted(onnx_file.outline(path).external) == [f"{name}.bin" for name in "abcdefghijk"]


def test_only_an_input_with_an_empty_shape_is_a_scalar(tmp_path: Path) -> None:
    untyped = onnx.ValueInfoProto(name="untyped")
    inputs = [value("scalar", shape=()), value("unknown", shape=None), value("one", shape=(1,)), untyped]
    graphs.write(tmp_path / "g.onnx", [COPY], inputs, [value("x")])
    found = onnx_file.read(tmp_path / "g.onnx").graph
    assert found.inputs == ["scalar", "unknown", "one", "untyped"]
    assert found.scalars == {"scalar"}


def test_graphs_within_graphs_without_end(tmp_path: Path) -> None:
    inner = helper.make_graph([], "b", [], [value("q")], [outside("w", "w.bin", np.ones(1, np.float32))])
    for _ in range(20):
        inner = helper.make_graph([node("If", ["yes"], ["q"], then_branch=inner)], "b", [], [value("q")])
    path = tmp_path / "g.onnx"
    graphs.write(path, [node("If", ["yes"], ["x"], then_branch=inner)], [], [])
    assert onnx_file.outline(path).external == ("w.bin",)
    nested = b""
    for _ in range(200):
        nested = b"\x52\x08location" + nested  # GraphProto.doc_string
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            nested = tag + size_of(nested) + nested
    path.write_bytes(b"\x3a" + size_of(nested) + nested)
    with pytest.raises(GraphError, match="deep"):
        onnx_file.outline(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    (made / manifest.FILE).unlink()
    os.symlink("manifest.json", made / manifest.FILE)  # a link to itself
    assert check(made)[0] == 1
    made.joinpath("g.onnx").mkdir()
    (made / manifest.FILE).unlink()
    (made / manifest.FILE).write_text(json.dumps(graphs.manifest()))
    assert "there is no file 'g.onnx'" in refused(made)
