"""Graphs that somebody else made: what does not fit is refused in one clear line, and never in a traceback."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, helper
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import golden, manifest, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError, GraphError
from manifold.runtime.graphs import chance, onnx_file
from manifold.runtime.graphs.backends import TorchScriptBackend, open_backend
from manifold.runtime.operations import Scores
from manifold.runtime.scores import calibration
from manifold.service.models.entries import stamp
from tests import graphs, tabled
from tests.graphs import HALF, IMAGE, INT32, INT64, SIZE, constant, decoder, given, node, outside, task, turned, value

Change = Callable[[dict[str, Any]], None]


def check(folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of `manifold check`, which never raises."""
    done = CliRunner().invoke(cli.app, ["check", *options, str(folder)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def refused(folder: Path, *options: str) -> str:
    """Return what `manifold check` says of an artifact that is refused."""
    status, said = check(folder, *options)
    assert status == 1, said
    return said


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
COPY = node("Identity", ["z"], ["x"])


@pytest.mark.parametrize(
    ("inputs", "middle", "tasks", "said"),
    [
        ([value("z", shape=[1, SIZE])], [COPY], {}, "takes 1 row at a time: set min_rows 1, max_rows 1"),
        ([value("z", shape=[16, SIZE])], [COPY], {}, "takes 16 rows at a time: set min_rows 16, max_rows 16"),
        ([value("z", shape=[100, SIZE])], [COPY], {}, "takes 100 rows at a time: export it with a free batch"),
        ([value("z", shape=["B", SIZE, 1, 1])], [COPY], {}, "input 'z' is float32[B, 4, 1, 1] in the graph, the manifest says float32[4]"),
        ([value("z", HALF)], [CAST], {}, "input 'z' is float16[B, 4] in the graph, the manifest says float32[4]"),
        ([value("z", INT32)], [CAST], {}, "input 'z' is int32[B, 4] in the graph, the manifest says float32[4]"),
        ([value("z", shape=["B", 7])], [COPY], {}, "input 'z' is float32[B, 7] in the graph, the manifest says float32[4]"),
        (
            [value("z"), value("n", shape=[8, "B", 3])], [COPY],
            {"sample": task([given("z", "latent", [SIZE]), given("n", "normal", [8, 3])])}, "input 'n' is float32[8, B, 3]",
        ),
        (
            [value("z"), value("psi", shape=[])], [node("Mul", ["z", "psi"], ["x"])],
            {"decode": task([given("z", "latent", [SIZE]), given("psi", "temperature", [])])},
            "input 'psi' is float32[] in the graph, the manifest says float32[]",
        ),
        (
            [value("z"), value("label", INT64, ["B"])], [COPY],
            {"sample": task([given("z", "latent", [SIZE]), given("label", "condition", [10])])},
            "input 'label' is int64[B] in the graph, the manifest says float32[10]",
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


def test_a_graph_that_takes_a_fixed_number_of_rows_is_served(tmp_path: Path) -> None:
    for rows in (1, 16):
        fixed = {"decode": task(min_rows=rows, max_rows=rows)}
        made = _image(tmp_path, [value("z", shape=[rows, SIZE])], [COPY], fixed)
        assert check(made, "--seal")[0] == 0
        assert load(made).sample(5, seed=1).data.shape == (5, 1, 2, 2)


def test_outputs_of_another_type_or_shape(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    graphs.write(
        made / "g.onnx", [node("Cast", ["z"], ["x"], to=HALF), *turned("x", "y")], [value("z")], [value("y", HALF, None)], [IMAGE]
    )  # fmt: skip
    assert "output 'y' is float16 in the graph, the manifest says float32[1, 2, 2]" in refused(made)
    graphs.write(made / "g.onnx", [node("Identity", ["z"], ["y"])], [value("z")], [value("y", shape=None)])
    assert "output 'data' is float32[1, 4], the manifest says float32[1, 1, 2, 2]" in refused(made)


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    """A table of 5 rows is asked for row 9."""
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

    monkeypatch.setattr("manifold.runtime.checks.run_all", broken)
    assert "KeyError: 'surprise'" in refused(made)


# --- manifests whose requests would all fail ---

SCORE = {
    "graph": "g.onnx",
    "inputs": [given("z", "data", [1, 2, 2])],
    "outputs": [{"role": "nll", "name": "y", "shape": []}],
}
SCORING = {"score": "nll", "terms": [{"name": "nll", "kind": "nll"}]}


def _impute(**changes: Any) -> dict[str, Any]:
    inputs = [given("z", "data", [1, 2, 2]), given("m", "mask", [1, 2, 2]), given("u", "uniform", [4])]
    return {"impute": {**task(inputs), **changes}}


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        (_impute(inputs=_impute()["impute"]["inputs"][:2]), {}, "tasks.impute: needs an input whose source is 'uniform'"),
        (_impute(inputs=[*_impute()["impute"]["inputs"], given("n", "normal", [2])]), {}, "tasks.impute.normal: nothing fills the source 'normal'"),
        ({"score": {**SCORE, "outputs": [{"role": "nll", "name": "y", "shape": [1]}]}}, {"scoring": SCORING}, "tasks.score.nll: shape [1], it must be []"),
        ({"score": {**SCORE, "outputs": [{"role": "nll", "name": "y", "shape": [2, 2]}]}}, {"scoring": SCORING}, "tasks.score.nll: shape [2, 2]"),
        ({"score": SCORE}, {}, "no use case returns this output of score, which gives nothing without a scoring section"),
        ({"score": {**SCORE, "outputs": [*SCORE["outputs"], {"role": "other"}]}}, {"scoring": SCORING}, "tasks.score.other: no use case returns this"),
        ({"score": {**SCORE, "outputs": [*SCORE["outputs"], {"role": "map", "shape": [3]}]}}, {"scoring": {**SCORING, "surprise": "map"}}, "tasks.score.map: shape [3]"),  # noqa: E501
        ({"score": {**SCORE, "inputs": [*SCORE["inputs"], given("n", "normal", [3])]}}, {"scoring": SCORING}, "nothing fills the source 'normal' of score"),
        ({"decode": task(outputs=[*task()["outputs"], {"role": "depth"}])}, {}, "tasks.decode.depth: no use case returns this output of decode"),
        ({"encode": task([given("z", "data", [1, 2, 2])], [{"role": "mean", "name": "y", "shape": [SIZE]}, {"role": "features"}])}, {}, "tasks.encode.features"),  # noqa: E501
        ({"decode": task(extra=["nothing"])}, {}, "tasks.decode.extra: there is no output 'nothing'"),
        ({"sample": task([given("z", "latent", [SIZE]), given("c", "condition", [3], dtype="int64")])}, {}, "int64, but the service sends condition as float32"),  # noqa: E501
        ({"sample": task([given("z", "latent", [SIZE]), given("c", "condition", [])])}, {}, "so its shape is [C]"),
        ({"sample": task([given("z", "latent", [SIZE], dtype="int64")])}, {}, "int64, but the service sends latent as float32"),
        ({"sample": task([given("z", "normal", [SIZE], dtype="int64")])}, {}, "int64, but the service sends normal as float32"),
        (
            {"features": task([given("z", "data", [1, 2, 2])], [{"role": "features", "shape": [3]}, {"role": "logits", "shape": [3]}])},
            {"classes": ["a", "b"], "classification": {}}, "tasks.features.logits: shape [3], it must be [2]",
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
    """ONNX Runtime would write the same text to standard error, once for each request."""
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
    with pytest.raises(ArtifactError, match=r"tasks\.score\.nats: shape \[4\], it must be \[3\]"):
        manifest.read(tabled.write(tmp_path / "wrong", **outputs(4)))


def test_a_manifest_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    size = (made / manifest.FILE).stat().st_size
    monkeypatch.setattr("manifold.runtime.manifest.file.MAX_BYTES", size)
    assert manifest.read(made).name == "tiny"
    monkeypatch.setattr("manifold.runtime.manifest.file.MAX_BYTES", size - 1)
    with pytest.raises(ArtifactError, match=f"is larger than {size - 1} bytes"):
        manifest.read(made)


@pytest.mark.parametrize("cuda", [False, True])
def test_torchscript_that_falls_back_to_the_cpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    notes = {device: TorchScriptBackend(tmp_path, device, torch.get_num_threads()).note for device in ("auto", "cpu")}
    assert notes == {"auto": None if cuda else "on the CPU: torch sees no CUDA device", "cpu": None}


def test_an_output_that_is_named_as_extra_is_there_for_the_library(tmp_path: Path) -> None:
    outputs = [*task()["outputs"], {"role": "depth", "name": "x", "shape": [SIZE]}]
    made = graphs.folder(tmp_path, graphs.manifest(decode=task(outputs=outputs, extra=["depth"])))
    graphs.write(
        made / "g.onnx", [COPY, *turned("x", "y")], [value("z")], [value("y", shape=None), value("x")], [IMAGE]
    )
    z = np.ones((2, SIZE), np.float32)
    assert np.array_equal(load(made).run("decode", {"latent": z})["depth"], z)


# --- files ---


def _outside(root: Path, location: str, *, inner: bool = False) -> Path:
    """A decoder whose matrix lies in a file, within a branch if `inner`."""
    made = graphs.folder(root, graphs.manifest())
    weights = np.eye(SIZE, dtype=np.float32)
    tensor = outside("w", location, weights)
    middle, constants = [node("MatMul", ["z", "w"], ["x"])], [tensor]
    if inner:
        branch = helper.make_graph([node("MatMul", ["z", "w"], ["q"])], "b", [], [value("q")], [tensor])
        middle, constants = (
            [node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch)],
            [constant("yes", True)],
        )
    decoder(made / "g.onnx", middle, constants)
    path = made / location
    if ".." not in location and not location.startswith("/"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(weights.tobytes())
    return made


@pytest.mark.parametrize("inner", [False, True])
def test_weights_in_a_sub_folder_are_sealed(tmp_path: Path, inner: bool) -> None:
    made = _outside(tmp_path, "weights/w.bin", inner=inner)
    assert check(made, "--seal")[0] == 0
    assert set(manifest.read(made).files) == {"g.onnx", "weights/w.bin"}
    first, before = load(made).checksum, stamp(made)
    (made / "weights/w.bin").write_bytes(bytes(4 * SIZE * SIZE))
    assert "files.weights/w.bin: altered" in refused(made)
    assert check(made, "--seal")[0] == 0
    assert load(made).checksum != first  # a recipe is of these weights too
    assert stamp(made) != before  # and a service that watches the folder sees it
    (made / "weights/w.bin").unlink()
    assert "files.weights/w.bin: missing" in refused(made)


@pytest.mark.parametrize("inner", [False, True])
def test_weights_that_are_not_in_the_sealed_list(tmp_path: Path, inner: bool) -> None:
    made = _outside(tmp_path, "weights/w.bin", inner=inner)
    repository.seal(made)
    content = json.loads((made / manifest.FILE).read_text())
    del content["files"]["weights/w.bin"]
    (made / manifest.FILE).write_text(json.dumps(content))
    assert "weights of g.onnx: 'weights/w.bin' has no checksum under files" in refused(made)


def test_the_checksum_is_of_the_graphs_whether_they_are_sealed_or_not(tmp_path: Path) -> None:
    """Without a list of files, the checksum covers all files of the folder; with a list, the files in it."""
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", [COPY])
    open_ = load(made).checksum
    decoder(made / "g.onnx", [node("Neg", ["z"], ["x"])])
    other = load(made).checksum
    assert other != open_
    repository.seal(made)
    sealed = load(made).checksum
    (made / "notes.txt").touch()
    assert load(made).checksum == sealed


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/hostname", "weights/../../w.bin", "weights/../g.onnx", "none.bin", "", "."]
)
def test_weights_outside_the_folder(tmp_path: Path, location: str) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(
        made / "g.onnx", [node("MatMul", ["z", "w"], ["x"])], [outside("w", location, np.eye(SIZE, dtype=np.float32))]
    )
    (made.parent / "w.bin").write_bytes(bytes(64))
    assert "tasks.decode.graph: weights of g.onnx: " in refused(made)


def test_a_plain_graph_is_not_looked_into_further(tmp_path: Path) -> None:
    decoder(tmp_path / "g.onnx", [node("Identity", ["z"], ["x"])])
    assert not onnx_file.outline(tmp_path / "g.onnx").suspect


def test_a_model_takes_classes_or_real_values(tmp_path: Path) -> None:
    real = {"names": ["x"], "examples": [[0.5]]}
    told = {"name": "condition", "role": "condition", "shape": [1], "source": "condition"}
    content = {**graphs.manifest(), "conditions": real}
    content["tasks"]["decode"]["inputs"].append(told)
    assert manifest.Manifest.model_validate(content).conditions is not None
    with pytest.raises(ValueError, match="a model takes classes or real values, not both"):
        manifest.Manifest.model_validate({**content, "classes": ["a"]})


def test_links_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    made = _outside(tmp_path, "w.bin")
    (made / "w.bin").rename(tmp_path / "w.bin")
    (made / "w.bin").symlink_to(tmp_path / "w.bin")
    assert "a link that leads out of the artifact's folder" in refused(made)
    assert "a link that leads out of the artifact's folder" in refused(made, "--seal")
    with pytest.raises(
        ArtifactError, match=r"w\.bin: a link that leads out of the artifact's folder; put the file there"
    ):
        repository.records(made)
    (made / "real.bin").write_bytes((tmp_path / "w.bin").read_bytes())
    (made / "w.bin").unlink()
    (made / "w.bin").symlink_to("real.bin")  # as Kubernetes mounts files
    assert check(made, "--seal")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(golden={"file": "../golden.npz"}), "golden.file: there is no file '../golden.npz'"),
        (lambda m: m.update(golden={}), "golden.file: there is no file 'golden.npz'"),
        (lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}), "files.../x: "),
        (lambda m: m["files"].update({"/etc/hostname": {"sha256": "0" * 64, "bytes": 1}}), "the name leads out of it"),
        (lambda m: m.update(golden={"tolerance": {}}), "golden.tolerance: "),
        (lambda m: m["tasks"]["decode"]["inputs"][0].update(shape=[-1]), "greater than or equal to 1"),
        (lambda m: m["files"].pop("g.onnx"), "tasks.decode.graph: 'g.onnx' has no checksum"),
    ],
)
def test_files_that_a_manifest_names(tmp_path: Path, change: Change, said: str) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", [COPY])
    (tmp_path / "tiny/golden.npz").touch()
    (made / "notes.txt").touch()
    repository.seal(made)
    content = json.loads((made / manifest.FILE).read_text())
    change(content)
    (made / manifest.FILE).write_text(json.dumps(content))
    assert said in refused(made)


@pytest.mark.parametrize(
    ("latent", "data", "said"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 1, 2, 2)), "'decode.in.latent' is float32[2, 3]"),
        (np.zeros((2, SIZE), np.float32), np.full((2, 1, 2, 2), "a"), "decode.data: the golden vectors are <U1[2, 1, 2, 2]"),
        (np.zeros((2, SIZE), np.float32), np.full((2, 1, 2, 2), np.nan), "decode.data: differs by nan"),
        (np.zeros((2, SIZE), np.float32), np.zeros((0, 1, 2, 2)), "decode.data: shape [2, 1, 2, 2], golden [0, 1, 2, 2]"),
    ],
)  # fmt: skip
def test_golden_vectors_that_compare_nothing(tmp_path: Path, latent: Any, data: Any, said: str) -> None:
    made = graphs.folder(tmp_path, {**graphs.manifest(), "golden": {}})
    decoder(made / "g.onnx", [COPY])
    np.savez(made / "golden.npz", **{"decode.in.latent": latent, "decode.out.data": data})
    assert said in refused(made)


