"""Tails of single columns (as ECOD; Li et al., 2022, arXiv 2201.00382): how few training rows have a value as far out.

The empirical distribution of a column is kept at a number of its quantiles.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

QUANTILES = 100


class Tails(nn.Module):
    """The score (B,) of rows (B, D): the largest of three sums over the values.

    They are the sums of -log of the share of training rows with at most this value, of those with at least it, and of either of them by the sign
    of the skewness of the column (a negative one: the left tail).
    """

    knots: Tensor
    left: Tensor

    def __init__(self, rows: Array, quantiles: int = QUANTILES) -> None:
        """Fit the distributions to rows (N, D)."""
        super().__init__()
        n = len(rows)
        self.n = min(n, quantiles)
        ordered = np.sort(rows, axis=0)
        chosen = np.linspace(0, n - 1, self.n).round().astype(np.int64)
        away = rows - rows.mean(0)
        self.register_buffer("knots", torch.from_numpy(ordered[chosen].T).float())  # (D, Q)
        self.register_buffer("left", torch.from_numpy((away**3).mean(0) < 0).float())

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None]
        at_most = (self.knots <= x).float().sum(2)  # (B, D), number of quantiles
        at_least = (self.knots >= x).float().sum(2)
        lower, upper = (-((count + 1) / (self.n + 1)).log() for count in (at_most, at_least))
        chosen = self.left * lower + (1 - self.left) * upper
        return torch.stack([lower.sum(1), upper.sum(1), chosen.sum(1)], 1).amax(1)
