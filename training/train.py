"""The training of a run in its folder. The training loop is in training.loop."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from manifold.runtime.errors import command, reason, shown
from manifold.training import datasets, families, outlines
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.loop import checkpoints
from manifold.training.loop.alone import Alone
from manifold.training.loop.state import fits
from manifold.training.loop.steps import Loop
from manifold.training.networks.layers import round_weights
from manifold.training.recipes import Recipe
from manifold.training.runs import TrainingRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Fabric announces the precision that the user chose, once for each of its objects
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


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

    With the precisions bf16-mixed and 16-mixed, losses are computed under torch's autocast; evaluations are always in float32. Several
    `devices` have one process each, whose gradients are averaged.

    Without `watch` only checkpoints are written, but no log, curves, samples or figures. This is for temporary models. Raises Diverged if a
    loss is not finite, and Interrupted on Ctrl-C. The last checkpoint is readable after both.
    """
    if not resume:
        check_new(run)
    fabric = fabric_of(device, devices, precision) if outlines.has_steps(run.family) else Alone()
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


def is_first_process() -> bool:
    """Return whether this process is the first of the training's processes: the one that writes and prints."""
    ranks = sys.modules.get("lightning_fabric.utilities.rank_zero")  # not imported without Fabric: there is one process
    return ranks is None or getattr(ranks.rank_zero_only, "rank", 0) == 0


def check_new(run: TrainingRun) -> None:
    """Raise TrainingError if the folder of a new run already contains a run."""
    if run.checkpoint.exists():
        raise TrainingError(
            f"{run.folder}: this folder already contains a run; continue it with `{command('resume', run.folder)}`, or name another folder with --out"
        )


def fabric_of(device: str, devices: int, precision: Any) -> Fabric:
    """Return Lightning's Fabric for these devices. Raises TrainingError for an unknown precision, or if this machine lacks the devices."""
    from lightning_fabric import Fabric

    if precision not in outlines.PRECISIONS:
        raise TrainingError(
            f"precision: unknown {shown(precision)}; valid are {', '.join(outlines.PRECISIONS)}",
            field="precision",
            valid=outlines.PRECISIONS,
        )
    try:
        # a loss has gradients for some of the weights: those of one player, in the current phase
        strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
        return Fabric(accelerator=device, devices=devices, precision=precision, strategy=strategy)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"device, devices, precision: {reason(error)}") from error


def trained_model(run: TrainingRun, data: Data, decay: float | None = None) -> nn.Module:
    """Return the run's model with its averaged weights, rounded as in the artifact, in evaluation mode on the CPU.

    `decay` selects one of two moving averages, by default the one that the run has chosen. Raises TrainingError for another decay, and if
    the checkpoint does not fit the model that the config describes.
    """
    config = run.resolved(data).config
    with _in_memory():
        model = families.get(run.family).build(config, data)
    with fits(run):
        model.load_state_dict(averaged(run, config, decay))
    round_weights(model, config.stored)
    model.eval()
    families.get(run.family).finish(model, config, data)
    return model


def averaged(run: TrainingRun, config: Recipe, decay: float | None) -> Mapping[str, Any]:
    """Return the weights of a moving average in the run's checkpoint. Raises TrainingError for a decay that none of them has."""
    state = checkpoints.load(run.checkpoint)
    kept = dict(zip(state.get("decays", [config.ema]), ("average", "second"), strict=False))
    if decay is not None and decay not in kept:
        valid = ", ".join(f"{each:g}" for each in kept)
        raise TrainingError(
            f"decay: {run.folder} has no moving average with decay {decay:g}; valid are {valid}", field="decay"
        )
    chosen: Mapping[str, Any] = state["average" if decay is None else kept[decay]]
    return chosen


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
