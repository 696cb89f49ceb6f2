"""The test losses, the sample sheet and the figures of a model while and after it is trained."""

from __future__ import annotations

import json
from typing import Any

import torch

from manifold.runtime.repository import replacing
from manifold.training.batches import in_order, joined
from manifold.training.data.parts import count
from manifold.training.loop import sheets
from manifold.training.loop.state import State
from manifold.training.networks.layers import round_weights
from manifold.training.runs import METRICS

BATCH = 500  # items
DRAWN = 64  # items of a sheet
MONITORED = 2**28  # values that `monitor` gets at most, in one batch: 1 GiB as float32


@torch.no_grad()
def test_record(state: State) -> dict[str, Any]:
    """Return losses on the test part (at most `test_items`) as `test/NAME`, and the family's other figures.

    The other figures are of the same items, or of the first ones if they have more than MONITORED values. All are computed with a
    generator of their own, so that they do not change the training's.
    """
    part, limit = state.data.test, min(len(state.data.test), state.config.test_items)
    generator = torch.Generator(state.fabric.device).manual_seed(state.config.seed)
    sums: dict[str, float] = {}
    state.bare.eval()
    for batch in in_order(part, BATCH, generator, limit):
        for name, values in state.family.evaluate(state.bare, batch).items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum()) / limit
    record: dict[str, Any] = {f"test/{name}": value for name, value in sums.items()}
    if state.family.monitor is not None:
        record |= state.family.monitor(state.bare, joined(part, generator, count(part, limit, MONITORED)))
    state.bare.train()
    return record


@torch.no_grad()
def save_sheet(state: State, name: str) -> None:
    """Write a sheet of drawn items into the run's folder, if the family draws any."""
    generator = torch.Generator(state.fabric.device).manual_seed(state.config.seed)
    drawn = state.family.draw(state.bare, DRAWN, generator)
    if drawn is not None:
        sheets.save(drawn.float().cpu().numpy(), state.data.spec, state.run.folder / "samples" / name)


@torch.no_grad()
def save_figures(state: State) -> None:
    """Write the family's figures of the averaged weights, as the artifact will store them, into the run's folder."""
    with state.average.applied():
        state.bare.eval()
        round_weights(state.bare, state.config.stored)  # the context puts them back
        metrics = [
            metric.model_dump(mode="json") for metric in state.family.report(state.bare, state.config, state.data)
        ]
    with replacing(state.run.folder / METRICS) as path:
        path.write_text(json.dumps(metrics, indent=1) + "\n")
