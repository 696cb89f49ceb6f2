"""The watch over training: the problems that it detects, and the reactions of the loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from manifold.training import families, runs, train
from manifold.training.data import Arrays, Data
from manifold.training.families import gan
from manifold.training.loop import checkpoints, watching
from manifold.training.loop.watching import Alarm, Inspection, Watch

MEANS = {
    "discriminator/loss": 1.3, "discriminator/real_logit": 0.2, "discriminator/fake_logit": -0.2, "discriminator/gradient_norm": 1.0,
    "generator/loss": 0.7, "generator/gradient_norm": 1.0,
}  # fmt: skip


def watch_over(items: torch.Tensor, **changes: Any) -> Watch:
    real = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    return Watch(lambda n: items, real, every=10, **changes)


def names(seen: Inspection) -> list[str]:
    return [alarm.name for alarm in seen.alarms]


def test_the_spread_is_the_distance_of_two_items() -> None:
    items = torch.randn(400, 3, 5, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(items.flatten(1), items.flatten(1)) ** 2
    expected = (distances.sum() / (400 * 399)).sqrt()
    assert watching.spread(items) == pytest.approx(float(expected), rel=1e-5)


def test_one_item_is_a_collapse() -> None:
    generator = torch.Generator().manual_seed(1)
    alike = torch.ones(500, 4) + 0.1 * torch.randn(500, 4, generator=generator)
    assert names(watch_over(alike).look(10, MEANS)) == ["mode collapse"]
    seen = watch_over(torch.randn(500, 4, generator=generator)).look(10, MEANS)
    assert names(seen) == []
    assert seen.record["relative_spread"] == pytest.approx(1, abs=0.1)


def test_a_watch_goes_on_from_its_state() -> None:
    """A gradient norm that was usual before a checkpoint is usual after it."""
    items = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    before, after = watch_over(items), watch_over(items)
    before.look(10, MEANS)
    after.restore(before.state())
    gone = {**MEANS, "generator/gradient_norm": 1e-3, "discriminator/real_logit": 9.0, "discriminator/fake_logit": -9.0}
    assert names(watch_over(items).look(20, gone)) == []
    assert names(after.look(20, gone)) == names(before.look(20, gone)) == ["vanishing gradients"]


def test_classes_that_are_lost_are_named() -> None:
    items = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))

    def classes(*shares: float) -> Any:
        counts = (np.asarray(shares) * 500).astype(int)
        return lambda given: np.eye(4)[np.repeat(np.arange(4), counts)]

    quarter = np.full(4, 0.25)
    told = {"shares": quarter, "names": ("a", "b", "c", "d")}
    assert names(watch_over(items, classify=classes(0.3, 0.3, 0.2, 0.2), **told).look(10, MEANS)) == []
    (alarm,) = watch_over(items, classify=classes(0.5, 0.5, 0, 0), **told).look(10, MEANS).alarms
    assert (alarm.name, alarm.detail, alarm.severe) == ("mode dropping", "missing classes: c, d", False)
    (alarm,) = watch_over(items, classify=classes(1, 0, 0, 0), **told).look(10, MEANS).alarms
    assert (alarm.name, alarm.severe) == ("mode collapse", True)
    assert names(watch_over(items, classify=classes(1, 0, 0, 0), after=11, **told).look(10, MEANS)) == []


def test_a_gradient_vanishes_where_the_discriminator_has_won() -> None:
    items = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    won = {**MEANS, "discriminator/real_logit": 9.0, "discriminator/fake_logit": -9.0, "generator/gradient_norm": 1e-3}
    watch = watch_over(items)
    assert names(watch.look(10, MEANS)) == []
    # the discriminator has won, but the gradient is large
    assert names(watch.look(20, {**won, "generator/gradient_norm": 0.5})) == []
    # the gradient is small, but the discriminator has not won
    assert names(watch.look(30, {**MEANS, "generator/gradient_norm": 1e-3})) == []
    assert names(watch.look(40, won)) == ["vanishing gradients"]


def test_minimax_against_a_discriminator_that_has_won_vanishes(digits: Data, tmp_path: Path) -> None:
    """The alarm fires on a real pair. The non-saturating loss in the same state gives no alarm."""
    norms = {}
    for loss in ("minimax", "non-saturating"):
        options = gan.Config(latent_dim=8, hidden=(16, 32), loss=loss)
        torch.manual_seed(0)
        model = gan.build(options, digits)
        with torch.no_grad():
            cast(nn.Linear, model.discriminator.head).bias.sub_(12.0)
        images = torch.from_numpy(Arrays.of(digits.train).items[:64]).float() / 255
        from manifold.training.batches import Batch

        batch = Batch(images, torch.from_numpy(digits.train.labels[:64]), torch.Generator().manual_seed(0), 0.0)
        model.generator_loss(batch)["loss"].backward()
        norms[loss] = float(
            torch.cat([p.grad.flatten() for p in model.generator.parameters() if p.grad is not None]).norm()
        )
    assert norms["minimax"] < 1e-4 * norms["non-saturating"]


class Scripted(Watch):
    """A watch that raises alarms at given steps, the first time it sees them."""

    def __init__(self, steps: dict[int, Alarm], rollbacks: int) -> None:
        super().__init__(lambda n: torch.randn(n, 2), torch.randn(10, 2), every=5, rollbacks=rollbacks)
        self.steps = dict(steps)

    def look(self, step: int, means: Any) -> Inspection:
        alarm = self.steps.pop(step, None)
        return Inspection({"mean": means["generator/gradient_norm"]}, () if alarm is None else (alarm,))


SEVERE, MILD = Alarm("mode collapse", "tested", True), Alarm("mode dropping", "tested", False)


def scripted_run(
    folder: Path, data: Data, monkeypatch: pytest.MonkeyPatch, steps: dict[int, Alarm], rollbacks: int
) -> runs.TrainingRun:
    family = families.get("gan")
    config = gan.Config.model_validate({**family.PRESETS["smoke"], "watch_steps": 0})
    plain = gan.phases

    def phases(model: Any, options: Any) -> Any:
        return [replace(phase, watch=Scripted(steps, rollbacks)) for phase in plain(model, options)]

    monkeypatch.setattr(gan, "phases", phases)
    run = runs.TrainingRun(folder, "gan", data.name, "smoke", config)
    train.train(run, data, device="cpu", quiet=True)
    monkeypatch.undo()
    return run


def alarms(run: runs.TrainingRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / runs.ALARMS).read_text().splitlines()]


def test_an_alarm_goes_back_to_the_last_good_state(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scripted_run(tmp_path / "a", digits, monkeypatch, {15: SEVERE}, rollbacks=1)
    assert alarms(run) == [{"step": 15, "alarm": "mode collapse", "detail": "tested", "gone_back_to": 10}]
    state = checkpoints.load(run.checkpoint)
    assert state["position"]["rolled_back"] == 1
    plain = scripted_run(tmp_path / "b", digits, monkeypatch, {}, rollbacks=1)
    other = checkpoints.load(plain.checkpoint)
    assert state["position"]["step"] == other["position"]["step"]
    differs = [name for name, value in state["model"].items() if not torch.equal(value, other["model"][name])]
    assert differs  # it continued with other random numbers
    looks = [
        record["step"]
        for line in (run.folder / runs.LOG).read_text().splitlines()
        if "watch" in (record := json.loads(line))
    ]
    assert looks == sorted(set(looks))


def test_without_leave_or_need_it_goes_on(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, alarm, rollbacks in (("none", SEVERE, 0), ("mild", MILD, 3)):
        run = scripted_run(tmp_path / name, digits, monkeypatch, {15: alarm}, rollbacks)
        assert [found["gone_back_to"] for found in alarms(run)] == [None]
        assert checkpoints.load(run.checkpoint)["position"]["rolled_back"] == 0
        assert run.good.exists() == (rollbacks > 0)


def test_a_loss_that_is_not_finite_goes_back_too(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    honest = gan.GAN.generator_loss

    def loss(self: gan.GAN, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        found = honest(self, batch)
        return {"loss": found["loss"] * float("nan")} if calls == 13 else found

    monkeypatch.setattr(gan.GAN, "generator_loss", loss)
    run = scripted_run(tmp_path / "a", digits, monkeypatch, {}, rollbacks=1)
    assert [(found["alarm"], found["gone_back_to"]) for found in alarms(run)] == [("not finite", 10)]


def test_looking_changes_nothing(digits: Data, tmp_path: Path) -> None:
    family = families.get("gan")
    found = []
    for every in (0, 4):
        options = gan.Config.model_validate(
            {**family.PRESETS["smoke"], "body": "dcgan", "watch_steps": every, "judge": "models/digits-classifier"}
        )
        run = runs.TrainingRun(tmp_path / str(every), "gan", "digits", "smoke", options)
        train.train(run, digits, device="cpu", quiet=True)
        found.append(checkpoints.load(run.checkpoint)["model"])
        if every:
            looks = [json.loads(line) for line in (run.folder / runs.LOG).read_text().splitlines()]
            looks = [record["watch"] for record in looks if "watch" in record]
            assert all(sum(look["class_shares"]) == pytest.approx(1, abs=1e-3) for look in looks)
            assert looks[0]["discriminator/gradient_norm"] > 0
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
