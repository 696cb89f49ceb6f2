"""Nearest neighbours in many small samples of the training rows (LeSiNN: Pang, Ting and Albrecht, 2015), for rows that may include anomalies.

A small sample contains few anomalies, so a group of similar anomalies has no near neighbours in most samples. The distance to the nearest of
all rows would be small for them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

SAMPLES = 50


class SampledNeighbours(nn.Module):
    """The mean distance (B,) from rows (B, D) to the nearest row of each of S samples of m rows.

    The nearest row is found by one matrix product. Its distance is computed again from the differences, because |a|² - 2ab + |b|² loses its
    significant digits if two points are close.
    """

    points: Tensor

    def __init__(self, rows: Array, size: int, seed: int, samples: int = SAMPLES) -> None:
        """Draw the samples, each of `size` of the rows (N, D), or of all rows if they are fewer."""
        super().__init__()
        random = np.random.default_rng(seed)
        self.size = min(size, len(rows))
        chosen = np.concatenate([random.permutation(len(rows))[: self.size] for _ in range(samples)])
        self.register_buffer("points", torch.from_numpy(rows[chosen]).float())

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the distances. `added` (B,) is added to their squares."""
        half = 0.5 * (self.points * self.points).sum(1)
        order = (half - x @ self.points.T).view(x.shape[0], -1, self.size).argmin(2)  # (B, S), the place in each sample
        first = torch.arange(order.shape[1], device=x.device) * self.size
        differences = x[:, None] - self.points[order + first]  # (B, S, D)
        squared = (differences * differences).sum(2)
        return (squared if added is None else squared + added[:, None]).sqrt().mean(1)
