"""Evidence for the weights of score terms: how well each finds synthetic anomalies among training rows that it was not fitted to.

Each kind of synthetic anomaly is a training row that was disturbed: one column, a third of the columns or all columns have the values of other rows,
numbers have noise, or all values are uniform. A term that does not see a kind of dependence between columns fails to find some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Score = Callable[[Tensor], Tensor]  # rows (B, D) to a score (B,)

ROWS = 5000  # largest number of rows
FOLDS, FEW = 5, 1000  # number of folds with fewer than FEW rows; otherwise one fifth of the rows is held out once
POWER = 2  # a weight is this power of the AUROC; larger powers left the combination below the median of its terms on more data sets
BATCH = 500  # rows that are scored at once


def synthetic(rows: Array, blocks: Sequence[slice], random: np.random.Generator) -> dict[str, Array]:
    """Return the disturbed rows (N, D) of each kind, by name. `blocks` are the values of each column: one for a number, several for a category."""
    n, columns = len(rows), len(blocks)
    numbers = np.concatenate([np.full(block.stop - block.start, block.stop - block.start == 1) for block in blocks])
    one = np.arange(columns) == random.integers(columns, size=(n, 1))
    third = one | (random.random((n, columns)) < 1 / 3)
    made = {
        name: _exchanged(rows, blocks, chosen, random)
        for name, chosen in (("one column", one), ("a third of the columns", third), ("all columns", one | True))
    }
    made["noise"] = rows + np.where(numbers, rows.std(0) * random.standard_normal(rows.shape), 0.0)
    uniform = rows.min(0) + (rows.max(0) - rows.min(0)) * random.random(rows.shape)
    for block in blocks:
        if block.stop - block.start > 1:  # a category of the same probability as the others
            size = block.stop - block.start
            uniform[:, block] = np.eye(size)[random.integers(size, size=n)]
    made["uniform"] = uniform
    return made


def _exchanged(rows: Array, blocks: Sequence[slice], chosen: NDArray[np.bool_], random: np.random.Generator) -> Array:
    """Return the rows with the chosen columns (N, C) of other rows."""
    made = rows.copy()
    for place, block in enumerate(blocks):
        here = np.flatnonzero(chosen[:, place])
        made[here, block] = rows[random.integers(len(rows), size=len(here)), block]
    return made


def aurocs(
    rows: Array, blocks: Sequence[slice], fit: Callable[[Array], Mapping[str, Score]], seed: int
) -> dict[str, float]:
    """Return the mean AUROC over the kinds of synthetic anomalies of each term that `fit` returns for some of the rows (N, D)."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    rows = rows[random.permutation(len(rows))[:ROWS]]
    usual: dict[str, list[Array]] = {}
    found: dict[str, dict[str, list[Array]]] = {}
    for rest, held_out in _parts(rows):
        disturbed = synthetic(held_out, blocks, random)
        for name, score in fit(rest).items():
            usual.setdefault(name, []).append(scored(score, held_out))
            for kind, items in disturbed.items():
                found.setdefault(name, {}).setdefault(kind, []).append(scored(score, items))
    return {
        name: float(np.mean([_auroc(roc_auc_score, usual[name], each) for each in kinds.values()]))
        for name, kinds in found.items()
    }


def _parts(rows: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the rows to fit to, and those held out."""
    folds = min(FOLDS, len(rows))
    for fold in range(folds if len(rows) < FEW else 1):
        yield np.delete(rows, np.s_[fold::folds], 0), rows[fold::folds]


def _auroc(measure: Callable[[Array, Array], float], usual: Sequence[Array], found: Sequence[Array]) -> float:
    values = np.concatenate([*usual, *found])
    return measure(np.repeat([0.0, 1.0], len(values) // 2), values)


def weights(aurocs: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of terms with these AUROCs: their squares, with mean 1."""
    squares = {name: auroc**POWER for name, auroc in aurocs.items()}
    mean = sum(squares.values()) / len(squares)
    return {name: round(square / mean, 3) for name, square in squares.items()}


@torch.no_grad()
def scored(score: Score, rows: Array) -> Array:
    """Return the scores (N,) of rows (N, D), computed in batches."""
    pieces = [score(torch.from_numpy(rows[start : start + BATCH]).float()) for start in range(0, len(rows), BATCH)]
    return torch.cat(pieces).double().numpy()
