"""Graphs that draw random numbers, and graphs whose rows influence each other: the operators of a graph show both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from manifold.runtime import manifest, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import GraphError
from manifold.runtime.graphs import chance, onnx_file
from tests import graphs
from tests.graphs import (
    COPY,
    SIZE,
    check,
    constant,
    decoder,
    given,
    node,
    refused,
    size_of,
    task,
    value,
)

# --- random numbers ---

NOISE = node("RandomNormalLike", ["z"], ["n"])
NOISY = node("Add", ["z", "n"], ["x"])


def _branch(op: Any) -> Any:
    branch = helper.make_graph([op, node("Add", ["z", "n"], ["q"])], "b", [], [value("q")])
    return node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch)


def _function(op: Any) -> Any:
    return helper.make_function(
        "mine", "Noisy", ["z"], ["x"], [op, NOISY], [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    )


def _dropout(flag: str) -> list[Any]:
    return [node("Dropout", ["z", "half", flag], ["x"])]


YES, NO, HALF_OF = constant("yes", True), constant("no", False), constant("half", np.float32(0.5))
DROPPER = helper.make_function(
    "mine", "Dropper", ["z", "half", "told"], ["x"], _dropout("told"), [helper.make_opsetid("", 18)]
)
DRAWS = {
    "normal": ([NOISE, NOISY], [], {}),
    "uniform": ([node("RandomUniformLike", ["z"], ["n"]), NOISY], [], {}),
    "shaped": ([node("RandomNormal", [], ["n"], shape=[1, SIZE]), NOISY], [], {}),
    "seeded": ([node("RandomUniform", [], ["n"], shape=[1, SIZE], seed=1.0), NOISY], [], {}),
    "bernoulli": ([node("Sigmoid", ["z"], ["p"]), node("Bernoulli", ["p"], ["x"])], [], {}),
    "multinomial": ([node("Multinomial", ["z"], ["i"], sample_size=SIZE), node("Cast", ["i"], ["x"], to=1)], [], {}),
    "dropout": (_dropout("yes"), [YES, HALF_OF], {}),
    "dropout by a node": ([node("Constant", [], ["told"], value=constant("told", True)), *_dropout("told")], [HALF_OF], {}),
    "dropout by a flag that a function is given": ([node("Dropper", ["z", "half", "yes"], ["x"], domain="mine")], [YES, HALF_OF], {"functions": [DROPPER]}),
    "within a branch": ([_branch(NOISE)], [YES], {}),
    "within a function": ([node("Noisy", ["z"], ["x"], domain="mine")], [], {"functions": [_function(NOISE)]}),
}  # fmt: skip


@pytest.mark.parametrize("how", DRAWS)
def test_graphs_that_draw_are_not_reproducible(tmp_path: Path, how: str) -> None:
    middle, constants, options = DRAWS[how]
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", middle, constants, **options)
    found = load(made).manifest
    assert found.reproducible is False
    assert found.drawing == {"decode"}
    said = refused(made)
    assert "g.onnx draws random numbers by" in said
    assert '"manifold check --seal" records reproducible: false' in said
    status, said = check(made, "--seal")
    assert status == 0
    assert "note: tasks.decode: g.onnx draws random numbers by" in said
    assert json.loads((made / manifest.FILE).read_text())["reproducible"] is False
    assert check(made)[0] == 0


@pytest.mark.parametrize("claimed", [True, False, None])
def test_what_a_manifest_claims_about_chance(tmp_path: Path, claimed: bool | None) -> None:
    content = graphs.manifest(decode=task(reproducible=claimed))
    made = graphs.folder(tmp_path, {**content, "reproducible": claimed})
    decoder(made / "g.onnx", [NOISE, NOISY])
    repository.seal(made)
    assert load(made).manifest.reproducible is False
    status, said = check(made)
    assert status == (0 if claimed is False else 1)
    assert ("says reproducible: true" in said) == (claimed is True)


QUIET = {
    "nothing": ([COPY], [], {}),
    "dropout that is off": (_dropout("no"), [NO, HALF_OF], {}),
    "dropout that is not told": ([node("Dropout", ["z"], ["x"])], [], {}),
    "dropout by a flag of a function that is off": ([node("Dropper", ["z", "half", "no"], ["x"], domain="mine")], [NO, HALF_OF], {"functions": [DROPPER]}),
    "a function that is not called": ([COPY], [], {"functions": [_function(NOISE)]}),
    "an operator of somebody else's by that name": (
        [node("RandomNormal", ["z"], ["x"], domain="mine")], [],
        {"functions": [helper.make_function("mine", "RandomNormal", ["z"], ["x"], [COPY], [helper.make_opsetid("", 18)])]},
    ),
    "noise for nothing": ([NOISE, node("Add", ["z", "n"], ["unused"]), COPY], [], {}),
}  # fmt: skip


@pytest.mark.parametrize("how", QUIET)
def test_graphs_that_do_not_draw(tmp_path: Path, how: str) -> None:
    middle, constants, options = QUIET[how]
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", middle, constants, **options)
    assert check(made, "--seal")[0] == 0
    assert load(made).manifest.reproducible is None
    assert "reproducible" not in (made / manifest.FILE).read_text()


def test_functions_that_call_each_other_twice_are_followed_once(tmp_path: Path) -> None:
    """Each of 40 functions calls the previous one twice, which is 2^40 calls in all."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    calls = [
        [node(f"F{i - 1}", ["z"], ["t"], domain="mine"), node(f"F{i - 1}", ["t"], ["x"], domain="mine")]
        for i in range(1, 40)
    ]
    bodies = [[NOISE, NOISY], *calls]
    functions = [helper.make_function("mine", f"F{i}", ["z"], ["x"], body, opsets) for i, body in enumerate(bodies)]
    decoder(tmp_path / "g.onnx", [node("F39", ["z"], ["x"], domain="mine")], functions=functions)
    assert chance.of_onnx(tmp_path / "g.onnx", ["x"]).draws == ("RandomNormalLike",)


