"""The training of a run in its folder. The training loop is in training.loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from manifold.runtime.errors import command, reason
from manifold.training import datasets, families
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints
from manifold.training.loop.state import fits
from manifold.training.loop.steps import Loop
from manifold.training.networks.layers import round_weights
from manifold.training.runs import TrainingRun


def train(
    run: TrainingRun,
    data: Data | None = None,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    device: str = "auto",
    precision: Any = "32-true",
    devices: int = 1,
    quiet: bool = False,
    watch: bool = True,
) -> Path:
    """Train the run to its end, or for `stop_after` steps. Return its folder.

    Without `watch` only checkpoints are written, but no log, curves, samples or figures. This is for temporary models. Raises Diverged if a
    loss is not finite, and Interrupted on Ctrl-C. The last checkpoint is readable after both.
    """
    if not resume:
        check_new(run)
    fabric = fabric_of(device, devices, precision)
    fabric.launch()
    data = data or (run.load_data() if resume else datasets.load(run.data))
    if resume:
        run.check_data(data)
    with _in_memory():
        loop = Loop(run, data, fabric, quiet, watch)
    with run.sole() if fabric.is_global_zero else nullcontext():
        try:
            loop.begin(resume)
            loop.run_phases(stop_after)
        except OSError as error:
            raise loop.stopped_by(error) from error
    return run.folder


def check_new(run: TrainingRun) -> None:
    """Raise TrainingError if the folder of a new run already contains a run."""
    if run.checkpoint.exists():
        raise TrainingError(
            f"{run.folder}: this folder already contains a run; continue it with `{command('resume', run.folder)}`, or name another folder with --out"
        )


def fabric_of(device: str, devices: int, precision: Any) -> Fabric:
    """Return Lightning's Fabric for these devices. Raises TrainingError if this machine lacks them."""
    try:
        return Fabric(accelerator=device, devices=devices, precision=precision)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"device, devices, precision: {reason(error)}") from error


def trained_model(run: TrainingRun, data: Data) -> nn.Module:
    """Return the run's model with its averaged weights, rounded as in the artifact, in evaluation mode on the CPU.

    Raises TrainingError if the checkpoint does not fit the model that the config describes.
    """
    config = run.resolved(data).config
    with _in_memory():
        model = families.get(run.family).build(config, data)
    with fits(run):
        model.load_state_dict(checkpoints.load(run.checkpoint)["average"])
    round_weights(model, config.stored)
    model.eval()
    families.get(run.family).finish(model, config, data)
    return model


@contextmanager
def _in_memory() -> Iterator[None]:
    """Turn torch's error for a model that is too large into a TrainingError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not re.search("memory|overflow", str(error)):
            raise
        raise TrainingError(
            f"config: the model does not fit into memory ({reason(error)}); make it smaller with --set"
        ) from error
