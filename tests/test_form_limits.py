"""Limits of the forms in the graph: values that a type cannot hold, single classes, signs, and batches of a fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, ManifoldError
from manifold.runtime.graphs.forms import Form
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import GraphForm
from tests import brought, graphs
from tests.brought import LATENT, SHAPE, manifest
from tests.graphs import constant, given, node, refused, value


@pytest.mark.parametrize(
    ("kind", "largest", "refused"),
    [("int64", 2.0**62, 2.0**63), ("int32", 2.0**30, 2.0**31), ("uint8", 255, 256), ("float16", 65519, 65520), ("int64", -(2.0**63), 1e30)],
)  # fmt: skip
def test_numbers_that_the_graph_cannot_hold_are_refused(kind: Any, largest: float, refused: float) -> None:
    form = Form(InputSpec(role="psi", source="number", shape=()), GraphForm(dtype=kind), None)
    (held,) = form.to_graph(np.asarray([largest], np.float32))
    assert held.dtype == kind and np.isclose(float(held), largest, rtol=1e-3)
    with pytest.raises(InvalidValue, match=f"psi: the graph takes {kind}, which cannot hold"):
        form.to_graph(np.asarray([0, refused], np.float32))


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_white_is_the_largest_value_of_the_type(kind: Any) -> None:
    """float32 rounds the largest values of wide types up, where a cast would wrap to the smallest."""
    largest = float(np.iinfo(kind).max)
    spec = ImageSpec(kind="image", height=1, width=2, channels=1)
    form = Form(InputSpec(role="data", source="data", shape=(1, 1, 2)), GraphForm(dtype=kind, range=(0, largest)), spec)
    black, white = form.to_graph(np.asarray([[[[0, 1]]]], np.float32)).ravel().tolist()
    assert black == 0 and white <= np.iinfo(kind).max and white >= 0.999 * largest


def test_only_a_single_class_has_a_number() -> None:
    form = Form(InputSpec(role="condition", source="condition", shape=(3,)), GraphForm(index=True), None)
    assert form.to_graph(np.eye(3, dtype=np.float32)[[2, 0]]).tolist() == [2, 0]
    for weights in ([0.5, 0.5, 0], [1, 1, 0], [1, 0, -0.5], [2, 0, 0], [0, 0, 0]):
        with pytest.raises(InvalidValue, match="one class for each item"):
            form.to_graph(np.asarray([weights], np.float32))


def test_the_sign_is_changed_after_the_activation() -> None:
    form = Form(TensorSpec(role="score", shape=()), GraphForm(activation="sigmoid", negate=True), None)
    assert np.allclose(form.from_graph(np.asarray([0, 2], np.float32), "g"), [-0.5, -1 / (1 + np.exp(-2))])


def test_a_bool_is_true_from_one_half_on() -> None:
    form = Form(InputSpec(role="flag", source="number", shape=()), GraphForm(dtype="bool"), None)
    assert form.to_graph(np.asarray([0, 0.49, 0.5, 1], np.float32)).tolist() == [False, False, True, True]


def test_one_number_for_two_classes() -> None:
    """The softmax of the logits is (1 - p, p) for the probability p, which stays finite at 0 and 1."""
    tensor = TensorSpec(role="logits", shape=(2,))
    p = np.asarray([0, 0.25, 1], np.float32)
    logits = Form(tensor, GraphForm(activation="binary_log", shape=(1,)), None).from_graph(p[:, None], "g")
    assert np.isfinite(logits).all() and np.allclose(np.exp(logits), np.stack([1 - p, p], 1), atol=1e-6)
    logits = Form(tensor, GraphForm(activation="binary"), None).from_graph(np.asarray([-3, 2], np.float32), "g")
    assert logits.tolist() == [[0, -3], [0, 2]]


def test_fixed_batches_whose_rows_mix_or_differ_are_refused(tmp_path: Path) -> None:
    """The graph takes 4 rows: adding the row before, or another number to each row, would make answers depend on other requests."""
    plain = [node("MatMul", ["z", "w"], ["m"]), node("Reshape", ["m", "shape"], ["x"])]
    cases = {
        "plain": [node("Identity", ["x"], ["y"])],
        "mixes": [node("Gather", ["x", "before"], ["b"], axis=0), node("Add", ["x", "b"], ["y"])],
        "differs": [node("Add", ["x", "each"], ["y"])],
    }
    for name, nodes in cases.items():
        path = graphs.folder(tmp_path / name, manifest())
        constants = [
            *brought.CONSTANTS,
            constant("before", [0, 0, 2, 3]),
            constant("each", np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)),
        ]
        graphs.write(
            path / "g.onnx",
            [*plain, *nodes],
            [value("z", shape=[4, LATENT])],
            [value("y", shape=[4, *SHAPE])],
            constants,
        )
        if name == "plain":
            assert load(path).sample(6, seed=0).data.shape == (6, *SHAPE)
        else:
            said = "mixes the rows of a batch" if name == "mixes" else "treats the rows of a batch differently"
            with pytest.raises(ManifoldError, match=said):
                load(path)


def test_inputs_with_different_fixed_rows_are_refused(tmp_path: Path) -> None:
    content = manifest()
    content["tasks"]["decode"]["inputs"].append(given("noise", "normal", list(SHAPE)))
    path = graphs.folder(tmp_path, content)
    nodes = [
        node("MatMul", ["z", "w"], ["m"]),
        node("Reshape", ["m", "shape"], ["x"]),
        node("Add", ["x", "noise"], ["y"]),
    ]
    graphs.write(
        path / "g.onnx",
        nodes,
        [value("z", shape=[4, LATENT]), value("noise", shape=[1, *SHAPE])],
        [value("y", shape=None)],
        brought.CONSTANTS,
    )
    assert "the inputs have different numbers of rows in the graph (z 4, noise 1)" in refused(path)
