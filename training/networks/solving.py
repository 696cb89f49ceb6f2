"""The solvers of the family `flow` as torch modules: the loop over the rows of a table (networks.paths), with guidance and known pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manifold.training.networks.paths import COLUMNS

Tables = Sequence[NDArray[np.float64]]


class Loop(nn.Module):
    """The loop of a solver over the evaluations of a network. `tables` has one table for each number of steps in `steps`."""

    tables: Tensor
    counts: Tensor
    offered: Tensor

    def __init__(self, network: nn.Module, tables: Tables, steps: Sequence[int], *, clips: bool) -> None:
        super().__init__()
        self.network, self.clips = network, clips
        most = max(map(len, tables))
        padded = np.stack([np.pad(table, ((0, most - len(table)), (0, 0))) for table in tables])
        self.register_buffer("tables", torch.from_numpy(padded).float(), persistent=False)
        self.register_buffer("counts", torch.tensor([len(table) for table in tables]), persistent=False)
        self.register_buffer("offered", torch.tensor(list(steps)), persistent=False)

    def rows_of(self, steps: Tensor) -> Tensor:
        """Return the table for a number of steps (B,), which must be equal for all items."""
        place = int((self.offered == steps[0]).int().argmax())
        return self.tables[place, : int(self.counts[place])]

    def predict(self, x: Tensor, time: Tensor, condition: Tensor, guidance: Tensor | None) -> Tensor:
        """Return the prediction of the network: c + (g - 1) (c - u) with class weights (c) and without (u), for a guidance g (B,).

        This is classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) in the form in which g = 1 is the conditional network, and
        g = 0 the unconditional one. If g = 1 for all items, the network runs once instead of twice.
        """
        times = time.expand(len(x))
        if guidance is None or bool((guidance == 1).all()):
            only: Tensor = self.network(x, times, condition)
            return only
        both = self.network(
            torch.cat([x, x]), torch.cat([times, times]), torch.cat([condition, torch.zeros_like(condition)])
        )
        with_class, without = both.chunk(2)
        guided: Tensor = with_class + (guidance[:, None, None, None] - 1) * (with_class - without)
        return guided

    def forward(
        self, start: Tensor, condition: Tensor, guidance: Tensor | None, steps: Tensor, draws: Tensor | None = None,
        known: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Run the loop from `start` (B, C, H, W). Return its last point.

        `draws` (B, steps, C, H, W) are the normal draws of an ancestral solver. `known` contains a mask (B, 1, H, W) that is 1 for known pixels,
        their values (B, C, H, W) in [-1, 1], and noise (B, C, H, W).
        """
        point = base = start
        before = torch.zeros_like(start)
        for turn, row in enumerate(self.rows_of(steps).unbind(0)):
            time, scale, now, then, noise, moves, data, chance, span = row.unbind(0)
            d = self.predict(scale * point, time, condition, guidance)
            if self.clips and bool(span != 0):
                d = (point - (point - span * d).clamp(-1, 1)) / span
            point = base + now * d + then * before
            if draws is not None:
                point = point + noise * draws[:, turn]
            if known is not None:
                mask, x, e = known
                point = torch.where(mask > 0, data * x + chance * e, point)
            if bool(moves > 0):
                base = point
            before = d
        return point


assert len(COLUMNS) == 9  # those that Loop.forward reads
