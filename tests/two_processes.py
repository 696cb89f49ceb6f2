"""A training on two CPU processes: `python -m tests.two_processes FOLDER` starts the second one and writes the weights of both.

The file RANK.safetensors has the weights `FAMILY/NAME` after a few steps. It also has gradients of the first family's first step: `own/NAME` is
the gradient of this process's batch, and `used/NAME` is the one that its optimiser received.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from manifold.training import datasets, families, runs
from manifold.training.loop.steps import Loop
from manifold.training.train import fabric_of

STEPS = 3
# one inherits its loss, one has two players and a batch normalisation, one has two phases and changes its codebook within the loss
OPTIONS: dict[str, dict[str, Any]] = {
    "cvae": {"clip_norm": 0.0},
    "cgan": {"body": "dcgan", "spectral": True, "watch_steps": 0},
    "vqvae": {"moving": False, "restart": 30.0},
}


def main(folder: Path) -> None:
    """Train each family for STEPS steps, and write the tensors of this process."""
    torch.set_num_threads(1)
    fabric = fabric_of("cpu", 2, "32-true")
    fabric.launch()
    data, tensors = datasets.load("digits"), dict[str, Tensor]()
    for name, options in OPTIONS.items():
        family = families.get(name)
        config = family.Config.model_validate({**family.PRESETS["smoke"], **options})
        loop = Loop(runs.TrainingRun(folder / name, name, "digits", "smoke", config), data, fabric)
        if not tensors:
            tensors |= gradients(loop)
        for _ in range(STEPS):
            loop.step(loop.batch())
        tensors |= {f"{name}/{key}": value.detach().clone() for key, value in loop.bare.named_parameters()}
    save_file(tensors, folder / f"{fabric.global_rank}.safetensors")


def gradients(loop: Loop) -> dict[str, Tensor]:
    """Return the gradient of this process's next batch, and the one that a step leaves for the optimiser. The step uses the same random numbers."""
    batch, before = loop.batch(), loop.generator.get_state()
    (player,) = loop.phases[0].players
    player.loss(batch)["loss"].backward()  # the model itself exchanges no gradients
    own = _gradients(loop.bare)
    loop.generator.set_state(before)
    loop.step(batch)
    return {f"own/{name}": value for name, value in own.items()} | {
        f"used/{name}": value for name, value in _gradients(loop.bare).items()
    }


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
