"""Graphs as exporters write them: each is imported, checked and used without a manifest by hand, or refused in one clear line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional as F

from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, images
from tests.graphs import INT64, constant, node, value
from tests.test_import import bring, refused

Axes = Mapping[str, Mapping[int, str]]


def exported(
    module: nn.Module, example: Sequence[Tensor], path: Path, inputs: Sequence[str], outputs: Sequence[str], axes: Axes | None = None
) -> Path:  # fmt: skip
    """Write a module as ONNX. Without axes, all dimensions are fixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about the exporter itself
        torch.onnx.export(
            module.eval(), tuple(example), path, input_names=list(inputs), output_names=list(outputs), dynamic_axes=axes and dict(axes), dynamo=False
        )  # fmt: skip
    return path


def batch(*names: str) -> Axes:
    return {name: {0: "batch"} for name in names}


class Linear(nn.Module):
    """A generator: tanh of a linear function of one or two latents."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(size, 3 * 8 * 8) for size in sizes)

    def forward(self, *latents: Tensor) -> Tensor:
        whole = sum(layer(z) for layer, z in zip(self.layers, latents, strict=True))
        assert isinstance(whole, Tensor)
        return torch.tanh(2 * whole).reshape(-1, 3, 8, 8)


class Labelled(nn.Module):
    """A generator of latents (B, 10, 1, 1) and the numbers of classes (B)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classes, self.body = nn.Embedding(4, 6), nn.ConvTranspose2d(16, 3, 8)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        whole: Tensor = self.body(torch.cat([z, self.classes(labels)[:, :, None, None]], 1))
        return torch.tanh(3 * whole)


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_float16_throughout(tmp_path: Path) -> None:
    module = Linear(16)
    path = exported(
        module.half(), [torch.zeros(2, 16).half()], tmp_path / "g.onnx", ["z"], ["image"], batch("z", "image")
    )
    model, output = bring(tmp_path / "models", path)
    z = normal(20, 16)
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(z)).numpy()
    assert np.abs(model.sample(latents=z).data - expected).max() < 1e-2 and "'z' float16[batch, 16]: latent" in output


def test_labels_with_a_fixed_batch_of_16(tmp_path: Path) -> None:
    module = Labelled()
    example = [torch.zeros(16, 10, 1, 1), torch.zeros(16, dtype=torch.int64)]
    path = exported(module, example, tmp_path / "g.onnx", ["z", "labels"], ["image"])
    assert "input 'labels' int64[16] looks like a class; give --classes" in refused(tmp_path / "m", path)
    model, _ = bring(tmp_path / "models", path, "--classes", "a,b,c,d")
    z, labels = normal(21, 10), np.arange(21) % 4  # more than one batch, and not a multiple
    with torch.no_grad():
        expected = module(torch.from_numpy(z)[:, :, None, None], torch.from_numpy(labels)).numpy()
    found = model.sample(latents=z, classes=["abcd"[label] for label in labels]).data
    assert np.abs(found - expected).max() < 1e-5
    assert model.manifest.latents["latent"].dims == (10,)


class Upscaler(nn.Module):
    """A decoder of latents (B, 4, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(4 * self.body(z))


class Downscaler(nn.Module):
    """An encoder into latents (B, 4, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.body(image)
        return found


def test_latents_of_rank_4_are_no_images(tmp_path: Path) -> None:
    """The names are those of a latent diffusion model: both the images and the latents have four axes."""
    decoder, encoder = Upscaler(), Downscaler()
    latent, image = torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 16, 16)
    first = exported(encoder, [image], tmp_path / "e.onnx", ["sample"], ["moments"], batch("sample", "moments"))
    second = exported(
        decoder, [latent], tmp_path / "d.onnx", ["latent_sample"], ["sample"], batch("latent_sample", "sample")
    )
    model, output = bring(tmp_path / "models", first, second)
    assert {"sample", "encode", "reconstruct", "interpolate"} == set(model.endpoints)
    assert "'moments' float32[B, 4, 8, 8]: mean (as many numbers as the latent has)" in output
    z, x = normal(3, 4, 8, 8), np.tanh(normal(3, 3, 16, 16))
    with torch.no_grad():
        assert np.abs(model.sample(latents=z).data - decoder(torch.from_numpy(z)).numpy()).max() < 1e-5
        mean = model.encode(x).mean
        assert mean is not None and np.abs(mean - encoder(torch.from_numpy(x)).numpy()).max() < 1e-5
    assert len(model.interpolate({"seed": 1}, {"seed": 2}, steps=5).data) == 5


