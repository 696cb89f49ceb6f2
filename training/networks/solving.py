"""The solvers of the family `flow` as torch modules: the loop over the rows of a table (networks.paths), with guidance and known pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manifold.training.networks.paths import LOOP_COLUMNS

Tables = Sequence[NDArray[np.float64]]


class Loop(nn.Module):
    """The loop of a solver over the evaluations of a network. `tables` has one table (paths.loop_table) for each number of steps in `steps`."""

    def __init__(self, network: nn.Module, tables: Tables, steps: Sequence[int], *, clips: bool) -> None:
        super().__init__()
        self.network, self.clips = network, clips
        most = max(map(len, tables))
        padded = np.stack([np.pad(table, ((0, most - len(table)), (0, 0))) for table in tables])
        self.tables = nn.Parameter(torch.from_numpy(padded).float(), requires_grad=False)
        self.counts = nn.Parameter(torch.tensor([len(table) for table in tables]), requires_grad=False)
        self.offered = nn.Parameter(torch.tensor(list(steps)), requires_grad=False)

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
        self, given: Tensor, condition: Tensor, guidance: Tensor | None, steps: Tensor, draws: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Run the loop: noise (B, C, H, W) to images in [-1, 1], or images to noise.

        `draws` (B, steps, C, H, W) are the normal draws of an ancestral solver. `known` contains a mask (B, 1, H, W) that is 1 for known pixels,
        and their values (B, C, H, W) in [-1, 1]. On the way, known pixels have the noise of `given`.
        """
        point = base = given
        before = torch.zeros_like(point)
        if guidance is not None:  # without a class both predictions are the same
            guidance = torch.where(condition.sum(1) > 0, guidance, torch.ones_like(guidance))
        for turn, row in enumerate(self.rows_of(steps).unbind(0)):
            time, keep, now, then, noise, moves, data, chance, signal, span = row.unbind(0)
            d = self.predict(point, time, condition, guidance)
            if self.clips and bool(span != 0):
                x = ((point - span * d) / signal).clamp(-1, 1)
                d = (point - signal * x) / span
            point = keep * base + now * d + then * before
            if draws is not None:
                point = point + noise * draws[:, turn]
            if known is not None:
                mask, given_x = known
                point = torch.where(mask > 0, data * given_x + chance * given, point)
            if bool(moves > 0):
                base = point
            before = d
        return point


assert len(LOOP_COLUMNS) == 10  # those that Loop.forward reads


def shown(x: Tensor) -> Tensor:
    """Map images in [-1, 1] to [0, 1]."""
    return ((x + 1) / 2).clamp(0, 1)


def nothing(x: Tensor) -> Tensor:
    """Return the condition of a network without classes for a batch like x: zeros (B, 1)."""
    return torch.zeros_like(x.flatten(1)[:, :1])


class Make(nn.Module):
    """The tasks `sample` and `decode`: noise (B, C, H, W), class weights (B, K), guidance (B,) and steps (B,) to images in [0, 1]."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, latent: Tensor, condition: Tensor, guidance: Tensor, steps: Tensor) -> Tensor:
        return shown(self.loop(latent, condition, guidance, steps))


class MakeFree(nn.Module):
    """The same of a network without classes: noise and steps to images."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, latent: Tensor, steps: Tensor) -> Tensor:
        return shown(self.loop(latent, nothing(latent), None, steps))


class MakeByChance(nn.Module):
    """The task `sample` of an ancestral solver, with a normal draw for each step."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, latent: Tensor, condition: Tensor, guidance: Tensor, steps: Tensor, draws: Tensor) -> Tensor:
        return shown(self.loop(latent, condition, guidance, steps, draws))


class MakeFreeByChance(nn.Module):
    """The same of a network without classes."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, latent: Tensor, steps: Tensor, draws: Tensor) -> Tensor:
        return shown(self.loop(latent, nothing(latent), None, steps, draws))


class Encode(nn.Module):
    """The task `encode`: images (B, C, H, W) in [0, 1], class weights and steps to noise, backwards along the path and without guidance."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, data: Tensor, condition: Tensor, steps: Tensor) -> Tensor:
        noise: Tensor = self.loop(2 * data - 1, condition, None, steps)
        return noise


class EncodeFree(nn.Module):
    """The same of a network without classes."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, data: Tensor, steps: Tensor) -> Tensor:
        noise: Tensor = self.loop(2 * data - 1, nothing(data), None, steps)
        return noise


class Complete(nn.Module):
    """The task `impute`: as `sample`, with images in [0, 1] and masks (B, 1, H, W). Pixels whose mask is above zero stay as they are.

    At each step they are replaced by their value on the path (Lugmayr et al., 2022, arXiv 2201.09865, without resampling).
    """

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(
        self, latent: Tensor, condition: Tensor, guidance: Tensor, steps: Tensor, data: Tensor, mask: Tensor
    ) -> Tensor:
        made = shown(self.loop(latent, condition, guidance, steps, None, (mask, 2 * data - 1)))
        return torch.where(mask > 0, data, made)


class CompleteFree(nn.Module):
    """The same of a network without classes."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop

    def forward(self, latent: Tensor, steps: Tensor, data: Tensor, mask: Tensor) -> Tensor:
        made = shown(self.loop(latent, nothing(latent), None, steps, None, (mask, 2 * data - 1)))
        return torch.where(mask > 0, data, made)
