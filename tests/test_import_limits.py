"""Cases at the limits of import, of forms in the graph and of the diagnoses: wrong options, several files of one name, classes that nothing takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime.errors import GraphError
from manifold.runtime.graphs.forms import Form
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import GraphForm
from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, SHAPE, images, made, manifest
from tests.graphs import INT64, check, constant, given, node, value
from tests.graphs import refused as wrong
from tests.test_graph_forms import TO
from tests.test_import import bring, refused

COPY = [node("Identity", ["x"], ["y"])]


def test_means_for_places_are_in_the_order_of_the_list() -> None:
    """An input in a listed order has the mean of each channel where an output in this order has it."""
    spec = ImageSpec(height=2, width=3, channels=3, range=(0, 1))
    form = GraphForm(channels=(2, 0, 1), mean=(0.1, 0.5, 0.9), std=(0.2, 0.4, 0.6))
    x = np.random.default_rng(0).uniform(0, 1, (2, *spec.shape)).astype(np.float32)
    there = Form(InputSpec(role="data", source="data", shape=spec.shape), form, spec).to_graph(x)
    assert np.allclose(there[:, 2], (x[:, 0] - 0.1) / 0.2, atol=1e-5)  # the first place is 2, with the first mean
    back = Form(TensorSpec(role="data", shape=spec.shape), form, spec).from_graph(there, "g.onnx")
    assert np.abs(back - x).max() < 1e-5


def test_codes_with_a_fraction_are_rounded() -> None:
    form = Form(TensorSpec(role="codes", dtype="int64", shape=(3,)), GraphForm(dtype="float32"), None)
    assert form.from_graph(np.asarray([[0.9999, 2.0001, 3]], np.float32), "g.onnx").tolist() == [[1, 2, 3]]
    with pytest.raises(GraphError, match="output 'codes' holds NaN or infinity"):
        form.from_graph(np.asarray([[0, np.nan, 1]], np.float32), "g.onnx")


def test_codes_without_a_prior_are_good(tmp_path: Path) -> None:
    """The model makes images from given codes alone, so a check does not ask it to draw codes."""
    graphs.write(
        tmp_path / "d.onnx",
        [node("Cast", ["i"], ["f"], to=TO["float32"]), node("Div", ["f", "three"], ["g"]), node("Reshape", ["g", "s"], ["h"]),
         node("Resize", ["h", "", "twice"], ["y"], mode="nearest")],
        [value("i", INT64, ["B", 2, 2])], [value("y", shape=None)],
        [constant("three", np.float32(3)), constant("s", [-1, 1, 2, 2]), constant("twice", np.asarray([1, 1, 2, 2], np.float32))],
    )  # fmt: skip
    model, _ = bring(tmp_path / "models", tmp_path / "d.onnx", "--levels", 4)
    codes = np.asarray([[[0, 1], [2, 3]]])
    assert np.allclose(model.sample(codes=codes).data[0, 0, ::2, ::2], codes[0] / 3, atol=1e-6)
    assert check(model.folder)[0] == 0


def test_classes_of_a_classifier_are_not_given_to_a_decoder(tmp_path: Path) -> None:
    content = {**manifest(), "classes": ["a", "b", "c"], "classification": {}}
    image = [given("x", "data", SHAPE)]
    content["tasks"]["encode"] = {
        "graph": "e.onnx",
        "inputs": image,
        "outputs": [{"role": "mean", "name": "m", "shape": [LATENT]}],
    }
    content["tasks"]["features"] = {
        "graph": "f.onnx",
        "inputs": image,
        "outputs": [{"role": "logits", "name": "m", "shape": [3]}],
    }
    path = made(tmp_path, content, COPY)
    for name, size in (("e.onnx", LATENT), ("f.onnx", 3)):
        weights = np.random.default_rng(size).normal(size=(60, size)).astype(np.float32)
        graphs.write(
            path / name, [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "v"], ["m"])], [value("x", shape=["B", *SHAPE])], [value("m", shape=None)],
            [constant("v", weights)],
        )  # fmt: skip
    status, output = check(path, "--seal")
    assert status == 0, output


def test_a_number_for_no_class_must_fit_the_type(tmp_path: Path) -> None:
    for form, classes in (
        ({"index": True, "dtype": "uint8", "none": -1}, 2),
        ({"index": True, "dtype": "int8", "none": 1}, 200),
    ):
        content = {**manifest(), "classes": [f"c{i}" for i in range(classes)], "class_optional": True}
        content["tasks"]["decode"]["inputs"].append(given("label", "condition", [classes], in_graph=form))
        assert "cannot hold the numbers of all" in wrong(graphs.folder(tmp_path, content)), form


def test_wrong_shapes_of_a_graph_are_named(tmp_path: Path) -> None:
    """A score of the whole batch, and a graph for 0 rows."""
    content = {**graphs.manifest(score=graphs.SCORE), "scoring": graphs.SCORING}
    path = graphs.folder(tmp_path / "a", content)
    graphs.write(
        path / "g.onnx", [node("ReduceMean", ["z"], ["y"], keepdims=0)], [value("z", shape=["B", 1, 2, 2])], [value("y", shape=[])]
    )  # fmt: skip
    assert "output 'nll' is float32[], the manifest says float32[" in wrong(path, "--seal")
    assert "the graph takes 0 rows; export it with a dynamic batch axis" in wrong(
        made(tmp_path / "b", manifest(), COPY, latent=[0, LATENT]), "--seal"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layout", "NABC"], "--layout: 'NABC' is unknown; give the order of the letters N, C, H and W"),
        (["--channels", "XYZ"], "--channels: 'XYZ' is not a list of channels"),
        (["--activation", "relu"], "--activation: "),
        (["--size", 0, 5], "--size: [0, 5] is not a size"),
        (["--size", -1, 5], "--size: [-1, 5] is not a size"),
        (["--input", "z=picture"], "--input: 'picture' is no source; give one of latent, normal, data"),
    ],
)
def test_options_that_hold_for_no_graph(tmp_path: Path, options: list[Any], said: str) -> None:
    path = made(tmp_path, manifest(), COPY) / "g.onnx"
    message = refused(tmp_path / "models", path, *options)
    assert said in message and ".staging" not in message


def test_weights_under_the_name_of_the_preview_are_refused(tmp_path: Path) -> None:
    """The preview would replace them, and the published model would make other images."""
    (tmp_path / "preview.png").write_bytes(brought.WEIGHTS.tobytes())
    others = [each for each in CONSTANTS if each.name != "w"]
    graphs.write(
        tmp_path / "g.onnx", [*brought.body(), *COPY], [value("z", shape=["B", LATENT])], [value("y", shape=None)],
        [graphs.outside("w", "preview.png", brought.WEIGHTS), *others],
    )  # fmt: skip
    assert "preview.png, the name of another file of an artifact" in refused(tmp_path / "models", tmp_path / "g.onnx")


def test_a_file_of_columns_does_not_change_the_shape_of_a_latent(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    graphs.write(
        tmp_path / "s.onnx", [node("ReduceSum", ["X", "axis"], ["scores"], keepdims=0)], [value("X", shape=["B", 2])], [value("scores", shape=["B"])],
        [constant("axis", [1])],
    )  # fmt: skip
    said = refused(tmp_path / "models", tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv")
    assert (
        "--columns: the file has 3 columns, but the input 'X' float32[B, 2] of s.onnx takes 2 numbers; give a file with"
        in said
    )


def test_scripts_and_programs_in_other_orders_and_of_one_name(tmp_path: Path) -> None:
    import torch

    weights = torch.from_numpy(brought.WEIGHTS)

    class Two(torch.nn.Module):
        def forward(self, z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z @ weights + 0 * w.sum(1, keepdim=True)).reshape(-1, *SHAPE)

    class Encoder(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1) @ weights.T

    class Decoder(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z @ weights).reshape(-1, *SHAPE)

    class Half(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z @ weights).reshape(-1, *SHAPE).bfloat16()

    torch.jit.trace(Half(), torch.zeros(2, LATENT)).save(str(tmp_path / "half.pt"))
    assert "BFloat16; convert it to float32" in refused(tmp_path / "m", tmp_path / "half.pt", "--shape", f"z={LATENT}")
    torch.jit.trace(Two(), (torch.zeros(2, LATENT), torch.zeros(2, 5))).save(str(tmp_path / "two.pt"))
    said = refused(tmp_path / "m", tmp_path / "two.pt", "--shape", "w=5", "--shape", f"z={LATENT}")
    assert "no output depends on the input 'w'" in said and "cannot run it" not in said  # the trial run worked
    batch = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    for folder, module, example in (("a", Encoder(), torch.zeros(2, *SHAPE)), ("b", Decoder(), torch.zeros(2, LATENT))):
        (tmp_path / folder).mkdir()
        torch.export.save(
            torch.export.export(module, (example,), dynamic_shapes=batch), str(tmp_path / folder / "model.pt2")
        )
    model, _ = bring(
        tmp_path / "models", tmp_path / "a/model.pt2", tmp_path / "b/model.pt2", "--task", "encode", "--task", "decode",
        "--output", "matmul=mean",
    )  # fmt: skip
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    assert set(model.manifest.tasks) == {"encode", "decode"}
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "value_", "fits"),
    [("int64", 1.5, False), ("uint8", 300, False), ("uint8", -1, False), ("int64", 1e30, False), ("bool", 7, False), ("float16", 1e6, False),
     ("int64", 3, True), ("bool", 1, True), ("float16", 0.5, True)],
)  # fmt: skip
def test_constants_that_the_type_cannot_hold_are_refused(tmp_path: Path, kind: str, value_: float, fits: bool) -> None:
    nodes = [
        *brought.body(),
        node("Cast", ["k"], ["factor"], to=brought.OF_TYPE["float32"]),
        node("Mul", ["x", "factor"], ["img"]),
    ]
    inputs = [value("z", shape=["B", LATENT]), value("k", brought.OF_TYPE[kind], [])]
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("img", shape=None)], CONSTANTS)
    given = [tmp_path / "g.onnx", "--constant", f"k={value_}", "--range", *((-3, 3) if value_ == 3 else (-1, 1))]
    if fits:
        model, output = bring(tmp_path / "m", *given)
        z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
        assert (
            np.allclose(model.sample(latents=z).data, images(z) * value_, atol=1e-5) and f"always {value_:g}" in output
        )
    else:
        assert f"--constant: the input 'k' is {kind} in the graph, which cannot hold {value_:g}" in refused(
            tmp_path / "m", *given
        )
    said = refused(tmp_path / "n", tmp_path / "g.onnx", "--number", "k=1:0:1e30")
    assert (f"'k' is {kind} in the graph, which cannot hold 1e+30" in said) == (kind != "float32")


def test_a_graph_for_one_row_with_a_free_axis(tmp_path: Path) -> None:
    """The batch axis is free, but a Reshape inside keeps one row."""
    nodes = [
        node("Reshape", ["z", "single"], ["flat"]),
        node("MatMul", ["flat", "w"], ["m"]),
        node("Tanh", ["m"], ["t"]),
        node("Reshape", ["t", "one"], ["y"]),
    ]
    constants = [*CONSTANTS, constant("single", [1, LATENT]), constant("one", [1, *SHAPE])]
    graphs.write(tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT])], [value("y", shape=None)], constants)
    model, output = bring(tmp_path / "m", tmp_path / "g.onnx", "--range", -1, 1)
    assert "one row in each run, as the graph cannot take 8" in output
    z = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-6


def test_several_means_and_draws(tmp_path: Path) -> None:
    """An encoder that also returns a draw: the output named as the mean is the mean, in any order, and statements are followed."""
    nodes = [
        node("Flatten", ["image"], ["f"]),
        node("MatMul", ["f", "v"], ["mu"]),
        node("Neg", ["mu"], ["logvar"]),
        node("Add", ["mu", "one"], ["z"]),
    ]
    weights = np.random.default_rng(3).normal(size=(60, LATENT)).astype(np.float32) / 10
    outputs = {name: value(name, shape=["B", LATENT]) for name in ("z", "mu", "logvar")}
    for place, order in enumerate((("z", "mu", "logvar"), ("logvar", "z", "mu"), ("mu", "logvar", "z"))):
        path = tmp_path / f"e{place}.onnx"
        graphs.write(
            path, nodes, [value("image", shape=["B", 3, 4, 5])], [outputs[name] for name in order],
            [constant("v", weights), constant("one", np.float32(1))],
        )  # fmt: skip
        model, _ = bring(tmp_path / str(place), path)
        x = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
        found = model.encode(x)
        assert found.mean is not None and np.allclose(found.mean, x.reshape(2, -1) @ weights, atol=1e-5), order
        assert found.log_variance is not None and np.allclose(found.log_variance, -found.mean)
    model, _ = bring(tmp_path / "z", tmp_path / "e0.onnx", "--output", "z=mean")
    mean = model.encode(x).mean
    assert mean is not None and np.allclose(mean, x.reshape(2, -1) @ weights + 1, atol=1e-5)


def test_means_for_three_places_of_an_input(tmp_path: Path) -> None:
    """An order that is not its own inverse."""
    stated = GraphForm(channels=(1, 2, 0))
    spec = ImageSpec(kind="image", height=1, width=1, channels=3)
    x = np.asarray([10, 20, 30], np.float32).reshape(1, 3, 1, 1)
    there = Form(InputSpec(role="data", source="data", shape=(3, 1, 1)), stated, spec).to_graph(x)
    assert Form(TensorSpec(role="data", shape=(3, 1, 1)), stated, spec).from_graph(there, "g").ravel().tolist() == [
        10,
        20,
        30,
    ]
    assert there[0, [1, 2, 0], 0, 0].tolist() == [10, 20, 30]


def test_two_graphs_with_weights_in_one_file(tmp_path: Path) -> None:
    """Equal weights are shared, and different ones get another name; a name that an artifact uses otherwise is refused."""
    others = [each for each in CONSTANTS if each.name != "w"]

    def write(folder: Path, weights: np.ndarray[Any, Any], name: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(weights.tobytes())

    for folder in ("a", "b"):
        write(tmp_path / folder, brought.WEIGHTS, "w.bin")
    graphs.write(
        tmp_path / "a/g.onnx", [*brought.body(), *COPY], [value("z", shape=["B", LATENT])], [value("y", shape=None)],
        [graphs.outside("w", "w.bin", brought.WEIGHTS), *others],
    )  # fmt: skip
    graphs.write(
        tmp_path / "b/e.onnx", [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "turned"], ["mu"])], [value("image", shape=["B", 3, 4, 5])],
        [value("mu", shape=["B", LATENT])], [graphs.outside("turned", "w.bin", np.ascontiguousarray(brought.WEIGHTS.T.reshape(60, LATENT)))],
    )  # fmt: skip
    model, _ = bring(tmp_path / "m", tmp_path / "a/g.onnx", tmp_path / "b/e.onnx")
    assert (model.folder / "w.bin").read_bytes() == brought.WEIGHTS.tobytes()
    write(tmp_path / "b", brought.WEIGHTS + 1, "w.bin")
    model, _ = bring(tmp_path / "n", tmp_path / "a/g.onnx", tmp_path / "b/e.onnx")
    assert (model.folder / "w.bin").read_bytes() == brought.WEIGHTS.tobytes()
    x = np.random.default_rng(1).random((2, 3, 4, 5)).astype(np.float32)
    z = np.random.default_rng(2).normal(size=(2, LATENT)).astype(np.float32)
    mean = model.encode(x).mean
    assert mean is not None and np.allclose(
        mean, x.reshape(2, -1) @ (brought.WEIGHTS + 1).reshape(60, LATENT), atol=1e-4
    )
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-5
    for name, said in (
        ("priors.npz", "of another file of an artifact"),
        ("page/w.bin", "of another file of an artifact"),
        ("decode.onnx", "the name of a graph"),
    ):
        write(tmp_path / "a", brought.WEIGHTS, name)
        graphs.write(
            tmp_path / "a/h.onnx", [*brought.body(), *COPY], [value("z", shape=["B", LATENT])], [value("y", shape=None)],
            [graphs.outside("w", name, brought.WEIGHTS), *others],
        )  # fmt: skip
        assert said in refused(tmp_path / "p", tmp_path / "a/h.onnx")


def test_names_with_scopes_and_numbers(tmp_path: Path) -> None:
    """Names such as those of TensorFlow are no roles, and their last part says what they are."""
    nodes = [node("Identity", ["model/z:0"], ["z"]), *brought.body(), node("Add", ["x", "model/noise:0"], ["y"])]
    inputs = [value("model/z:0", shape=["B", LATENT]), value("model/noise:0", shape=["B", 1, 4, 5])]
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("y", shape=None)], CONSTANTS)
    model, _ = bring(tmp_path / "m", tmp_path / "g.onnx", "--range", -4, 4)
    assert set(model.manifest.latents) == {"model_z_0", "model_noise_0"}
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=(3, 1, 4, 5)).astype(np.float32)
    assert np.allclose(
        model.sample(latents={"model_z_0": z, "model_noise_0": noise}).data, images(z) + noise, atol=1e-5
    )
    inputs = [value("input.1", shape=["B", LATENT]), value("input.2", shape=["B", 1, 4, 5])]
    nodes = [node("Identity", ["input.1"], ["z"]), *brought.body(), node("Add", ["x", "input.2"], ["y"])]
    graphs.write(tmp_path / "n.onnx", nodes, inputs, [value("y", shape=None)], CONSTANTS)
    said = refused(tmp_path / "n", tmp_path / "n.onnx", "--range", -4, 4)
    assert "for noise from which items are made, --input input.1=latent" in said
    bring(
        tmp_path / "n", tmp_path / "n.onnx", "--range", -4, 4, "--input", "input.1=latent", "--input", "input.2=normal"
    )


def test_scripts_with_optional_arguments_and_a_fixed_batch(tmp_path: Path) -> None:
    import torch

    weights = torch.from_numpy(brought.WEIGHTS)

    class Optional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = weights

        def forward(self, z: torch.Tensor, invert: bool = False, scale: float = 1.0) -> torch.Tensor:
            made = torch.tanh(z @ self.weights).reshape(-1, 3, 4, 5)
            return -made if invert else made * scale

    class Four(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z @ weights).reshape(4, *SHAPE)

    torch.jit.script(Optional()).save(str(tmp_path / "o.pt"))
    torch.jit.trace(Four(), torch.zeros(4, LATENT)).save(str(tmp_path / "f.pt"))
    z = np.random.default_rng(1).normal(size=(9, LATENT)).astype(np.float32)
    model, _ = bring(tmp_path / "o", tmp_path / "o.pt", "--shape", f"z={LATENT}")
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-5
    said = refused(tmp_path / "f", tmp_path / "f.pt", "--shape", f"z={LATENT}")
    assert (
        "the trial run had 8 rows: if the graph was traced for a fixed number of rows, state it, such as --rows 1"
        in said
    )
    model, _ = bring(tmp_path / "f", tmp_path / "f.pt", "--shape", f"z={LATENT}", "--rows", 4)
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-5


@pytest.mark.parametrize(("add", "levels", "wrong"), [(0, 8, None), (0, 7, "7"), (-1, 8, "-1"), (300, 8, "30")])
def test_codes_outside_the_levels_are_found(tmp_path: Path, add: int, levels: int, wrong: str | None) -> None:
    """An encoder whose codes are 0 to 7, plus a number, and a decoder for any codes."""
    nodes = [
        node("Slice", ["image", "start", "end", "axis"], ["one"]), node("Mul", ["one", "seven"], ["scaled"]), node("Round", ["scaled"], ["whole"]),
        node("Cast", ["whole"], ["c"], to=brought.OF_TYPE["int64"]), node("Add", ["c", "add"], ["codes"]),
    ]  # fmt: skip
    constants = [
        constant("start", [0]), constant("end", [1]), constant("axis", [1]), constant("seven", np.float32(7)), constant("add", np.asarray(add)),
    ]  # fmt: skip
    graphs.write(
        tmp_path / "e.onnx", nodes, [value("image", shape=["B", 3, 6, 6])], [value("codes", INT64, None)], constants
    )
    back = [
        node("Cast", ["codes"], ["c"], to=brought.OF_TYPE["float32"]),
        node("Div", ["c", "eight"], ["s"]),
        node("Concat", ["s", "s", "s"], ["y"], axis=1),
    ]
    graphs.write(
        tmp_path / "d.onnx", back, [value("codes", INT64, ["B", 1, 6, 6])], [value("y", shape=None)], [constant("eight", np.float32(8))]
    )  # fmt: skip
    given = [tmp_path / "e.onnx", tmp_path / "d.onnx", "--levels", levels, "--range", 0, 1]
    if wrong is None:
        model, _ = bring(tmp_path / "m", *given)
        assert "reconstruct" in model.endpoints
    else:
        assert f"output 'codes' holds {wrong}" in refused(tmp_path / "m", *given)
