"""The effect of the options of `manifold import`; an option without effect is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
        ([path, "--method", "forward"], "--method: an ONNX graph has no methods; remove it"),
        ([path, "--input-range", 0, 1], "--input-range: it has no effect: no input takes images"),
        ([path, "--activation", "softmax"], "--activation: 'softmax' is not for images; give sigmoid or tanh"),
        ([path, "--mean", "0.5"], "--mean, --std: only one of them is given; give both"),
        ([path, "--levels", 10], "--levels: it has no effect: no input or output holds codes"),
        ([path, "--negate"], "--negate: it has no effect: no output is a score"),
        ([path, "--size", 16, 16], "--size: it has no effect: the images of the graph have 4 rows and 5 columns"),
        ([path, "--missing"], "--missing: it has no effect"),
        (
            [path, "--columns", tmp_path / "rows.csv"],
            "--columns: the file has 3 columns, but the input 'z' float32[B, 6] of g.onnx takes 6 numbers",
        ),
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


@pytest.mark.parametrize(("column", "probability"), [(False, False), (True, False), (False, True)])
def test_one_number_for_two_classes(tmp_path: Path, column: bool, probability: bool) -> None:
    """A binary classifier returns a logit or a probability of its second class; /classify answers with both probabilities."""
    nodes = [
        node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0), node("Mul", ["mean", "nine"], ["more"]), node("Sub", ["more", "four"], ["logit"]),
        node("Sigmoid" if probability else "Identity", ["logit"], ["one"]), node("Unsqueeze" if column else "Identity", ["one", "last"][: 1 + column], ["y"]),
    ]  # fmt: skip
    graphs.write(
        tmp_path / "c.onnx", nodes, [value("image", shape=["B", 3, 4, 5])], [value("y", shape=["B", 1] if column else ["B"])],
        [constant("axes", [1, 2, 3]), constant("last", [1]), constant("nine", np.float32(9)), constant("four", np.float32(4))],
    )  # fmt: skip
    model, output = bring(tmp_path / "m", tmp_path / "c.onnx", "--classes", "dark,light", "--range", 0, 1)
    assert ("its probability; --activation sigmoid states" if probability else "its logit") in output
    x = np.stack([np.full((3, 4, 5), level, np.float32) for level in (0, 0.4, 0.5, 1)])
    light = 1 / (1 + np.exp(4 - 9 * np.asarray([0, 0.4, 0.5, 1])))
    assert np.allclose(model.classify(x), np.stack([1 - light, light], 1), atol=1e-5)


def test_statements_for_inputs_alone(tmp_path: Path) -> None:
    """An encoder takes normalised pixels, and the decoder makes pixels in [0, 1]: one statement for both is refused, as it would make pale images."""
    nodes = [*brought.pixels(0, 1, "x", "y")]
    decoder = made(tmp_path, manifest(), nodes, constants=brought.scale(0, 1)) / "g.onnx"
    graphs.write(
        tmp_path / "e.onnx", [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "v"], ["mu"])], [value("image", shape=["B", 3, 4, 5])],
        [value("mu", shape=["B", LATENT])], [constant("v", np.ascontiguousarray(brought.WEIGHTS.T))],
    )  # fmt: skip
    mean, std = "0.485,0.456,0.406", "0.229,0.224,0.225"
    said = refused(tmp_path / "n", tmp_path / "e.onnx", decoder, "--mean", mean, "--std", std)
    assert "if they are those of the inputs, give --input-mean and --input-std instead" in said
    model, _ = bring(tmp_path / "m", tmp_path / "e.onnx", decoder, "--input-mean", mean, "--input-std", std)
    x = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    normal = (x - np.asarray([0.485, 0.456, 0.406])[:, None, None]) / np.asarray([0.229, 0.224, 0.225])[:, None, None]
    found = model.encode(x).mean
    assert found is not None and np.allclose(found, normal.reshape(2, -1) @ brought.WEIGHTS.T, atol=1e-4)
    z = np.random.default_rng(1).normal(size=(2, LATENT)).astype(np.float32)
    assert np.abs(model.sample(latents=z).data - (images(z) + 1) / 2).max() < 1e-6
    model, _ = bring(tmp_path / "r", tmp_path / "e.onnx", decoder, "--input-range", -1, 1)
    found = model.encode(x).mean
    assert found is not None and np.allclose(found, (2 * x - 1).reshape(2, -1) @ brought.WEIGHTS.T, atol=1e-4)


def test_files_that_stand_for_others(tmp_path: Path) -> None:
    (tmp_path / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    (tmp_path / "page.onnx").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "none.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("lfs.onnx", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"), ("page.onnx", "this is a web page; download the file itself"),
        ("none.pt", "the file is empty"), ("folder", "this is a folder; give the files of its graphs"),
    ):  # fmt: skip
        assert said in refused(tmp_path / "m", tmp_path / name)


def test_another_model_under_an_old_name_gets_a_warning(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), COPY) / "g.onnx"
    graphs.write(
        tmp_path / "e.onnx", [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "v"], ["mu"])], [value("image", shape=["B", 3, 4, 5])],
        [value("mu", shape=["B", LATENT])], [constant("v", np.ascontiguousarray(brought.WEIGHTS.T))],
    )  # fmt: skip
    _, output = bring(tmp_path / "m", path)
    assert "version 1" not in output
    _, output = bring(tmp_path / "m", tmp_path / "e.onnx")
    assert "version 1 of mine has the tasks decode, which version 2 lacks; if this is another model" in output


def test_codes_beside_other_outputs_and_as_floats(tmp_path: Path) -> None:
    """With --levels, an encoder's codes are used, and not its quantised vectors or loss; floats named indices are codes too."""
    real = brought.OF_TYPE["float32"]
    for kind in ("int64", "float32"):
        whole = [
            node("Slice", ["image", "start", "end", "axis"], ["one"]), node("Mul", ["one", "seven"], ["scaled"]), node("Round", ["scaled"], ["r"]),
            node("Cast", ["r"], ["indices"], to=brought.OF_TYPE[kind]), node("ReduceMean", ["image"], ["loss"], keepdims=0),
            node("Identity", ["image"], ["quantised"]),
        ]  # fmt: skip
        constants = [
            constant("start", [0]),
            constant("end", [1]),
            constant("axis", [1]),
            constant("seven", np.float32(7)),
        ]
        outputs = [
            value("quantised", shape=["B", 3, 6, 6]),
            value("indices", brought.OF_TYPE[kind], None),
            value("loss", shape=[]),
        ]
        graphs.write(tmp_path / f"e-{kind}.onnx", whole, [value("image", shape=["B", 3, 6, 6])], outputs, constants)
        back = [
            node("Cast", ["indices"], ["c"], to=real),
            node("Div", ["c", "seven"], ["s"]),
            node("Concat", ["s", "s", "s"], ["y"], axis=1),
        ]
        graphs.write(
            tmp_path / f"d-{kind}.onnx", back, [value("indices", brought.OF_TYPE[kind], ["B", 1, 6, 6])], [value("y", shape=None)],
            [constant("seven", np.float32(7))],
        )  # fmt: skip
        model, _ = bring(tmp_path / kind, tmp_path / f"e-{kind}.onnx", tmp_path / f"d-{kind}.onnx", "--levels", 8)
        x = np.random.default_rng(0).random((2, 3, 6, 6)).astype(np.float32)
        codes = model.encode(x).codes
        assert codes is not None and codes.dtype == np.int64 and np.array_equal(codes, np.rint(x[:, :1] * 7))
        assert np.allclose(model.reconstruct(x).data[:, :1], codes / 7, atol=1e-6)
        said = refused(
            tmp_path / f"n-{kind}",
            tmp_path / f"e-{kind}.onnx",
            tmp_path / f"d-{kind}.onnx",
            "--levels",
            5,
            "--range",
            0,
            1,
        )
        assert "output 'codes' holds" in said