def _replayed(folder: Path, run: golden.Runner, *, tasks: dict[str, Any], **vectors: Any) -> list[str]:
    """Return what differs from golden vectors, for a function in place of the graphs."""
    np.savez(folder / "golden.npz", **vectors)
    about = manifest.Manifest.model_validate({**graphs.manifest(**tasks), "golden": {}})
    return golden.replay(run, folder, about, "cpu")


def test_a_graph_that_fails_on_its_golden_vectors_is_one_line_of_the_result(tmp_path: Path) -> None:
    def run(task: str, inputs: Any) -> dict[str, Any]:
        if task == "encode":
            raise GraphError("g.onnx: no such kernel", graph="g.onnx")
        return {"data": inputs["latent"].reshape(-1, 1, 2, 2) + 1}

    encode = task([given("z", "data", [1, 2, 2])], [{"role": "mean", "name": "y", "shape": [SIZE]}])
    latent, data = np.zeros((2, SIZE), np.float32), np.zeros((2, 1, 2, 2), np.float32)
    vectors = {"encode.in.data": data, "encode.out.mean": latent, "decode.in.latent": latent, "decode.out.data": data}
    assert _replayed(tmp_path, run, tasks={"encode": encode, "decode": task()}, **vectors) == [
        "encode: does not run on the golden vectors: g.onnx: no such kernel",
        "decode.data: differs by 1, allowed 0.0001",
    ]


