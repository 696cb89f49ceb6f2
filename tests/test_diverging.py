"""Losses that are not finite: they are found later than they occur, but the error names their step, and nothing after it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from manifold.training import runs
from manifold.training.data import Data
from manifold.training.errors import Diverged
from manifold.training.families import gan, vae
from manifold.training.loop import checkpoints, steps
from manifold.training.loop.unread import Unread
from manifold.training.networks.quantiser import _apart
from manifold.training.train import train
from tests import test_watching
from tests.test_train import flat, make_run

NAN = float("nan")


def broken_at(monkeypatch: pytest.MonkeyPatch, model: Any, name: str, broken: int) -> list[int]:
    """Make a loss NaN at one step. Return a list that receives the number of each call."""
    calls: list[int] = []
    honest = getattr(model, name)

    def loss(self: Any, batch: Any) -> Any:
        calls.append(len(calls))
        found = honest(self, batch)
        return {**found, "loss": found["loss"] * NAN} if calls[-1] == broken else found

    monkeypatch.setattr(model, name, loss)
    return calls


def test_losses_are_read_in_order() -> None:
    unread = Unread()
    assert unread.read() == []
    for step in range(3):
        loss = torch.tensor(float(step), requires_grad=True)
        unread.add(step, {"loss": loss * 2, "accuracy": torch.tensor(0.5)})
    assert not unread.steps[0][1]["loss"].requires_grad  # the graph of a step is not kept
    assert unread.read() == [(step, {"loss": 2.0 * step, "accuracy": 0.5}) for step in range(3)]
    assert len(unread) == 0


@pytest.mark.parametrize("stop", [None, 16])
def test_the_error_names_the_first_step_and_the_checkpoint_stays(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """An epoch has 10 steps. The loss of step 13 is read after step 20, or when training stops after step 16."""
    calls = broken_at(monkeypatch, vae.VAE, "loss", 13)
    run = make_run(tmp_path / "run", epochs=4, epoch_steps=10)
    with pytest.raises(
        Diverged, match=r"not finite at step 13, phase 'vae', player 'vae' \(loss nan, reconstruction \d"
    ) as found:
        train(run, digits, device="cpu", quiet=True, stop_after=stop)
    assert found.value.step == 13
    assert len(calls) == (stop or 20)
    state = checkpoints.load(run.checkpoint)
    assert state["position"]["step"] == 10
    assert all(tensor.isfinite().all() for tensor in flat(state).values())
    assert [record["step"] for record in runs.read_log(run.folder / runs.LOG)] == [10]
    monkeypatch.undo()
    train(run, digits, resume=True, device="cpu", quiet=True)
    assert checkpoints.load(run.checkpoint)["position"]["step"] == 40


def test_losses_are_checked_within_an_epoch_too(tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = broken_at(monkeypatch, vae.VAE, "loss", 3)
    with pytest.raises(Diverged, match=r"at step 3,.*there is no checkpoint yet"):
        train(make_run(tmp_path / "run", epoch_steps=100), digits, device="cpu", quiet=True)
    assert len(calls) == steps.CHECKED


def test_a_later_failure_does_not_hide_the_loss(tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not finite can make the next steps fail, for example in torch.multinomial."""
    calls = broken_at(monkeypatch, vae.VAE, "loss", 3)
    honest = vae.VAE.loss

    def failing(self: Any, batch: Any) -> Any:
        if len(calls) == 6:
            raise RuntimeError("probability tensor contains nan")
        return honest(self, batch)

    monkeypatch.setattr(vae.VAE, "loss", failing)
    with pytest.raises(Diverged, match="at step 3,"):
        train(make_run(tmp_path / "run"), digits, device="cpu", quiet=True)
    assert len(calls) == 6


def test_vectors_that_are_not_finite_do_not_stop_a_codebook() -> None:
    """An error of torch.multinomial on a GPU would end the process before the loss is read."""
    z = torch.tensor([[NAN, 0.0], [0.0, 0.0], [float("inf"), 1.0]])
    assert _apart(z, torch.zeros(1, 2), 2, torch.Generator().manual_seed(0)).shape == (2, 2)


def test_the_first_player_is_named(tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's loss is broken at step 7. The discriminator's is NaN only from step 8, because of the generator."""
    broken_at(monkeypatch, gan.GAN, "generator_loss", 7)
    with pytest.raises(Diverged, match=r"at step 7, phase 'gan', player 'generator' \(loss nan\)"):
        train(make_run(tmp_path / "run", "gan", watch_steps=0), digits, device="cpu", quiet=True)


def test_a_rollback_is_the_same_for_every_interval_of_checks(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of step 16 is read after step 20, where the watch inspects, or immediately. The last good state is that of step 15."""
    found = []
    for name, checked in (("late", steps.CHECKED), ("at once", 1)):
        monkeypatch.setattr(steps, "CHECKED", checked)
        broken_at(monkeypatch, gan.GAN, "discriminator_loss", 16)
        run = test_watching.scripted_run(tmp_path / name, digits, monkeypatch, {}, rollbacks=1)
        (alarm,) = test_watching.alarms(run)
        assert (alarm["step"], alarm["alarm"], alarm["gone_back_to"]) == (16, "not finite", 15)
        log = [json.loads(line) for line in (run.folder / runs.LOG).read_text().splitlines()]
        assert all(value == value for record in log for value in record.values())  # no mean is NaN
        state = checkpoints.load(run.checkpoint)
        assert state["position"]["rolled_back"] == 1
        found.append((flat(state), state["window"], [record for record in log if "watch" in record]))
        assert all(tensor.isfinite().all() for tensor in flat(checkpoints.load(run.good)).values())
    (late, *others), (at_once, *others_at_once) = found
    assert others == others_at_once
    assert [name for name, value in late.items() if not torch.equal(value, at_once[name])] == []