def test_free_height_and_width(tmp_path: Path) -> None:
    free = {0: "batch", 2: "h", 3: "w"}
    decoder = exported(Upscaler(), [torch.zeros(2, 4, 8, 8)], tmp_path / "d.onnx", ["z"], ["x"], {"z": free, "x": free})
    said = refused(tmp_path / "m", decoder)
    assert "input 'z' float32[batch, 4, h, w]: several axes have no fixed length" in said and "--shape z=4x8x8" in said
    assert "cannot have the shape [3, 8, 8]" in refused(tmp_path / "m", decoder, "--shape", "z=3x8x8")
    model, _ = bring(tmp_path / "a", decoder, "--shape", "z=4x6x8")
    assert model.sample(2, seed=1).data.shape == (2, 3, 12, 16)
    encoder = exported(
        Downscaler(), [torch.zeros(2, 3, 8, 8)], tmp_path / "e.onnx", ["x"], ["z"], {"x": free, "z": free}
    )
    assert "give --size HEIGHT WIDTH for images" in refused(tmp_path / "m", encoder)
    model, _ = bring(tmp_path / "b", encoder, "--size", 12, 16)
    mean = model.encode(np.zeros((2, 3, 12, 16), np.float32)).mean
    assert mean is not None and mean.shape == (2, 4, 6, 8)


