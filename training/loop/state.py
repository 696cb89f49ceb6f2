"""The state of a training: everything on which the next step depends. Checkpoints contain it, so a run continues from one exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from manifold.runtime.errors import reason, shown
from manifold.training import batches, families
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints, optimizers
from manifold.training.loop.average import Average
from manifold.training.phases import Losses, Phase
from manifold.training.runs import CONFIG, TrainingRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from manifold.training.loop.alone import Alone


@dataclass
class Position:
    """The position of training. `step` counts over all phases, `in_phase` since the phase began."""

    phase: int = 0
    in_phase: int = 0
    step: int = 0
    rolled_back: int = 0  # number of rollbacks; each one changes the seed of the following steps


class Losing(nn.Module):
    """The model as Fabric wraps it. Its forward pass computes a loss of any form: a method, inherited or not, a partial or a lambda.

    Fabric turns on autocast and the exchange of gradients between processes only around the forward pass of the module that it wraps. The
    items of the loss's batch are not arguments of this pass, because Fabric would round them to the lower precision.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[], Losses]) -> Losses:
        """Return the losses. Only the one that is minimised has a gradient."""
        return {name: value if name == "loss" else value.detach() for name, value in loss().items()}


class State:
    """The model, average, optimisers, random generators and position of a training."""

    def __init__(self, run: TrainingRun, data: Data, fabric: Fabric | Alone) -> None:
        self.run, self.data, self.fabric = run.resolved(data), data, fabric
        self.family, self.config = families.get(run.family), self.run.config
        torch.manual_seed(self.config.seed)
        self.bare = self.family.build(self.config, data)
        self.losing = fabric.setup_module(Losing(self.bare))
        self.average = Average(self.bare, self.config.ema)
        self.second = Average(self.bare, self.config.ema_second) if self.config.ema_second else None
        self.generator = torch.Generator(fabric.device).manual_seed(self.seed(fabric.global_rank))
        self.phases: list[Phase] = self.family.phases(self.bare, self.config)
        if fabric.world_size > 1 and any(phase.watch and phase.watch.rollbacks for phase in self.phases):
            raise TrainingError(
                "rollbacks: they only work with one process; train on one device, or set rollbacks=0", field="rollbacks"
            )
        self.position = Position()
        self.optimizers: list[Any] = []
        self.seconds = 0.0  # duration of training, without evaluation
        self.window: dict[str, float] = {}  # sums of losses since the watch's last inspection
        self.source = batches.source(data.train, fabric.device)
        self.batch_size = min(self.config.batch_size, len(data.train) // fabric.world_size)
        self.steps_per_pass = len(data.train) // (self.batch_size * fabric.world_size)
        self.steps_per_epoch = self.config.epoch_steps or self.steps_per_pass
        self.enter_phase()

    def seed(self, *path: int) -> int:
        """Return a seed that depends on the run's seed and on `path`."""
        return int(np.random.SeedSequence([self.config.seed, *path]).generate_state(1)[0])

    def enter_phase(self) -> None:
        """Create new optimisers for the players of the current phase."""
        # fused optimisers undo the scaling of 16-mixed themselves, but gradients are clipped before that
        fused = self.fabric.device.type in ("cpu", "cuda") and not self._scaling()
        self.optimizers = []
        for player in self.phases[self.position.phase].players:
            optimizer = optimizers.build(player, self.config, fused=fused)
            self.optimizers.append(self.fabric.setup_optimizers(optimizer))

    # --- checkpoints ---

    def checkpoint(self, path: Path | None = None) -> None:
        """Write the state to a file, by default the run's checkpoint."""
        if self.fabric.is_global_zero:
            checkpoints.save(path or self.run.checkpoint, self._captured())

    def restore(self, path: Path | None = None) -> None:
        """Restore the state from a file, by default the run's checkpoint. Raises TrainingError if it does not fit the config's model."""
        state = checkpoints.load(path or self.run.checkpoint)
        with fits(self.run):
            self._take(state)

    def _captured(self) -> dict[str, Any]:
        rng: dict[str, Any] = {"generator": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        watch = self.phases[min(self.position.phase, len(self.phases) - 1)].watch
        watching = {} if watch is None else {"watch": watch.state(), "window": self.window}
        return {
            **watching,
            "spent": {"seconds": round(self.seconds, 1), "device": _name(self.fabric.device)},
            "position": vars(self.position),
            "model": self.bare.state_dict(),
            "average": self.average.shadow,
            **(
                {"second": self.second.shadow, "decays": [self.average.decay, self.second.decay]} if self.second else {}
            ),
            "optimizer": self.config.optimizer,
            "optimizers": [o.optimizer.state_dict() for o in self.optimizers],
            **({"scaling": scaling} if (scaling := self._scaling()) else {}),
            "rng": rng,
        }

    def _scaling(self) -> dict[str, Any]:
        """Return the state of the loss scaling of 16-mixed. It is empty for other precisions."""
        state: dict[str, Any] = self.fabric.strategy.precision.state_dict()
        return state

    def _take(self, state: Mapping[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.seconds = max(self.seconds, state.get("spent", {}).get("seconds", 0.0))
        self.bare.load_state_dict(state["model"])
        self.average.shadow = {name: value.to(self.fabric.device) for name, value in state["average"].items()}
        if self.second is not None:
            self.second.shadow = {name: value.to(self.fabric.device) for name, value in state["second"].items()}
            self.average.decay, self.second.decay = state["decays"]
        if self.position.phase < len(self.phases):
            self._take_phase(state)
        if "scaling" in state and self._scaling():
            self.fabric.strategy.precision.load_state_dict(state["scaling"])
        if self.fabric.is_global_zero:
            self.generator.set_state(state["rng"]["generator"])
        else:  # other processes get a new seed, as resuming is exact only for one process
            self.generator.manual_seed(self.seed(self.fabric.global_rank, self.position.step))
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"] and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.fabric.device)

    def _take_phase(self, state: Mapping[str, Any]) -> None:
        """Restore the optimisers and the watch of the current phase. Raises TrainingError if the checkpoint is that of another optimiser."""
        saved = state.get("optimizer", "adam")  # older checkpoints do not name it
        if saved != self.config.optimizer:
            raise TrainingError(
                f"optimizer: the run was trained with {shown(saved)} up to its checkpoint, and {self.run.folder / CONFIG} says "
                f"{shown(self.config.optimizer)}; restore the option, or start a new run with `manifold train`",
                field="optimizer",
            )
        self.enter_phase()
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.optimizer.load_state_dict(saved)
        watch = self.phases[self.position.phase].watch
        if watch is not None and "watch" in state:
            watch.restore(state["watch"])
            self.window = dict(state["window"])


@contextmanager
def fits(run: TrainingRun) -> Iterator[None]:
    """Turn the errors of a checkpoint that does not fit the config's model into a TrainingError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # RuntimeError for other shapes
        raise TrainingError(
            f"{run.checkpoint}: it does not fit {run.folder / CONFIG} ({reason(error)}); one of them belongs to another run or another "
            "version of Manifold; restore it, or start again with `manifold train`"
        ) from error


def _name(device: torch.device) -> str:
    """Return the name of a device: the model of a GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