def test_a_task_without_golden_inputs_is_not_run(tmp_path: Path) -> None:
    def run(task: str, inputs: Any) -> dict[str, Any]:
        raise AssertionError(f"{task} was run on {sorted(inputs)}")

    decode = task([given("z", "latent", [SIZE]), given("t", "temperature", [])])
    latent = np.zeros((2, SIZE), np.float32)
    assert _replayed(tmp_path, run, tasks={"decode": decode}, **{"decode.in.latent": latent}) == []


@pytest.mark.parametrize(("whole", "drawing"), [(None, set()), (True, set()), (False, {"decode"})])
def test_a_whole_manifest_may_say_that_it_draws(whole: bool | None, drawing: set[str]) -> None:
    assert manifest.Manifest.model_validate({**graphs.manifest(), "reproducible": whole}).drawing == drawing


@pytest.mark.parametrize(("reproducible", "found"), [(True, ["decode.data: differs by 1"]), (False, [])])
def test_a_graph_that_draws_is_not_compared(tmp_path: Path, reproducible: bool, found: list[str]) -> None:
    """Such a graph never gives its golden vectors twice."""
    decode = {**task(), "reproducible": reproducible}
    latent, data = np.zeros((2, SIZE), np.float32), np.zeros((2, 1, 2, 2), np.float32)
    vectors = {"decode.in.latent": latent, "decode.out.data": data}
    told = _replayed(tmp_path, lambda task, inputs: {"data": data + 1}, tasks={"decode": decode}, **vectors)
    assert [line.split(", ")[0] for line in told] == found


