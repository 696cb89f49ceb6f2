"""Graphs that were made elsewhere: inputs, outputs and manifests that do not fit give one clear line, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifold.runtime import manifest
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError, GraphError
from manifold.runtime.graphs import onnx_file
from tests import graphs, tabled
from tests.graphs import (
    COPY,
    HALF,
    IMAGE,
    INT32,
    INT64,
    SCORE,
    SCORING,
    SIZE,
    check,
    constant,
    decoder,
    given,
    node,
    refused,
    task,
    turned,
    value,
)

# --- inputs and outputs that differ from the manifest ---


def _image(
    root: Path, inputs: list[Any], middle: list[Any], tasks: dict[str, Any], constants: tuple[Any, ...] = ()
) -> Path:
    made = graphs.folder(root, graphs.manifest(**tasks))
    graphs.write(
        made / "g.onnx", [*middle, *turned("x", "y")], inputs, [value("y", shape=None)], [IMAGE, *constants]
    )  # fmt: skip
    return made


CAST = node("Cast", ["z"], ["x"], to=1)


@pytest.mark.parametrize(
    ("inputs", "middle", "tasks", "said"),
    [
        ([value("z", shape=["B", SIZE, 1, 1])], [COPY], {}, "input 'z' is float32[B, 4, 1, 1] in the graph, but the manifest says float32[4]"),
        ([value("z", HALF)], [CAST], {}, "input 'z' is float16[B, 4] in the graph, but the manifest says float32[4]"),
        ([value("z", INT32)], [CAST], {}, "input 'z' is int32[B, 4] in the graph, but the manifest says float32[4]"),
        ([value("z", shape=["B", 7])], [COPY], {}, "input 'z' is float32[B, 7] in the graph, but the manifest says float32[4]"),
        (
            [value("z"), value("n", shape=[8, "B", 3])], [COPY],
            {"sample": task([given("z", "latent", [SIZE]), given("n", "normal", [8, 3])])}, "input 'n' is float32[8, B, 3]",
        ),
        (
            [value("z"), value("psi", shape=[])], [node("Mul", ["z", "psi"], ["x"])],
            {"decode": task([given("z", "latent", [SIZE]), given("psi", "temperature", [])])},
            "input 'psi' is float32[] in the graph, but the manifest says float32[]",
        ),
        (
            [value("z"), value("label", INT64, ["B"])], [COPY],
            {"sample": task([given("z", "latent", [SIZE]), given("label", "condition", [10])])},
            "input 'label' is int64[B] in the graph, but the manifest says float32[10]",
        ),
    ],
)  # fmt: skip
def test_inputs_are_compared_when_a_graph_is_opened(
    tmp_path: Path, inputs: list[Any], middle: list[Any], tasks: dict[str, Any], said: str
) -> None:
    made = _image(tmp_path, inputs, middle, tasks)
    assert said in refused(made)
    with pytest.raises(GraphError) as caught:
        load(made)
    assert caught.value.graph == "g.onnx"
    assert caught.value.tensor in {each.name for each in inputs}
    assert str(caught.value.expected).startswith("float32[")


@pytest.mark.parametrize("rows", [1, 3, 16, 100])
@pytest.mark.parametrize("stated", [{}, {"min_rows": 4, "max_rows": 8}])
def test_a_graph_that_takes_a_fixed_number_of_rows_is_served(tmp_path: Path, rows: int, stated: dict[str, Any]) -> None:
    """Batches are padded and divided, whatever the manifest says. An item does not depend on its batch."""
    made = _image(tmp_path, [value("z", shape=[rows, SIZE])], [COPY], {"decode": task(**stated)})
    assert check(made, "--seal")[0] == 0
    model = load(made)
    whole = model.sample(40, seed=1).data
    assert whole.shape == (40, 1, 2, 2) and len(np.unique(whole, axis=0)) == 40
    assert np.array_equal(model.sample(3, seed=1, first=20).data, whole[20:23])


def test_outputs_of_another_type_or_shape(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    graphs.write(
        made / "g.onnx", [node("Cast", ["z"], ["x"], to=HALF), *turned("x", "y")], [value("z")], [value("y", HALF, None)], [IMAGE]
    )  # fmt: skip
    assert (
        "output 'y' is float16[B, 1, 2, 2] in the graph, but the manifest says float32[1, 2, 2] (without the batch); state the form"
        in refused(made)
    )
    graphs.write(made / "g.onnx", [node("Identity", ["z"], ["y"])], [value("z")], [value("y", shape=None)])
    assert "output 'data' is float32[1, 4], the manifest says float32[1, 1, 2, 2]" in refused(made)


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    """A table of 5 rows gets index 9."""
    middle = [
        node("Cast", ["z"], ["whole"], to=INT64),
        node("Add", ["whole", "nine"], ["index"]),
        node("Gather", ["table", "index"], ["x"]),
    ]
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", middle, [constant("nine", 9), constant("table", np.zeros(5, np.float32))])
    assert "g.onnx: ONNX Runtime cannot run it: [ONNXRuntimeError]" in refused(made)
    with pytest.raises(GraphError) as caught:
        load(made)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"ORTM" * 50, b"\x3a\xff\xff\xff\xff\x0f", b"\x3b" * 99, b"\x80" * 99, bytes(1000), b"{}"]
)
def test_files_that_are_no_graphs(tmp_path: Path, content: bytes) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    (made / "g.onnx").write_bytes(content)
    assert "g.onnx" in refused(made)
    with pytest.raises(GraphError):
        onnx_file.read(made / "g.onnx") and load(made)


def test_a_case_that_nobody_foresaw_is_a_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", [COPY])

    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("manifold.runtime.checks._runs", broken)
    assert "KeyError: 'surprise'" in refused(made)


# --- manifests whose requests would all fail ---


def _impute(**changes: Any) -> dict[str, Any]:
    inputs = [given("z", "data", [1, 2, 2]), given("m", "mask", [1, 2, 2]), given("u", "uniform", [4])]
    return {"impute": {**task(inputs), **changes}}


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        (_impute(inputs=_impute()["impute"]["inputs"][:2]), {}, "tasks.impute: has no input with a source among uniform, normal and latent"),
        (_impute(inputs=[*_impute()["impute"]["inputs"], given("n", "codes", [2])]), {}, "tasks.impute.codes: the source 'codes' is not filled for impute"),
        ({"score": {**SCORE, "outputs": [{"role": "nll", "name": "y", "shape": [1]}]}}, {"scoring": SCORING}, "tasks.score.nll: shape [1]; it must be []"),
        ({"score": {**SCORE, "outputs": [{"role": "nll", "name": "y", "shape": [2, 2]}]}}, {"scoring": SCORING}, "tasks.score.nll: shape [2, 2]"),
        ({"score": SCORE}, {}, "no endpoint returns this output; those of score return nothing without a scoring section"),
        ({"score": {**SCORE, "outputs": [*SCORE["outputs"], {"role": "other"}]}}, {"scoring": SCORING}, "tasks.score.other: no endpoint returns this"),
        ({"score": {**SCORE, "outputs": [*SCORE["outputs"], {"role": "map", "shape": [3]}]}}, {"scoring": {**SCORING, "surprise": "map"}}, "tasks.score.map: shape [3]"),  # noqa: E501
        ({"score": {**SCORE, "inputs": [*SCORE["inputs"], given("n", "normal", [3])]}}, {"scoring": SCORING}, "the source 'normal' is not filled for score"),
        ({"decode": task(outputs=[*task()["outputs"], {"role": "depth"}])}, {}, "tasks.decode.depth: no endpoint returns this output; those of decode"),
        ({"encode": task([given("z", "data", [1, 2, 2])], [{"role": "mean", "name": "y", "shape": [SIZE]}, {"role": "features"}])}, {}, "tasks.encode.features"),  # noqa: E501
        ({"decode": task(extra=["nothing"])}, {}, "tasks.decode.extra: there is no output 'nothing'"),
        ({"sample": task([given("z", "latent", [SIZE]), given("c", "condition", [3], dtype="int64")])}, {}, "int64, but the service sends condition as float32"),  # noqa: E501
        ({"sample": task([given("z", "latent", [SIZE]), given("c", "condition", [])])}, {}, "so its shape must be [C]"),
        ({"sample": task([given("z", "latent", [SIZE], dtype="int64")])}, {}, "int64, but the service sends latent as float32"),
        ({"sample": task([given("z", "normal", [SIZE], dtype="int64")])}, {}, "int64, but the service sends normal as float32"),
        (
            {"features": task([given("z", "data", [1, 2, 2])], [{"role": "features", "shape": [3]}, {"role": "logits", "shape": [3]}])},
            {"classes": ["a", "b"], "classification": {}}, "tasks.features.logits: shape [3]; it must be [2]",
        ),
    ],
)  # fmt: skip
def test_manifests_whose_requests_would_all_fail(
    tmp_path: Path, tasks: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    made = graphs.folder(tmp_path, {**graphs.manifest(**tasks), **more})
    assert said in refused(made)
    with pytest.raises(ArtifactError, match="field"):
        manifest.read(made)


def test_a_graph_that_fails_says_so_in_the_error_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime would otherwise write the same text to standard error for each request."""
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", [node("Reshape", ["z", "seven"], ["x"])], [constant("seven", np.asarray([7, -1]))])
    with pytest.raises(GraphError, match=r"g\.onnx: ONNX Runtime cannot run it: .*cannot be reshaped"):
        load(made)
    assert capfd.readouterr().err == ""


