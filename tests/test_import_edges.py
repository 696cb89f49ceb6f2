"""Edges of `manifold import`: files with other columns, names that collide, statements that contradict the graph, damaged earlier versions."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manifold.runtime.engine import load
from manifold.runtime.errors import ManifoldError
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest.conditions import Classes
from manifold.runtime.runner import example_inputs
from tests import brought, graphs
from tests.brought import CONSTANTS, LATENT, manifest
from tests.graphs import INT64, check, constant, given, node, value
from tests.served import served
from tests.test_import import bring, refused

COPY = [node("Identity", ["x"], ["y"])]


def table(path: Path, text: str = "a,b,c\n1,2,3\n4,5,6\n7,8,9\n") -> Path:
    path.write_text(text)
    return path


def weighted(
    path: Path, inputs: list[str], weights: list[float], output: str = "score", extra: str | None = None
) -> Path:
    """Write a scorer with an input for each column: the weighted sum of the columns, and of the input `extra`."""
    nodes = [node("Mul", [name, f"w{place}"], [f"p{place}"]) for place, name in enumerate(inputs)]
    parts = [f"p{place}" for place in range(len(inputs))] + ([] if extra is None else [extra])
    graphs.write(
        path, [*nodes, node("Sum", parts, [output])], [value(name, shape=["B", 1]) for name in (*inputs, *([] if extra is None else [extra]))],
        [value(output, shape=["B", 1])], [constant(f"w{place}", np.float32(weight)) for place, weight in enumerate(weights)],
    )  # fmt: skip
    return path


def scores(model: Any, row: dict[str, float]) -> float:
    (item,) = model.anomaly_score([row]).items
    return float(item.score)


def test_graphs_with_their_columns_in_other_orders(tmp_path: Path) -> None:
    """Rows have the order of the file, and each graph gets its own columns."""
    first = weighted(tmp_path / "s.onnx", ["a", "b", "c"], [1, 0, 0])
    nodes = [node("Concat", ["c", "b"], ["features"], axis=1)]
    graphs.write(
        tmp_path / "f.onnx", nodes, [value("c", shape=["B", 1]), value("b", shape=["B", 1])], [value("features", shape=["B", 2])]
    )  # fmt: skip
    model, _ = bring(tmp_path / "m", first, tmp_path / "f.onnx", "--columns", table(tmp_path / "rows.csv"))
    assert scores(model, {"a": 1, "b": 2, "c": 3}) == 1
    assert model.run("features", {"data": np.asarray([[1, 2, 3]], np.float32)})["features"].tolist() == [[3, 2]]


def test_a_graph_of_rows_beside_one_with_inputs_for_columns(tmp_path: Path) -> None:
    second = weighted(tmp_path / "s.onnx", ["c", "a"], [1, 10])
    graphs.write(tmp_path / "f.onnx", [node("Slice", ["x", "from", "to", "axis"], ["features"])], [value("x", shape=["B", 3])],
                 [value("features", shape=["B", 2])], [constant("from", [0]), constant("to", [2]), constant("axis", [1])])  # fmt: skip
    model, _ = bring(tmp_path / "m", second, tmp_path / "f.onnx", "--columns", table(tmp_path / "rows.csv"))
    assert scores(model, {"a": 1, "b": 2, "c": 3}) == 13
    assert model.run("features", {"data": np.asarray([[1, 2, 3]], np.float32)})["features"].tolist() == [[1, 2]]


def test_inputs_that_are_no_columns(tmp_path: Path) -> None:
    """A constant beside the columns stays an input, and a generator is not taken for a graph of columns."""
    path = weighted(tmp_path / "s.onnx", ["a", "b"], [1, 2], extra="bias")
    rows = table(tmp_path / "rows.csv")
    assert (
        "no column 'bias'; give a file with all columns of the graph, or say what the input is, such as --constant bias=1"
        in refused(tmp_path / "n", path, "--columns", rows)
    )
    model, _ = bring(tmp_path / "m", path, "--columns", rows, "--constant", "bias=100")
    assert scores(model, {"a": 1, "b": 2}) == 105
    nodes = [node("Mul", ["noise", "c"], ["rows"])]
    graphs.write(
        tmp_path / "g.onnx",
        nodes,
        [value("noise", shape=["B", 3]), value("c", shape=["B", 1])],
        [value("rows", shape=["B", 3])],
    )
    model, _ = bring(tmp_path / "g", tmp_path / "g.onnx", "--columns", rows, "--constant", "c=4")
    z = np.asarray([[0.5, 1, 2]], np.float32)
    assert np.allclose(model.sample(latents=z).data, z * 4)


def test_columns_that_could_be_taken_for_each_other(tmp_path: Path) -> None:
    path = weighted(tmp_path / "s.onnx", ["a b", "a_b"], [1, 10])
    rows = table(tmp_path / "rows.csv", "a_b,a b\n1,2\n3,4\n5,6\n")
    model, _ = bring(tmp_path / "m", path, "--columns", rows)
    assert scores(model, {"a_b": 1, "a b": 2}) == 12
    assert "two inputs of the graph could be the column 'a_b'" in refused(
        tmp_path / "n", path, "--columns", table(tmp_path / "one.csv", "a_b\n1\n2\n")
    )
    single = weighted(tmp_path / "t.onnx", ["a.b", "c"], [1, 10])
    both = table(tmp_path / "both.csv", "a_b,a b,c\n1,2,3\n3,4,5\n")
    assert "the input 'a.b' could be one of several columns of the file" in refused(
        tmp_path / "n", single, "--columns", both
    )


def test_names_that_would_be_equal_in_requests(tmp_path: Path) -> None:
    nodes = [node("Identity", ["a/z"], ["z"]), *brought.body(), node("Add", ["x", "a.z"], ["y"])]
    inputs = [value("a/z", shape=["B", LATENT]), value("a.z", shape=["B", 2, 4, 5])]
    nodes[-1] = node("Add", ["x", "mean"], ["y"])
    nodes.insert(-1, node("ReduceMean", ["a.z"], ["mean"], keepdims=0))
    graphs.write(tmp_path / "g.onnx", nodes, inputs, [value("y", shape=None)], CONSTANTS)
    assert "two inputs would have the name 'a_z' in requests" in refused(
        tmp_path / "m", tmp_path / "g.onnx", "--range", -4, 4
    )


@pytest.mark.parametrize(
    ("name", "role"), [("mean", "score"), ("features", "score"), ("data", "score"), ("anomaly", "anomaly")]
)
def test_a_score_with_the_name_of_another_role(tmp_path: Path, name: str, role: str) -> None:
    path = weighted(tmp_path / "s.onnx", ["a", "b"], [1, 2], name)
    model, _ = bring(tmp_path / "m", path, "--columns", table(tmp_path / "rows.csv"))
    assert model.manifest.scoring is not None and model.manifest.scoring.score == role
    assert scores(model, {"a": 1, "b": 2}) == 5


def test_statements_that_contradict_the_graph(tmp_path: Path) -> None:
    four = graphs.folder(tmp_path / "four", manifest()) / "g.onnx"
    graphs.write(
        four,
        [*brought.body(latent=[4, LATENT]), *COPY],
        [value("z", shape=[4, LATENT])],
        [value("y", shape=None)],
        CONSTANTS,
    )
    bytes_ = tmp_path / "u.onnx"
    graphs.write(
        bytes_, [node("Cast", ["image"], ["c"], to=1), node("ReduceMean", ["c", "axes"], ["logits"], keepdims=0)],
        [value("image", brought.OF_TYPE["uint8"], ["B", 3, 4, 5])], [value("logits", shape=["B", 3])], [constant("axes", [2, 3])],
    )  # fmt: skip
    mean = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    for arguments, said in (
        ([four, "--rows", 3], "--rows: g.onnx takes 4 rows in each run, as its inputs state"),
        ([four, "--shape", "nope=3"], "--shape: no graph has an input 'nope'"),
        ([four, "--shape", "z=int64[B,6]"], "of the graph is not int64; leave out the type"),
        ([four, "--shape", "z=0"], "has an axis of the length 0"),
        ([four, "--range", "-1e308", "1e308"], "is not ascending"),
        ([bytes_, "--classes", 3, *mean], "whole numbers cannot hold pixels after mean and standard deviation"),
        ([bytes_, "--classes", 3, "--range", 0, 1, "--mean", "123,116,103", "--std", "1,1,1"], "--mean: 123 is not the mean of pixels in the stated range"),
        ([bytes_, "--classes", 3, "--mean", "-0.1,0,0", "--std", "1,1,1"], "--mean: -0.1 is not the mean of pixels in [0, 1]"),
        ([bytes_, "--classes", 4, "--output", "logits=logits"], "has 3 numbers for each item, but there are 4 classes"),
        ([bytes_, "--classes", 3, "--activation", "sigmoid"], "--activation: it has no effect"),
        ([bytes_, "--classes", 3, "--range", 0, 255, "--input-range", 0, 1], "--range: it has no effect: --input-range or --input-mean replaces it"),
    ):  # fmt: skip
        assert said in refused(tmp_path / "m", *arguments), arguments


def test_the_logit_of_two_classes_of_rows(tmp_path: Path) -> None:
    """Values of the trial rows lie between 0 and 1, so that only the statement shows that they are logits."""
    path = weighted(tmp_path / "s.onnx", ["a", "b"], [0.05, 0.05], "y")
    given_ = [path, "--columns", table(tmp_path / "rows.csv"), "--classes", "no,yes"]
    model, output = bring(tmp_path / "p", *given_)
    assert "its probability; --activation sigmoid states that it is a logit" in output
    assert np.allclose(model.classify([{"a": 2, "b": 3}]), [[0.75, 0.25]], atol=1e-6)
    model, _ = bring(tmp_path / "l", *given_, "--activation", "sigmoid")
    yes = 1 / (1 + np.exp(-0.25))
    assert np.allclose(model.classify([{"a": 2, "b": 3}]), [[1 - yes, yes]], atol=1e-6)


def test_a_damaged_earlier_version_does_not_stop_an_import(tmp_path: Path) -> None:
    path = weighted(tmp_path / "s.onnx", ["a", "b"], [1, 2])
    (tmp_path / "m/mine/1").mkdir(parents=True)
    (tmp_path / "m/mine/1/manifest.json").write_text("{}")
    model, output = bring(tmp_path / "m", path, "--columns", table(tmp_path / "rows.csv"))
    assert model.manifest.version == 2 and "done; endpoints: anomaly-score" in output


def test_weights_that_are_a_link_are_copied(tmp_path: Path) -> None:
    """ONNX Runtime reads links to files of the same folder."""
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/1").write_bytes(brought.WEIGHTS.tobytes())
    (tmp_path / "snapshot/w.bin").symlink_to(tmp_path / "snapshot/1")
    others = [each for each in CONSTANTS if each.name != "w"]
    outside = [graphs.outside("w", "w.bin", brought.WEIGHTS), *others]
    graphs.write(
        tmp_path / "snapshot/g.onnx",
        [*brought.body(), *COPY],
        [value("z", shape=["B", LATENT])],
        [value("y", shape=None)],
        outside,
    )
    model, _ = bring(tmp_path / "m", tmp_path / "snapshot/g.onnx")
    assert (
        not (model.folder / "w.bin").is_symlink() and (model.folder / "w.bin").read_bytes() == brought.WEIGHTS.tobytes()
    )


# --- what the changes must not break ---


def test_few_example_rows_have_other_classes_and_codes_for_other_seeds(tmp_path: Path) -> None:
    """The tests of large models run two rows, whose conditions must differ between seeds; more rows contain the first and the last class."""
    content = {**manifest(), "classes": [f"c{i}" for i in range(50)]}
    content["tasks"]["decode"]["inputs"].append(given("label", "condition", [50], in_graph={"index": True}))
    nodes = [
        node("Cast", ["label"], ["n"], to=1),
        node("Reshape", ["n", "column"], ["f"]),
        node("Add", ["x", "f"], ["y"]),
    ]
    path = brought.made(
        tmp_path, content, nodes, inputs=[value("label", INT64, ["B"])], constants=[constant("column", [-1, 1, 1, 1])]
    )
    model = load(path)
    task = model.manifest.tasks["decode"]
    assert isinstance(model.manifest.condition_of(task.inputs[1]), Classes)
    role = task.inputs[1].role
    two = [example_inputs(task, model.manifest, 2, seed)[role].argmax(1).tolist() for seed in range(6)]
    assert len({tuple(each) for each in two}) > 3
    many = example_inputs(task, model.manifest, 8)[role].argmax(1).tolist()
    assert many[0] == 0 and many[-1] == 49


def test_codes_outside_the_levels_fail_over_rest(tmp_path: Path) -> None:
    """An artifact by hand, of which the check has not been asked."""
    content = {
        "name": "tiny", "version": 1, "data": ImageSpec(kind="image", height=2, width=2, channels=1).model_dump(mode="json", exclude_none=True),
        "codes": {"shape": [4], "levels": 5},
        "tasks": {"encode": {"graph": "e.onnx", "inputs": [{"role": "data", "name": "x", "source": "data", "shape": [1, 2, 2]}],
                             "outputs": [{"role": "codes", "dtype": "int64", "shape": [4]}]}},
    }  # fmt: skip
    path = graphs.folder(tmp_path / "models", content)
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Mul", ["f", "nine"], ["n"]),
        node("Round", ["n"], ["r"]),
        node("Cast", ["r"], ["codes"], to=INT64),
    ]
    graphs.write(
        path / "e.onnx",
        nodes,
        [value("x", shape=["B", 1, 2, 2])],
        [value("codes", INT64, ["B", 4])],
        [constant("nine", np.float32(9))],
    )
    status, output = check(path, "--seal")
    assert status == 1 and "output 'codes' holds" in output
    with pytest.raises(ManifoldError, match="output 'codes' holds 9, but the manifest says 5 levels"):
        load(path).encode(np.ones((1, 1, 2, 2), np.float32))
    with served(tmp_path / "models") as running:
        picture = io.BytesIO()
        Image.new("L", (2, 2), 255).save(picture, "PNG")
        answer = running.client.post(
            "/encode", json={"model": "tiny", "images": [base64.b64encode(picture.getvalue()).decode()]}
        )
        assert answer.status_code == 500 and "codes" not in answer.json(), answer.text


def test_whole_numbers_of_rows_without_decimals_load(tmp_path: Path) -> None:
    """A manifest by hand need not state the decimals of columns; examples are whole numbers then."""
    column = {"kind": "numeric", "name": "a", "mean": 0, "scale": 1, "clip": 100, "minimum": 0, "maximum": 10}
    content = {
        "name": "tiny", "version": 1, "data": {"kind": "table", "columns": [column, {**column, "name": "b"}]},
        "tasks": {"score": {"graph": "g.onnx", "inputs": [{"role": "data", "name": "x", "source": "data", "shape": [2], "in_graph": {"dtype": "int32"}}],
                            "outputs": [{"role": "total", "shape": []}]}},
        "scoring": {"score": "total", "terms": [{"name": "total", "kind": "distance"}]},
    }  # fmt: skip
    path = graphs.folder(tmp_path, content)
    nodes = [node("Cast", ["x"], ["c"], to=1), node("ReduceSum", ["c", "axis"], ["total"], keepdims=0)]
    graphs.write(
        path / "g.onnx",
        nodes,
        [value("x", brought.OF_TYPE["int32"], ["B", 2])],
        [value("total", shape=["B"])],
        [constant("axis", [1])],
    )
    status, output = check(path, "--seal")
    assert status == 0, output
    assert scores(load(path), {"a": 3, "b": 4}) == 7


def test_outputs_that_cannot_be_read(tmp_path: Path) -> None:
    import torch

    class Nested(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
            return {"out": {"image": z}}

    torch.jit.script(Nested()).save(str(tmp_path / "n.pt"))
    assert "nested ones cannot be served: return the tensors themselves" in refused(
        tmp_path / "m", tmp_path / "n.pt", "--shape", "z=6"
    )
    graphs.write(
        tmp_path / "b.onnx", [*brought.body(), node("Cast", ["x"], ["y"], to=16)], [value("z", shape=["B", LATENT])], [value("y", 16, None)], CONSTANTS
    )  # fmt: skip
    assert "convert the inputs and outputs to float32 or float16" in refused(tmp_path / "m", tmp_path / "b.onnx")
