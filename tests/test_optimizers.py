"""The option `optimizer`: the steps of SGD and Adagrad, decoupled weight decay, and runs whose optimiser was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifold.training import families, runs
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints, optimizers
from manifold.training.phases import Player
from manifold.training.recipes import Recipe
from manifold.training.train import train
from tests.conftest import tiny_run

GRADIENTS = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]])


def stepped(config: Recipe, decay: float, gradients: Tensor) -> Tensor:
    """Return the weights (1, 1) after steps with these gradients and a learning rate of 0.1."""
    weight = nn.Parameter(torch.ones(2))
    player = Player("one", (weight,), lambda _: {}, 0.1, weight_decay=decay)
    optimizer = optimizers.build(player, config, fused=False)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def sgd(weight: Tensor, gradients: Tensor, momentum: float) -> Tensor:
    velocity = torch.zeros(2)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        weight = 0.98 * weight - 0.1 * velocity
    return weight


def adagrad(weight: Tensor, gradients: Tensor) -> Tensor:
    """Return the weights after steps that are divided by the root of the sum of all squared gradients (Duchi et al., 2011)."""
    total = torch.zeros(2)
    for gradient in gradients:
        total = total + gradient**2
        weight = 0.98 * weight - 0.1 * gradient / (total.sqrt() + 1e-10)
    return weight


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Recipe(optimizer="sgd"), lambda: sgd(torch.ones(2), GRADIENTS, 0)),
        (Recipe(optimizer="sgd", momentum=0.5), lambda: sgd(torch.ones(2), GRADIENTS, 0.5)),
        (Recipe(optimizer="adagrad"), lambda: adagrad(torch.ones(2), GRADIENTS)),
    ],
    ids=["sgd", "momentum", "adagrad"],
)
def test_steps_are_those_of_the_papers_after_a_decoupled_decay(config: Recipe, expected: Callable[[], Tensor]) -> None:
    assert torch.allclose(stepped(config, 0.2, GRADIENTS), expected())


@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad"])
def test_weight_decay_means_the_same_for_every_optimizer(name: Any) -> None:
    """A step without a gradient multiplies the weights by 1 - lr · decay, whatever gradients came before."""
    config = Recipe(optimizer=name)
    assert torch.allclose(stepped(config, 0.2, torch.zeros(3, 2)), torch.full((2,), 0.98**3))
    unused, used = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = optimizers.build(
        Player("two", (unused, used), lambda _: {}, 0.1, weight_decay=0.2), config, fused=False
    )
    used.grad = torch.zeros(1)
    optimizer.step()
    assert unused.item() == 1 and used.item() == pytest.approx(0.98)


@pytest.mark.parametrize(("name", "lr"), [("adam", 3e-3), ("sgd", 0.1), ("adagrad", 1e-2)])
def test_each_optimizer_trains_a_vae(tmp_path: Path, digits: Data, name: str, lr: float) -> None:
    run = tiny_run(tmp_path / "run", "vae", digits, epochs=4, optimizer=name, lr=lr)
    losses = [record["train/loss"] for record in runs.read_log(run.folder / runs.LOG) if "train/loss" in record]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path, digits: Data) -> None:
    vae = families.get("vae")
    config = vae.Config.model_validate({**vae.PRESETS["smoke"], "epochs": 1})
    train(
        runs.TrainingRun(tmp_path / "run", "vae", "digits", "smoke", config),
        digits,
        stop_after=3,
        device="cpu",
        quiet=True,
    )
    path = tmp_path / "run" / runs.CONFIG
    content = json.loads(path.read_text())
    content["config"]["optimizer"] = "sgd"
    path.write_text(json.dumps(content))
    with pytest.raises(
        TrainingError, match=r"optimizer: the run was trained with 'adam' .* says 'sgd'; restore"
    ) as refused:
        train(runs.open_run(tmp_path / "run"), digits, resume=True, device="cpu", quiet=True)
    assert refused.value.field == "optimizer"


def test_a_run_without_the_option_is_resumed_with_adam(tmp_path: Path, digits: Data) -> None:
    """Runs of older versions name the optimiser neither in their config nor in their checkpoint."""
    vae = families.get("vae")
    config = vae.Config.model_validate({**vae.PRESETS["smoke"], "epochs": 1})
    for name in ("new", "old"):
        run = runs.TrainingRun(tmp_path / name, "vae", "digits", "smoke", config)
        train(run, digits, stop_after=3, device="cpu", quiet=True)
        if name == "old":
            content = json.loads((run.folder / runs.CONFIG).read_text())
            del content["config"]["optimizer"], content["config"]["momentum"]
            (run.folder / runs.CONFIG).write_text(json.dumps(content))
            state = checkpoints.load(run.checkpoint)
            del state["optimizer"]
            checkpoints.save(run.checkpoint, state)
        train(runs.open_run(run.folder), digits, resume=True, device="cpu", quiet=True)
    new, old = (checkpoints.load(tmp_path / name / runs.CHECKPOINT)["model"] for name in ("new", "old"))
    assert all(torch.equal(new[name], old[name]) for name in new)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("vae", {"optimizer": "rmsprop"}, "optimizer: unknown value 'rmsprop'; valid are adam, sgd, adagrad"),
        ("vae", {"momentum": 0.9}, "momentum: has no effect on the optimizer adam"),
        ("vae", {"momentum": 0.9, "optimizer": "adagrad"}, "momentum: has no effect on the optimizer adagrad"),
        ("vae", {"momentum": 1, "optimizer": "sgd"}, "momentum: 1 must be less than 1"),
        ("gan", {"beta1": 0.0, "optimizer": "sgd"}, "beta1: only for steps of Adam"),
        ("cgan", {"unrolled": 3, "optimizer": "adagrad"}, "unrolled: only for steps of Adam"),
    ],
)
def test_options_without_effect_on_an_optimizer_are_refused(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        families.get(family).Config.model_validate(changes)
    families.get(family).Config.model_validate({"optimizer": "sgd"})