def test_nats_of_rows_have_one_number_for_each_column(tmp_path: Path) -> None:
    def outputs(columns: int) -> dict[str, Any]:
        content = tabled.manifest()
        score = {**content["tasks"]["score"], "outputs": [{"role": "odd"}, {"role": "nats", "shape": [columns]}]}
        return {"tasks": {"score": score}, "scoring": {**content["scoring"], "surprise": "nats"}}

    assert manifest.read(tabled.write(tmp_path / "right", **outputs(3))).scoring is not None
    with pytest.raises(ArtifactError, match=r"tasks\.score\.nats: shape \[4\]; it must be \[3\]"):
        manifest.read(tabled.write(tmp_path / "wrong", **outputs(4)))


def test_a_manifest_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    size = (made / manifest.FILE).stat().st_size
    monkeypatch.setattr("manifold.runtime.manifest.file.MAX_BYTES", size)
    assert manifest.read(made).name == "tiny"
    monkeypatch.setattr("manifold.runtime.manifest.file.MAX_BYTES", size - 1)
    with pytest.raises(ArtifactError, match=f"is larger than the limit of {size - 1} bytes"):
        manifest.read(made)


def test_an_output_that_is_named_as_extra_is_there_for_the_library(tmp_path: Path) -> None:
    outputs = [*task()["outputs"], {"role": "depth", "name": "x", "shape": [SIZE]}]
    made = graphs.folder(tmp_path, graphs.manifest(decode=task(outputs=outputs, extra=["depth"])))
    graphs.write(
        made / "g.onnx", [COPY, *turned("x", "y")], [value("z")], [value("y", shape=None), value("x")], [IMAGE]
    )
    z = np.ones((2, SIZE), np.float32)
    assert np.array_equal(load(made).run("decode", {"latent": z})["depth"], z)
