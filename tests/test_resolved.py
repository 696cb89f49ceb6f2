"""Options are resolved once: the trained, saved, described and exported options are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from manifold.runtime import manifest
from manifold.training import export as exporting
from manifold.training import families, runs
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.draft import draft
from manifold.training.exporting.tasks import Exports
from manifold.training.families import gan, vae
from manifold.training.loop import checkpoints
from manifold.training.recipes import Recipe
from manifold.training.train import train, trained_model
from tests.conftest import tiny_run
from tests.shared import export


@pytest.mark.parametrize(
    ("family", "options", "depends"),
    [
        ("vae", {}, {"likelihood": "bernoulli", "score": "fisher:squared_error,edge_neighbours,edge_mixture"}),
        ("cvae", {"references": 0}, {"likelihood": "bernoulli", "score": "fisher:squared_error,edge_mixture"}),
        ("pixelcnn", {}, {"levels": 4, "conditional": True}),
        ("vqvae", {}, {"likelihood": "bernoulli", "conditional": True}),
        ("gan", {"lr": 1e-3}, {"discriminator_lr": 1e-3}),
    ],
)
def test_resolving_fills_in_what_depends_on_the_data(
    digits: Data, family: str, options: dict[str, Any], depends: dict[str, Any]
) -> None:
    module = families.get(family)
    resolved = module.resolve(module.Config.model_validate(options), digits)
    assert {name: getattr(resolved, name) for name in depends} == depends
    assert module.resolve(resolved, digits) == resolved


def test_rows_resolve_size_score_and_trim(table: Data) -> None:
    module = families.get("tabular_vae")
    plain, mixed = (module.resolve(module.Config.model_validate({"mixed": mixed}), table) for mixed in (False, True))
    assert (plain.latent_dim, plain.likelihood, plain.trim) == (4, "columns", 0)
    assert (mixed.score, mixed.trim) == ("fisher:negative_elbo,latent_distance,input_neighbours", 0.2)
    assert module.resolve(mixed, table) == mixed


def test_what_is_saved_and_exported_is_resolved(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "vae", digits, references=50)
    saved = json.loads((run.folder / runs.CONFIG).read_text())["config"]
    assert (saved["likelihood"], saved["score"]) == ("bernoulli", "fisher:squared_error,edge_neighbours,edge_mixture")
    folder = export(run, "m", tmp_path / "models", data=digits, backend="torchscript")
    assert manifest.read(folder / manifest.FILE).provenance["config"] == saved


def test_a_run_of_an_older_version_goes_on_exactly(tmp_path: Path, digits: Data) -> None:
    """Its config contains unresolved options, and lists of names with an empty one."""
    old = {**families.get("gan").PRESETS["smoke"], "watch_steps": 0, "augment": [""], "discriminator_lr": 0.0}
    config = gan.Config.model_validate(old)
    whole = runs.TrainingRun(tmp_path / "whole", "gan", "digits", "smoke", config)
    train(whole, digits, device="cpu", quiet=True)
    parts = runs.TrainingRun(tmp_path / "parts", "gan", "digits", "smoke", config)
    train(parts, digits, device="cpu", quiet=True, stop_after=7)
    path = parts.folder / runs.CONFIG
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "config": {**content["config"], "augment": [""], "discriminator_lr": 0.0}}))
    train(runs.open_run(parts.folder), digits, resume=True, device="cpu", quiet=True)
    a, b = (checkpoints.load(run.checkpoint)["model"] for run in (whole, parts))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def gan_run(folder: Path, **changes: object) -> runs.TrainingRun:
    options = {**families.get("gan").PRESETS["smoke"], "watch_steps": 5, **changes}
    return runs.TrainingRun(folder, "gan", "digits", "smoke", gan.Config.model_validate(options))


def looks(run: runs.TrainingRun) -> list[dict[str, Any]]:
    records = runs.read_log(run.folder / runs.LOG)
    return [record["watch"] for record in records if "watch" in record]


def test_a_judge_that_auto_found_may_be_missing_later(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training continues without the extractor, with a warning, and gives the same weights."""
    whole, parts = (gan_run(tmp_path / name) for name in ("whole", "parts"))
    train(whole, digits, device="cpu", quiet=True)
    assert {look["judge"] for look in looks(whole)} == {"digits-classifier/1"}
    train(parts, digits, device="cpu", quiet=True, stop_after=7)
    assert json.loads((parts.folder / runs.CONFIG).read_text())["config"]["judge"] == "auto"
    monkeypatch.setenv("MANIFOLD_MODELS_DIR", str(tmp_path / "absent"))
    with pytest.warns(
        UserWarning, match=r"before this checkpoint .* by digits-classifier/1, from now on by no classifier"
    ):
        train(runs.open_run(parts.folder), digits, resume=True, device="cpu", quiet=True)
    assert ["class_shares" in look for look in looks(parts)] == [True] + [False] * (len(looks(whole)) - 1)
    a, b = (checkpoints.load(run.checkpoint)["model"] for run in (whole, parts))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_judge_that_auto_finds_and_that_does_not_fit_is_left_out(tmp_path: Path, digits: Data) -> None:
    renamed = dataclasses.replace(digits, classes=tuple("abcdefghij"))
    run = gan_run(tmp_path / "run", epochs=1)
    with pytest.warns(UserWarning, match=r"digits-classifier.? is not a classifier for digits; .* not counted"):
        train(run, renamed, device="cpu", quiet=True)
    assert not any("class_shares" in look for look in looks(run))


