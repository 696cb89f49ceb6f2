"""Artifacts: the errors for invalid ones, the stored files, and that no export without parity is published."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import checks, manifest, published, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import (
    ArtifactError,
    InvalidValue,
    ManifoldError,
    Unavailable,
    UnknownModel,
    UnsupportedTask,
)
from manifold.runtime.runner import example_inputs
from manifold.runtime.shipped import latest, versions
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training import export as exporting
from manifold.training import runs
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Task
from manifold.training.train import trained_model
from tests import foreign, shared
from tests.conftest import EXTRACTORS, NAMES, ROOT, SHIPPED, tiny_run, wait_until_ready


def copy(source: Path, target: Path) -> Path:
    """Copy an artifact, so that a test may change it."""
    shutil.copytree(source, target)
    return target


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / manifest.FILE).read_text())
    change(content)
    (folder / manifest.FILE).write_text(json.dumps(content))


# --- shipped ---


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *EXTRACTORS])
def test_shipped_artifacts_are_good(name: str, shipped: dict[str, Model]) -> None:
    assert checks.run_all(shipped[name]) == []
    assert manifest.Manifest.model_validate_json(manifest.dumps(shipped[name].manifest)) == shipped[name].manifest


def test_shipped_artifacts_are_small_and_one_version_each() -> None:
    sizes = {
        folder.parent: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in latest(SHIPPED).values()
    }
    assert sum(sizes.values()) <= 80 * 2**20
    larger = {"cifar10-classifier", "cifar10-flow"}  # their quality needs more weights
    assert [path.name for path, size in sizes.items() if size > (8 if path.name in larger else 4) * 2**20] == []
    assert [name for name, numbers in versions(SHIPPED).items() if len(numbers) != 1] == []
    assert sorted(sizes) == sorted(SHIPPED / name for name in (*NAMES, *EXTRACTORS))


def test_the_shipped_vae_reaches_its_figures(shipped: dict[str, Model]) -> None:
    metrics = {metric.name: metric for metric in shipped["mnist-vae"].manifest.metrics}
    assert -metrics["elbo_dynamic"].value <= 96
    assert -metrics["iwae_500_dynamic"].value <= 91.8
    assert {"observed", "bound", "n"} <= metrics["elbo_dynamic"].protocol.keys()


def test_the_shipped_models_reach_their_bars(shipped: dict[str, Model]) -> None:
    """The evaluator recorded these metrics, with the classifier of the same data set."""
    found = {
        name: {metric.name: metric.value for metric in shipped[name].manifest.metrics}
        for name in ("mnist-cvae", "mnist-vqvae", "fashion-vqvae", "cifar10-vqvae")
    }
    assert found["mnist-cvae"]["class_accuracy"] >= 0.97
    assert all(found[name]["code_usage"] >= 0.9 for name in found if name != "mnist-cvae")


def test_the_schema_in_docs_is_current() -> None:
    text = (ROOT / "docs/manifest.schema.json").read_text()
    assert json.loads(text) == manifest.schema(), "run: make docs"


# --- stored files ---


@pytest.mark.parametrize("name", ["vae", "pixelcnn"])
def test_each_weight_is_stored_once(tiny: Path, name: str) -> None:
    folder = repository.locate(tiny / "models" / name)
    placed: dict[tuple[str, str], list[str]] = {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            external = {entry.key: entry.value for entry in tensor.external_data}
            assert external or tensor.ByteSize() < 2048
            if external:
                placed.setdefault((external["offset"], external["length"]), []).append(path.name)
                assert external["location"] == "weights.bin"
    total = sum(int(length) for _, length in placed)
    assert (folder / "weights.bin").stat().st_size < total + 64 * len(placed)
    assert any(len(set(users)) > 1 for users in placed.values())


def test_a_weight_whose_axes_a_graph_turns_is_stored_once_too(tiny: Path, digits: Data) -> None:
    """The sampler computes the network's convolutions as matrix products, and the exporter transposes their weights."""
    model = trained_model(runs.open_run(tiny / "runs/pixelcnn"), digits)
    weights = sum(value.numel() * 4 for value in model.parameters())
    folder = repository.locate(tiny / "models/pixelcnn")
    turned = [
        node
        for path in folder.glob("*.onnx")
        for node in onnx.load(str(path), load_external_data=False).graph.node
        if node.op_type == "Transpose" and node.input[0].endswith(".stored")
    ]
    assert turned
    assert (folder / "weights.bin").stat().st_size < 1.15 * weights


