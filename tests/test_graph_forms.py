"""Graphs whose tensors differ in type, axes, channels or values: with `in_graph` they give the same images as the plain graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from manifold.runtime import manifest as manifests
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.graphs import agreement
from manifold.runtime.graphs.forms import Form
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import Constant, GraphForm
from tests import brought, graphs
from tests.brought import LATENT, MEAN, SHAPE, STD, images, made, manifest, numbers, pixels, scale
from tests.graphs import INT64, check, constant, given, node, refused, value

TO = brought.OF_TYPE
TURN = node("Transpose", ["p"], ["q"], perm=[0, 2, 3, 1])
BYTES = [*pixels(0, 255), node("Round", ["p"], ["r"])]

# name: fields of the output's in_graph, nodes from x to y, constants, options of `made`, tolerance
OUTPUTS: dict[str, tuple[dict[str, Any], list[Any], list[Any], dict[str, Any], float]] = {
    "float16": ({"dtype": "float16"}, [node("Cast", ["x"], ["y"], to=TO["float16"])], [], {"output": "float16"}, 1e-3),
    "float64": ({"dtype": "float64"}, [node("Cast", ["x"], ["y"], to=TO["float64"])], [], {"output": "float64"}, 1e-6),
    "NHWC": ({"layout": "NHWC"}, [node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], [], {}, 1e-6),
    "NHWC uint8": (
        {"dtype": "uint8", "layout": "NHWC"}, [*BYTES, node("Cast", ["r"], ["c"], to=TO["uint8"]), node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])],
        scale(0, 255), {"output": "uint8"}, 0.0041,
    ),
    "int32": (
        {"dtype": "int32", "range": [0, 255]}, [*BYTES, node("Cast", ["r"], ["y"], to=TO["int32"])], scale(0, 255), {"output": "int32"}, 0.0041,
    ),
    "BGR": ({"channels": "BGR"}, [node("Gather", ["x", "order"], ["y"], axis=1)], [constant("order", np.asarray([2, 1, 0]))], {}, 1e-6),
    "BGR 0..255": (
        {"channels": "BGR", "range": [0, 255]}, [*pixels(0, 255), node("Gather", ["p", "order"], ["y"], axis=1)],
        [*scale(0, 255), constant("order", np.asarray([2, 1, 0]))], {}, 1e-5,
    ),
    "RGBA, opaque": (
        {"channels": "RGBA"}, [node("Slice", ["x", "from", "to", "axis"], ["one"]), node("Mul", ["one", "zero"], ["none"]),
                               node("Add", ["none", "unit"], ["alpha"]), node("Concat", ["x", "alpha"], ["y"], axis=1)],
        [constant("from", [0]), constant("to", [1]), constant("axis", [1]), constant("zero", np.float32(0)), constant("unit", np.float32(1))], {}, 1e-5,
    ),
    "five channels": (
        {"channels": [4, 2, 0]}, [node("Gather", ["x", "order"], ["y"], axis=1)], [constant("order", np.asarray([2, 0, 1, 0, 0]))], {}, 1e-6,
    ),
    "mean and standard deviation": (
        {"mean": MEAN, "std": STD}, [*pixels(0, 1), node("Sub", ["p", "mean"], ["c"]), node("Div", ["c", "std"], ["y"])],
        [*scale(0, 1), numbers("mean", *MEAN), numbers("std", *STD)], {}, 1e-5,
    ),
    "inverted": ({"invert": True}, [node("Neg", ["x"], ["y"])], [], {}, 1e-6),
    "inverted, 0..1": ({"invert": True, "range": [0, 1]}, [node("Neg", ["x"], ["n"]), *pixels(0, 1, "n", "y")], scale(0, 1), {}, 1e-5),
    "tanh is not in the graph": ({"activation": "tanh"}, [node("Identity", ["x"], ["y"])], [], {"squashed": False}, 1e-6),
    "flat": ({"shape": [60]}, [node("Flatten", ["x"], ["y"])], [], {}, 1e-6),
    "flat, channels last": (
        {"layout": "NHWC", "shape": [60]}, [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Flatten", ["t"], ["y"])], [], {}, 1e-6,
    ),
    "batch last": ({"layout": "HWCN"}, [node("Transpose", ["x"], ["y"], perm=[2, 3, 1, 0])], [], {}, 1e-6),
    "batch second": ({"batch_axis": 1}, [node("Transpose", ["x"], ["y"], perm=[1, 0, 2, 3])], [], {}, 1e-6),
    "one image at a time": ({"layout": "HWC"}, [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Squeeze", ["t", "first"], ["y"])],
                            [constant("first", [0])], {}, 1e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_in_other_forms_give_the_same_images(tmp_path: Path, name: str) -> None:
    fields, nodes, constants, options, tolerance = OUTPUTS[name]
    path = made(tmp_path, manifest(fields), nodes, constants=constants, **options)
    assert check(path, "--seal")[0] == 0
    model = load(path)
    z = np.random.default_rng(1).normal(size=(37, LATENT)).astype(np.float32)
    expected = images(z)
    if name == "five channels":
        expected = np.stack([expected[:, [2, 0, 1, 0, 0][place]] for place in (4, 2, 0)], 1)
    found = model.sample(latents=z).data
    assert found.dtype == np.float32 and found.shape == (37, *SHAPE)
    assert np.abs(found - expected).max() <= 2 * tolerance
    assert np.array_equal(model.sample(latents=z[5:8]).data, found[5:8])


def test_alpha_is_composed_over_white() -> None:
    """Pixels with the opacity a are a x + (1 - a) white; inverted values are inverted first."""
    spec = ImageSpec(height=1, width=1, channels=3, range=(-1, 1))
    tensor = TensorSpec(role="data", shape=(3, 1, 1))
    pixel = np.asarray([[0.25, -0.5, 1.0, 0.0]], np.float32).reshape(1, 4, 1, 1)  # alpha is 0.5, in [-1, 1] it is 0
    found = Form(tensor, GraphForm(channels="RGBA"), spec).from_graph(pixel, "g.onnx").reshape(3)
    assert np.allclose(found, 0.5 * np.asarray([0.25, -0.5, 1.0]) + 0.5, atol=1e-6)
    inverted = Form(tensor, GraphForm(channels="RGBA", invert=True), spec).from_graph(pixel, "g.onnx").reshape(3)
    assert np.allclose(inverted, 0.5 * -np.asarray([0.25, -0.5, 1.0]) + 0.5, atol=1e-6)


LATENTS: dict[str, tuple[dict[str, Any], list[int | str], str]] = {
    "rank 4": ({"shape": [LATENT, 1, 1]}, ["B", LATENT, 1, 1], "float32"),
    "float16": ({"dtype": "float16"}, ["B", LATENT], "float16"),
    "float64": ({"dtype": "float64"}, ["B", LATENT], "float64"),
    "batch second": ({"batch_axis": 1}, [LATENT, "B"], "float32"),
    "one at a time": ({"batch_axis": "none"}, [LATENT], "float32"),
    "16 at a time": ({"shape": [LATENT, 1, 1]}, [16, LATENT, 1, 1], "float32"),
}


def with_latent(root: Path, content: dict[str, Any], shape: list[int | str], kind: str) -> Path:
    """Write an artifact whose graph takes the latent in another form, and computes the same images."""
    path = graphs.folder(root, content)
    nodes = [
        node("Transpose" if shape[0] == LATENT else "Identity", ["z"], ["turned"]), node("Cast", ["turned"], ["cast"], to=TO["float32"]),
        node("Reshape", ["cast", "rows"], ["z2"]), node("MatMul", ["z2", "w"], ["pixels"]), node("Tanh", ["pixels"], ["values"]),
        node("Reshape", ["values", "shape"], ["y"]),
    ]  # fmt: skip
    graphs.write(path / "g.onnx", nodes, [value("z", TO[kind], shape)], [value("y", shape=None)], brought.CONSTANTS)
    return path


@pytest.mark.parametrize("name", LATENTS)
def test_latents_in_other_forms(tmp_path: Path, name: str) -> None:
    """The latent remains a vector for requests, so that priors, temperature and interpolation work."""
    form, shape, kind = LATENTS[name]
    path = with_latent(tmp_path, manifest(latent=form), shape, kind)
    assert check(path, "--seal")[0] == 0
    model = load(path)
    z = np.random.default_rng(1).normal(size=(20, LATENT)).astype(np.float32)
    assert np.abs(model.sample(latents=z).data - images(z)).max() < (2e-2 if kind == "float16" else 1e-6)
    assert len(np.unique(model.sample(5, seed=1, temperature=0.5).data, axis=0)) == 5
    assert model.interpolate({"seed": 1}, {"seed": 2}, steps=4).data.shape == (4, *SHAPE)


def test_a_manifest_without_the_form_is_told_it(tmp_path: Path) -> None:
    """The message states the fields; with them, the artifact is good."""
    for name, (form, shape, kind) in LATENTS.items():
        path = with_latent(tmp_path / name.replace(" ", "-"), manifest(), shape, kind)
        said = refused(path)
        stated = graphs_form(said)
        plain = {key: tuple(each) if isinstance(each, list) else each for key, each in stated.items()}
        assert plain == {key: tuple(each) if isinstance(each, list) else each for key, each in form.items()}, said


def graphs_form(said: str) -> dict[str, Any]:
    import json

    assert "in_graph" in said, said
    return dict(json.loads(said.split('"in_graph": ')[1].split("}")[0] + "}"))


@pytest.mark.parametrize(("none", "said"), [(4, False), (-1, True), (3, True), (1, True)])
def test_no_class_that_is_a_class_gets_a_warning(tmp_path: Path, none: int, said: bool) -> None:
    """Gather counts -1 from the end, so that it is the last row of a table of four classes and of the one for no class."""
    content = {**manifest(), "classes": [f"c{i}" for i in range(4)], "class_optional": True}
    content["tasks"]["decode"]["inputs"].append(
        given("label", "condition", [4], in_graph={"index": True, "none": none})
    )
    table = np.arange(1, 5 if none == -1 else 6, dtype=np.float32).reshape(-1, 1, 1, 1) / 10
    nodes = [node("Gather", ["table", "label"], ["factor"], axis=0), node("Mul", ["x", "factor"], ["y"])]
    path = made(tmp_path, content, nodes, inputs=[value("label", INT64, ["B"])], constants=[constant("table", table)])
    status, output = check(path, "--seal")
    assert status == 0, output
    assert (
        f"no class, the number {none} in the graph, gives the same outputs as the class {none % 4}" in output
    ) == said, output


@pytest.mark.parametrize(
    ("form", "shape"),
    [({"index": True}, ["B"]), ({"index": True, "shape": [1]}, ["B", 1]), ({"index": True, "dtype": "int32"}, ["B"])],
)
def test_a_class_is_given_by_its_number(tmp_path: Path, form: dict[str, Any], shape: list[Any]) -> None:
    """The graph multiplies the image by (number + 1) / 10."""
    content = manifest()
    content["classes"] = [f"c{i}" for i in range(4)]
    content["tasks"]["decode"]["inputs"].append(given("label", "condition", [4], in_graph=form))
    kind = TO[form.get("dtype", "int64")]
    nodes = [
        node("Cast", ["label"], ["number"], to=TO["float32"]), node("Add", ["number", "unit"], ["more"]), node("Mul", ["more", "tenth"], ["share"]),
        node("Reshape", ["share", "column"], ["factor"]), node("Mul", ["x", "factor"], ["y"]),
    ]  # fmt: skip
    constants = [constant("unit", np.float32(1)), constant("tenth", np.float32(0.1)), constant("column", [-1, 1, 1, 1])]
    path = made(tmp_path, content, nodes, inputs=[value("label", kind, shape)], constants=constants)
    assert check(path, "--seal")[0] == 0
    model = load(path)
    z = np.random.default_rng(1).normal(size=(4, LATENT)).astype(np.float32)
    found = model.sample(latents=z, classes=["c0", "c3", "c1", "c2"]).data
    assert np.allclose(found, images(z) * np.asarray([0.1, 0.4, 0.2, 0.3])[:, None, None, None], atol=1e-6)
    with pytest.raises(InvalidValue, match="condition: this model takes one class for each item, not a mixture"):
        model.sample(2, seed=0, classes={"c0": 1, "c2": 1})
    with pytest.raises(InvalidValue, match="class"):
        model.sample(2, seed=0, classes=[[0.5, 0.5, 0, 0], [1, 0, 0, 0]])  # type: ignore[list-item]
    assert len(model.sample(6, seed=0)) == 6  # classes are drawn from the prior


def test_no_class_has_a_number(tmp_path: Path) -> None:
    spec = InputSpec(role="condition", source="condition", shape=(3,))
    form = Form(spec, GraphForm(index=True, none=9, shape=(1,)), None)
    weights = np.asarray([[0, 0, 0], [0, 1, 0]], np.float32)
    assert form.to_graph(weights).tolist() == [[9], [1]] and form.to_graph(weights).dtype == np.int64
    content = {**manifest(), "classes": ["a", "b", "c"], "class_optional": True}
    content["tasks"]["decode"]["inputs"].append(given("label", "condition", [3], in_graph={"index": True}))
    assert "in_graph.none: the class is optional; give the number that stands for no class" in refused(
        graphs.folder(tmp_path, content)
    )


def test_constants_and_numbers_of_rank_0(tmp_path: Path) -> None:
    """psi is a constant of the manifest; `truncation` is a number of the request, which the graph takes once for all rows."""
    content = manifest(constants={"psi": {"value": 0.5}, "shift": {"value": [0.25], "dtype": "float64", "batch": True}})
    number = given("truncation", "number", [], default=1.0, minimum=0, maximum=2, in_graph={"batch_axis": "none"})
    content["tasks"]["decode"]["inputs"].append({**number, "role": "truncation"})
    nodes = [
        node("Mul", ["x", "psi"], ["less"]), node("Cast", ["shift"], ["s"], to=TO["float32"]), node("Reshape", ["s", "column"], ["moved"]),
        node("Add", ["less", "moved"], ["sum"]), node("Mul", ["sum", "truncation"], ["y"]),
    ]  # fmt: skip
    inputs = [value("psi", shape=[]), value("shift", TO["float64"], ["B", 1]), value("truncation", shape=[])]
    path = made(tmp_path, content, nodes, inputs=inputs, constants=[constant("column", [-1, 1, 1, 1])])
    assert check(path, "--seal")[0] == 0
    model = load(path)
    z = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    plain = images(z) * 0.5 + 0.25
    assert np.allclose(model.sample(latents=z).data, plain, atol=1e-6)
    mixed = np.asarray([1, 0.5, 2, 0.5, 0], np.float32)
    assert np.allclose(
        model.sample(latents=z, numbers={"truncation": mixed}).data, plain * mixed[:, None, None, None], atol=1e-6
    )


def test_the_polarity_and_shape_of_a_score(tmp_path: Path) -> None:
    content = {**graphs.manifest(score={**graphs.SCORE, "outputs": [{"role": "nll", "name": "y", "shape": [], "in_graph": {"shape": [1], "negate": True}}]}),
               "scoring": graphs.SCORING}  # fmt: skip
    path = graphs.folder(tmp_path, content)
    graphs.write(
        path / "g.onnx", [node("Flatten", ["z"], ["flat"]), node("ReduceMean", ["flat", "axis"], ["y"], keepdims=1)], [value("z", shape=["B", 1, 2, 2])],
        [value("y", shape=["B", 1])], [constant("axis", [1])],
    )  # fmt: skip
    assert check(path, "--seal")[0] == 0
    x = np.random.default_rng(0).random((7, 1, 2, 2)).astype(np.float32)
    assert np.allclose(load(path).score(x).terms["nll"], -x.mean((1, 2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layout": "NHWX"}, "layout: 'NHWX' is unknown; give the order of the letters N, C, H and W"),
        ({"layout": "NHWC", "batch_axis": 1}, "layout: batch_axis is given too"),
        (
            {"layout": "CHWN", "shape": [60]},
            "layout: CHWN cannot be combined with shape; the batch must be the first axis then",
        ),
        ({"layout": "NHW"}, "in_graph.layout: NHW has no axis for the 3 channels; add C"),
        ({"channels": "RGX"}, "channels: 'RGX' is not a list of channels"),
        ({"channels": "RG"}, "in_graph.channels: RG has neither L nor all of R, G and B"),
        ({"channels": [0, 1]}, "names 2 channels, but the images have 3"),
        (
            {"range": [1, 0]},
            "range: [1.0, 0.0] is not ascending; give [black, white] with black < white, and invert: true",
        ),
        ({"mean": MEAN}, "mean, std: only one of them is given"),
        ({"mean": MEAN[:1], "std": STD[:1]}, "in_graph.mean: 1 numbers, but the graph has 3 channels"),
        (
            {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
            "mean: 123.7 is not the mean of pixels in [0, 1]; divide mean and std by",
        ),
        (
            {"activation": "softmax"},
            "in_graph.activation: softmax is for the numbers of classes, not for images; use sigmoid or tanh",
        ),
        ({"mean": MEAN, "std": STD, "range": [0, 1]}, "range: mean and std are given too"),
        ({"shape": [61]}, "in_graph.shape: [61] has 61 values, but the shape [3, 4, 5] has 60"),
        ({"batch_axis": 5}, "in_graph.batch_axis: 5 is not an axis of the tensor"),
        ({"index": True}, "in_graph.index: it is for inputs that take classes only"),
        ({"none": 3}, "none: it has no effect without index: true"),
        ({"dtype": "complex64"}, "dtype"),
    ],
)
def test_wrong_forms_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    assert said in refused(made(tmp_path, manifest(fields), [node("Identity", ["x"], ["y"])]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"activation": "tanh"}, "in_graph.activation: it is for outputs only"),
        ({"negate": True}, "in_graph.negate: it is for outputs only"),
        ({"range": [0, 1]}, "in_graph.range: it is for images only"),
        ({"shape": [7, 1]}, "in_graph.shape: [7, 1] has 7 values, but the shape [6] has 6"),
    ],
)
def test_wrong_forms_of_inputs_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    assert said in refused(made(tmp_path, manifest(latent=fields), [node("Identity", ["x"], ["y"])]))


def test_wrong_constants_are_refused(tmp_path: Path) -> None:
    inputs = [value("psi", INT64, [])]
    for constants, said in (
        ({"phi": {"value": 1}}, "has no input 'phi', which is a constant of the manifest"),
        ({"psi": {"value": 1}}, "constant 'psi' is int64[] in the graph, but the manifest says float32[]"),
        ({"psi": {"value": 0.5, "dtype": "int64"}}, "value: 0.5 does not fit into int64"),
        ({"psi": {"value": "x"}}, "tasks.decode.constants.psi.value: a number is needed, not 'x'"),
        ({"z": {"value": 1}}, "tasks.decode.constants: 'z' is also an input of the manifest"),
    ):
        path = made(tmp_path, manifest(constants=constants), [node("Identity", ["x"], ["y"])], inputs=inputs)
        assert said in refused(path), constants
    assert Constant(value=((1, 2), (3, 4)), dtype="int32").array.tolist() == [[1, 2], [3, 4]]


@settings(max_examples=60, deadline=None)
@drawn(
    st.sampled_from(["NCHW", "NHWC", "CHWN", "HWNC"]), st.sampled_from([None, "BGR", "RGBA", "ABGR"]),
    st.sampled_from([{}, {"range": (0, 255)}, {"range": (-3, 5)}, {"mean": MEAN, "std": STD}]), st.booleans(), st.sampled_from(["float32", "float64"]),
    st.integers(1, 3), st.integers(0, 99),
)  # fmt: skip
def test_what_an_input_does_an_output_undoes(
    layout: str, channels: str | None, values: dict[str, Any], invert: bool, dtype: str, n: int, seed: int
) -> None:
    if channels and "A" in channels:
        values = {name: value for name, value in values.items() if name == "range"}
    fields: dict[str, Any] = {"layout": layout, "channels": channels, "invert": invert, "dtype": dtype, **values}
    spec = ImageSpec(height=2, width=5, channels=3, range=(-1, 1))
    form = GraphForm(**fields)
    source = Form(InputSpec(role="data", source="data", shape=spec.shape), form, spec)
    target = Form(TensorSpec(role="data", shape=spec.shape), form, spec)
    x = np.random.default_rng(seed).uniform(-1, 1, (n, *spec.shape)).astype(np.float32)
    there = source.to_graph(x)
    assert agreement.fits(source.dims, there.shape) and there.dtype == dtype
    assert np.abs(target.from_graph(there, "g.onnx") - x).max() < 1e-5


def test_grey_images_and_colour_graphs() -> None:
    """A grey image is repeated in a graph with colours; colours become luminance, with the weights of ITU-R BT.601."""
    spec = ImageSpec(height=1, width=1, channels=1)
    form = GraphForm(channels="RGB", layout="NHWC", dtype="uint8")
    source = Form(InputSpec(role="data", source="data", shape=spec.shape), form, spec)
    assert source.to_graph(np.full((1, 1, 1, 1), 0.5, np.float32)).tolist() == [[[[128, 128, 128]]]]
    target = Form(TensorSpec(role="data", shape=spec.shape), form, spec)
    found = target.from_graph(np.asarray([255, 0, 51], np.uint8).reshape(1, 1, 1, 3), "g.onnx")
    assert found.item() == pytest.approx(0.299 + 0.114 * 0.2, abs=1e-6)


def test_softmax_and_log() -> None:
    tensor = TensorSpec(role="logits", shape=(3,))
    x = np.asarray([[1, 2, 4], [1000, 0, 0]], np.float32)
    p = Form(tensor, GraphForm(activation="softmax"), None).from_graph(x, "g.onnx")
    assert np.allclose(p[0], np.exp(x[0]) / np.exp(x[0]).sum(), atol=1e-6) and np.isfinite(p).all()
    logits = Form(tensor, GraphForm(activation="log"), None).from_graph(p, "g.onnx")
    assert np.isfinite(logits).all() and np.allclose(logits[0] - logits[0, 0], x[0] - x[0, 0], atol=1e-5)
    half = Form(tensor, GraphForm(activation="sigmoid", dtype="float16"), None).from_graph(
        np.asarray([[0, 500, -500]], np.float16), "g"
    )
    assert half.tolist() == [[0.5, 1, 0]] and half.dtype == np.float32


def test_the_form_is_in_the_schema() -> None:
    assert "GraphForm" in str(manifests.schema())