def test_labels_as_floats_and_weights_without_classes(tmp_path: Path) -> None:
    nodes = [*brought.body(), node("Add", ["labels", "one"], ["more"]), node("Mul", ["more", "tenth"], ["share"]),
             node("Reshape", ["share", "column"], ["factor"]), node("Mul", ["x", "factor"], ["y"])]  # fmt: skip
    constants = [
        *CONSTANTS,
        constant("one", np.float32(1)),
        constant("tenth", np.float32(0.1)),
        constant("column", [-1, 1, 1, 1]),
    ]
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    shapes: list[list[int | str]] = [["B"], ["B", 1]]
    for shape in shapes:
        graphs.write(
            tmp_path / "g.onnx", nodes, [value("z", shape=["B", LATENT]), value("labels", shape=shape)], [value("y", shape=None)], constants
        )  # fmt: skip
        model, _ = bring(tmp_path / str(len(shape)), tmp_path / "g.onnx", "--classes", 4, "--range", -1, 1)
        found = model.sample(latents=z, classes=["3", "0", "1"]).data
        assert np.allclose(found, images(z) * np.asarray([0.4, 0.1, 0.2])[:, None, None, None], atol=1e-6)
    nodes = [*brought.body(), node("ReduceSum", ["label", "last"], ["sum"], keepdims=1), node("Reshape", ["sum", "column"], ["factor"]),
             node("Mul", ["x", "factor"], ["y"])]  # fmt: skip
    graphs.write(
        tmp_path / "w.onnx", nodes, [value("z", shape=["B", LATENT]), value("label", shape=["B", 7])], [value("y", shape=None)],
        [*constants, constant("last", [1])],
    )  # fmt: skip
    said = refused(tmp_path / "w", tmp_path / "w.onnx")
    assert (
        "input 'label' float32[B, 7] looks like weights of classes; give --classes 7, or --input label=latent" in said
    )
    assert "give the classes, --classes with their number" in refused(
        tmp_path / "w", tmp_path / "w.onnx", "--input", "label=condition"
    )