def test_graphs_carry_no_paths_of_the_machine_that_made_them() -> None:
    for path in [path for folder in latest(SHIPPED).values() for path in folder.rglob("*")]:
        if path.is_file() and path.suffix in (".onnx", ".json", ".pt"):
            content = path.read_bytes()
            assert b"/site-packages/" not in content
            assert b'.py"' not in content, path
            assert str(ROOT).encode() not in content


# --- publishing ---


def test_versions_count_up_and_nothing_is_overwritten(tmp_path: Path, digits: Data) -> None:
    """A second export of the same run gets the next version number and has the same contents."""
    run = tiny_run(tmp_path / "run", "classifier", digits)
    models = tmp_path / "models"
    first = shared.export(run, "classifier", models, data=digits)
    second = exporting.export(run, "classifier", models, data=digits)
    assert (first.name, second.name) == ("1", "2")
    assert [path.name for path in (models / "classifier").iterdir() if path.name.startswith(".")] == []
    found = manifest.read(first)
    with repository.staging(models, "classifier") as folder, pytest.raises(ArtifactError, match="never overwritten"):
        (folder / "file").touch()
        repository.publish(folder, models, found)
    assert load(first).checksum == load(second).checksum


def test_a_graph_that_differs_from_torch_is_not_published(
    tmp_path: Path, digits: Data, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Task.__call__

    def wrong(task: Task, inputs: Any) -> dict[str, np.ndarray]:
        return {
            role: array + 0.01 if array.dtype.kind == "f" else array for role, array in original(task, inputs).items()
        }

    monkeypatch.setattr(Task, "__call__", wrong)
    with pytest.raises(ArtifactError, match=r"nothing was published:\n  decode\.data: differs by 0\.01"):
        exporting.export(runs.open_run(tiny / "runs/vae"), "wrong", tmp_path, data=digits, backend="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_names_that_would_make_no_folder(tmp_path: Path, digits: Data, tiny: Path) -> None:
    for name in ("bad name", "../x", "", "a/b"):
        with pytest.raises(TrainingError, match="is not valid; use at most 64 letters"):
            exporting.export(runs.open_run(tiny / "runs/vae"), name, tmp_path, data=digits)


def test_unknown_format(tmp_path: Path, digits: Data, tiny: Path) -> None:
    with pytest.raises(TrainingError, match="valid are onnx, torchscript"):
        exporting.export(runs.open_run(tiny / "runs/vae"), "x", tmp_path, data=digits, backend="keras")


def test_another_kind_of_model_does_not_continue_a_shipped_one(tmp_path: Path, digits: Data, tiny: Path) -> None:
    shutil.copytree(SHIPPED / "digits-classifier", tmp_path / "digits-classifier")
    shutil.copy(SHIPPED / published.FILE, tmp_path)
    with pytest.raises(InvalidValue, match=r"family classifier.*choose another name, such as my-digits-classifier"):
        exporting.export(runs.open_run(tiny / "runs/vae"), "digits-classifier", tmp_path, data=digits)
    assert repository.versions(tmp_path / "digits-classifier") == [1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("learned", {"likelihood": "gaussian-learned", "samples": 2, "epochs": 1}),
        ("laplace", {"likelihood": "laplace", "samples": 2, "epochs": 1}),
        ("autoencoder", {"likelihood": "gaussian", "variational": False, "latent_dim": 5}),
    ],
)
def test_other_likelihoods_export_too(tmp_path: Path, digits: Data, name: str, changes: dict[str, Any]) -> None:
    """All tasks work in TorchScript. The task that contains the likelihood also works as an ONNX graph."""
    run = tiny_run(tmp_path / name, "vae", digits, **changes)
    model = load(shared.export(run, name, tmp_path / "models", data=digits, backend="torchscript"))
    assert model.sample(2, seed=0).data.shape == (2, 1, 8, 8)
    task = exporting.exports(run, digits).tasks["score"]
    inputs = {
        **example_inputs(model.manifest.tasks["score"], model.manifest, 5),
        "data": digits.inputs(digits.test)[:5],
    }
    for role, array in shared.run_as_onnx(task, inputs, tmp_path).items():
        np.testing.assert_allclose(array, task(inputs)[role], rtol=1e-4, atol=1e-4)


def test_torchscript_takes_arrays_that_are_read_only(shipped: dict[str, Model]) -> None:
    items = np.full((32, 1, 28, 28), 0.5, np.float32)
    expected = shipped["mnist-vae-ts"].run("encode", {"data": items})
    items.setflags(write=False)
    assert np.array_equal(shipped["mnist-vae-ts"].run("encode", {"data": items})["mean"], expected["mean"])


# --- loading damaged artifacts ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(colour=1), "colour: unknown field; remove it or correct its name"),
        (lambda m: m.update(format=2), "format: "),
        (lambda m: m["data"].update(channels=2), "data.channels: "),
        (lambda m: m["data"].update(range=[1, 0]), "low < high"),
        (lambda m: m.pop("latent"), "the manifest has no section for its shape; add a latent section"),
        (lambda m: m["latent"].update(size=7), "shape [6], but its section says [7]"),
        (lambda m: m["tasks"].update(dream=m["tasks"]["decode"]), "tasks.dream: unknown task"),
        (lambda m: m["tasks"]["decode"]["inputs"][0].update(source="magic"), "source: "),
        (
            lambda m: m["tasks"]["decode"]["outputs"][0].update(role="picture"),
            "tasks.decode: has no output with the role 'data'",
        ),
        (lambda m: m["tasks"]["decode"].pop("graph"), "tasks.decode.graph: is missing; add it"),
        (lambda m: m.update(classes=["a", "a"]), "two classes have the same name"),
        (lambda m: m.update(class_prior=[1.0]), "class_prior: given without classes"),
        (
            lambda m: m.update(scoring={"score": "x", "terms": [{"name": "x", "kind": "nll"}]}),
            "scoring: there is no task `score`",
        ),
        (lambda m: m["latent"].update(default_prior="gaussian"), "is not among the priors"),
        (lambda m: m.update(version=0), "version: "),
    ],
)
def test_a_wrong_manifest_is_explained_field_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = foreign.write(tmp_path)
    edit(folder, change)
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    assert message in caught.value.message
    assert re.search("1 field is wrong:|[2-9] fields are wrong:", caught.value.message)


