"""Mixed precision, and training on several processes: dtypes inside every loss, losses of both precisions, and equal weights of two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor, nn

from manifold.training import families, runs
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints
from manifold.training.loop.steps import Loop
from manifold.training.networks import adversarial, dcgan, masked
from manifold.training.train import fabric_of, train
from tests.conftest import ROOT
from tests.two_processes import OPTIONS

PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, masked.Block, masked.Free)
ROWS = ("tabular_vae", "tabular_cvae")
UNTRAINED = ("tabular_detector",)  # without a network, and so without losses
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in families.names() if name not in UNTRAINED),
    ("vae", {"body": "conv", "widths": (4, 8), "likelihood": "logistic", "trim": 0.2}),
    ("gan", {"body": "dcgan", "spectral": True, "augment": ("translation",), "loss": "hinge"}),
    ("gan", {"unrolled": 2}),
    ("autoregressive", {"body": "eonade"}),
    ("hierarchical", {"inference": "residual"}),
    ("pixelcnn", {"likelihood": "mixture"}),
    ("vqvae", {"moving": False, "likelihood": "logistic"}),
]


@pytest.fixture(scope="module")
def classed(table: Data) -> Data:
    """Return the table with two classes."""
    train, test = (replace(part, labels=np.arange(len(part)) % 2) for part in (table.train, table.test))  # type: ignore[type-var]
    return replace(table, classes=("a", "b"), train=train, test=test)


def loop_of(folder: Path, family: str, data: Data, precision: str, **options: object) -> Loop:
    module = families.get(family)
    config = module.Config.model_validate({**module.PRESETS["smoke"], **options})
    return Loop(runs.TrainingRun(folder, family, data.name, "smoke", config), data, fabric_of("cpu", 1, precision))


def losses_and_dtypes(loop: Loop) -> dict[str, tuple[float, set[torch.dtype]]]:
    """Return each player's loss of the first batch, and the dtypes of the layers' outputs while it was computed."""
    found: dict[str, tuple[float, set[torch.dtype]]] = {}
    seen: set[torch.dtype] = set()
    for layer in loop.bare.modules():
        if isinstance(layer, PRODUCTS):
            layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    for phase in loop.phases:
        for player in phase.players:
            seen.clear()
            batch = loop.batch()
            assert batch.items.dtype == torch.float32
            losses = loop.losing(partial(player.loss, batch))
            assert {value.dtype for value in losses.values()} == {torch.float32}
            loss = losses["loss"]
            loop.fabric.backward(loss)
            assert all(weight.grad is None or weight.grad.isfinite().all() for weight in player.parameters)
            found[f"{phase.name}/{player.name}"] = (loss.item(), set(seen))
    return found


@pytest.mark.parametrize(("family", "options"), VARIANTS)
def test_every_loss_uses_the_precision(
    tmp_path: Path, digits: Data, classed: Data, family: str, options: dict[str, Any]
) -> None:
    data = classed if family in ROWS else digits
    plain, mixed = (
        losses_and_dtypes(loop_of(tmp_path, family, data, precision, **options))
        for precision in ("32-true", "bf16-mixed")
    )
    assert plain.keys() == mixed.keys()
    for player, (loss, dtypes) in plain.items():
        assert dtypes == {torch.float32}
        assert torch.bfloat16 in mixed[player][1]
        assert mixed[player][0] == pytest.approx(loss, rel=0.02, abs=0.01)


def test_nats_of_a_network_in_half_precision_are_computed_in_single_precision(tmp_path: Path, digits: Data) -> None:
    """The loss equals that of the rounded outputs of the networks. Nats that are computed in half precision differ in the third digit."""
    loop = loop_of(tmp_path, "vae", digits, "bf16-mixed")
    outputs: list[Tensor] = []
    loop.bare.decoder[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))  # type: ignore[index, union-attr]
    batch = loop.batch()
    state = loop.generator.get_state()
    losses = loop.losing(partial(loop.phases[0].players[0].loss, batch))
    loop.generator.set_state(state)
    x = (torch.rand(batch.items.flatten(1).shape, generator=loop.generator) < batch.items.flatten(1)).double()
    logits = outputs[0].double()
    nats = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()
    assert outputs[0].dtype == torch.bfloat16
    assert losses["reconstruction"].item() == pytest.approx(nats.item(), rel=1e-6)


def test_spectral_norms_and_unrolled_steps_use_single_precision(
    tmp_path: Path, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[bool]] = {"norm": set(), "steps": set()}
    power, unrolled = dcgan.SpectralNorm._power_method, adversarial.unrolled

    def spy(self: Any, *arguments: Any) -> None:
        seen["norm"].add(torch.is_autocast_enabled("cpu"))
        power(self, *arguments)

    def steps(*arguments: Any) -> Any:
        seen["steps"].add(torch.is_autocast_enabled("cpu"))
        return unrolled(*arguments)

    monkeypatch.setattr(dcgan.SpectralNorm, "_power_method", spy)
    monkeypatch.setattr(adversarial, "unrolled", steps)
    loop = loop_of(tmp_path, "gan", digits, "bf16-mixed", unrolled=1, spectral=True)
    losses_and_dtypes(loop)
    assert seen == {"norm": {False}, "steps": {False}}


def test_a_run_in_mixed_precision_is_evaluated_in_single_precision(tmp_path: Path, digits: Data) -> None:
    """Its weights and their average are float32, it reaches about the same test loss, and it resumes bit for bit on a CPU."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        run = loop_of(tmp_path / precision, "vae", digits, precision, epochs=4).run
        train(run, digits, device="cpu", precision=precision, quiet=True)
        losses.append(runs.read_log(run.folder / runs.LOG)[-1]["selection/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    state = checkpoints.load(run.checkpoint)
    assert {value.dtype for part in ("model", "average") for value in state[part].values()} == {torch.float32}
    parts = loop_of(tmp_path / "parts", "vae", digits, "bf16-mixed", epochs=4).run
    for resume, stop in ((False, 15), (True, None)):
        train(parts, digits, resume=resume, stop_after=stop, device="cpu", precision="bf16-mixed", quiet=True)
    other = checkpoints.load(parts.checkpoint)
    for part in ("model", "average"):
        assert [name for name, value in state[part].items() if not torch.equal(value, other[part][name])] == []


def test_scaled_losses_are_clipped_and_resumed(tmp_path: Path, digits: Data) -> None:
    """With 16-mixed, gradients are unscaled before they are clipped, and a checkpoint has the state of the scaling."""
    run = loop_of(tmp_path / "run", "vae", digits, "32-true", clip_norm=1.0).run

    def loop() -> Loop:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        return Loop(run, digits, Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)]))

    whole = loop()
    whole.begin(False)
    whole.run_phases(6)
    resumed = loop()
    resumed.begin(True)
    for each in (whole, resumed):
        each.step(each.batch())
    scaling = whole.fabric.strategy.precision.state_dict()
    assert (scaling["scale"], scaling["_growth_tracker"]) == (2.0**11, 3)
    assert resumed.fabric.strategy.precision.state_dict() == scaling
    for one, other in zip(whole.bare.parameters(), resumed.bare.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["12", "bf16-true", "64-true", "16-true", "32"])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(TrainingError, match=rf"precision: unknown '{precision}'; valid are 32-true, bf16-mixed, 16-m"):
        fabric_of("cpu", 1, precision)


def test_two_processes_average_gradients_and_keep_equal_weights(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.two_processes", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    weights = [name for name in first if name.split("/")[0] in OPTIONS]
    assert {name.split("/")[0] for name in weights} == set(OPTIONS)
    assert [name for name in weights if not torch.equal(first[name], second[name])] == []
    names = [name.removeprefix("own/") for name in first if name.startswith("own/")]
    assert names
    for name in names:
        own, other = first[f"own/{name}"], second[f"own/{name}"]
        assert not torch.equal(own, other)  # each process has its own batch
        for used in (first[f"used/{name}"], second[f"used/{name}"]):
            torch.testing.assert_close(used, (own + other) / 2, rtol=1e-4, atol=1e-6)
