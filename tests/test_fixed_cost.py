"""The graphs that may run on the event loop: the shapes of their inputs bound their run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from manifold.runtime.engine import load
from manifold.runtime.graphs.fixed_cost import has_fixed_cost
from tests import foreign, graphs

CONSTANTS: dict[str, np.ndarray[Any, Any]] = {
    "one": np.ones((), np.int64), "zero": np.zeros((), np.int64), "two": np.asarray([2], np.int64), "pads": np.zeros(4, np.int64),
    "values": np.asarray([0, 1], np.float32), "empty": np.zeros(0, np.float32), "scales": np.ones(2, np.float32),
}  # fmt: skip
# nodes from z (N, 4), its first value, count (1,), and number (): a size depends on a value
BY_VALUE: dict[str, list[tuple[Any, ...]]] = {
    "Range": [("Range", ["zero", "number", "one"])],
    "Expand": [("Expand", ["z", "count"])],
    "Tile": [("Tile", ["z", "pair"])],
    "ConstantOfShape": [("ConstantOfShape", ["count"])],
    "Pad": [("Pad", ["z", "pads_of"])],
    "OneHot": [("OneHot", ["count", "number", "values"])],
    "Resize": [("Resize", ["z", "empty", "empty", "pair"])],
    "Slice": [("Slice", ["z", "count", "two"])],
    "Reshape": [("Reshape", ["z", "pair"])],
    "TopK": [("TopK", ["z", "count"])],
    "number of values above 0": [("NonZero", ["z"]), ("Shape", ["y0"]), ("ConstantOfShape", ["y1"])],
    "through others": [("Neg", ["count"]), ("Abs", ["y0"]), ("ConstantOfShape", ["y1"])],
}
BY_SHAPE: dict[str, list[tuple[Any, ...]]] = {
    "shape": [("Shape", ["z"]), ("ConstantOfShape", ["y0"])],
    "size": [("Size", ["z"]), ("Range", ["zero", "y0", "one"])],
    "constants": [("Expand", ["z", "two"]), ("Pad", ["y0", "pads"])],
    "values of no consequence": [("Add", ["z", "z"]), ("Gather", ["y0", "count"])],
}


def graph(path: Path, steps: list[tuple[Any, ...]], **model: Any) -> Path:
    """Write a file with these nodes, whose outputs are named y0, y1, ..."""
    nodes = [
        helper.make_node("Slice", ["z", "start", "two", "axis"], ["first"]),
        helper.make_node("Cast", ["first"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "flat"], ["count"]),
        helper.make_node("Squeeze", ["count"], ["number"]),
        helper.make_node("Concat", ["count", "count"], ["pair"], axis=0),
        helper.make_node("Concat", ["count", "count", "count", "count"], ["pads_of"], axis=0),
    ]
    for place, (kind, inputs, *options) in enumerate(steps):
        nodes.append(helper.make_node(kind, inputs, [f"y{place}"], **(options[0] if options else {})))
    constants: dict[str, np.ndarray[Any, Any]] = {
        **CONSTANTS,
        "start": np.asarray([0]),
        "axis": np.asarray([1]),
        "flat": np.asarray([-1]),
    }
    made = helper.make_graph(
        nodes, "sized",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(f"y{len(steps) - 1}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(made, **model), path)
    return path


@pytest.mark.parametrize("steps", BY_VALUE.values(), ids=BY_VALUE)
def test_a_size_that_depends_on_a_value_has_no_fixed_cost(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    assert not has_fixed_cost(graph(tmp_path / "x.onnx", steps))


@pytest.mark.parametrize("steps", BY_SHAPE.values(), ids=BY_SHAPE)
def test_a_size_that_depends_on_shapes_has(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    assert has_fixed_cost(graph(tmp_path / "x.onnx", steps))


# inputs that determine the size of an output or the number of repetitions, by the documentation of the operators
SIZES: dict[str, set[int]] = {
    "Range": {0, 1, 2}, "ConstantOfShape": {0}, "Expand": {1}, "Tile": {1}, "Resize": {1, 2, 3}, "Upsample": {1}, "Pad": {1},
    "OneHot": {1}, "HannWindow": {0}, "HammingWindow": {0}, "BlackmanWindow": {0}, "MelWeightMatrix": {0, 1}, "AffineGrid": {1},
    "CenterCropPad": {1}, "Col2Im": {1, 2}, "MaxUnpool": {2}, "DFT": {1}, "STFT": {1, 3}, "SplitToSequence": {1}, "ImageDecoder": {0},
    "NonZero": {0}, "Compress": {1}, "Unique": {0}, "NonMaxSuppression": {0, 1, 2, 3, 4}, "Slice": {1, 2, 3, 4}, "TopK": {1},
    "Split": {1}, "Reshape": {1},
}  # fmt: skip


def test_the_inputs_of_an_operator_that_are_sizes(tmp_path: Path) -> None:
    """The file is only read, not run, so the other inputs may be omitted."""
    for kind, places in SIZES.items():
        for place in range(6):
            inputs = ["one"] * place + ["given"] + ["one"] * (5 - place)
            nodes = [helper.make_node(kind, inputs, ["y"])]
            graphs.write(tmp_path / "x.onnx", nodes, [graphs.value("given")], [graphs.value("y")])
            assert has_fixed_cost(tmp_path / "x.onnx") == (place not in places), (kind, place)


def test_loops_branches_and_functions_of_the_file_have_no_fixed_cost(tmp_path: Path) -> None:
    foreign.looping(tmp_path / "loop.onnx")
    assert not has_fixed_cost(tmp_path / "loop.onnx")
    nothing = helper.make_graph([helper.make_node("Identity", ["z"], ["same"])], "b", [], [
        helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    ])  # fmt: skip
    branch = ("If", ["number"], {"then_branch": nothing, "else_branch": nothing})
    assert not has_fixed_cost(graph(tmp_path / "if.onnx", [branch]))
    assert not has_fixed_cost(graph(tmp_path / "function.onnx", [("Doubled", ["z"], {"domain": "own"})]))
    foreign.generator(tmp_path / "plain.onnx")
    assert has_fixed_cost(tmp_path / "plain.onnx")


def test_what_is_no_graph_has_no_fixed_cost(tmp_path: Path) -> None:
    foreign.generator(tmp_path / "x.onnx")
    content = (tmp_path / "x.onnx").read_bytes()
    for wrong in (content[:-100], b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\x38"):
        (tmp_path / "x.onnx").write_bytes(wrong)
        assert not has_fixed_cost(tmp_path / "x.onnx")


def test_a_model_knows_it_by_task(tmp_path: Path) -> None:
    assert load(foreign.write(tmp_path), device="cpu").runner.has_fixed_cost("decode")
    assert not load(foreign.write(tmp_path, foreign.looping, name="looping"), device="cpu").runner.has_fixed_cost(
        "decode"
    )
    fake = load(foreign.write(tmp_path, name="fake", backend="fake"), device="cpu")
    assert not fake.runner.has_fixed_cost("decode")