def test_a_manifest_that_is_not_json_has_no_wrong_field(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path)
    (folder / "manifest.json").write_text('{"name": }')
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    assert caught.value.message.endswith("manifest.json: the text is not valid JSON (line 1, column 10); correct it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["tasks"]["decode"].update(graph="other.onnx"), "there is no file 'other.onnx'"),
        (lambda m: m["tasks"]["decode"].update(graph="../x.onnx"), "there is no file '../x.onnx'"),
        (lambda m: m["tasks"]["decode"]["inputs"][0].update(name="z"), "has no input 'z' (role 'latent'); it has z_in"),
        (lambda m: m["tasks"]["decode"]["outputs"][0].update(name="x"), "has no output 'x'"),
        (lambda m: m["data"].update(height=9) or m["tasks"]["decode"]["outputs"][0].update(shape=[3, 9, 10]), "output 'data' is float32[1, 3, 8, 10]"),
        (lambda m: m.update(name="another"), "the manifest says another 1, but the folder is foreign/1"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_its_graph(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = foreign.write(tmp_path)
    edit(folder, change)
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    assert message in caught.value.message


def test_altered_and_missing_files_are_named(tmp_path: Path, tiny: Path) -> None:
    folder = copy(tiny / "models/vae/1", tmp_path / "vae/1")
    weights = bytearray((folder / "weights.bin").read_bytes())
    weights[1000] ^= 1
    (folder / "weights.bin").write_bytes(weights)
    (folder / "decode.onnx").unlink()
    with pytest.raises(ArtifactError) as caught:
        load(folder)
    assert "files.weights.bin: altered" in caught.value.message
    assert "files.decode.onnx: missing" in caught.value.message


def test_golden_vectors_find_other_weights(tmp_path: Path, tiny: Path) -> None:
    """The checksums are renewed, as if the artifact had been sealed after a change."""
    folder = copy(tiny / "models/vae/1", tmp_path / "vae/1")
    weights = np.frombuffer((folder / "weights.bin").read_bytes(), np.float32) * np.float32(1.01)
    (folder / "weights.bin").write_bytes(weights.astype(np.float32).tobytes())
    edit(folder, lambda m: m.update(files={k: v.model_dump() for k, v in repository.records(folder).items()}))
    with pytest.raises(ArtifactError, match="its outputs differ from those of training"):
        load(folder)


def test_a_damaged_graph_and_a_manifest_that_is_not_json(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path)
    (folder / "generator.onnx").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"generator\.onnx: ONNX Runtime cannot load the graph"):
        load(folder)
    (folder / manifest.FILE).write_text("{")
    with pytest.raises(ArtifactError, match="JSON"):
        load(folder)


def test_a_wrong_path_suggests_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("models/cat-vae/2", "models/cat-vae/10", "models/dog-gan/1"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "models/dog-gan/1/manifest.json").touch()
    monkeypatch.chdir(tmp_path)
    for given, message in {
        "cat-vae": "did you mean models/cat-vae?",
        "cat-vea": "did you mean models/cat-vae?",
        "models/cat-vea": "did you mean models/cat-vae?",
        "models/cat-vea/2": "did you mean models/cat-vae?",
        "models/cat-vae/9": "models/cat-vae has no version 9; it has 2, 10",
        "models/dog-gan-2": "did you mean models/dog-gan?",
        "models/tree": "there is no such folder; give one of these models (valid: models/cat-vae, models/dog-gan)",
        "models/dog-gan/1/manifest.json": "is a file; give its folder models/dog-gan/1",
    }.items():
        with pytest.raises(UnknownModel) as caught:
            load(given)
        assert str(caught.value).startswith(f"{given}: ") and message in str(caught.value)
        if given != "cat-vae":
            with pytest.raises(UnknownModel) as found:
                repository.find(given.removeprefix("models/"), Path("models"))
            assert message in str(found.value)


def test_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="contains no artifact"):
        load(tmp_path)
    for name in ("nothing", "nothing/2", "x" * 300, "a\0b"):
        with pytest.raises(UnknownModel, match="there is no such folder; an artifact is a folder NAME/VERSION"):
            load(tmp_path / name)
    with pytest.raises(ArtifactError, match="MANIFOLD_MODELS_DIR"):
        repository.scan(tmp_path / "nothing")
    with pytest.raises(InvalidValue, match="device"):
        load(SHIPPED / "mnist-vae", device="tpu")  # type: ignore[arg-type]


# --- the engine ---


def test_rows_are_padded_and_run_in_pieces_unseen(tiny: Path) -> None:
    model = load(tiny / "models/vae")
    latents = np.random.default_rng(0).normal(size=(23, model.manifest.space.count)).astype(np.float32)  # type: ignore[union-attr]
    expected = model.run("decode", {"latent": latents})["data"]
    task = model.manifest.tasks["decode"].model_copy(update={"min_rows": 4, "max_rows": 8})
    seen: list[int] = []
    graph = model.runner.graphs["decode"]
    other = load(tiny / "models/vae")
    other.runner.manifest = other.manifest.model_copy(update={"tasks": {"decode": task}})

    def counted(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(given["latent"]))
        return graph(given)

    other.runner.graphs["decode"] = counted
    assert np.array_equal(other.run("decode", {"latent": latents})["data"], expected)
    assert seen == [8, 8, 8]


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.zeros((1, 20), np.float32)},
        {"latent": np.zeros((0, 20), np.float32)},
        {"latent": np.zeros((1, 19), np.float32)},
        {"latent": np.zeros((1, 20), np.float64)},
        {"latent": np.full((1, 20), np.nan, np.float32)},
    ],
)
def test_inputs_that_are_not_as_the_manifest_says(shipped: dict[str, Model], inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidValue):
        shipped["mnist-vae"].run("decode", inputs)
    with pytest.raises(UnsupportedTask, match="it has decode, encode"):
        shipped["mnist-vae"].run("translate", inputs)


