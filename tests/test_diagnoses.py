"""Mistakes that a valid manifest hides: wrong ranges, inverted images, inputs without influence. `manifold check` finds them in the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import diagnoses
from manifold.runtime.errors import ManifoldError
from tests import brought, graphs
from tests.brought import made, manifest, pixels, scale
from tests.graphs import check, constant, node, value

COPY = [node("Identity", ["x"], ["y"])]


@pytest.mark.parametrize(
    ("values", "declared", "said", "good"),
    [
        ((-1, 1), (0, 1), "the range looks like [-1, 1], declared as [0, 1]", False),  # tanh as [0, 1]
        ((0, 255), (0, 1), "the range looks like [0, 255], declared as [0, 1]", False),
        ((0, 1), (0, 255), "of the declared range [0, 255] is used; the range looks like [0, 1], declared as [0, 255]", False),
        ((0, 1), (-1, 1), "of the declared range [-1, 1] is used; the range looks like [0, 1], declared as [-1, 1]", True),
        ((0, 255), (-1, 1), "the range looks like [0, 255], declared as [-1, 1]", False),
        ((-1, 1), (0, 255), "is used; the range looks like [-1, 1], declared as [0, 255]", False),
        ((-2.1, 2.6), (0, 1), "are clipped; declared is [0, 1]; state the range in the graph", False),
        ((-1, 1), (-1, 1), None, True),
        ((0, 1), (0, 1), None, True),
        ((0, 255), (0, 255), None, True),
        ((-1.04, 1.04), (-1, 1), None, True),  # a decoder without a squashing function
        ((0.05, 0.95), (0, 1), None, True),
        ((-1.4, 1.4), (-1, 1), "are clipped; declared is [-1, 1]; state the range in the graph", True),  # a Gaussian output
        ((0.49, 0.51), (0, 1), "of the declared range [0, 1] is used; state the range in the graph", True),  # an untrained decoder
    ],
)  # fmt: skip
def test_wrong_ranges_are_named(
    tmp_path: Path, values: tuple[float, float], declared: tuple[float, float], said: str | None, good: bool
) -> None:
    path = made(tmp_path, manifest(limits=declared), pixels(*values, "x", "y"), constants=scale(*values))
    status, output = check(path, "--seal")
    assert status == (0 if good else 1), output
    assert ("data.range" in output) == (said is not None) and (said or "") in output, output
    assert output.count("range looks like") <= 1
    assert ("warning: data.range" in output) == (good and said is not None)


@pytest.mark.parametrize(
    ("ink", "paper", "values", "declared", "wrong"),
    [
        (1, 0, (0, 255), (0, 1), True), (0, 1, (0, 255), (0, 1), True), (0, 1, (-1, 1), (0, 1), True), (1, 0, (-1, 1), (0, 1), True),
        (1, 0, (0, 1), (0, 1), False), (0, 1, (-1, 1), (-1, 1), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_drawings_with_little_ink(
    ink: float, paper: float, values: tuple[float, float], declared: tuple[float, float], wrong: bool, share: float
) -> None:
    items = np.full((64, 1, 20, 20), paper, np.float32)
    drawn = np.random.default_rng(0).random(items.shape) < share
    items[drawn] = ink
    found = diagnoses._range(items * (values[1] - values[0]) + values[0], *map(float, declared))
    assert (found is not None and found.wrong) == wrong, found


def test_some_values_outside_do_not_make_another_range(  # as a decoder without a squashing function has
) -> None:
    items = np.random.default_rng(0).normal(0.5, 0.25, (64, 1, 20, 20)).astype(np.float32)
    found = diagnoses._range(items.clip(-0.6, 1.1), 0.0, 1.0)
    assert found is None or not found.wrong


def test_the_right_range_in_the_graph_mends_it(tmp_path: Path) -> None:
    path = made(tmp_path, manifest({"range": [0, 255]}), pixels(0, 255, "x", "y"), constants=scale(0, 255))
    status, output = check(path, "--seal")
    assert status == 0 and "data.range" not in output


def test_a_generator_that_ignores_its_latent_is_a_problem(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Mul", ["x", "zero"], ["nothing"]), node("Add", ["nothing", "picture"], ["y"])], constants=[
        constant("zero", np.float32(0)), constant("picture", np.random.default_rng(0).uniform(-1, 1, brought.SHAPE).astype(np.float32)),
    ])  # fmt: skip
    status, output = check(path, "--seal")
    assert (
        status == 1 and "tasks.decode: no output depends on the input 'latent', so that all items are equal" in output
    )
    assert output.count("\n") == 2, output  # one message for one cause


def test_a_class_without_influence_is_a_problem(tmp_path: Path) -> None:
    content = {**manifest(), "classes": ["a", "b"]}
    content["tasks"]["decode"]["inputs"].append(graphs.given("label", "condition", [2]))
    nodes = [node("ReduceMean", ["label", "axis"], ["zeroes"], keepdims=0), node("Sub", ["zeroes", "zeroes"], ["none"]),
             node("Reshape", ["none", "column"], ["column4"]), node("Add", ["x", "column4"], ["y"])]  # fmt: skip
    constants = [constant("axis", [1]), constant("column", [-1, 1, 1, 1])]
    path = made(tmp_path, content, nodes, inputs=[value("label", shape=["B", 2])], constants=constants)
    status, output = check(path, "--seal")
    assert status == 1 and "tasks.decode: no output depends on the input 'condition'" in output
    assert "'latent'" not in output


def test_a_class_that_a_number_switches_off_is_no_problem(tmp_path: Path) -> None:
    """With guidance 0, its default, the class has no influence."""
    content = {**manifest(), "classes": ["a", "b"]}
    content["tasks"]["decode"]["inputs"] += [
        graphs.given("label", "condition", [2]), graphs.given("guidance", "number", [], default=0, minimum=0, maximum=4) | {"role": "guidance"},
    ]  # fmt: skip
    nodes = [node("Slice", ["label", "from", "to", "axis"], ["first"]), node("Reshape", ["guidance", "rows2"], ["strength"]),
             node("Mul", ["first", "strength"], ["both"]), node("Reshape", ["both", "column"], ["shift"]), node("Mul", ["x", "tenth"], ["small"]),
             node("Mul", ["shift", "tenth"], ["little"]), node("Add", ["small", "little"], ["y"])]  # fmt: skip
    constants = [constant("from", [0]), constant("to", [1]), constant("axis", [1]), constant("rows2", [-1, 1]), constant("column", [-1, 1, 1, 1]),
                 constant("tenth", np.float32(0.2))]  # fmt: skip
    inputs = [value("label", shape=["B", 2]), value("guidance", shape=["B"])]
    status, output = check(made(tmp_path, content, nodes, inputs=inputs, constants=constants), "--seal")
    assert status == 0 and "no output depends" not in output, output


def test_a_blank_picture_is_a_problem(tmp_path: Path) -> None:
    path = made(tmp_path, manifest(), [node("Mul", ["x", "zero"], ["y"])], constants=[constant("zero", np.float32(0))])
    status, output = check(path, "--seal")
    assert status == 1 and "no output depends on the input 'latent'" in output


def digits(path: Path, *, inverted: bool) -> Path:
    """Write a generator of grey images of 10 by 10: the latent draws light pixels in the middle of a black image, or the opposite."""
    content = graphs.manifest(decode={
        "graph": "g.onnx", "inputs": [graphs.given("z", "latent", [36])], "outputs": [{"role": "data", "name": "y", "shape": [1, 10, 10]}],
    })  # fmt: skip
    content["data"] |= {"height": 10, "width": 10}
    content["latent"] = {"size": 36}
    folder = graphs.folder(path, content)
    graphs.write(
        folder / "g.onnx",
        [node("Sigmoid", ["z"], ["light"]), node("Reshape", ["light", "square"], ["middle"]), node("Pad", ["middle", "around"], ["black"]),
         *([node("Sub", ["one", "black"], ["y"])] if inverted else [node("Identity", ["black"], ["y"])])],
        [value("z", shape=["B", 36])], [value("y", shape=None)],
        [constant("square", [-1, 1, 6, 6]), constant("around", [0, 0, 2, 2, 0, 0, 2, 2]), constant("one", np.float32(1))],
    )  # fmt: skip
    return folder


def test_content_may_touch_the_border_of_inverted_images() -> None:
    """The digits of scikit-learn reach the first and the last row."""
    images = load_digits().images[:64, None].astype(np.float32) / 16
    assert diagnoses._looks_inverted(1 - images, 0, 1) and not diagnoses._looks_inverted(images, 0, 1)
    assert not diagnoses._looks_inverted(np.ones_like(images), 0, 1)  # white paper without content is another problem


def test_items_that_occur_often_get_a_warning(tmp_path: Path) -> None:
    """The graph rounds its latent so coarsely that most seeds give the same image."""
    nodes = [
        node("Mul", ["z", "small"], ["s"]), node("Round", ["s"], ["r"]), node("MatMul", ["r", "w"], ["m"]), node("Tanh", ["m"], ["t"]),
        node("Reshape", ["t", "shape"], ["few"]), node("Mul", ["x", "zero"], ["none"]), node("Add", ["few", "none"], ["y"]),
    ]  # fmt: skip
    path = made(
        tmp_path, manifest(), nodes, constants=[constant("small", np.float32(0.28)), constant("zero", np.float32(0))]
    )
    _, output = check(path, "--seal")
    assert "warning: /sample: more than half of the items occur more than once" in output, output


def test_images_that_look_inverted(tmp_path: Path) -> None:
    status, output = check(digits(tmp_path / "a", inverted=True), "--seal")
    assert status == 0 and "warning: data: the images look inverted" in output
    status, output = check(digits(tmp_path / "b", inverted=False), "--seal")
    assert status == 0 and "look inverted" not in output


def test_an_artifact_without_an_endpoint_is_not_good(tmp_path: Path) -> None:
    path = graphs.folder(
        tmp_path,
        graphs.manifest(
            denoise=graphs.task([graphs.given("z", "normal", [4])], [{"role": "prediction", "name": "y", "shape": [4]}])
        ),
    )
    graphs.write(path / "g.onnx", [node("Identity", ["z"], ["y"])], [value("z")], [value("y")])
    status, output = check(path, "--seal")
    assert status == 1 and "tasks: no endpoint uses the task denoise" in output


def test_a_sheet_shows_samples(tmp_path: Path) -> None:
    path = made(tmp_path / "m", manifest(), COPY)
    status, output = check(path, "--seal", "--sheet", str(tmp_path / "sheet.png"))
    assert status == 0 and "sheet.png: samples of the model; look whether colours" in output
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.ndim == 3 and picture.std() > 20
    with pytest.raises(ManifoldError, match="does not exist; make it first"):
        CliRunner().invoke(
            cli.app, ["check", str(path), "--sheet", str(tmp_path / "none/sheet.png")], catch_exceptions=False
        )


def test_every_endpoint_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of a request is a problem of the artifact, with the endpoint's name."""
    from manifold.runtime.engine import Model
    from manifold.runtime.errors import InvalidValue

    path = made(tmp_path, manifest(), COPY)

    def fails(*arguments: Any, **fields: Any) -> None:
        raise InvalidValue("start: nothing can be done", field="start")

    monkeypatch.setattr(Model, "interpolate", fails)
    status, output = check(path, "--seal")
    assert status == 1 and "/interpolate: the request fails: start: nothing can be done" in output