def _called(path: Path, *extra: bytes) -> chance.Chance:
    """Return the random operators found in a graph that calls a function with noise. `extra` fields follow at the end of the function's message."""
    function = _function(NOISE)
    model = helper.make_model(
        helper.make_graph([node("Noisy", ["z"], ["x"], domain="mine")], "tiny", [value("z")], [value("x")]),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)],
    )
    content = function.SerializeToString() + b"".join(extra)
    path.write_bytes(model.SerializeToString() + b"\xca\x01" + size_of(content) + content)  # ModelProto.functions
    return chance.of_onnx(path, ["x"])


def test_noise_within_a_function_is_found(tmp_path: Path) -> None:
    assert _called(tmp_path / "g.onnx").draws == ("RandomNormalLike",)


@pytest.mark.parametrize("field", [1, 5, 7, 10])
def test_a_field_of_another_type_is_skipped_as_protobuf_does(tmp_path: Path, field: int) -> None:
    """A number in place of a function's name, output, node or domain does not hide the noise."""
    path = tmp_path / "g.onnx"
    assert _called(path, bytes([field << 3, 1])).draws == ("RandomNormalLike",)
    found = onnx_file.read(path).functions["mine", "Noisy"]
    assert [each.op for each in found.nodes] == ["RandomNormalLike", "Add"]
    (function,) = onnx.load(path).functions
    assert (function.name, function.domain, len(function.node)) == ("Noisy", "mine", 2)


def test_an_attribute_without_a_value_is_0(tmp_path: Path) -> None:
    """Protobuf writers may omit values of 0."""
    norm = _norm(training_mode=0)[0]
    norm.attribute[0].ClearField("i")
    decoder(tmp_path / "g.onnx", [norm], NORM)
    assert chance.of_onnx(tmp_path / "g.onnx", ["y"]) == chance.NONE
    norm.attribute[0].i = 1
    decoder(tmp_path / "g.onnx", [norm], NORM)
    assert chance.of_onnx(tmp_path / "g.onnx", ["y"]).mixes == ("BatchNormalization",)


