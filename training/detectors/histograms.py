"""Histograms of single columns: the nats of a row if its columns were independent (as HBOS; Goldstein and Dengel, 2012)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

BINS = (5, 20)  # least and largest number of bins; between them it is the root of the number of rows
PRIOR = 0.5  # pseudo-count of a bin, and of each side beyond the bins


class Histograms(nn.Module):
    """The nats (B,) of rows (B, D), summed over the values: -log of the share of training rows in the bin of a value."""

    lows: Tensor
    widths: Tensor
    nats: Tensor
    last: Tensor

    def __init__(self, rows: Array) -> None:
        """Fit equal bins between the least and the largest value of each column of the rows (N, D)."""
        super().__init__()
        n, size = rows.shape
        self.bins = int(min(max(np.sqrt(n), BINS[0]), BINS[1]))
        lows, highs = rows.min(0), rows.max(0)
        widths = np.where(highs > lows, (highs - lows) / self.bins, 1.0)
        counts = np.zeros((size, self.bins + 2))
        for column in range(size):  # one column at a time, since an array of all places would be as large as the rows
            places = np.clip(np.floor((rows[:, column] - lows[column]) / widths[column]), 0, self.bins - 1)
            counts[column, 1:-1] = np.bincount(places.astype(np.int64), minlength=self.bins)
        share = (counts + PRIOR) / (n + PRIOR * (self.bins + 2))
        self.register_buffer("lows", torch.from_numpy(lows).float())
        self.register_buffer("widths", torch.from_numpy(widths).float())
        self.register_buffer("nats", torch.from_numpy(-np.log(share)).float())
        self.register_buffer("last", torch.from_numpy(highs).float())

    def forward(self, x: Tensor) -> Tensor:
        place = ((x - self.lows) / self.widths).floor() + 1  # 0 and bins + 1: beyond the bins
        inside = (x >= self.lows) & (x <= self.last)
        place = torch.where(inside, place.clamp(1, self.bins), torch.where(x < self.lows, 0, self.bins + 1)).long()
        return self.nats[torch.arange(x.shape[1], device=x.device), place].sum(1)
