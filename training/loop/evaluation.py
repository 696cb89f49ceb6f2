"""The test losses, the samples (a grid of images, or rows) and the figures of a model during and after training."""

from __future__ import annotations

import json
from typing import Any

import torch

from manifold.runtime.repository import replacing
from manifold.training.batches import in_order, joined
from manifold.training.data.parts import count, scattered
from manifold.training.loop import sheets
from manifold.training.loop.state import State
from manifold.training.networks.layers import round_weights
from manifold.training.runs import METRICS

BATCH = 500  # number of items in a batch
MONITORED = 2**28  # largest number of values in the one batch for `monitor`: 1 GiB as float32


@torch.no_grad()
def test_record(state: State) -> dict[str, Any]:
    """Return the losses on held-out items (at most `test_items`) as `selection/NAME`, and the family's other figures.

    The items are those on which options are chosen (`Data.chosen_on`), so that recipes are not chosen by the test split. If these are the
    calibration items, the losses are `calibration/NAME`. If a small data set has neither, they are those of the test split, and the losses are
    `test/NAME`. The other figures use the same items, or fewer of them if all have more than MONITORED values together. All figures use a
    separate generator, so that they do not change the training's generator.
    """
    data = state.data
    chosen = data.test if data.chosen_on is None else data.chosen_on
    prefix = "selection" if chosen is data.selection else "calibration" if chosen is data.calibration else "test"
    limit = min(len(chosen), state.config.test_items)
    part = scattered(chosen, limit)
    generator = torch.Generator(state.fabric.device).manual_seed(state.config.seed)
    sums: dict[str, float] = {}
    state.bare.eval()
    for batch in in_order(part, BATCH, generator, limit):
        for name, values in state.family.evaluate(state.bare, batch).items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum()) / limit
    record: dict[str, Any] = {f"{prefix}/{name}": value for name, value in sums.items()}
    if state.family.monitor is not None:
        record |= state.family.monitor(state.bare, joined(part, generator, count(part, limit, MONITORED)))
    state.bare.train()
    return record


@torch.no_grad()
def save_sheet(state: State, phase: str, epoch: int) -> None:
    """Write samples into the run's folder, if the family can draw samples. They have the same seed after each epoch."""
    generator = torch.Generator(state.fabric.device).manual_seed(state.config.seed)
    drawn = state.family.draw(state.bare, sheets.DRAWN, generator)
    if drawn is not None:
        spec = state.data.spec
        sheets.save(drawn.float().cpu().numpy(), spec, sheets.path_of(state.run.folder, phase, epoch, spec))


@torch.no_grad()
def choose_average(state: State) -> dict[str, Any] | None:
    """Keep the better of two moving averages as the model's: the one with the lower first loss on held-out items (`test_record`).

    Return a record of both losses; None if there is only one average.
    """
    if state.second is None:
        return None
    found: dict[float, dict[str, Any]] = {}
    for average in (state.average, state.second):
        with average.applied():
            round_weights(state.bare, state.config.stored)
            found[average.decay] = test_record(state)
    first = next(iter(found[state.average.decay]))
    if found[state.second.decay][first] < found[state.average.decay][first]:
        state.average.exchange(state.second)
    losses = {f"{decay:g}": losses[first] for decay, losses in found.items()}
    return {"step": state.position.step, "averages": losses, "chosen": state.average.decay}


@torch.no_grad()
def save_figures(state: State) -> None:
    """Write the family's figures into the run's folder. They are those of the averaged weights, rounded as in the artifact."""
    with state.average.applied():
        state.bare.eval()
        round_weights(state.bare, state.config.stored)  # the context restores the model's own weights
        metrics = []
        if state.family.report is not None:
            state.family.finish(state.bare, state.config, state.data)
            found = state.family.report(state.bare, state.config, state.data)
            metrics = [metric.model_dump(mode="json") for metric in found]
    with replacing(state.run.folder / METRICS) as path:
        path.write_text(json.dumps(metrics, indent=1) + "\n")