def test_a_file_that_nothing_reads_is_a_note(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", [COPY])
    repository.seal(made)
    (made / "notes.txt").touch()
    (made / ".git").mkdir()
    (made / ".git/config").touch()
    status, said = check(made)
    assert status == 0
    assert "note: files: notes.txt: without a checksum; nothing reads them" in said
    assert ".git" not in said


def test_recalibration_takes_sub_folders_along(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, {**graphs.manifest(score=SCORE), "scoring": SCORING})
    (made / "weights").mkdir()
    (made / "weights/w.bin").write_bytes(np.ones((SIZE, 1), np.float32).tobytes())
    nodes = [
        node("Reshape", ["z", "flat"], ["f"]),
        node("MatMul", ["f", "w"], ["c"]),
        node("Reshape", ["c", "one"], ["y"]),
    ]
    weights = outside("w", "weights/w.bin", np.ones((SIZE, 1), np.float32))
    constants = [constant("flat", np.asarray([-1, SIZE])), constant("one", np.asarray([-1])), weights]
    graphs.write(made / "g.onnx", nodes, [value("z", shape=["B", 1, 2, 2])], [value("y", shape=["B"])], constants)
    repository.seal(made)
    data = np.random.default_rng(0).random((30, 1, 2, 2), np.float32)
    second = calibration.recalibrate(load(made), data, tmp_path, source="a test")
    assert (second.name, set(manifest.read(second).files)) == ("2", {"g.onnx", "weights/w.bin", "calibration.npz"})
    assert isinstance(load(second).score(data), Scores)
    content = json.loads((second / manifest.FILE).read_text())
    del content["files"]["calibration.npz"]
    (second / manifest.FILE).write_text(json.dumps(content))
    assert "scoring.calibration.file: 'calibration.npz' has no checksum" in refused(second)


# --- chance ---

NOISE = node("RandomNormalLike", ["z"], ["n"])
NOISY = node("Add", ["z", "n"], ["x"])


def _branch(op: Any) -> Any:
    branch = helper.make_graph([op, node("Add", ["z", "n"], ["q"])], "b", [], [value("q")])
    return node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch)