def test_the_tasks_that_draw_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    sample = task([given("z", "normal", [SIZE])], graph="h.onnx")
    made = graphs.folder(tmp_path, graphs.manifest(decode=task(), sample=sample))
    decoder(made / "g.onnx", [COPY])
    decoder(made / "h.onnx", [NOISE, NOISY])
    found = load(made).manifest
    assert found.drawing == {"sample"}
    assert check(made, "--seal")[0] == 0
    assert manifest.read(made).drawing == {"sample"}


# --- rows that influence each other ---


def _norm(training_mode: int) -> list[Any]:
    outputs = ["x", "m", "v"] if training_mode else ["x"]
    return [
        node(
            "BatchNormalization",
            ["z", "one", "nil", "nil", "one"],
            outputs,
            None,
            None,
            None,
            training_mode=training_mode,
        )
    ]


NORM = [constant("one", np.ones(SIZE, np.float32)), constant("nil", np.zeros(SIZE, np.float32))]
FIRST = constant("first", np.asarray([0]))
MIXES = {
    "the mean of the batch": [node("ReduceMean", ["z", "first"], ["m"]), node("Add", ["z", "m"], ["x"])],
    "a running sum": [node("CumSum", ["z", "zero"], ["x"])],
    "a sum of what comes after": [node("CumSum", ["z", "zero"], ["x"], reverse=1)],
}  # fmt: skip


@pytest.mark.parametrize("how", MIXES)
def test_graphs_that_mix_rows_are_refused(tmp_path: Path, how: str) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", MIXES[how], [FIRST, constant("zero", 0)])
    said = refused(made)
    assert "tasks.decode: g.onnx mixes the rows of a batch: data of one row changes by" in said
    content = graphs.manifest(decode=task(max_rows=1))
    graphs.folder(tmp_path, content)
    assert check(made, "--seal")[0] == 0  # max_rows is 1, so each row runs alone


def test_a_norm_in_training_mode_is_refused_by_name(tmp_path: Path) -> None:
    for tasks in ({}, {"decode": task(max_rows=1)}):
        made = graphs.folder(tmp_path, graphs.manifest(**tasks))
        decoder(made / "g.onnx", _norm(training_mode=1), NORM)
        assert "tasks.decode: g.onnx mixes the rows of a batch by BatchNormalization in training mode" in refused(made)
        with pytest.raises(GraphError):
            load(made)
    decoder(made / "g.onnx", _norm(training_mode=0), NORM)
    assert check(made, "--seal")[0] == 0


def test_large_inputs_are_told_apart_by_two_rows(tmp_path: Path) -> None:
    """An item has so many values that 64 items are not tried at once."""
    side = 256
    shape = [1, side, side]
    content = graphs.manifest(
        encode=task([given("z", "data", shape)], [{"role": "mean", "name": "y", "shape": [SIZE]}])
    )
    content["data"] |= {"height": side, "width": side}
    made = graphs.folder(tmp_path, content)
    axes = [constant("inner", np.asarray([1, 2, 3])), constant("four", np.asarray([1, SIZE]))]
    for mixes in (False, True):
        nodes = [
            node("ReduceMean", ["z", "inner"], ["q"]),
            node("Reshape", ["q", "rows"], ["r"]),
            node("Expand", ["r", "four"], ["e"]),
        ]
        nodes += (
            [node("ReduceMean", ["e", "first"], ["m"]), node("Sub", ["e", "m"], ["y"])]
            if mixes
            else [node("Identity", ["e"], ["y"])]
        )
        graphs.write(
            made / "g.onnx", nodes, [value("z", shape=["B", *shape])], [value("y", shape=["B", SIZE])],
            [*axes, FIRST, constant("rows", np.asarray([-1, 1]))],
        )  # fmt: skip
        if mixes:
            with pytest.raises(GraphError, match="mixes the rows of a batch: mean of one row changes"):
                load(made)
        else:
            load(made)
