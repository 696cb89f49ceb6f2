"""The training loop: exact resume, interruption and kill, divergence, options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from manifold.runtime import repository
from manifold.training import families, recipes, runs
from manifold.training.data import Data
from manifold.training.errors import Diverged, TrainingError
from manifold.training.loop import checkpoints, sheets
from manifold.training.loop.average import Average
from manifold.training.loop.steps import Loop
from manifold.training.train import train
from tests.conftest import ROOT


def make_run(folder: Path, family: str = "vae", **changes: object) -> runs.TrainingRun:
    module = families.get(family)
    return runs.TrainingRun(
        folder, family, "digits", "smoke", module.Config.model_validate({**module.PRESETS["smoke"], **changes})
    )


def flat(state: object, path: str = "") -> dict[str, Tensor]:
    """Yield every tensor of a checkpoint with its path."""
    if isinstance(state, Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: tensor for name, value in items for key, tensor in flat(value, f"{path}/{name}").items()}


@pytest.mark.parametrize(
    ("family", "stops", "options"),
    [
        ("vae", (7, 3), {}),
        ("vae", (10, 1), {}),
        ("vae", (7, 3), {"optimizer": "sgd", "lr": 0.03, "momentum": 0.9}),
        ("vae", (7, 3), {"optimizer": "sgd", "lr": 0.3}),
        ("vae", (7, 3), {"optimizer": "adagrad", "lr": 0.01}),
        ("pixelcnn", (5, 6), {}),
    ],
)
def test_stopping_and_resuming_changes_no_bit(
    tmp_path: Path, digits: Data, family: str, stops: tuple[int, ...], options: dict[str, object]
) -> None:
    """The comparison includes dropout (global RNG), binarisation and posterior draws (generator), order, optimiser, schedule and average."""
    changes = {"schedule": "cosine", "epochs": 2, **options}
    whole, parts = make_run(tmp_path / "whole", family, **changes), make_run(tmp_path / "parts", family, **changes)
    train(whole, digits, device="cpu", quiet=True)
    for index, steps in enumerate(stops):
        torch.rand(index + 1)  # other uses of the global generator must not matter
        train(parts, digits, resume=index > 0, stop_after=steps, device="cpu", quiet=True)
    train(parts, digits, resume=True, device="cpu", quiet=True)
    a, b = (checkpoints.load(run.checkpoint) for run in (whole, parts))
    assert a["position"] == b["position"]
    first, second = flat(a), flat(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    logs = [[json.loads(line) for line in (run.folder / runs.LOG).read_text().splitlines()] for run in (whole, parts)]
    for left, right in zip(*logs, strict=True):
        assert {k: v for k, v in left.items() if k.startswith("selection/")} == {
            k: v for k, v in right.items() if k.startswith("selection/")
        }
    assert (whole.folder / runs.METRICS).read_text() == (parts.folder / runs.METRICS).read_text()


def test_a_run_leaves_what_it_promises(tiny: Path) -> None:
    folder = tiny / "runs/vae"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "log.jsonl",
        "curves.png",
        "samples",
        "checkpoint.safetensors",
        "metrics.json",
    }
    record = json.loads((folder / runs.LOG).read_text().splitlines()[-1])
    assert {
        "step",
        "phase",
        "epoch",
        "samples_per_second",
        "train/loss",
        "selection/loss",
        "train/kl",
        "selection/kl",
    } <= record.keys()
    assert sum(record["kl_by_dimension"]) == pytest.approx(
        record["selection/kl"], rel=0.02
    )  # the binarisation is drawn again
    assert [path.suffix for path in (tiny / "runs/table/samples").iterdir()] == [".csv", ".csv"]
    names = {metric["name"] for metric in json.loads((folder / runs.METRICS).read_text())}
    assert {"elbo_dynamic", "iwae_5_dynamic", "kl", "active_units"} <= names


def drawings(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> list[int]:
    """Return the number of log lines at each drawing of curves, on a clock that shows `now[0]`."""
    lines: list[int] = []
    monkeypatch.setattr(sheets, "curves", lambda log, path: lines.append(len(log.read_text().splitlines())))
    monkeypatch.setattr(sheets, "monotonic", lambda: now[0])
    return lines


def test_curves_are_drawn_at_most_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    lines = drawings(monkeypatch, now)
    log = tmp_path / runs.LOG
    with sheets.Curves(log, tmp_path / sheets.CURVES) as curves:
        for seconds in (1, 1, sheets.SECONDS - 2, 1, sheets.SECONDS, 1):
            now[0] += seconds
            with log.open("a") as file:
                file.write("{}\n")
            curves.grown()
        assert lines == [3, 5]
    assert lines == [3, 5, 6]
    with sheets.Curves(log, tmp_path / sheets.CURVES):
        pass
    assert lines == [3, 5, 6]  # no line was added


def test_curves_are_drawn_when_training_ends_or_stops(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = drawings(monkeypatch, [100.0])
    run = make_run(tmp_path / "run", epochs=3)
    steps = Loop(run, digits, Fabric(accelerator="cpu")).steps_per_epoch
    train(run, digits, device="cpu", quiet=True, stop_after=steps + 1)
    assert lines == [1]
    train(run, digits, device="cpu", quiet=True, resume=True)
    assert lines == [1, 3]


def test_curves_of_an_empty_log_are_not_drawn(tmp_path: Path) -> None:
    """Training that was rolled back to its beginning has no epoch in its log."""
    (tmp_path / runs.LOG).write_text('{"step": 3, "alarm": 1}\n')
    sheets.curves(tmp_path / runs.LOG, tmp_path / sheets.CURVES)
    assert not (tmp_path / sheets.CURVES).exists()


def test_a_second_run_does_not_overwrite(tiny: Path, digits: Data) -> None:
    with pytest.raises(TrainingError, match="resume"):
        train(make_run(tiny / "runs/vae"), digits, quiet=True)


def test_nan_names_step_phase_and_checkpoint(tmp_path: Path, digits: Data) -> None:
    run = make_run(tmp_path / "run", epochs=3, lr=1e-3)
    train(run, digits, stop_after=12, device="cpu", quiet=True)
    before = run.checkpoint.read_bytes()
    state = checkpoints.load(run.checkpoint)
    state["model"]["decoder.0.weight"][0, 0] = float("nan")
    broken = runs.TrainingRun(
        tmp_path / "broken", *[getattr(run, name) for name in ("family", "data", "preset", "config")]
    )
    broken.save(digits)
    checkpoints.save(broken.checkpoint, state)
    saved = broken.checkpoint.read_bytes()
    with pytest.raises(Diverged, match=r"step 12, phase 'vae'.*checkpoint\.safetensors"):
        train(broken, digits, resume=True, device="cpu", quiet=True)
    assert broken.checkpoint.read_bytes() == saved
    assert run.checkpoint.read_bytes() == before


def start(folder: Path, epochs: int) -> subprocess.Popen[str]:
    """Start a training in its own process."""
    command = [
        sys.executable,
        "-m",
        "manifold.cli",
        "train",
        "vae",
        "--data",
        "digits",
        "--preset",
        "smoke",
        "--set",
        f"epochs={epochs}",
        "--out",
        str(folder),
        "--device",
        "cpu",
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_kill_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start(folder, 5000) as process:
        wait_for(folder / runs.CHECKPOINT, process)
        time.sleep(0.5)
        process.kill()
    position = checkpoints.load(folder / runs.CHECKPOINT)["position"]
    assert position["step"] > 0
    run = runs.open_run(folder)
    train(run, resume=True, stop_after=3, device="cpu", quiet=True)
    assert checkpoints.load(run.checkpoint)["position"]["step"] == position["step"] + 3


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start(folder, 5000) as process:
        wait_for(folder / runs.CHECKPOINT, process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "manifold resume" in error
    assert "Traceback" not in error
    assert f"step {checkpoints.load(folder / runs.CHECKPOINT)['position']['step']};" in error


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), repository.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("file", "old")]


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        checkpoints.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(TrainingError, match="damaged"):
        checkpoints.load(tmp_path / "bad.safetensors")
    with pytest.raises(TrainingError, match="not a run"):
        runs.open_run(tmp_path)


def test_average_follows_the_weights(digits: Data) -> None:
    loop = Loop(
        make_run(Path("unused"), ema=0.5), digits, __import__("lightning_fabric").Fabric(accelerator="cpu"), True
    )
    average = Average(loop.bare, 0.5)
    before = {name: value.clone() for name, value in average.shadow.items()}
    with torch.no_grad():
        for parameter in loop.bare.parameters():
            parameter.add_(1)
    average.update(step=1000)
    own = {name: value.clone() for name, value in loop.bare.state_dict().items()}
    for name, value in before.items():
        assert torch.allclose(average.shadow[name], value + 0.5)
    with average.applied():
        assert torch.equal(loop.bare.state_dict()["encoder.0.weight"], average.shadow["encoder.0.weight"])
    assert torch.equal(loop.bare.state_dict()["encoder.0.weight"], own["encoder.0.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["latent=3"], "latent: unknown option; valid are epochs"),
        (["latent_dim=x"], "latent_dim: 'x' must be a whole number"),
        (["latent_dim"], "not of the form KEY=VALUE"),
        (["hidden=3"], "hidden: 3 must be a list of whole numbers"),
        (["variational=1"], "variational: 1 must be true or false"),
        (["epochs=0"], "epochs: 0 must be at least 1"),
        (["batch_size=0"], "batch_size: 0 must be at least 1"),
        (["lr=0"], "lr: 0 must be greater than 0"),
        (["ema=1"], "ema: 1 must be less than 1"),
        (["noise=-1"], "noise: -1 must be greater than 0"),
        (["hidden=[0]"], "hidden: 0 must be at least 1"),
        (["schedule=linear"], "valid are constant, cosine"),
        (
            ["seed=99999999999999999999"],
            "seed: 99999999999999999999 is too large; use a whole number of at most 64 bits",
        ),
        (
            ["hidden=[99999999999999999999]"],
            "hidden: 99999999999999999999 is too large; use a whole number of at most 64 bits",
        ),
    ],
)
def test_wrong_options_list_the_valid_ones(settings: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        recipes.changed_preset(families.get("vae").Config, {}, settings)


def test_options_are_read_as_they_are_meant() -> None:
    config = recipes.changed_preset(
        families.get("vae").Config, {}, ["hidden=[3,4]", "lr=1", "variational=False", "likelihood=laplace"]
    )
    assert (config.hidden, config.lr, config.variational, config.likelihood) == ((3, 4), 1.0, False, "laplace")  # type: ignore[attr-defined]


def test_unknown_family_and_devices(tmp_path: Path, digits: Data) -> None:
    with pytest.raises(TrainingError, match="valid are aae, autoregressive, cgan, classifier, cvae, denoising"):
        families.get("gan9")
    for options in ({"device": "tpu9"}, {"devices": 0}):
        with pytest.raises(TrainingError, match="device, devices, precision"):
            train(make_run(tmp_path / "run"), digits, quiet=True, **{"device": "cpu", **options})  # type: ignore[arg-type]