def _function(op: Any) -> Any:
    return helper.make_function(
        "mine", "Noisy", ["z"], ["x"], [op, NOISY], [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    )


def _dropout(flag: str) -> list[Any]:
    return [node("Dropout", ["z", "half", flag], ["x"])]


YES, NO, HALF_OF = constant("yes", True), constant("no", False), constant("half", np.float32(0.5))
DROPPER = helper.make_function(
    "mine", "Dropper", ["z", "half", "told"], ["x"], _dropout("told"), [helper.make_opsetid("", 18)]
)
DRAWS = {
    "normal": ([NOISE, NOISY], [], {}),
    "uniform": ([node("RandomUniformLike", ["z"], ["n"]), NOISY], [], {}),
    "shaped": ([node("RandomNormal", [], ["n"], shape=[1, SIZE]), NOISY], [], {}),
    "seeded": ([node("RandomUniform", [], ["n"], shape=[1, SIZE], seed=1.0), NOISY], [], {}),
    "bernoulli": ([node("Sigmoid", ["z"], ["p"]), node("Bernoulli", ["p"], ["x"])], [], {}),
    "multinomial": ([node("Multinomial", ["z"], ["i"], sample_size=SIZE), node("Cast", ["i"], ["x"], to=1)], [], {}),
    "dropout": (_dropout("yes"), [YES, HALF_OF], {}),
    "dropout by a node": ([node("Constant", [], ["told"], value=constant("told", True)), *_dropout("told")], [HALF_OF], {}),
    "dropout by a flag that a function is given": ([node("Dropper", ["z", "half", "yes"], ["x"], domain="mine")], [YES, HALF_OF], {"functions": [DROPPER]}),
    "within a branch": ([_branch(NOISE)], [YES], {}),
    "within a function": ([node("Noisy", ["z"], ["x"], domain="mine")], [], {"functions": [_function(NOISE)]}),
}  # fmt: skip


@pytest.mark.parametrize("how", DRAWS)
def test_graphs_that_draw_are_not_reproducible(tmp_path: Path, how: str) -> None:
    middle, constants, options = DRAWS[how]
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", middle, constants, **options)
    found = load(made).manifest
    assert found.reproducible is False
    assert found.drawing == {"decode"}
    said = refused(made)
    assert "g.onnx draws random numbers by" in said
    assert '"manifold check --seal" records reproducible: false' in said
    status, said = check(made, "--seal")
    assert status == 0
    assert "note: tasks.decode: g.onnx draws random numbers by" in said
    assert json.loads((made / manifest.FILE).read_text())["reproducible"] is False
    assert check(made)[0] == 0


@pytest.mark.parametrize("claimed", [True, False, None])
def test_what_a_manifest_claims_about_chance(tmp_path: Path, claimed: bool | None) -> None:
    content = graphs.manifest(decode=task(reproducible=claimed))
    made = graphs.folder(tmp_path, {**content, "reproducible": claimed})
    decoder(made / "g.onnx", [NOISE, NOISY])
    repository.seal(made)
    assert load(made).manifest.reproducible is False
    status, said = check(made)
    assert status == (0 if claimed is False else 1)
    assert ("says reproducible: true" in said) == (claimed is True)


QUIET = {
    "nothing": ([COPY], [], {}),
    "dropout that is off": (_dropout("no"), [NO, HALF_OF], {}),
    "dropout that is not told": ([node("Dropout", ["z"], ["x"])], [], {}),
    "dropout by a flag of a function that is off": ([node("Dropper", ["z", "half", "no"], ["x"], domain="mine")], [NO, HALF_OF], {"functions": [DROPPER]}),
    "a function that is not called": ([COPY], [], {"functions": [_function(NOISE)]}),
    "an operator of somebody else's by that name": (
        [node("RandomNormal", ["z"], ["x"], domain="mine")], [],
        {"functions": [helper.make_function("mine", "RandomNormal", ["z"], ["x"], [COPY], [helper.make_opsetid("", 18)])]},
    ),
    "noise for nothing": ([NOISE, node("Add", ["z", "n"], ["unused"]), COPY], [], {}),
}  # fmt: skip


@pytest.mark.parametrize("how", QUIET)
def test_graphs_that_do_not_draw(tmp_path: Path, how: str) -> None:
    middle, constants, options = QUIET[how]
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", middle, constants, **options)
    assert check(made, "--seal")[0] == 0
    assert load(made).manifest.reproducible is None
    assert "reproducible" not in (made / manifest.FILE).read_text()


def test_functions_that_call_each_other_twice_are_followed_once(tmp_path: Path) -> None:
    """Each of 40 functions calls the one before it twice: 2^40 calls in all."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    calls = [
        [node(f"F{i - 1}", ["z"], ["t"], domain="mine"), node(f"F{i - 1}", ["t"], ["x"], domain="mine")]
        for i in range(1, 40)
    ]
    bodies = [[NOISE, NOISY], *calls]
    functions = [helper.make_function("mine", f"F{i}", ["z"], ["x"], body, opsets) for i, body in enumerate(bodies)]
    decoder(tmp_path / "g.onnx", [node("F39", ["z"], ["x"], domain="mine")], functions=functions)
    assert chance.of_onnx(tmp_path / "g.onnx", ["x"]).draws == ("RandomNormalLike",)


def _called(path: Path, *extra: bytes) -> chance.Chance:
    """Return what is found in a graph that calls a function with noise. Fields `extra` are put at the end of the function's message."""
    function = _function(NOISE)
    model = helper.make_model(
        helper.make_graph([node("Noisy", ["z"], ["x"], domain="mine")], "tiny", [value("z")], [value("x")]),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)],
    )
    content = function.SerializeToString() + b"".join(extra)
    path.write_bytes(model.SerializeToString() + b"\xca\x01" + _size(content) + content)  # ModelProto.functions
    return chance.of_onnx(path, ["x"])


