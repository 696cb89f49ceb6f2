"""The nearest-neighbour codebook of a VQ-VAE (van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937).

Forward: each vector is replaced by the nearest entry. Backward: the gradient passes straight through (section 3.1). The codebook follows
its vectors either by gradient, |sg[z] - e|² (eq. 3), or by moving averages of counts and sums (appendix A.1); the encoder is held to the
codebook by the commitment |z - sg[e]|². It starts from k-means of the first batch, and entries that nothing falls on any more are put where
vectors are: a collapsed codebook is the usual failure. Both choose vectors by their squared distance to the entries there are (k-means++,
Arthur and Vassilvitskii, 2007): where most of an image is background, vectors chosen evenly would put many entries on one point, and which
of them a vector gets would be rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LLOYD_STEPS = 10
TIED = 1e-20  # squared distance below which vectors are the same
FADED = 1e-5  # a moving average this small is noise: its entry stays where it is


class Quantiser(nn.Module):
    """K entries of d dimensions. Vectors are (N, d), codes (N,) int64."""

    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, levels: int, dimensions: int, *, moving: bool, decay: float, restart: float) -> None:
        super().__init__()
        self.levels, self.moving, self.decay, self.restart = levels, moving, decay, restart
        self.codebook = nn.Parameter(torch.randn(levels, dimensions) / dimensions**0.5, requires_grad=not moving)
        self.register_buffer("counts", torch.ones(levels))  # moving averages: vectors a step, and their sums
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("started", torch.tensor(0))  # steps since k-means; 0 before it

    def nearest(self, z: Tensor) -> Tensor:
        """Return codes (N,) of the nearest entries, by |z - e|² without the part that is the same for all."""
        return (self.codebook.square().sum(1) - 2 * (z @ self.codebook.T)).argmin(1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return entries of codes (...,), (..., d)."""
        return self.codebook[codes]

    def learn(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return one step's pass: vectors with straight-through gradient (N, d), codes (N,), codebook loss and commitment (N,) each.

        The codebook is moved here where it follows by averages, and restarted where it is dead; chance comes from the generator.
        """
        with torch.autocast(z.device.type, enabled=False):  # distances in half precision would choose other entries
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
        """Start the codebook by k-means from vectors of the batch that lie apart; Lloyd, 1982."""
        first = torch.randint(len(z), (1,), generator=generator, device=z.device)
        self.codebook.copy_(torch.cat([z[first], _apart(z, z[first], self.levels - 1, generator)]))
        for _ in range(LLOYD_STEPS):
            codes = self.nearest(z)
            counts, sums = self._totals(z, codes)
            kept = counts > 0
            self.codebook[kept] = sums[kept] / counts[kept, None]
        self.counts.copy_(self._totals(z, self.nearest(z))[0])
        self.sums.copy_(self.codebook * self.counts[:, None])

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Update moving averages of counts and sums, the codebook where it follows them, and new places for dead entries."""
        self.started += 1
        steps = int(self.started)
        decay = min(self.decay, steps / (9 + steps))  # the encoder moves fastest at first, and averages must keep up
        counts, sums = self._totals(z, codes)
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        if self.moving:
            alive = self.counts > FADED
            self.codebook[alive] = self.sums[alive] / self.counts[alive, None]
        dead = self.counts < self.restart
        if self.restart and dead.any():
            fresh = _apart(z, self.codebook[~dead], int(dead.sum()), generator)
            self.codebook[dead] = fresh
            share = max(self.restart, float(counts.sum()) / self.levels)  # as if it had its share: time to win vectors
            self.counts[dead] = share
            self.sums[dead] = fresh * share

    def _totals(self, z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.zeros_like(self.counts).index_add(0, codes, torch.ones_like(codes, dtype=z.dtype))
        return counts, torch.zeros_like(self.sums).index_add(0, codes, z)


def _apart(z: Tensor, entries: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n of the vectors z (N, d), one after the other, each by its squared distance to the nearest entry (K, d) or vector chosen before."""
    least = torch.cdist(z, entries).square().amin(1) if len(entries) else torch.ones_like(z[:, 0])
    chosen = []
    for _ in range(n):
        # where everything is at an entry already, any vector will do
        one = z[torch.multinomial(least.clamp(min=TIED), 1, generator=generator)]
        least = torch.minimum(least, (z - one).square().sum(1))
        chosen.append(one)
    return torch.cat(chosen) if chosen else z[:0]


def usage(codes: Tensor, levels: int) -> tuple[float, float]:
    """Return the part of the codebook that occurs, and the perplexity exp H of the codes (any shape)."""
    counts = torch.bincount(codes.flatten(), minlength=levels).double()
    p = counts[counts > 0] / counts.sum()
    return float((counts > 0).double().mean()), float(torch.exp(-(p * p.log()).sum()))
