"""`manifold import`: graphs in the forms in which people have them become artifacts, with reasons, a check and a preview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ManifoldError
from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, MEAN, STD, images, made, manifest
from tests.graphs import INT64, constant, node, value
from tests.test_graph_forms import LATENTS, OUTPUTS, TO, with_latent

OPTIONS = {
    "BGR": ["--channels", "BGR"], "BGR 0..255": ["--channels", "BGR"], "five channels": ["--channels", "4,2,0", "--layout", "NCHW"],
    "mean and standard deviation": ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))], "inverted": ["--invert"],
    "inverted, 0..1": ["--invert"], "tanh is not in the graph": ["--activation", "tanh"], "flat": ["--size", "4", "5"],
    "flat, channels last": ["--size", "4", "5", "--layout", "NHWC"],
    "batch last": ["--layout", "HWCN"], "batch second": ["--layout", "CNHW"],
}  # fmt: skip
FORMS = [name for name in OUTPUTS if name != "one image at a time"]


def bring(root: Path, *arguments: object) -> tuple[Model, str]:
    """Import files, and return the model and the output of the command."""
    done = CliRunner().invoke(
        cli.app, ["import", *map(str, arguments), "--name", "mine", "--models", str(root)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return load(max((root / "mine").iterdir(), key=lambda each: int(each.name))), done.output


def refused(root: Path, *arguments: object) -> str:
    with pytest.raises(ManifoldError) as caught:
        bring(root, *arguments)
    assert not list(root.glob("mine/*"))  # nothing was published
    return caught.value.message


@pytest.mark.parametrize("name", FORMS)
def test_generators_in_all_forms_give_the_same_images(tmp_path: Path, name: str) -> None:
    fields, nodes, constants, options, tolerance = OUTPUTS[name]
    path = made(tmp_path, manifest(fields), nodes, constants=constants, **options)
    model, output = bring(tmp_path / "models", path / "g.onnx", *OPTIONS.get(name, []))
    z = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    expected = images(z)
    if name == "five channels":
        expected = np.stack([expected[:, [2, 0, 1, 0, 0][place]] for place in (4, 2, 0)], 1)
    low, high = model.manifest.spec.limits or (0, 1)
    found = (model.sample(latents=z).data - low) / (high - low)
    assert np.abs(found - (expected + 1) / 2).max() <= tolerance + 1e-5
    assert "done; endpoints: sample, interpolate" in output and "look at " in output
    assert (model.folder / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert model.manifest.files.keys() >= {"decode.onnx", "preview.png"}


@pytest.mark.parametrize("name", LATENTS)
def test_latents_in_all_forms(tmp_path: Path, name: str) -> None:
    form, shape, kind = LATENTS[name]
    path = with_latent(tmp_path, manifest(latent=form), shape, kind)
    options = ["--layout", "CHW"] if name == "one at a time" else []
    if name == "one at a time":  # the image has no axis for the batch either
        nodes = [node("Reshape", ["z", "rows"], ["z2"]), node("MatMul", ["z2", "w"], ["pixels"]), node("Tanh", ["pixels"], ["values"]),
                 node("Reshape", ["values", "plain"], ["y"])]  # fmt: skip
        graphs.write(
            path / "g.onnx", nodes, [value("z", shape=shape)], [value("y", shape=None)], [*CONSTANTS, constant("plain", brought.SHAPE)]
        )  # fmt: skip
    model, _output = bring(tmp_path / "models", path / "g.onnx", *options)
    z = np.random.default_rng(1).normal(size=(20, LATENT)).astype(np.float32)
    assert np.abs(model.sample(latents=z).data - images(z)).max() < (2e-2 if kind == "float16" else 1e-6)
    assert "interpolate" in model.endpoints


def labelled(path: Path, shape: list[Any], kind: int = INT64) -> Path:
    """Write a generator whose images are multiplied by (class + 1) / 10."""
    nodes = [
        *brought.body(), node("Cast", ["y"], ["number"], to=TO["float32"]), node("Add", ["number", "unit"], ["more"]),
        node("Mul", ["more", "tenth"], ["share"]), node("Reshape", ["share", "column"], ["factor"]), node("Mul", ["x", "factor"], ["img"]),
    ]  # fmt: skip
    constants = [
        *CONSTANTS,
        constant("unit", np.float32(1)),
        constant("tenth", np.float32(0.1)),
        constant("column", [-1, 1, 1, 1]),
    ]
    graphs.write(
        path, nodes, [value("z", shape=["B", LATENT]), value("y", kind, shape)], [value("img", shape=None)], constants
    )
    return path


@pytest.mark.parametrize(("shape", "kind"), [(["B"], INT64), (["B", 1], INT64), (["B"], TensorProto.INT32)])
def test_an_input_for_the_class(tmp_path: Path, shape: list[Any], kind: int) -> None:
    path = labelled(tmp_path / "g.onnx", shape, kind)
    assert "looks like a class; give --classes with their number or names" in refused(tmp_path / "models", path)
    model, _ = bring(tmp_path / "models", path, "--classes", "zero,one,two", "--range", -1, 1)
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    found = model.sample(latents=z, classes=["two", "zero", "one"]).data
    assert np.allclose(found, images(z) * np.asarray([0.3, 0.1, 0.2])[:, None, None, None], atol=1e-6)


def test_numbers_are_constants_or_fields_of_requests(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    nodes = [*brought.body(), node("Mul", ["x", "psi"], ["img"])]
    graphs.write(
        path, nodes, [value("z", shape=["B", LATENT]), value("psi", shape=[])], [value("img", shape=None)], CONSTANTS
    )
    assert "input 'psi' float32[] is one number; give its value for all requests, --constant psi=1, or let" in refused(
        tmp_path / "m", path
    )
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    fixed, _ = bring(tmp_path / "a", path, "--constant", "psi=0.5", "--range", -1, 1)
    assert np.allclose(fixed.sample(latents=z).data, images(z) * 0.5, atol=1e-6)
    free, _ = bring(tmp_path / "b", path, "--number", "psi=0.7:0:1", "--range", -1, 1)
    assert np.allclose(free.sample(latents=z).data, images(z) * 0.7, atol=1e-6)
    assert np.allclose(free.sample(latents=z, numbers={"psi": [0, 1, 0.5]}).data[1], images(z)[1], atol=1e-6)


def encoder(path: Path) -> Path:
    """Write an encoder of NHWC uint8 images: mean and log-variance of the latent are linear in the pixels."""
    weights = np.random.default_rng(3).normal(size=(60, LATENT)).astype(np.float32) / 100
    nodes = [
        node("Cast", ["image"], ["c"], to=TO["float32"]), node("Flatten", ["c"], ["flat"]), node("MatMul", ["flat", "v"], ["mu"]),
        node("Neg", ["mu"], ["logvar"]),
    ]  # fmt: skip
    graphs.write(
        path, nodes, [value("image", TO["uint8"], ["B", 4, 5, 3])], [value("mu", shape=["B", LATENT]), value("logvar", shape=["B", LATENT])],
        [constant("v", weights)],
    )  # fmt: skip
    return path


def test_several_graphs_are_one_model(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Identity", ["x"], ["y"])])
    model, output = bring(tmp_path / "models", encoder(tmp_path / "encoder.onnx"), path / "g.onnx")
    assert set(model.manifest.tasks) == {"encode", "decode"}
    assert {"encode", "reconstruct", "interpolate", "sample"} <= set(model.endpoints)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 4, 5)).astype(np.float32)
    pixels = np.rint((x + 1) * 127.5).transpose(0, 2, 3, 1).reshape(3, -1)
    weights = np.random.default_rng(3).normal(size=(60, LATENT)).astype(np.float32) / 100
    mean = model.encode(x).mean
    assert mean is not None and np.allclose(mean, pixels @ weights, atol=1e-4)
    assert (
        "'mu' float32[B, 6]: mean (by its name)" in output
        and "'logvar' float32[B, 6]: log_variance (by its name)" in output
    )


def test_a_classifier_with_probabilities(tmp_path: Path) -> None:
    weights = np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32) / 3
    nodes = [
        node("Flatten", ["image"], ["flat"]),
        node("MatMul", ["flat", "v"], ["logits"]),
        node("Softmax", ["logits"], ["probs"]),
    ]
    graphs.write(
        tmp_path / "c.onnx", nodes, [value("image", shape=["B", 3, 4, 5])], [value("probs", shape=["B", 4])], [constant("v", weights)]
    )  # fmt: skip
    model, output = bring(
        tmp_path / "models",
        tmp_path / "c.onnx",
        "--classes",
        4,
        "--mean",
        ",".join(map(str, MEAN)),
        "--std",
        ",".join(map(str, STD)),
    )
    assert model.endpoints == ["classify"] and "the values of a trial run are probabilities" in output
    x = np.random.default_rng(0).uniform(0, 1, (3, 3, 4, 5)).astype(np.float32)
    normal = ((x - np.asarray(MEAN)[:, None, None]) / np.asarray(STD)[:, None, None]).reshape(3, -1) @ weights
    expected = np.exp(normal) / np.exp(normal).sum(1, keepdims=True)
    assert np.abs(model.classify(x) - expected).max() < 1e-5


def test_a_scorer_of_rows(tmp_path: Path) -> None:
    """The graph gets the values of the columns unchanged; its score is that of normality, with the shape (B, 1), as skl2onnx makes them."""
    (tmp_path / "rows.csv").write_text("a,b\n1,2000\n-3,4000\n0.5,1000\n")
    nodes = [node("ReduceSum", ["X", "axis"], ["scores"], keepdims=1), node("Cast", ["scores"], ["label"], to=INT64)]
    graphs.write(
        tmp_path / "s.onnx", nodes, [value("X", shape=["B", 2])], [value("label", INT64, ["B", 1]), value("scores", shape=["B", 1])], [constant("axis", [1])]
    )  # fmt: skip
    said = refused(tmp_path / "asked", tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv")
    assert "give --negate, or --keep-sign if the scores are higher for anomalies" in said
    kept, _ = bring(tmp_path / "kept", tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv", "--keep-sign")
    assert kept.score([{"a": 2, "b": 3}]).terms["scores"].tolist() == [5]
    model, output = bring(tmp_path / "models", tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv", "--negate")
    assert "anomaly-score" in model.endpoints and "counts as more normal: the sign is changed" in output
    rows: list[dict[str, float]] = [{"a": 1e6, "b": -5}, {"a": 2, "b": 3}]
    assert model.score(rows).terms["scores"].tolist() == [-(1e6 - 5), -5]


def test_scripts_and_programs(tmp_path: Path) -> None:
    """A script that returns a dictionary, and an exported program, which becomes an ONNX graph."""
    import torch

    weights = torch.from_numpy(brought.WEIGHTS)

    class Dictionary(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
            x = torch.tanh(z @ weights).reshape(-1, 3, 4, 5)
            return {"image": x, "other": z}

    class Plain(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z @ weights).reshape(-1, 3, 4, 5)

    example = torch.zeros(2, LATENT)
    torch.jit.trace(Dictionary(), example, strict=False).save(str(tmp_path / "g.pt"))

    class Tuple(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return z * 2, torch.tanh(z @ weights).reshape(-1, 3, 4, 5)

    torch.jit.trace(Tuple(), example).save(str(tmp_path / "t.pt"))
    program = torch.export.export(
        Plain(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},)
    )
    torch.export.save(program, str(tmp_path / "g.pt2"))
    z = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    assert "give --shape for each, such as --shape z=float32[B,64]" in refused(tmp_path / "a", tmp_path / "g.pt")
    scripted, output = bring(tmp_path / "a", tmp_path / "g.pt", "--shape", f"z={LATENT}")
    assert np.abs(scripted.sample(latents=z).data - images(z)).max() < 1e-6 and "not used: 'other'" in output
    second, output = bring(tmp_path / "t", tmp_path / "t.pt", "--shape", f"z={LATENT}")
    assert np.abs(second.sample(latents=z).data - images(z)).max() < 1e-6 and "not used: 'output0'" in output
    exported, _ = bring(tmp_path / "b", tmp_path / "g.pt2")
    assert exported.manifest.backend == "onnx" and np.abs(exported.sample(latents=z).data - images(z)).max() < 1e-6


def test_external_weights_come_along(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/w.bin").write_bytes(brought.WEIGHTS.tobytes())
    others = [each for each in CONSTANTS if each.name != "w"]
    nodes = [*brought.body(), node("Identity", ["x"], ["y"])]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT])], [value("y", shape=None)],
        [graphs.outside("w", "weights/w.bin", brought.WEIGHTS), *others],
    )  # fmt: skip
    model, _ = bring(tmp_path / "models", tmp_path / "g.onnx")
    assert "weights/w.bin" in model.manifest.files
    z = np.random.default_rng(1).normal(size=(5, LATENT)).astype(np.float32)
    assert np.abs(model.sample(latents=z).data - images(z)).max() < 1e-6


def test_wrong_arguments_say_what_to_do(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Identity", ["x"], ["y"])]) / "g.onnx"
    root = tmp_path / "models"
    (tmp_path / "g.txt").write_text("x")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    (tmp_path / "rows.csv").write_text("a,b\n1,x\n")
    for arguments, said in (
        ([tmp_path / "none.onnx"], "there is no such file"),
        ([tmp_path / "g.txt"], "unknown suffix '.txt'; give an ONNX file"),
        ([tmp_path / "bad.onnx"], "bad.onnx"),
        ([path, path], "this is a second graph for the task decode; state the tasks"),
        ([path, "--input", "z"], "--input 'z': not of the form NAME=VALUE"),
        ([path, "--number", "z=a"], "--number: 'a' is not a number"),
        (
            [path, "--columns", tmp_path / "rows.csv"],
            "--columns: the column 'b' has texts, but the graph takes all columns as one input of numbers",
        ),
        ([path, "--range", "1", "-1"], "--range: 1 -1 is not ascending; give black and then white"),
        ([path, "--classes", "a,a"], "--classes: 'a,a' has a name that is empty or occurs twice"),
        ([path, "--classes", ""], "has a name that is empty or occurs twice"),
        ([path, "--range", "0", "1"], "the check found problems; nothing was published:"),
    ):
        assert said in refused(root, *arguments), arguments


def test_a_wrong_range_is_not_published(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Identity", ["x"], ["y"])]) / "g.onnx"
    said = refused(tmp_path / "models", path, "--range", 0, 1)
    assert "the range looks like [-1, 1], declared as [0, 1]" in said
    assert not (tmp_path / "models/mine").exists()


def test_the_next_version_follows(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Identity", ["x"], ["y"])]) / "g.onnx"
    for version in (1, 2):
        model, _ = bring(tmp_path / "models", path)
        assert model.version == version


def test_maps_are_told_from_images(tmp_path: Path) -> None:
    """A map of 4 channels from which a larger image is made is a latent; a smaller map that is made of an image needs a statement."""
    up = [
        node("Slice", ["x", "from", "to", "axis"], ["three"]),
        node("Resize", ["three", "", "scales"], ["big"], mode="nearest"),
        node("Tanh", ["big"], ["y"]),
    ]
    constants = [
        constant("from", [0]),
        constant("to", [3]),
        constant("axis", [1]),
        constant("scales", np.asarray([1, 1, 4, 4], np.float32)),
    ]
    graphs.write(
        tmp_path / "d.onnx", up, [value("x", shape=["B", 4, 8, 8])], [value("y", shape=["B", 3, 32, 32])], constants
    )
    model, _ = bring(tmp_path / "d", tmp_path / "d.onnx")
    assert model.manifest.latents["latent"].dims == (4, 8, 8) and "interpolate" in model.endpoints
    assert model.interpolate({"seed": 1}, {"seed": 2}, steps=3).data.shape == (3, 3, 32, 32)
    down = [node("AveragePool", ["x"], ["y"], kernel_shape=[4, 4], strides=[4, 4])]
    graphs.write(tmp_path / "e.onnx", down, [value("x", shape=["B", 3, 32, 32])], [value("y", shape=["B", 3, 8, 8])])
    assert "it makes images of images, which no endpoint serves" in refused(tmp_path / "e", tmp_path / "e.onnx")
    model, _ = bring(tmp_path / "f", tmp_path / "e.onnx", "--output", "y=features")
    assert set(model.manifest.tasks) == {"features"}
    same = [node("Tanh", ["x"], ["y"])]
    graphs.write(tmp_path / "s.onnx", same, [value("x", shape=["B", 3, 32, 32])], [value("y", shape=["B", 3, 32, 32])])
    said = refused(tmp_path / "s", tmp_path / "s.onnx")
    assert "if the input is noise, give --input x=latent" in said
    model, _ = bring(tmp_path / "n", tmp_path / "s.onnx", "--input", "x=normal")
    assert model.endpoints == ["sample"]


def test_a_latent_with_a_part_for_each_layer(tmp_path: Path) -> None:
    """The latent (14, 6) of a style-based generator keeps its shape, and can be interpolated."""
    nodes = [
        node("ReduceMean", ["w_plus", "axis"], ["z"], keepdims=0),
        *brought.body(),
        node("Identity", ["x"], ["img"]),
    ]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("w_plus", shape=["B", 14, LATENT])], [value("img", shape=None)], [*CONSTANTS, constant("axis", [1])]
    )  # fmt: skip
    model, _ = bring(tmp_path / "models", tmp_path / "g.onnx", "--range", -1, 1)
    assert model.manifest.latents["latent"].dims == (14, LATENT)
    assert model.interpolate({"seed": 1}, {"seed": 2}, steps=3).data.shape == (3, 3, 4, 5)


def test_guesses_that_would_be_gambles_are_questions(tmp_path: Path) -> None:
    """Each graph is refused with the option that states the fact."""
    z, x = value("z", shape=["B", LATENT]), value("image", shape=["B", 3, 4, 5])
    half, wide = constant("half", np.float32(0.58)), constant("wide", np.float32(0.5))
    over = [*brought.body(), node("Mul", ["x", "half"], ["less"]), node("Add", ["less", "wide"], ["img"])]
    graphs.write(tmp_path / "over.onnx", over, [z], [value("img", shape=None)], [*CONSTANTS, half, wide])
    two = [
        *brought.body(),
        node("ReduceMean", ["x", "axis"], ["mask"], keepdims=1),
        node("Identity", ["x"], ["picture"]),
    ]
    graphs.write(
        tmp_path / "two.onnx",
        two,
        [z],
        [value("mask", shape=None), value("picture", shape=None)],
        [*CONSTANTS, constant("axis", [1])],
    )
    weights = constant("v", np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32) / 3)
    sigmoid = [
        node("Flatten", ["image"], ["flat"]),
        node("MatMul", ["flat", "v"], ["l"]),
        node("Sigmoid", ["l"], ["probs"]),
    ]
    graphs.write(tmp_path / "sigmoid.onnx", sigmoid, [x], [value("probs", shape=["B", 4])], [weights])
    whole = [
        node("Cast", ["image"], ["c"], to=TO["float32"]),
        node("Flatten", ["c"], ["flat"]),
        node("MatMul", ["flat", "v"], ["mu"]),
    ]
    graphs.write(
        tmp_path / "whole.onnx",
        whole,
        [value("image", TO["int32"], ["B", 3, 4, 5])],
        [value("mu", shape=["B", 4])],
        [weights],
    )
    huge = [node("ReduceMean", ["image", "axis"], ["mu"], keepdims=0)]
    graphs.write(
        tmp_path / "huge.onnx",
        huge,
        [value("image", shape=["B", 3, 10**5, 10**5])],
        [value("mu", shape=None)],
        [constant("axis", [1])],
    )
    for name, arguments, said in (
        ("over", [], "which is none of the usual ranges of images; give --range BLACK WHITE"),
        ("two", [], "several outputs have the shape of images"),
        ("sigmoid", ["--classes", 4], "its values are between 0 and 1 but do not add up to 1, as those of a sigmoid"),
        ("whole", ["--input", "image=data"], "pixels of this type need a range; give --range BLACK WHITE, such as --range 0 255"),
        ("huge", [], "numbers are too many for a trial run"),
    ):  # fmt: skip
        assert said in refused(tmp_path / f"{name}-refused", tmp_path / f"{name}.onnx", *arguments), name
    model, _ = bring(tmp_path / "a", tmp_path / "over.onnx", "--range", 0, 1)
    assert list(model.manifest.spec.limits or ()) == [0, 1]
    model, _ = bring(tmp_path / "b", tmp_path / "two.onnx", "--output", "picture=data")
    assert model.manifest.spec.shape == (3, 4, 5)
    model, _ = bring(tmp_path / "c", tmp_path / "whole.onnx", "--input", "image=data", "--range", 0, 255)
    pixels = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    mean = model.encode(pixels).mean
    assert mean is not None and np.allclose(
        mean, pixels.reshape(1, -1) @ np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32) / 3, atol=1e-3
    )


def test_a_file_of_weights_has_no_graph(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.pt")
    said = refused(tmp_path / "models", tmp_path / "weights.pt", "--shape", "z=4")
    assert "it holds weights or a pickled module, but no graph; save torch.jit.script(model)" in said