def test_noise_within_a_function_is_found(tmp_path: Path) -> None:
    assert _called(tmp_path / "g.onnx").draws == ("RandomNormalLike",)


@pytest.mark.parametrize("field", [1, 5, 7, 10])
def test_a_field_of_another_type_is_skipped_as_protobuf_does(tmp_path: Path, field: int) -> None:
    """A number in place of a function's name, output, node or domain hides no noise."""
    path = tmp_path / "g.onnx"
    assert _called(path, bytes([field << 3, 1])).draws == ("RandomNormalLike",)
    found = onnx_file.read(path).functions["mine", "Noisy"]
    assert [each.op for each in found.nodes] == ["RandomNormalLike", "Add"]
    (function,) = onnx.load(path).functions
    assert (function.name, function.domain, len(function.node)) == ("Noisy", "mine", 2)


def test_an_attribute_without_a_value_is_0(tmp_path: Path) -> None:
    """Writers of protobuf may leave out what is 0."""
    norm = _norm(training_mode=0)[0]
    norm.attribute[0].ClearField("i")
    decoder(tmp_path / "g.onnx", [norm], NORM)
    assert chance.of_onnx(tmp_path / "g.onnx", ["y"]) == chance.NONE
    norm.attribute[0].i = 1
    decoder(tmp_path / "g.onnx", [norm], NORM)
    assert chance.of_onnx(tmp_path / "g.onnx", ["y"]).mixes == ("BatchNormalization",)


def test_the_tasks_that_draw_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    sample = task([given("z", "normal", [SIZE])], graph="h.onnx")
    made = graphs.folder(tmp_path, graphs.manifest(decode=task(), sample=sample))
    decoder(made / "g.onnx", [COPY])
    decoder(made / "h.onnx", [NOISE, NOISY])
    found = load(made).manifest
    assert found.drawing == {"sample"}
    assert check(made, "--seal")[0] == 0
    assert manifest.read(made).drawing == {"sample"}


# --- rows that influence each other ---


def _norm(training_mode: int) -> list[Any]:
    outputs = ["x", "m", "v"] if training_mode else ["x"]
    return [
        node(
            "BatchNormalization",
            ["z", "one", "nil", "nil", "one"],
            outputs,
            None,
            None,
            None,
            training_mode=training_mode,
        )
    ]


NORM = [constant("one", np.ones(SIZE, np.float32)), constant("nil", np.zeros(SIZE, np.float32))]
FIRST = constant("first", np.asarray([0]))
MIXES = {
    "the mean of the batch": [node("ReduceMean", ["z", "first"], ["m"]), node("Sub", ["z", "m"], ["x"])],
    "a running sum": [node("CumSum", ["z", "zero"], ["x"])],
    "a sum of what comes after": [node("CumSum", ["z", "zero"], ["x"], reverse=1)],
}  # fmt: skip


@pytest.mark.parametrize("how", MIXES)
def test_graphs_that_mix_rows_are_refused(tmp_path: Path, how: str) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    decoder(made / "g.onnx", MIXES[how], [FIRST, constant("zero", 0)])
    said = refused(made)
    assert "tasks.decode: g.onnx mixes the rows of a batch: data of one row changes by" in said
    content = graphs.manifest(decode=task(max_rows=1))
    graphs.folder(tmp_path, content)
    assert check(made, "--seal")[0] == 0  # each row runs by itself


def test_a_norm_in_training_mode_is_refused_by_name(tmp_path: Path) -> None:
    for tasks in ({}, {"decode": task(max_rows=1)}):
        made = graphs.folder(tmp_path, graphs.manifest(**tasks))
        decoder(made / "g.onnx", _norm(training_mode=1), NORM)
        assert "tasks.decode: g.onnx mixes the rows of a batch by BatchNormalization in training mode" in refused(made)
        with pytest.raises(GraphError):
            load(made)
    decoder(made / "g.onnx", _norm(training_mode=0), NORM)
    assert check(made, "--seal")[0] == 0


