"""A classifier of the noise in a row: how far a row is from the training rows, as a network estimates it.

Training rows are disturbed as in a diffusion, sqrt(a_t) x + sqrt(1 - a_t) noise, and a network is trained to tell t. A row that looks like one with
much noise is far from the training rows (diffusion time estimation; Livernoche et al., 2024, arXiv 2305.18593).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

TIMES = 300  # steps of the diffusion
BETAS = (1e-4, 0.01)  # variances of the noise that the first and the last step add
LEVELS = 7  # the classes: equal parts of the steps
WIDTH = 128  # units of the two hidden layers
STEPS, BATCH = 1500, 256
RATE, DECAY = 1e-3, 5e-4  # learning rate, which falls to 0 as a cosine, and weight decay


def noise(times: int = TIMES) -> Array:
    """Return 1 - a_t (T,), the share of the variance that is noise after each step."""
    return np.asarray(1 - np.cumprod(1 - np.linspace(*BETAS, times)))


class Denoiser(nn.Module):
    """The expected level of noise (B,) of rows (B, D), from 0 (none) to LEVELS - 1."""

    levels: Tensor

    def __init__(self, rows: Array, seed: int) -> None:
        """Train the classifier on rows (N, D) in scaled units."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            size = rows.shape[1]
            self.network = nn.Sequential(
                nn.Linear(size, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, LEVELS)
            )
        self.register_buffer("levels", torch.arange(LEVELS).float())
        with torch.enable_grad():
            self._train(torch.from_numpy(rows).float(), torch.Generator().manual_seed(seed))
        self.requires_grad_(False)

    def _train(self, rows: Tensor, random: torch.Generator) -> None:
        optimiser = torch.optim.Adam(self.network.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        added = torch.from_numpy(noise()).float()
        for _ in range(STEPS):
            clean = rows[torch.randint(len(rows), (BATCH,), generator=random)]
            times = torch.randint(TIMES, (BATCH,), generator=random)
            share = added[times, None]
            noisy = (1 - share).sqrt() * clean + share.sqrt() * torch.randn(clean.shape, generator=random)
            loss = nn.functional.cross_entropy(self.network(noisy), times * LEVELS // TIMES)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()

    def forward(self, x: Tensor) -> Tensor:
        expected: Tensor = self.network(x).softmax(1) @ self.levels
        return expected
