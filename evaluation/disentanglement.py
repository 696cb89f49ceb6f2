"""Whether each latent dimension holds one factor of the data, and each factor sits in one dimension; and traversals to look at.

MIG: Chen et al., 2018, arXiv 1802.04942, eq. 6. DCI: Eastwood and Williams, 2018, "A framework for the quantitative evaluation of
disentangled representations", with importances of random forests. Codes are posterior means (N, L), factors (N, K) with few values each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.runtime import imaging
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec

Array = NDArray[Any]
Float64 = NDArray[np.float64]

BINS = 20  # of equal width, for the mutual information with a real-valued code
MOST_VALUES = 100  # of a factor
TREES = 40
ACTIVE = 0.01  # variance of the posterior mean over the data above which a dimension is active (Burda et al., 2015, section 5.1)
REACH, STEPS = 2.5, 11  # of a traversal, in deviations


@dataclass(frozen=True)
class DCI:
    """All in 0..1. `importance` (L, K) adds up to 1 over the dimensions of each factor."""

    disentanglement: float
    completeness: float
    informativeness: float  # mean accuracy of the forests on items that they have not seen
    importance: Float64


def mutual_information(codes: Array, factors: Array, bins: int = BINS) -> tuple[Float64, Float64]:
    """I(code_j; factor_k) (L, K) and H(factor_k) (K,), in nats, by counting; codes are cut into bins of equal width."""
    ranks = [_ranks(factor) for factor in factors.T]
    information = np.zeros((codes.shape[1], len(ranks)))
    for j, code in enumerate(codes.T):
        edges = np.linspace(code.min(), code.max(), bins + 1)[1:-1]
        cut = np.digitize(code, edges)
        for k, rank in enumerate(ranks):
            joint = np.zeros((bins, rank.max() + 1))
            np.add.at(joint, (cut, rank), 1 / len(code))
            independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
            held = joint > 0
            information[j, k] = (joint[held] * np.log(joint[held] / independent[held])).sum()
    return information, np.asarray([_entropy(np.bincount(rank) / len(rank)) for rank in ranks])


def mig(codes: Array, factors: Array) -> Float64:
    """The mutual information gap of each factor (K,): of the two dimensions that tell most of it, over its entropy. Its mean is MIG."""
    information, entropy = mutual_information(codes, factors)
    if len(information) < 2:
        raise EvaluationError("MIG is a gap between two latent dimensions, and there is one")
    best = np.sort(information, axis=0)[::-1]
    gaps: Float64 = (best[0] - best[1]) / entropy
    return gaps


def dci(codes: Array, factors: Array, test_codes: Array, test_factors: Array, seed: int = 0) -> DCI:
    """Forests that tell each factor from the codes: who needs which dimension."""
    from sklearn.ensemble import RandomForestClassifier

    importance, right = [], []
    for k in range(factors.shape[1]):
        forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=2, random_state=seed, n_jobs=1)
        values = np.unique(factors[:, k])
        forest.fit(codes, np.searchsorted(values, factors[:, k]))
        importance.append(forest.feature_importances_)
        right.append(float((values[forest.predict(test_codes)] == test_factors[:, k]).mean()))
    matrix = np.stack(importance, axis=1).astype(np.float64)  # (L, K)
    by_code, by_factor = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        spread = np.asarray([_entropy(row) for row in np.nan_to_num(matrix / by_code[:, None])]) / np.log(
            len(matrix[0])
        )
    apart = np.asarray([_entropy(column) for column in (matrix / by_factor).T]) / np.log(len(matrix))
    return DCI(
        float((by_code / by_code.sum() * (1 - spread)).sum()), float((by_factor / by_factor.sum() * (1 - apart)).sum()),
        float(np.mean(right)), matrix,
    )  # fmt: skip


def _ranks(factor: Array) -> NDArray[np.int64]:
    values, ranks = np.unique(factor, return_inverse=True)
    if len(values) > MOST_VALUES:
        raise EvaluationError(f"a factor has {len(values)} different values; cut it into at most {MOST_VALUES} first")
    found: NDArray[np.int64] = ranks.reshape(-1)
    return found


def _entropy(p: Float64) -> float:
    held = p[p > 0]
    return float(-(held * np.log(held)).sum())


def active(means: Array) -> list[int]:
    """Dimensions whose posterior mean varies over the data, most first."""
    variance = means.astype(np.float64).var(axis=0)
    return [int(index) for index in np.argsort(-variance, kind="stable") if variance[index] > ACTIVE]


def traversals(
    model: Model, means: Array, item: int, classes: Any = None, steps: int = STEPS
) -> tuple[list[int], Array]:
    """Each active dimension of one item's latent moved from end to end, the others held: the dimensions, and uint8 (rows, steps, C, H, W).

    Ends are REACH deviations of the posterior means to both sides of their mean.
    """
    spec = model.manifest.data
    if not isinstance(spec, ImageSpec):
        raise EvaluationError(f"{model.manifest.name} makes rows, which no picture shows")
    centre, deviation = means.mean(axis=0), means.std(axis=0)
    dimensions, rows = active(means), []
    for dimension in dimensions:
        latents = np.repeat(means[item : item + 1], steps, axis=0).astype(np.float32)
        latents[:, dimension] = centre[dimension] + deviation[dimension] * np.linspace(-REACH, REACH, steps)
        rows.append(imaging.to_uint8(model.sample(steps, latents=latents, classes=classes).data, spec))
    return dimensions, np.asarray(rows).reshape(len(rows), steps, *spec.shape)