def test_large_inputs_are_told_apart_by_two_rows(tmp_path: Path) -> None:
    """An item of more values than are tried 64 at once."""
    side = 256
    shape = [1, side, side]
    content = graphs.manifest(
        encode=task([given("z", "data", shape)], [{"role": "mean", "name": "y", "shape": [SIZE]}])
    )
    content["data"] |= {"height": side, "width": side}
    made = graphs.folder(tmp_path, content)
    axes = [constant("inner", np.asarray([1, 2, 3])), constant("four", np.asarray([1, SIZE]))]
    for mixes in (False, True):
        nodes = [
            node("ReduceMean", ["z", "inner"], ["q"]),
            node("Reshape", ["q", "rows"], ["r"]),
            node("Expand", ["r", "four"], ["e"]),
        ]
        nodes += (
            [node("ReduceMean", ["e", "first"], ["m"]), node("Sub", ["e", "m"], ["y"])]
            if mixes
            else [node("Identity", ["e"], ["y"])]
        )
        graphs.write(
            made / "g.onnx", nodes, [value("z", shape=["B", *shape])], [value("y", shape=["B", SIZE])],
            [*axes, FIRST, constant("rows", np.asarray([-1, 1]))],
        )  # fmt: skip
        if mixes:
            with pytest.raises(GraphError, match="mixes the rows of a batch: mean of one row changes"):
                load(made)
        else:
            load(made)


# --- TorchScript ---