def test_the_output_of_a_mapping_network_as_input_gets_a_warning(tmp_path: Path) -> None:
    for name, said in (("ws", True), ("z", False)):
        nodes = [node("Identity", [name], ["z" if name != "z" else "same"]), *brought.body(), *COPY]
        graphs.write(
            tmp_path / "g.onnx", nodes, [value(name, shape=["B", LATENT])], [value("y", shape=None)], CONSTANTS
        )
        _, output = bring(tmp_path / name, tmp_path / "g.onnx")
        assert ("it is the output of a mapping network" in output) == said


@pytest.mark.parametrize("kind", ["float32", "int64", "bool", "uint8"])
def test_weights_of_classes_of_any_type(tmp_path: Path, kind: str) -> None:
    nodes = [
        *brought.body(), node("Cast", ["y"], ["weights"], to=brought.OF_TYPE["float32"]), node("MatMul", ["weights", "column"], ["share"]),
        node("Reshape", ["share", "axes"], ["factor"]), node("Mul", ["x", "factor"], ["img"]),
    ]  # fmt: skip
    constants = [
        *CONSTANTS,
        constant("column", np.asarray([[0.1], [0.2], [0.3]], np.float32)),
        constant("axes", [-1, 1, 1, 1]),
    ]
    inputs = [value("y", brought.OF_TYPE[kind], ["B", 3]), value("z", shape=["B", LATENT])]
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("img", shape=None)], constants)
    model, _ = bring(tmp_path / "m", tmp_path / "g.onnx", "--classes", 3, "--range", -1, 1)
    z = np.random.default_rng(1).normal(size=(3, LATENT)).astype(np.float32)
    found = model.sample(latents=z, classes=["2", "0", "1"]).data
    assert np.allclose(found, images(z) * np.asarray([0.3, 0.1, 0.2])[:, None, None, None], atol=1e-6)


def test_one_hot_codes_are_refused(tmp_path: Path) -> None:
    back = [
        node("ReduceSum", ["indices", "last"], ["s"], keepdims=0),
        node("Unsqueeze", ["s", "one"], ["u"]),
        node("Concat", ["u", "u", "u"], ["y"], axis=1),
    ]
    graphs.write(
        tmp_path / "d.onnx", back, [value("indices", shape=["B", 6, 6, 7])], [value("y", shape=None)], [constant("last", [3]), constant("one", [1])]
    )  # fmt: skip
    said = refused(tmp_path / "m", tmp_path / "d.onnx", "--levels", 7, "--range", -9, 9)
    assert "--levels: it has no effect" in said and "for one-hot codes, export their indices" in said


def test_too_many_classes_are_refused_although_one_row_would_run(tmp_path: Path) -> None:
    nodes = [*brought.body(), node("Gather", ["table", "y"], ["factor"], axis=0), node("Mul", ["x", "factor"], ["img"])]
    constants = [*CONSTANTS, constant("table", np.arange(1, 11, dtype=np.float32).reshape(10, 1, 1, 1) / 10)]
    inputs = [value("z", shape=["B", LATENT]), value("y", brought.OF_TYPE["int64"], ["B"])]
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("img", shape=None)], constants)
    assert "if an index is out of range, correct --classes" in refused(
        tmp_path / "m", tmp_path / "g.onnx", "--classes", 11, "--range", -1, 1
    )
    bring(tmp_path / "m", tmp_path / "g.onnx", "--classes", 10, "--range", -1, 1)


def test_an_output_that_is_left_out_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    nodes = [
        node("Mul", ["x", "most"], ["x_hat"]),
        node("Sub", ["x_hat", "x"], ["d"]),
        node("ReduceSumSquare", ["d", "last"], ["error"], keepdims=0),
    ]
    graphs.write(
        tmp_path / "s.onnx", nodes, [value("x", shape=["B", 3])], [value("x_hat", shape=["B", 3]), value("error", shape=["B"])],
        [constant("most", np.float32(0.9)), constant("last", [1])],
    )  # fmt: skip
    for place, more in enumerate(([], ["--output", "x_hat=none"], ["--output", "error=score"], ["--task", "score"])):
        model, _ = bring(tmp_path / str(place), tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv", *more)
        assert model.endpoints == ["anomaly-score"], more