def test_a_judge_that_the_user_named_must_be_there(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gan_run(tmp_path / "run", judge="digits-classifier")
    train(run, digits, device="cpu", quiet=True, stop_after=7)
    monkeypatch.setenv("MANIFOLD_MODELS_DIR", str(tmp_path / "absent"))
    with pytest.raises(TrainingError, match=r"judge: .*digits-classifier"):
        train(runs.open_run(run.folder), digits, resume=True, device="cpu", quiet=True)


def test_checkpoints_of_older_versions_name_no_judge(digits: Data) -> None:
    watch = gan.phases(gan.build(gan.Config(), digits), gan.Config())[0].watch
    assert watch is not None
    watch.restore({"usual": 3.0})  # there is no warning
    assert watch.state() == {"usual": 3.0, "judge": "digits-classifier/1"}


def test_an_artifact_states_no_judge_that_its_run_may_not_have_used(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "gan", digits, epochs=1)
    folder = export(run, "m", tmp_path / "models", data=digits, backend="torchscript")
    assert manifest.read(folder / manifest.FILE).provenance["config"]["judge"] == "auto"


@pytest.mark.parametrize("folds", [0, 2])
def test_a_command_resolves_the_options_once(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    """The command runs one training, and one export that trains a model for each fold of a small set."""
    calls = 0
    honest = vae.resolve

    def resolve(config: vae.Config, data: Data) -> vae.Config:
        nonlocal calls
        calls += 1
        return honest(config, data)

    monkeypatch.setattr(vae, "resolve", resolve)
    few = dataclasses.replace(digits, train=Arrays.of(digits.train)[:300], folds=folds)
    options = {**families.get("vae").PRESETS["smoke"], "epochs": 1, "hidden": (16,), "references": 0}
    run = runs.TrainingRun(tmp_path / "run", "vae", "digits", "smoke", vae.Config.model_validate(options))
    train(run, few, device="cpu", quiet=True)
    assert calls == 1
    exporting.export(runs.open_run(run.folder), "m", tmp_path / "models", data=few, backend="torchscript")
    assert calls == 2


def test_a_family_needs_five_names(digits: Data) -> None:
    module = SimpleNamespace(
        Config=Recipe, build=torch.nn.Identity, phases=list, evaluate=dict, exports=lambda *_: Exports({})
    )
    family, config = families.of(module), Recipe()
    assert family.resolve(config, digits) is config
    assert (family.monitor, family.report) == (None, None)
    assert family.draw(None, 3, torch.Generator()) is None
    assert set(family.PRESETS) == {"smoke", "cpu", "gpu"}
    for name in ("Config", "build", "phases", "evaluate", "exports"):
        with pytest.raises(TrainingError, match=f"it lacks {name}"):
            families.of(SimpleNamespace(**{key: value for key, value in vars(module).items() if key != name}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": "3"}, "latent_dim: '3' must be a whole number"),
        ({"latent_dim": 3.0}, "latent_dim: 3.0 must be a whole number"),
        ({"latent_dim": True}, "latent_dim: True must be a whole number"),
        ({"lr": float("nan")}, "lr: nan must be greater than 0"),
        ({"hidden": [3, "x"]}, "hidden: [3, 'x'] must be a list of whole numbers"),
        ({"hidden": {3}}, "hidden: {3} must be a list of whole numbers"),
        ({"hidden": []}, "hidden: [] has 0 entries; it must have at least 1"),
        ({"rules": ["strides", "pools"]}, "rules: unknown value 'pools'; valid are strides, normalise, activations"),
        ({"body": "cnn"}, "body: unknown value 'cnn'; valid are mlp, dcgan"),
        ({"dropout": 1}, "dropout: 1 must be less than 1"),
        ({"targets": [0.9]}, "targets: [0.9] has 1 entries; it must have at least 2"),
        ({"targets": [0.9, 0.7]}, "targets: [0.9, 0.7] must be two numbers in (0, 1], the smaller one first"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_of_options_are_worded_here(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        gan.Config.model_validate(options)
    assert caught.value.message == message
    assert caught.value.field == next(iter(options))


def test_json_gives_lists_and_whole_numbers() -> None:
    config = gan.Config.model_validate({"hidden": [8], "targets": [1, 1], "lr": 1, "clip_norm": float("inf")})
    assert (config.hidden, config.targets, config.lr) == ((8,), (1.0, 1.0), 1.0)
    saved = json.loads(json.dumps(config.model_dump(mode="json")))
    assert gan.Config.model_validate(saved) == config
    assert config.changed(hidden=[4]).hidden == (4,)
    with pytest.raises(TrainingError, match="lr: -1 must be greater than 0"):
        config.changed(lr=-1)
    assert np.isinf(config.clip_norm)


def test_exports_that_make_no_manifest_are_said_line_by_line(digits: Data, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "vae", digits)
    family = families.get("vae")
    exported = family.exports(trained_model(run, digits), run.resolved(digits).config, digits)
    (made,) = exported.tasks["decode"].outputs
    wrong = dataclasses.replace(exported.tasks["decode"], outputs=[made.model_copy(update={"shape": (1, 2, 3)})])
    exported = dataclasses.replace(exported, tasks={**exported.tasks, "decode": wrong})
    with pytest.raises(
        TrainingError, match=r"family: the exports of vae do not form a valid manifest; .*:\n  tasks.decode.data: shape"
    ):
        draft(run.resolved(digits), "wrong", 1, "onnx", digits, exported, "")
