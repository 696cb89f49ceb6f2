"""The effect of the options of `manifold import`; an option without effect is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, images, made, manifest
from tests.graphs import constant, node, value
from tests.test_import import bring, refused

COPY = [node("Identity", ["x"], ["y"])]


def test_a_stated_range_holds_for_bytes(tmp_path: Path) -> None:
    """A graph whose uint8 pixels are 0 and 1, as its images and as the input of a classifier."""
    nodes = [
        *brought.body(),
        node("Greater", ["x", "zero"], ["b"]),
        node("Cast", ["b"], ["y"], to=brought.OF_TYPE["uint8"]),
    ]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT])], [value("y", brought.OF_TYPE["uint8"], None)],
        [*CONSTANTS, constant("zero", np.float32(0))],
    )  # fmt: skip
    model, _ = bring(tmp_path / "m", tmp_path / "g.onnx", "--range", 0, 1)
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    assert np.array_equal(model.sample(latents=z).data, (images(z) > 0).astype(np.float32))
    nodes = [
        node("Cast", ["x"], ["c"], to=brought.OF_TYPE["float32"]), node("ReduceMean", ["c", "axes"], ["largest"], keepdims=0),
        node("Add", ["largest", "two"], ["more"]), node("Unsqueeze", ["more", "last"], ["column"]), node("Concat", ["column", "column"], ["logits"], axis=1),
    ]  # fmt: skip
    graphs.write(
        tmp_path / "c.onnx", nodes, [value("x", brought.OF_TYPE["uint8"], ["B", 3, 4, 5])], [value("logits", shape=["B", 2])],
        [constant("axes", np.asarray([1, 2, 3])), constant("last", np.asarray([1])), constant("two", np.float32(2))],
    )  # fmt: skip
    for limits, expected in (((0, 1), 1), ((0, 7), 7), ((0, 255), 255)):
        model, _ = bring(tmp_path / str(expected), tmp_path / "c.onnx", "--classes", 2, "--range", *limits)
        white = np.full((1, 3, 4, 5), limits[1], np.float32)
        assert model.run("features", {"data": white})["logits"].tolist() == [[expected + 2] * 2]


def test_one_hot_classes_before_the_latent(tmp_path: Path) -> None:
    """Weights of classes are found by their number, in any order of the inputs and without a telling name."""
    nodes = [
        *brought.body(),
        node("MatMul", ["a", "column"], ["share"]),
        node("Reshape", ["share", "axes"], ["factor"]),
        node("Mul", ["x", "factor"], ["y"]),
    ]
    constants = [
        *CONSTANTS,
        constant("column", np.asarray([[0.1], [0.2], [0.3]], np.float32)),
        constant("axes", [-1, 1, 1, 1]),
    ]
    graphs.write(
        tmp_path / "g.onnx", nodes, [value("a", shape=["B", 3]), value("z", shape=["B", LATENT])], [value("y", shape=None)], constants
    )  # fmt: skip
    model, _ = bring(tmp_path / "m", tmp_path / "g.onnx", "--classes", "u,v,w", "--range", -1, 1)
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    found = model.sample(latents=z, classes=["w", "u", "v"]).data
    assert np.allclose(found, images(z) * np.asarray([0.3, 0.1, 0.2])[:, None, None, None], atol=1e-6)


def test_statements_without_effect_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), COPY) / "g.onnx"
    graphs.write(
        tmp_path / "s.onnx", [node("Flatten", ["image"], ["f"]), node("ReduceMean", ["f", "axis"], ["score"], keepdims=1)],
        [value("image", shape=["B", 3, 4, 5])], [value("score", shape=["B", 1])], [constant("axis", [1])],
    )  # fmt: skip
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    for given_, said in (
        ([path, "--classes", 10], "--classes: it has no effect: no input takes a class, and no output has 10 numbers"),
        ([tmp_path / "s.onnx", "--classes", 2], "if one output stands for two classes, export both logits"),
        ([path, "--levels", 10], "--levels: it has no effect: no input or output holds codes"),
        ([path, "--negate"], "--negate: it has no effect: no output is a score"),
        ([path, "--size", 16, 16], "--size: it has no effect: the images of the graph have 4 rows and 5 columns"),
        ([path, "--missing"], "--missing: it has no effect"),
        ([path, "--columns", tmp_path / "rows.csv"], "does not agree with float32[3]"),
        ([tmp_path / "s.onnx", "--activation", "tanh"], "--activation: it has no effect: no output holds images"),
        ([path, "--channels", "RGBA"], "--channels: RGBA names 4 channels, but the graph has 3"),
        (
            [path, "--mean", "123.7,116.3,103.5", "--std", "58,57,57"],
            "--mean: 123.7 is not the mean of pixels in [0, 1]; for pixels in another range",
        ),
    ):
        assert said in refused(tmp_path / "m", *given_), given_


def test_mean_and_deviation_of_pixels_in_another_range(tmp_path: Path) -> None:
    """Statistics of bytes are those of pixels in [0, 1], times 255."""
    nodes = [*brought.pixels(0, 1), node("Sub", ["p", "mean"], ["c"]), node("Div", ["c", "std"], ["y"])]
    constants = [*brought.scale(0, 1), brought.numbers("mean", *brought.MEAN), brought.numbers("std", *brought.STD)]
    path = made(tmp_path, manifest(), nodes, constants=constants) / "g.onnx"
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    for factor, more in ((1, ()), (255, ("--range", 0, 255))):
        stated = [",".join(str(each * factor) for each in numbers) for numbers in (brought.MEAN, brought.STD)]
        model, _ = bring(tmp_path / str(factor), path, "--mean", stated[0], "--std", stated[1], *more)
        assert np.abs(model.sample(latents=z).data - (images(z) + 1) / 2).max() < 1e-5


def test_doubtful_statements_get_a_warning(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), COPY) / "g.onnx"  # values of tanh
    _, output = bring(tmp_path / "a", path, "--activation", "tanh")
    assert "as after tanh; leave out --activation if the graph contains it, otherwise the images are pale" in output
    _, output = bring(tmp_path / "b", path, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert "pixels with this mean and standard deviation go from -2.12 to 2.64; look at the contrast" in output
    _, output = bring(tmp_path / "c", path, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    assert "look at the contrast" not in output
