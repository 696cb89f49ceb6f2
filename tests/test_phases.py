"""The loop over phases and players, with a family defined here: an autoencoder, then two players that alternate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifold.training import families, runs
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.loop import checkpoints
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe
from manifold.training.train import train


class Config(Recipe):
    """The options of the toy."""

    width: int = 4


class Toy(nn.Module):
    """A toy model of three linear maps. The list `seen` records which player was trained when."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.code, self.make, self.judge = nn.Linear(64, width), nn.Linear(width, 64), nn.Linear(64, 1)
        self.norm = nn.BatchNorm1d(64)
        self.seen: list[str] = []

    def code_loss(self, batch: Batch) -> Losses:
        self.seen.append("code")
        x = batch.items.flatten(1)
        return {"loss": ((self.make(self.code(x)) - self.norm(x)) ** 2).sum(1).mean()}

    def make_loss(self, batch: Batch) -> Losses:
        self.seen.append("make")
        return {"loss": -self.judge(self.make(self.noise(batch))).mean()}

    def judge_loss(self, batch: Batch) -> Losses:
        self.seen.append("judge")
        fake = self.judge(self.make(self.noise(batch)).detach())
        return {"loss": torch.relu(1 + fake).mean() + torch.relu(1 - self.judge(batch.items.flatten(1))).mean()}

    def noise(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch.items), self.make.in_features, generator=batch.generator)


def phases(model: Any, config: Config) -> list[Phase]:
    code = Player("code", (*model.code.parameters(), *model.norm.parameters()), model.code_loss, config.lr)
    make = Player("make", tuple(model.make.parameters()), model.make_loss, config.lr, (0.5, 0.999))
    judge = Player("judge", tuple(model.judge.parameters()), model.judge_loss, config.lr, (0.5, 0.999))
    return [Phase("autoencoder", (code,), 1), Phase("adversarial", (judge, make), 2)]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[Toy]:
    """Register the toy as a family, and return a list that receives every model built."""
    built: list[Toy] = []

    def build(config: Config, data: Data) -> Toy:
        built.append(Toy(config.width))
        return built[-1]

    module = SimpleNamespace(
        Config=Config,
        build=build,
        phases=phases,
        evaluate=lambda model, batch: {"loss": batch.items.flatten(1).sum(1)},
        draw=lambda model, n, generator: torch.rand(n, 1, 8, 8, generator=generator),
        exports=lambda model, config, data: Exports({}),
    )
    monkeypatch.setattr(families, "get", lambda name: families.of(module))
    return built


def test_players_take_turns_and_phases_follow(tmp_path: Path, toy: list[Toy], digits: Data) -> None:
    run = runs.TrainingRun(tmp_path / "run", "toy", "digits", "smoke", Config(batch_size=256))
    train(run, digits, device="cpu", quiet=True)
    assert toy[0].seen == ["code"] * 4 + ["judge", "make"] * 8
    state = checkpoints.load(run.checkpoint)
    assert state["position"] == {"phase": 2, "in_phase": 0, "step": 12, "rolled_back": 0}
    assert int(state["average"]["norm.num_batches_tracked"]) == 4
    assert {path.stem for path in (run.folder / "samples").iterdir()} == {
        "autoencoder-0001",
        "adversarial-0001",
        "adversarial-0002",
    }
    assert '"train/judge/loss"' in (run.folder / runs.LOG).read_text()


@pytest.mark.parametrize("stops", [(3, 2, 4), (5, 6), (12, 3)])
def test_resume_across_phases_changes_no_bit(
    tmp_path: Path, toy: list[Toy], digits: Data, stops: tuple[int, ...]
) -> None:
    whole, parts = (
        runs.TrainingRun(tmp_path / name, "toy", "digits", "smoke", Config(batch_size=256))
        for name in ("whole", "parts")
    )
    train(whole, digits, device="cpu", quiet=True)
    for index, steps in enumerate(stops):
        train(parts, digits, resume=index > 0, stop_after=steps, device="cpu", quiet=True)
    train(parts, digits, resume=True, device="cpu", quiet=True)
    a, b = (checkpoints.load(run.checkpoint) for run in (whole, parts))
    assert a["position"] == b["position"]
    for part in ("model", "average"):
        assert [name for name in a[part] if not torch.equal(a[part][name], b[part][name])] == []
    assert (parts.folder / runs.METRICS).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule: unknown value 'linear'; valid are constant, cosine"),
        ({"stored": "float64"}, "stored: unknown value 'float64'; valid are float32, float16"),
        ({"ema": 1.0}, "ema: 1.0 must be less than 1"),
        ({"lr": 0.0}, "lr: 0.0 must be greater than 0"),
        ({"epochs": 0}, "epochs: 0 must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_recipe_names_the_option_that_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        Recipe(**changes)
    assert caught.value.field == next(iter(changes))
