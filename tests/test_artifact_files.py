"""The files of artifacts that were made elsewhere: weights, links, golden vectors, and the files that a recalibration copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from manifold.runtime import golden, manifest, repository
from manifold.runtime.engine import load
from manifold.runtime.errors import ArtifactError, GraphError
from manifold.runtime.graphs import onnx_file
from manifold.runtime.operations import Scores
from manifold.runtime.scores import calibration
from manifold.service.models.entries import stamp
from tests import graphs
from tests.graphs import (
    COPY,
    SCORE,
    SCORING,
    SIZE,
    Change,
    check,
    constant,
    decoder,
    given,
    node,
    outside,
    refused,
    task,
    value,
)


def _outside(root: Path, location: str, *, inner: bool = False) -> Path:
    """Write a decoder whose matrix is in a separate file. The matrix is used inside a branch if `inner`."""
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
    (made / "weights/w.bin").write_bytes((np.eye(SIZE, dtype=np.float32) / 2).tobytes())
    assert "files.weights/w.bin: altered" in refused(made)
    assert check(made, "--seal")[0] == 0
    assert load(made).checksum != first  # the checksum covers these weights too
    assert stamp(made) != before  # a service that watches the folder sees the change
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
    assert "is a link to a file outside the artifact's folder" in refused(made)
    assert "is a link to a file outside the artifact's folder" in refused(made, "--seal")
    with pytest.raises(
        ArtifactError, match=r"w\.bin: is a link to a file outside the artifact's folder; copy the file into the folder"
    ):
        repository.records(made)
    (made / "real.bin").write_bytes((tmp_path / "w.bin").read_bytes())
    (made / "w.bin").unlink()
    (made / "w.bin").symlink_to("real.bin")  # Kubernetes mounts files as links
    assert check(made, "--seal")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(golden={"file": "../golden.npz"}), "golden.file: there is no file '../golden.npz'"),
        (lambda m: m.update(golden={}), "golden.file: there is no file 'golden.npz'"),
        (lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}), "files.../x: "),
        (
            lambda m: m["files"].update({"/etc/hostname": {"sha256": "0" * 64, "bytes": 1}}),
            "the path leads out of the folder",
        ),
        (lambda m: m.update(golden={"tolerance": {}}), "golden.tolerance: "),
        (lambda m: m["tasks"]["decode"]["inputs"][0].update(shape=[-1]), "-1 is too small; use 1 or more"),
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
        (np.zeros((2, SIZE), np.float32), np.zeros((0, 1, 2, 2)), "decode.data: shape [2, 1, 2, 2], but the golden vectors have [0, 1, 2, 2]"),
    ],
)  # fmt: skip
def test_golden_vectors_that_compare_nothing(tmp_path: Path, latent: Any, data: Any, said: str) -> None:
    made = graphs.folder(tmp_path, {**graphs.manifest(), "golden": {}})
    decoder(made / "g.onnx", [COPY])
    np.savez(made / "golden.npz", **{"decode.in.latent": latent, "decode.out.data": data})
    assert said in refused(made)


def _replayed(folder: Path, run: golden.Runner, *, tasks: dict[str, Any], **vectors: Any) -> list[str]:
    """Return the differences from golden vectors, with a function in place of the graphs."""
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
        "encode: the run on the golden vectors failed: g.onnx: no such kernel",
        "decode.data: differs by 1, allowed 0.0001",
    ]


@pytest.mark.parametrize(
    ("task", "role", "level", "change", "close"),
    [
        ("predict", "logits", 1, 0.01, True),  # a level with a probability near e^-20
        ("predict", "logits", 0, 0.01, False),  # one that has a third of the probability
        ("predict_pixel", "logits", 1, 0.01, True),
        ("predict", "logits", 1, np.nan, False),
        ("score", "logits", 1, 0.01, False),  # these logits are compared as they are
    ],
)
def test_predicted_distributions_are_compared_by_probability(
    task: str, role: str, level: int, change: float, close: bool
) -> None:
    logits = np.array([[1.0, -20.0, 1.0, 1.0]], np.float32)
    other = logits.copy()
    other[0, level] += change
    one, two = (golden.compared(task, role, values) for values in (logits, other))
    assert bool(np.abs(one - two).max() <= 1e-4) == close
    shifted = golden.compared(task, role, logits + 3)  # logits are not normalised
    assert np.allclose(shifted, one) == task.startswith("predict")


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
    """A graph that draws random numbers never gives its golden vectors again."""
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
    assert "note: files: notes.txt: these have no checksum and are not used" in said
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
    second = calibration.recalibrate(load(made), data, tmp_path, source="a test").folder
    assert (second.name, set(manifest.read(second).files)) == ("2", {"g.onnx", "weights/w.bin", "calibration.npz"})
    assert isinstance(load(second).score(data), Scores)
    content = json.loads((second / manifest.FILE).read_text())
    del content["files"]["calibration.npz"]
    (second / manifest.FILE).write_text(json.dumps(content))
    assert "scoring.calibration.file: 'calibration.npz' has no checksum" in refused(second)