def _script(root: Path, module: Any, **changes: Any) -> Path:
    import torch

    made = graphs.folder(
        root, {**graphs.manifest(decode={**task(), "graph": "m.pt", **changes}), "backend": "torchscript"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(made / "m.pt"))
    return made


def test_torchscript_that_gives_something_else(tmp_path: Path) -> None:
    import torch

    class Gives(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": z}

        @torch.jit.export
        def nothing(self, z: torch.Tensor) -> None:
            return None

        @torch.jit.export
        def two(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return z, z

        @torch.jit.export
        def listed(self, z: torch.Tensor) -> list[torch.Tensor]:
            return [z.reshape(-1, 1, 2, 2)]

        @torch.jit.export
        def brief(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 1, 2, 2).to(torch.bfloat16)

        @torch.jit.export
        def wide(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 1, 2, 2).double()

        @torch.jit.export
        def fails(self, z: torch.Tensor) -> torch.Tensor:
            return z.reshape(-1, 7)

        @torch.jit.export
        def more(self, z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return z

    for method, said in (
        ("forward", "forward gives a dict; it must give a tensor, or a tuple of tensors"), ("nothing", "nothing gives a NoneType"),
        ("two", "gives 2 outputs, the manifest names 1: y"), ("brief", "m.pt: torch cannot run it: "), ("fails", "m.pt: torch cannot run it: "),
        ("wide", "output 'data' is float64[1, 1, 2, 2], the manifest says float32"), ("more", "m.pt: torch cannot run it: "),
        ("training", "m.pt: has no method 'training'"), ("absent", "m.pt: has no method 'absent'"),
    ):  # fmt: skip
        made = _script(tmp_path, Gives(), method=method)
        assert said in refused(made), method
    assert load(_script(tmp_path, Gives(), method="listed")).sample(1, seed=0).data.shape == (1, 1, 2, 2)
    (made / "m.pt").write_bytes(b"nonsense")
    assert "m.pt: torch cannot load it: " in refused(made)


def test_torchscript_that_draws_or_mixes_rows(tmp_path: Path) -> None:
    import torch

    class Draws(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.noisy(z).reshape(-1, 1, 2, 2)

        def noisy(self, z: torch.Tensor) -> torch.Tensor:
            return z + torch.randn_like(z) if bool(z.sum() != 0) else z

        @torch.jit.export
        def dropped(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(z, 0.5, True).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def kept(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(z, 0.5, self.training).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def normed(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.batch_norm(z, None, None, training=True).reshape(-1, 1, 2, 2)

        @torch.jit.export
        def centred(self, z: torch.Tensor) -> torch.Tensor:
            return (z - z.mean(0)).reshape(-1, 1, 2, 2)

    for method, by in (("forward", "aten::randn_like"), ("dropped", "aten::dropout")):
        made = _script(tmp_path, Draws(), method=method)
        assert load(made).manifest.reproducible is False
        assert f"m.pt draws random numbers by {by}" in check(made, "--seal")[1]
    assert load(_script(tmp_path, Draws(), method="kept")).manifest.reproducible is None
    assert "by aten::batch_norm in training mode" in refused(_script(tmp_path, Draws(), method="normed"))
    assert "mixes the rows of a batch: data of one row" in refused(_script(tmp_path, Draws(), method="centred"))


def test_torchscript_gives_the_same_bits_in_every_run(tmp_path: Path) -> None:
    """Torch rewrites what has run before: eight products become one, which adds their terms in another order."""
    import torch

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.randn(8, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            w = self.weights
            half = (torch.mm(z, w[0]) + torch.mm(z, w[1])) + (torch.mm(z, w[2]) + torch.mm(z, w[3]))
            rest = (torch.mm(z, w[4]) + torch.mm(z, w[5])) + (torch.mm(z, w[6]) + torch.mm(z, w[7]))
            return (half + rest).reshape(-1, 1, 2, 2)

    made = _script(tmp_path, Sums())
    about = manifest.read(made)
    run = open_backend(made, about, "cpu", 1).open(about.tasks["decode"])
    given = {"z": np.random.default_rng(0).normal(size=(50, SIZE)).astype(np.float32)}
    first = run(given)["y"]
    for _ in range(3):
        assert np.array_equal(run(given)["y"], first)


def test_torchscript_that_calls_what_cannot_be_looked_into(tmp_path: Path) -> None:
    """A submodule that is known by its interface alone may be any module, so that only runs show that it draws."""
    import torch

    @torch.jit.interface
    class Part(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:  # type: ignore[empty-body]
            pass

    class Noisy(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z + torch.randn_like(z)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Noisy()

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.part(z).reshape(-1, 1, 2, 2)  # type: ignore[no-any-return]

    Whole.__annotations__["part"] = Part  # annotations of this file are texts, which torch cannot look up here
    made = _script(tmp_path, Whole())
    found = load(made)
    assert found.chance["decode"].unsure == ("prim::CallMethod",)
    assert found.manifest.reproducible is False
    assert "m.pt draws random numbers by prim::CallMethod" in check(made, "--seal")[1]


# --- the reader of ONNX files ---


def test_the_reader_agrees_with_the_package_onnx() -> None:
    """Operators and files of weights of all graphs that are shipped."""
    import onnx

    from tests.conftest import SHIPPED

    for path in SHIPPED.glob("*/*/*.onnx"):
        model, found = onnx.load(str(path), load_external_data=False), onnx_file.read(path)
        assert [each.op for each in found.graph.nodes] == [each.op_type for each in model.graph.node]
        assert [each.inputs for each in found.graph.nodes] == [list(each.input) for each in model.graph.node]
        assert found.graph.outputs == [each.name for each in model.graph.output]
        wanted = {
            entry.value for each in model.graph.initializer for entry in each.external_data if entry.key == "location"
        }
        assert set(onnx_file.outline(path).external) == wanted
        assert not onnx_file.outline(path).suspect


def test_files_of_weights_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """In constants, sparse tensors, functions and the values that these have for a call that gives none."""

    def held(name: str) -> Any:
        return outside(name, f"{name}.bin", np.ones(1, np.float32))

    function = helper.make_function(
        "mine", "F", ["z"], ["x"], [node("Constant", [], ["x"], value=held("a"))], [helper.make_opsetid("", 18)]
    )
    function.attribute_proto.append(helper.make_attribute("given", held("b")))
    branch = helper.make_graph(
        [],
        "b",
        [],
        [value("q")],
        [held("c")],
        sparse_initializer=[SparseTensorProto(values=held("d"), indices=held("e"))],
    )
    sparse = SparseTensorProto(values=held("h"), indices=held("i"))
    several = helper.make_attribute("several", [SparseTensorProto(values=held("j"), indices=held("k"))])
    nodes = [node("If", ["yes"], ["x"], then_branch=branch), node("Constant", [], ["k"], value=held("f"))]
    nodes += [node("Constant", [], ["s"], sparse_value=sparse), node("Own", [], ["o"], domain="mine")]
    nodes[-1].attribute.append(several)
    path = tmp_path / "g.onnx"
    graphs.write(path, nodes, [], [], [held("g")], functions=[function])
    assert sorted(onnx_file.outline(path).external) == [f"{name}.bin" for name in "abcdefghijk"]


def test_only_an_input_with_an_empty_shape_is_a_scalar(tmp_path: Path) -> None:
    untyped = onnx.ValueInfoProto(name="untyped")
    inputs = [value("scalar", shape=()), value("unknown", shape=None), value("one", shape=(1,)), untyped]
    graphs.write(tmp_path / "g.onnx", [COPY], inputs, [value("x")])
    found = onnx_file.read(tmp_path / "g.onnx").graph
    assert found.inputs == ["scalar", "unknown", "one", "untyped"]
    assert found.scalars == {"scalar"}


def _size(content: bytes) -> bytes:
    """The length of a field, in three bytes."""
    return bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14])


def test_graphs_within_graphs_without_end(tmp_path: Path) -> None:
    inner = helper.make_graph([], "b", [], [value("q")], [outside("w", "w.bin", np.ones(1, np.float32))])
    for _ in range(20):
        inner = helper.make_graph([node("If", ["yes"], ["q"], then_branch=inner)], "b", [], [value("q")])
    path = tmp_path / "g.onnx"
    graphs.write(path, [node("If", ["yes"], ["x"], then_branch=inner)], [], [])
    assert onnx_file.outline(path).external == ("w.bin",)
    nested = b""
    for _ in range(200):
        nested = b"\x52\x08location" + nested  # GraphProto.doc_string
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            nested = tag + _size(nested) + nested
    path.write_bytes(b"\x3a" + _size(nested) + nested)
    with pytest.raises(GraphError, match="deep"):
        onnx_file.outline(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    made = graphs.folder(tmp_path, graphs.manifest())
    (made / manifest.FILE).unlink()
    os.symlink("manifest.json", made / manifest.FILE)  # a link to itself
    assert check(made)[0] == 1
    made.joinpath("g.onnx").mkdir()
    (made / manifest.FILE).unlink()
    (made / manifest.FILE).write_text(json.dumps(graphs.manifest()))
    assert "there is no file 'g.onnx'" in refused(made)