def test_the_fake_backend_runs_the_whole_stack(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path, backend="fake")
    model = load(folder)
    assert checks.run_all(model) == []
    assert np.array_equal(model.sample(3, seed=1).data[1], model.sample(1, seed=1, first=1).data[0])


def test_cuda_without_cuda_is_unavailable_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from manifold.runtime.graphs import backends

    monkeypatch.setattr(backends, "_has_cuda", lambda _: True)
    monkeypatch.setattr(backends, "_cuda_device", lambda: False)
    with pytest.raises(Unavailable, match="no CUDA device") as caught:
        load(SHIPPED / "mnist-vae", device="cuda")
    assert caught.value.expected
    model = load(SHIPPED / "mnist-vae", device="auto")
    assert model.device == "cpu"
    assert "no CUDA device" in str(model.note)
    monkeypatch.setattr(backends, "_has_cuda", lambda _: False)
    model = load(SHIPPED / "mnist-vae", device="auto")
    assert (model.device, model.note) == ("cpu", None)  # a build for the CPU is no fallback
    with pytest.raises(Unavailable, match="install the extra gpu"):
        load(SHIPPED / "mnist-vae", device="cuda")


def test_the_runtime_does_not_phone_home() -> None:
    load(SHIPPED / "mnist-vae-2d", device="cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_reason_for_no_cuda_is_found() -> None:
    from manifold.runtime.graphs import backends

    class WithCuda:
        get_available_providers = staticmethod(lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    class WithoutCuda:
        get_available_providers = staticmethod(lambda: ["CPUExecutionProvider"])

    assert "'.[gpu]'" in str(backends._cuda_missing(WithoutCuda))
    assert (backends._cuda_missing(WithCuda) is None) == backends._cuda_device()
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()


# --- models that were made elsewhere ---


def test_a_foreign_model_is_served_from_a_hand_written_manifest(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path)
    weights = foreign.generator(folder / "generator.onnx")
    runner = CliRunner()
    found = runner.invoke(cli.app, ["check", str(folder)])
    assert found.exit_code == 1
    assert "files: the manifest has no checksums" in found.output
    assert runner.invoke(cli.app, ["check", "--seal", str(folder)]).exit_code == 0
    assert "good: decode" in runner.invoke(cli.app, ["check", str(folder.parent)]).output

    with TestClient(create_app(Settings(models_dir=tmp_path, default_model=None))) as client:
        wait_until_ready(client)
        latents = np.random.default_rng(1).normal(size=(2, foreign.LATENT)).astype(np.float32)
        request = {"model": "foreign", "latents": latents.tolist(), "encoding": "array"}
        answer = client.post("/sample", json=request).json()
        expected = (np.tanh(latents @ weights) + 1) / 2
        assert np.allclose(np.asarray(answer["data"]), expected.reshape(2, 3, 8, 10), atol=1e-6)
        assert client.post("/encode", json={"model": "foreign", "images": [""]}).status_code == 409
        assert client.post("/sample", json={}).status_code == 404  # there is no default model
        assert (
            client.post("/sample", json={"model": "foreign", "n": 2}, headers={"accept": "image/png"}).content[1:4]
            == b"PNG"
        )


def test_a_graph_that_mixes_rows_is_found(tmp_path: Path) -> None:
    model = load(foreign.write(tmp_path))
    graph = model.runner.graphs["decode"]
    model.runner.graphs["decode"] = lambda given: {
        "img_out": graph(given)["img_out"] + np.float32(len(given["z_in"]) * 1e-6)
    }
    model.runner.steady()
    assert model.manifest.tasks["decode"].min_rows == 1  # padding does not help
    (problem,) = checks.run_all(model)
    assert "an item from this graph can differ between batches" in problem


def test_the_loader_pads_as_this_machine_needs(tmp_path: Path) -> None:
    model = load(foreign.write(tmp_path))
    graph = model.runner.graphs["decode"]

    def kernel_by_rows(given: Any) -> Any:  # as matrix kernels do: rows beyond the last multiple of 16 get other bits
        image = graph(given)["img_out"].copy()
        image[len(image) // 16 * 16 :] += np.float32(1e-6)
        return {"img_out": image}

    model.runner.graphs["decode"] = kernel_by_rows
    assert checks.run_all(model)
    model.runner.steady()
    assert model.manifest.tasks["decode"].min_rows == 16
    assert model.manifest.tasks["decode"].max_rows % 16 == 0
    assert checks.run_all(model) == []


def test_errors_have_names_for_the_wire() -> None:
    assert {cls("m").type for cls in (InvalidValue, UnknownModel, Unavailable)} == {
        "invalid_value",
        "unknown_model",
        "unavailable",
    }
    assert issubclass(Unavailable, ManifoldError)
