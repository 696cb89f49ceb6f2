"""The choice of the training rows that a detector is fitted to, if they may include anomalies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from manifold.training.detectors import mixture
from manifold.training.detectors.forest import IsolationForest
from manifold.training.detectors.histograms import Histograms
from manifold.training.detectors.sampled import SampledNeighbours

Array = NDArray[np.float64]

SIZES = (8, 32)  # rows of the samples of nearest neighbours
BATCH = 500  # rows that are scored at once


def usual(rows: Array, blocks: Sequence[slice], share: float, seed: int) -> NDArray[np.int64]:
    """Return the indices, ascending, of the rows (N, D) that remain without the `share` that is the most anomalous.

    The rows are ranked by five detectors that tolerate anomalies among the rows they are fitted to, and the log-survivals of the ranks are added
    (Fisher, 1932): nearest neighbours in samples of 8 and of 32 rows, histograms, an isolation forest (Liu, Ting and Zhou, 2008) and a mixture of
    Gaussians.
    """
    modules = [
        IsolationForest(rows, seed),
        *(SampledNeighbours(rows, size, seed) for size in SIZES),
        Histograms(rows),
        mixture.fit(rows, blocks, seed, robust=True),
    ]
    scores = [_scores(module, rows) for module in modules]
    nats = sum(-np.log(1 - (rankdata(each) - 0.5) / len(rows)) for each in scores)
    kept = np.argsort(nats, kind="stable")[: len(rows) - int(share * len(rows))]
    return np.sort(kept)


@torch.no_grad()
def _scores(module: torch.nn.Module, rows: Array) -> Array:
    made = []
    for start in range(0, len(rows), BATCH):
        output = module(torch.from_numpy(rows[start : start + BATCH]).float())
        made.append((output[0] if isinstance(output, tuple) else output).double().numpy())
    return np.concatenate(made)
