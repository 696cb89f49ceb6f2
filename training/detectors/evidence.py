"""Evidence for the weights of score terms, from training rows that the terms were not fitted to.

If the training rows are normal, it is how well each term finds synthetic anomalies among them. If they may include anomalies, it is how much each term
agrees with the others: what most terms find anomalous is more likely to be an anomaly, and synthetic anomalies would be evidence against
the right term.

Each kind of synthetic anomaly is a training row that was disturbed: one column, a third of the columns or all columns have the values of other rows,
numbers have noise, or all values are uniform. A term that does not see a kind of dependence between columns fails to find some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Score = Callable[[Tensor], Tensor]  # rows (B, D) to a score (B,)

ROWS = 5000  # largest number of rows
FOLDS, FEW = 5, 1000  # number of folds with fewer than FEW rows; otherwise one fifth of the rows is held out once
# a weight is this power of the AUROC, or of the agreement; larger ones left the combination below the median of its terms on more data sets
AUROC_POWER, AGREEMENT_POWER = 2, 1
LOWEST = 0.1  # least evidence, so that no term is ignored
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


def agreements(
    rows: Array, usual: NDArray[np.bool_], fit: Callable[[Array, Array], Mapping[str, Score]], seed: int
) -> dict[str, float]:
    """Return the mean Spearman correlation of each term with the other terms on held-out rows.

    `usual` marks the rows (N, D) that are not trimmed. `fit` gets all of the rows to fit to, and the usual ones among them.
    """
    from scipy.stats import rankdata

    order = np.random.default_rng(seed).permutation(len(rows))[:ROWS]
    found: dict[str, list[Array]] = {}
    for rest, held_out in _parts(order):
        for name, score in fit(rows[rest], rows[rest][usual[rest]]).items():
            found.setdefault(name, []).append(scored(score, rows[held_out]))
    ranks = np.stack([rankdata(np.concatenate(each)) for each in found.values()])
    away = ranks - ranks.mean(1, keepdims=True)
    sizes = np.sqrt((away * away).sum(1))
    related = (away @ away.T) / np.maximum(np.outer(sizes, sizes), 1e-12)  # 0 for a constant term
    others = (related.sum(1) - related.diagonal()) / max(len(found) - 1, 1)
    return {name: float(value) for name, value in zip(found, others, strict=True)}


def _parts(rows: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the rows to fit to, and those held out."""
    folds = min(FOLDS, len(rows))
    for fold in range(folds if len(rows) < FEW else 1):
        yield np.delete(rows, np.s_[fold::folds], 0), rows[fold::folds]


def _auroc(measure: Callable[[Array, Array], float], usual: Sequence[Array], found: Sequence[Array]) -> float:
    values = np.concatenate([*usual, *found])
    return measure(np.repeat([0.0, 1.0], len(values) // 2), values)


def weights(found: Mapping[str, float], power: int) -> dict[str, float]:
    """Return the weights of terms with this evidence: a power of it, with mean 1. Evidence below LOWEST counts as LOWEST."""
    powers = {name: max(value, LOWEST) ** power for name, value in found.items()}
    mean = sum(powers.values()) / len(powers)
    return {name: round(each / mean, 3) for name, each in powers.items()}


@torch.no_grad()
def scored(score: Score, rows: Array) -> Array:
    """Return the scores (N,) of rows (N, D), computed in batches."""
    pieces = [score(torch.from_numpy(rows[start : start + BATCH]).float()) for start in range(0, len(rows), BATCH)]
    return torch.cat(pieces).double().numpy()