class Bytes(nn.Module):
    """An encoder of uint8 images (B, H, W, C), or a decoder into them."""

    def __init__(self, *, encodes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encodes, self.weight = encodes, nn.Parameter(torch.randn(8, 6 * 5 * 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.encodes:
            return (x.float() / 255).flatten(1) @ self.weight.T
        return (torch.sigmoid(x @ self.weight) * 255).round().to(torch.uint8).reshape(-1, 6, 5, 3)


def test_uint8_images_in_and_out(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 6, 5, 3, dtype=torch.uint8)
    encoder, decoder = Bytes(encodes=True), Bytes(encodes=False)
    first = exported(encoder, [pixels], tmp_path / "e.onnx", ["image"], ["z"], batch("image", "z"))
    second = exported(decoder, [torch.zeros(2, 8)], tmp_path / "d.onnx", ["z"], ["image"], batch("z", "image"))
    model, _ = bring(tmp_path / "models", first, second)
    z = normal(3, 8)
    with torch.no_grad():
        made = decoder(torch.from_numpy(z))
        expected = encoder(made).numpy()
    samples = model.sample(latents=z).data
    assert np.array_equal(samples, made.numpy().transpose(0, 3, 1, 2))
    mean = model.encode(samples).mean
    assert mean is not None and np.abs(mean - expected).max() < 1e-4


class Images(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def test_images_of_images_are_refused_or_a_sampler(tmp_path: Path) -> None:
    path = exported(Images(), [torch.zeros(2, 3, 8, 8)], tmp_path / "g.onnx", ["x"], ["y"], batch("x", "y"))
    said = refused(tmp_path / "m", path)
    assert "it makes images of images, which no endpoint serves; if the input is noise, give --input x=latent" in said
    model, _ = bring(tmp_path / "models", path, "--input", "x=latent", "--range", 0, 3)
    z = normal(2, 3, 8, 8)
    assert np.array_equal(model.sample(latents=z).data, np.maximum(z, 0))


class Named(nn.Module):
    """A module whose method returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(16, 192)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"other": z, "image": torch.sigmoid(self.body(z)).reshape(-1, 3, 8, 8)}


def test_a_script_that_returns_a_dictionary(tmp_path: Path) -> None:
    module = Named().eval()
    torch.jit.script(module).save(str(tmp_path / "g.pt"))
    model, output = bring(tmp_path / "models", tmp_path / "g.pt", "--shape", "z=16")
    z = normal(5, 16)
    with torch.no_grad():
        assert np.abs(model.sample(latents=z).data - module(torch.from_numpy(z))["image"].numpy()).max() < 1e-6
    assert "not used: 'other'" in output


def test_two_latents(tmp_path: Path) -> None:
    module = Linear(16, 4)
    path = exported(
        module, [torch.zeros(2, 16), torch.zeros(2, 4)], tmp_path / "g.onnx", ["content", "style"], ["image"],
        batch("content", "style", "image"),
    )  # fmt: skip
    model, output = bring(tmp_path / "a", path)
    assert "'style' float32[batch, 4]: latent (further numbers: another latent" in output
    z = {"content": normal(3, 16), "style": normal(3, 4)}
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, z.values())).numpy()
    assert np.abs(model.sample(latents=z).data - expected).max() < 1e-5
    assert np.allclose(
        model.interpolate({"seed": 1}, {"seed": 2}, steps=3).data[0], model.sample(1, seed=1).data[0], atol=1e-6
    )
    noisy, _ = bring(tmp_path / "b", path, "--input", "style=normal")
    assert noisy.endpoints == ["sample", "interpolate"]  # the noise is the same along a path
    said = refused(tmp_path / "c", path, "--input", "stile=normal")
    assert said == "--input: no graph has an input 'stile'; the inputs are content, style"


@pytest.mark.parametrize(("kind", "shape"), [(TensorProto.FLOAT, ["B", 4]), (TensorProto.BOOL, []), (INT64, [16])])
def test_an_unused_input(tmp_path: Path, kind: int, shape: list[Any]) -> None:
    nodes = [*brought.body(), node("Identity", ["x"], ["image"])]
    inputs = [value("z", shape=["B", LATENT]), value("unused", kind, shape)]
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("image", shape=None)], CONSTANTS)
    model, output = bring(tmp_path / "models", tmp_path / "g.onnx")
    assert "always 0 (no operator of the graph uses it)" in output
    z = normal(7, LATENT)
    assert np.abs(model.sample(latents=z).data - brought.images(z)).max() < 1e-6


def test_an_input_that_only_an_inner_graph_uses_is_used(tmp_path: Path) -> None:
    from onnx import helper

    inner = [
        helper.make_graph([node("Add" if more else "Sub", ["x", "shift"], [name])], name, [], [value(name, shape=None)])
        for more, name in ((True, "yes"), (False, "no"))
    ]
    nodes = [*brought.body(), node("If", ["always"], ["image"], then_branch=inner[0], else_branch=inner[1])]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT]), value("shift", shape=[])], [value("image", shape=None)],
        [*CONSTANTS, constant("always", True)],
    )  # fmt: skip
    assert "input 'shift' float32[] is one number" in refused(tmp_path / "m", tmp_path / "g.onnx")


def test_grey_images_without_an_axis_for_channels(tmp_path: Path) -> None:
    nodes = [*brought.body(), node("Reshape", ["x", "plain"], ["image"])]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT])], [value("image", shape=["B", 6, 10])], [*CONSTANTS, constant("plain", [-1, 6, 10])]
    )  # fmt: skip
    model, output = bring(tmp_path / "models", tmp_path / "g.onnx")
    z = normal(3, LATENT)
    assert "images of 10x6 pixels, 1 channel(s), NHW" in output
    assert np.abs(model.sample(latents=z).data - brought.images(z).reshape(3, 1, 6, 10)).max() < 1e-6


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(60, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.body(x.flatten(1))
        return features, self.head(features).softmax(1)


def test_features_and_a_softmax(tmp_path: Path) -> None:
    module = Classifier()
    path = exported(module, [torch.zeros(2, 4, 5, 3)], tmp_path / "c.onnx", ["x"], ["pooled", "out"], batch("x", "out"))
    model, output = bring(tmp_path / "a", path)
    assert model.endpoints == [] and "it looks like 5 classes; give --classes 5, or their names" in output
    assert "manifold evaluate MODEL --extractor mine" in output
    model, _ = bring(tmp_path / "b", path, "--classes", 5)
    x = np.random.default_rng(0).uniform(0, 1, (3, 3, 4, 5)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.transpose(0, 2, 3, 1)))[1].numpy()
    assert np.abs(model.classify(x) - expected).max() < 1e-5


def test_codes_are_not_grey_images(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "codes"], ["patches"]),
        node("Transpose", ["patches"], ["channels"], perm=[0, 3, 1, 2]),
        node("DepthToSpace", ["channels"], ["image"], blocksize=2),
    ]
    table = np.random.default_rng(0).uniform(0, 1, (7, 12)).astype(np.float32)
    graphs.write(
        tmp_path / "d.onnx", nodes, [value("codes", INT64, ["B", 4, 4])], [value("image", shape=None)], [constant("table", table)]
    )  # fmt: skip
    assert "input 'codes' int64[B, 4, 4] looks like codes; give --levels" in refused(
        tmp_path / "m", tmp_path / "d.onnx"
    )
    model, _ = bring(tmp_path / "models", tmp_path / "d.onnx", "--levels", 7)
    codes = np.random.default_rng(1).integers(0, 7, (2, 4, 4))
    blocks = table[codes].reshape(2, 4, 4, 2, 2, 3)  # (B, row, column, row and column of the patch, C)
    assert np.array_equal(model.sample(codes=codes).data, blocks.transpose(0, 5, 1, 3, 2, 4).reshape(2, 3, 8, 8))


def test_flat_images_name_their_possible_size(tmp_path: Path) -> None:
    graphs.write(
        tmp_path / "e.onnx", [node("MatMul", ["x", "w"], ["mu"])], [value("x", shape=["B", 784])], [value("mu", shape=None)],
        [constant("w", np.zeros((784, 2), np.float32) + 0.01)],
    )  # fmt: skip
    said = refused(tmp_path / "m", tmp_path / "e.onnx")
    assert "give --size HEIGHT WIDTH, such as --size 28 28 for 784 numbers" in said
    model, _ = bring(tmp_path / "models", tmp_path / "e.onnx", "--size", 28, 28)
    mean = model.encode(np.ones((1, 1, 28, 28), np.float32)).mean
    assert mean is not None and np.allclose(mean, 7.84, atol=1e-3)


def test_texts_are_refused(tmp_path: Path) -> None:
    graphs.write(
        tmp_path / "t.onnx", [node("StringNormalizer", ["text"], ["out"])], [value("text", TensorProto.STRING, ["B"])],
        [value("out", TensorProto.STRING, ["B"])],
    )  # fmt: skip
    said = refused(tmp_path / "m", tmp_path / "t.onnx")
    assert said == (
        "t.onnx: input 'text' string[B] takes texts, but Manifold gives graphs numbers only; remove the tokenizer from the graph, "
        "or give --columns FILE if the inputs are columns of a table"
    )


def test_graphs_without_inputs_are_refused(tmp_path: Path) -> None:
    nodes = [node("RandomUniform", [], ["image"], shape=[4, 3, 8, 8])]
    graphs.write(tmp_path / "g.onnx", nodes, [], [value("image", shape=None)])
    assert "g.onnx: the graph has no inputs" in refused(tmp_path / "m", tmp_path / "g.onnx")


def test_scikit_learn(tmp_path: Path) -> None:
    """The score of a pipeline is scikit-learn's with the opposite sign, and a dictionary of probabilities is left out."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.ensemble import IsolationForest
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.random.default_rng(0).normal([10, -3, 0], [5, 1, 0.1], (400, 3)).astype(np.float32)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    forest = make_pipeline(StandardScaler(), IsolationForest(n_estimators=20, random_state=0)).fit(rows)
    versions = {"": 18, "ai.onnx.ml": 3}
    (tmp_path / "f.onnx").write_bytes(skl2onnx.to_onnx(forest, rows[:1], target_opset=versions).SerializeToString())
    model, _ = bring(tmp_path / "models", tmp_path / "f.onnx", "--columns", tmp_path / "rows.csv", "--negate")
    given: list[dict[str, float]] = [dict(zip("abc", map(float, row), strict=True)) for row in rows[:50]]
    assert np.abs(model.score(given).terms["scores"] + forest.decision_function(rows[:50])).max() < 1e-5
    classifier = LogisticRegression().fit(rows, rows[:, 0] > 10)
    (tmp_path / "c.onnx").write_bytes(skl2onnx.to_onnx(classifier, rows[:1], target_opset=versions).SerializeToString())
    said = refused(tmp_path / "m", tmp_path / "c.onnx", "--columns", tmp_path / "rows.csv")
    assert "no output could be used" in said


def test_noise_beside_the_latent_stays_the_same_along_a_path(tmp_path: Path) -> None:
    """The ends of a path are the samples of the same latents and seed; reconstructions use the noise of their seed, or of seed 0."""
    nodes = [*brought.body(), node("Add", ["x", "noise"], ["sum"]), node("Tanh", ["sum"], ["img"])]
    inputs = [value("z", shape=["B", LATENT]), value("noise", shape=["B", 1, 4, 5])]
    graphs.write(tmp_path / "d.onnx", nodes, inputs, [value("img", shape=None)], CONSTANTS)
    flat = [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "v"], ["mu"])]
    weights = np.random.default_rng(3).normal(size=(60, LATENT)).astype(np.float32) / 10
    graphs.write(
        tmp_path / "e.onnx", flat, [value("image", shape=["B", 3, 4, 5])], [value("mu", shape=["B", LATENT])], [constant("v", weights)]
    )  # fmt: skip
    model, _ = bring(
        tmp_path / "m", tmp_path / "d.onnx", tmp_path / "e.onnx", "--input", "noise=normal", "--range", -1, 1
    )
    z = np.random.default_rng(1).normal(size=(2, LATENT)).astype(np.float32)
    path = model.interpolate({"latent": z[0]}, {"latent": z[1]}, steps=5, seed=3)
    assert path.seed == 3 and np.allclose(path.data[0], model.sample(latents=z[:1], seed=3).data[0], atol=1e-6)
    noise = model.sample(latents=np.repeat(z[:1], 5, axis=0), seed=3).data
    assert len(np.unique(noise, axis=0)) == 5  # the noise has an influence
    assert np.allclose(
        np.arctanh(path.data[-1]) - np.arctanh(path.data[0]), (images(z[1:]) - images(z[:1]))[0], atol=1e-2
    )
    items = noise[:3]
    codes = model.encode(items).mean
    assert codes is not None
    for seed in (None, 0):
        drawn = model.sample(latents=codes if seed is None else model.encode(items, seed=seed).latent, seed=0).data
        assert np.allclose(model.reconstruct(items, seed=seed).data, drawn, atol=1e-6)
