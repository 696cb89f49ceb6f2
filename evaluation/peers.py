"""The peers (baselines) of a detector: three classical detectors that are fitted to the same training items, in encoded columns or in pixels.

- An isolation forest (Liu, Ting and Zhou, 2008): how few random cuts of single columns separate an item from the others.
- Nearest neighbours: the mean distance to the five nearest training items.
- The Mahalanobis distance from the mean of the training items, which is the score of one Gaussian. Its covariance is that of Ledoit and Wolf
  (2004). Items with more than GAUSSIAN_VALUES values are too large for it.

For the first two, missing values are 0 in encoded columns. At most FITTED training items and FITTED_VALUES values are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.judged_items import InputItems, as_rows, bounded, read_rows

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Peer = Callable[[Array], Float64]  # returns the scores (n,) of items; higher is more anomalous

FOREST, NEAREST, GAUSSIAN = "IForest", "input kNN", "Gaussian"  # names in manifests
NAMES = {
    FOREST: "isolation forest",
    NEAREST: "nearest neighbours",
    GAUSSIAN: "Mahalanobis distance",
}  # names in texts
NEIGHBOURS = 5
REFERENCES = 10_000  # largest number of training items for the nearest neighbours and for the Gaussian
FITTED = 60_000  # largest number of training items for the forest
FITTED_VALUES = 2**28  # largest number of values in these items: 1 GiB as float32
GAUSSIAN_VALUES = 2048  # largest number of values of an item for the Gaussian


def fit(train: InputItems) -> dict[str, Peer]:
    """Return the peers by name, fitted to a random selection of the training items. There are none without training items."""
    if not len(train):
        return {}
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.Generator(np.random.Philox(0)).permutation(len(train))
    rows = read_rows(train, chosen[: bounded(train, FITTED, FITTED_VALUES)])
    gaussian = _gaussian(rows[:REFERENCES]) if len(rows) > 1 and rows.shape[1] <= GAUSSIAN_VALUES else None
    np.nan_to_num(rows, copy=False)
    forest = IsolationForest(random_state=0).fit(rows)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows))).fit(rows[:REFERENCES])
    found: dict[str, Peer] = {
        FOREST: lambda items: -forest.score_samples(_filled(items)),
        NEAREST: lambda items: nearest.kneighbors(_filled(items))[0].mean(axis=1),
    }
    return found if gaussian is None else {**found, GAUSSIAN: gaussian}


def _filled(items: Array) -> Array:
    """Return items as rows (n, D), with 0 for a missing value."""
    return np.nan_to_num(as_rows(items))


def _gaussian(rows: Array) -> Peer:
    """Return the Mahalanobis distance from the mean of rows (n, D). The mean of a column stands for a missing value, so that it adds no distance.

    With 0 instead, a missing category would be far away: the columns of a category sum to 1 in all other rows.
    """
    from sklearn.covariance import LedoitWolf

    known = ~np.isnan(rows)
    mean = np.where(known, rows, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    gaussian = LedoitWolf().fit(np.where(known, rows, mean))

    def distances(items: Array) -> Float64:
        given = as_rows(items)
        squared: Float64 = gaussian.mahalanobis(np.where(np.isnan(given), mean, given))
        return np.sqrt(np.maximum(squared, 0.0))  # rounding can make a squared distance of 0 negative

    return distances
