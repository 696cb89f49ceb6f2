"""An isolation forest as a graph module (Liu, Ting and Zhou, 2008): anomalous rows are isolated by few random cuts."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

TREES = 200


class IsolationForest(nn.Module):
    """The anomaly score (B,) of rows (B, D), in (0, 1): 2 to the power of minus the mean depth, relative to that of random rows.

    The trees are those of scikit-learn, padded to the same number of nodes. A leaf points to itself.
    """

    roots: Tensor
    columns: Tensor
    cuts: Tensor
    below: Tensor
    above: Tensor
    lengths: Tensor

    def __init__(self, rows: Array, seed: int, trees: int = TREES) -> None:
        """Fit the forest to rows (N, D)."""
        super().__init__()
        from sklearn.ensemble import IsolationForest as Forest

        found = Forest(n_estimators=trees, random_state=seed).fit(rows.astype(np.float32))
        inner = [each.tree_ for each in found.estimators_]
        nodes = max(tree.node_count for tree in inner)
        self.depth = max(tree.max_depth for tree in inner)
        columns, below, above = (np.zeros((trees, nodes), np.int64) for _ in range(3))
        cuts, lengths = np.zeros((trees, nodes), np.float32), np.zeros((trees, nodes))
        for place, (tree, features) in enumerate(zip(inner, found.estimators_features_, strict=True)):
            n, leaf = tree.node_count, tree.children_left < 0
            itself = np.arange(n)
            columns[place, :n] = np.where(leaf, 0, features[tree.feature.clip(0)])
            # scikit-learn compares float32 values with float64 cuts; the largest float32 below a cut gives the same comparison
            cuts[place, :n] = _rounded_down(tree.threshold)
            below[place, :n] = np.where(leaf, itself, tree.children_left)
            above[place, :n] = np.where(leaf, itself, tree.children_right)
            lengths[place, :n] = _depths(tree) + _average(tree.n_node_samples)
        self.scale = float(trees * _average(np.asarray([found.max_samples_]))[0])
        offset = nodes * np.arange(trees)[:, None]
        self.register_buffer("roots", torch.from_numpy(offset[:, 0]))
        self.register_buffer("columns", torch.from_numpy(columns).flatten())
        self.register_buffer("cuts", torch.from_numpy(cuts).flatten())
        self.register_buffer("below", torch.from_numpy(below + offset).flatten())
        self.register_buffer("above", torch.from_numpy(above + offset).flatten())
        self.register_buffer("lengths", torch.from_numpy(lengths).float().flatten())

    def forward(self, x: Tensor) -> Tensor:
        place = torch.zeros_like(x[:, :1]).long() + self.roots  # (B, trees)
        for _ in range(self.depth):
            value = x.gather(1, self.columns[place])
            place = torch.where(value <= self.cuts[place], self.below[place], self.above[place])
        return (-math.log(2) * self.lengths[place].sum(1) / self.scale).exp()  # a trace cannot export exp2


def _rounded_down(values: Array) -> NDArray[np.float32]:
    """Return the largest float32 that is not above each value."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def _depths(tree: object) -> Array:
    """Return the number of cuts above each node of a tree of scikit-learn, whose parents come before their children."""
    left, right = np.asarray(getattr(tree, "children_left")), np.asarray(getattr(tree, "children_right"))  # noqa: B009
    depths = np.zeros(len(left))
    for node in np.flatnonzero(left >= 0):
        depths[[left[node], right[node]]] = depths[node] + 1
    return depths


def _average(n: NDArray[np.int64]) -> Array:
    """Return the average depth of an unsuccessful search in a binary search tree of n items (equation 1 of the paper)."""
    n = n.astype(np.float64)
    many = 2 * (np.log(np.maximum(n - 1, 1)) + np.euler_gamma) - 2 * (n - 1) / np.maximum(n, 1)
    return np.where(n > 2, many, np.where(n == 2, 1.0, 0.0))
