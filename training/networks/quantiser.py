"""The nearest-neighbour codebook of a VQ-VAE (van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937).

Forward: each vector is replaced by the nearest entry. Backward: the gradient passes straight through (section 3.1). The codebook follows
the vectors by gradient, |sg[z] - e|² (eq. 3), or by moving averages of counts and sums (appendix A.1). The commitment |z - sg[e]|² keeps the
encoder near the codebook.

The usual failure is a collapsed codebook. The codebook therefore starts from k-means of the first batch, and entries that are no longer used
are moved to vectors of the batch. Both steps choose vectors with a probability proportional to their squared distance from the existing
entries (k-means++, Arthur and Vassilvitskii, 2007). If vectors were chosen uniformly and most of an image were background, many entries would
start at one point, and rounding would decide which of them a vector is assigned to.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

LLOYD_STEPS = 10
TIED = 1e-20  # squared distance below which vectors count as equal
FADED = 1e-5  # moving average of a count below which its entry is not moved, as it would be noise


class Quantiser(nn.Module):
    """A codebook of K entries with d dimensions. Vectors are (N, d), codes int64 (N,)."""

    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, levels: int, dimensions: int, *, moving: bool, decay: float, restart: float) -> None:
        super().__init__()
        self.levels, self.moving, self.decay, self.restart = levels, moving, decay, restart
        self.codebook = nn.Parameter(torch.randn(levels, dimensions) / dimensions**0.5, requires_grad=not moving)
        self.register_buffer("counts", torch.ones(levels))  # moving averages: vectors per step, and their sums
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("started", torch.tensor(0))  # number of steps since k-means; 0 before it

    def nearest(self, z: Tensor) -> Tensor:
        """Return the codes (N,) of the nearest entries, by |z - e|² without |z|², which is the same for all entries."""
        return (self.codebook.square().sum(1) - 2 * (z @ self.codebook.T)).argmin(1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the entries (..., d) of codes (...,)."""
        return self.codebook[codes]

    def learn(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise for one training step: vectors with straight-through gradient (N, d), codes (N,), codebook loss and commitment (N,) each.

        This also updates a codebook that follows moving averages, and restarts unused entries. Random numbers come from the generator. If
        several processes train, counts and sums are those of all, and new entries come from the first process: the codebooks stay equal.
        """
        with torch.autocast(z.device.type, enabled=False):  # in half precision, other entries would be nearest
            return self._learn(z.float(), generator)

    def _learn(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not self.started:
            self._start(z.detach(), generator)
        codes = self.nearest(z)
        entries = self.embed(codes)
        commitment = (z - entries.detach()).square().sum(1)
        codebook = (z.detach() - entries).square().sum(1) if not self.moving else torch.zeros_like(commitment)
        passed = z + (entries - z).detach()
        self._follow(z.detach(), codes, generator)
        return passed, codes, codebook, commitment

    @torch.no_grad()
    def _start(self, z: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebook by k-means (Lloyd, 1982), from vectors of the batch that are far apart."""
        first = torch.randint(len(z), (1,), generator=generator, device=z.device)
        self.codebook.copy_(torch.cat([z[first], _apart(z, z[first], self.levels - 1, generator)]))
        for _ in range(LLOYD_STEPS):
            codes = self.nearest(z)
            counts, sums = self._totals(z, codes)
            kept = counts > 0
            self.codebook[kept] = sums[kept] / counts[kept, None]
        self.counts.copy_(self._totals(z, self.nearest(z))[0])
        self.sums.copy_(self.codebook * self.counts[:, None])
        for state in (self.codebook, self.counts, self.sums):
            _of_first_process(state)

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Update the moving averages, the codebook if it follows them, and the positions of unused entries."""
        self.started += 1
        steps = int(self.started)
        decay = min(self.decay, steps / (9 + steps))  # smaller at first, as the encoder then changes fastest
        counts, sums = (_over_processes(total) for total in self._totals(z, codes))
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        if self.moving:
            alive = self.counts > FADED
            self.codebook[alive] = self.sums[alive] / self.counts[alive, None]
        dead = self.counts < self.restart
        if self.restart and dead.any():
            fresh = _of_first_process(_apart(z, self.codebook[~dead], int(dead.sum()), generator))
            self.codebook[dead] = fresh
            # an average count, so that the entry is not restarted at once
            share = max(self.restart, float(counts.sum()) / self.levels)
            self.counts[dead] = share
            self.sums[dead] = fresh * share

    def _totals(self, z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.zeros_like(self.counts).index_add(0, codes, torch.ones_like(codes, dtype=z.dtype))
        return counts, torch.zeros_like(self.sums).index_add(0, codes, z)


def _over_processes(x: Tensor) -> Tensor:
    """Return the sum of x over all training processes. It replaces the values of x."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
    return x


def _of_first_process(x: Tensor) -> Tensor:
    """Return x of the first training process. It replaces the values of x."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(x, 0)
    return x


def _apart(z: Tensor, entries: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Choose n of the vectors z (N, d) in turn, by their squared distance from the nearest entry (K, d) or vector that was chosen before."""
    least = torch.cdist(z, entries).square().amin(1) if len(entries) else torch.ones_like(z[:, 0])
    chosen = []
    for _ in range(n):
        # if all vectors equal an entry, they are chosen uniformly. NaN would stop a GPU before the loop reports the loss that is not finite
        weights = least.nan_to_num(nan=TIED, posinf=TIED).clamp(min=TIED)
        one = z[torch.multinomial(weights, 1, generator=generator)]
        least = torch.minimum(least, (z - one).square().sum(1))
        chosen.append(one)
    return torch.cat(chosen) if chosen else z[:0]


def usage(codes: Tensor, levels: int) -> tuple[float, float]:
    """Return the share of the codebook that is used, and the perplexity exp H of the codes (of any shape)."""
    counts = torch.bincount(codes.flatten(), minlength=levels).double()
    p = counts[counts > 0] / counts.sum()
    return float((counts > 0).double().mean()), float(torch.exp(-(p * p.log()).sum()))
