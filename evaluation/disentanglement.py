"""The disentanglement of a latent space (whether dimensions and factors of the data correspond one to one), and latent traversals.

MIG: Chen et al., 2018, arXiv 1802.04942, eq. 6. DCI: Eastwood and Williams, 2018, "A framework for the quantitative evaluation of
disentangled representations", with importances of random forests. Codes are posterior means (N, L). Factors (N, K) have few values each.

disentanglement_lib of Google Research computes MIG from the same bins of equal width. Its DCI has the same formulas, but importances of gradient
boosted trees instead of random forests, so that values of DCI from the two programs must not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.cells import directed
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.extractors import BATCH, map_batches
from manifold.evaluation.images import RealData, RealImages, pixels_of
from manifold.evaluation.markdown import table
from manifold.evaluation.model_inputs import conditions, inputs
from manifold.evaluation.report import Values, rounded
from manifold.runtime import imaging
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import supports
from manifold.runtime.operations.capabilities import abilities

Array = NDArray[Any]
Float64 = NDArray[np.float64]

BINS = 20  # number of bins of equal width for the mutual information with a real-valued code
MOST_VALUES = 100  # largest number of different values of a factor
TREES = 40
MOST_ITEMS = 10_000  # largest number of training items for the forests
ACTIVE = 0.01  # variance of the posterior mean over the data above which a dimension is active (Burda et al., 2015, section 5.1)
REACH, STEPS = 2.5, 11  # half length of a traversal in standard deviations, and its number of images


@dataclass(frozen=True)
class DCI:
    """The figures of DCI, all in 0..1. `importance` (L, K) sums to 1 over the dimensions of each factor."""

    disentanglement: float
    completeness: float
    informativeness: float  # mean accuracy of the forests on held-out items
    importance: Float64


def mutual_information(codes: Array, factors: Array, bins: int = BINS) -> tuple[Float64, Float64]:
    """Return I(code_j; factor_k) (L, K) and H(factor_k) (K,) in nats, from counts. Codes are cut into bins of equal width."""
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
    """Return the mutual information gap of each factor (K,): between its two most informative dimensions, divided by its entropy. MIG is the mean."""
    information, entropy = mutual_information(codes, factors)
    if len(information) < 2:
        raise EvaluationError(
            "model: it has 1 latent dimension; MIG needs at least 2, as it is a gap between two of them"
        )
    best = np.sort(information, axis=0)[::-1]
    gaps: Float64 = (best[0] - best[1]) / entropy
    return gaps


def dci(codes: Array, factors: Array, test_codes: Array, test_factors: Array, seed: int = 0) -> DCI:
    """Return DCI from random forests that predict each factor from the codes."""
    from sklearn.ensemble import RandomForestClassifier

    importance, right = [], []
    for k in range(factors.shape[1]):
        forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=2, random_state=seed, n_jobs=1)
        values = np.unique(factors[:, k])
        forest.fit(codes, np.searchsorted(values, factors[:, k]))
        importance.append(forest.feature_importances_)
        right.append(float((values[forest.predict(test_codes)] == test_factors[:, k]).mean()))
    matrix = np.stack(importance, axis=1).astype(np.float64)  # (L, K)
    return DCI(disentangled(matrix), complete(matrix), float(np.mean(right)), matrix)


def disentangled(importance: Float64) -> float:
    """Return the disentanglement of importances (L, K): 1 minus the entropy over the factors to base K, weighted by a dimension's importance."""
    total = importance.sum(axis=1)
    used = total > 0
    shares = importance[used] / total[used, None]
    spread = np.asarray([_entropy(row) for row in shares]) / np.log(importance.shape[1])
    return float((total[used] / total.sum() * (1 - spread)).sum())


def complete(importance: Float64) -> float:
    """Return the completeness of importances (L, K): 1 minus the entropy over the dimensions to base L, weighted by a factor's importance."""
    return disentangled(importance.T)


def _ranks(factor: Array) -> NDArray[np.int64]:
    values, ranks = np.unique(factor, return_inverse=True)
    if len(values) > MOST_VALUES:
        raise EvaluationError(f"data: a factor has {len(values)} different values; bin it into at most {MOST_VALUES}")
    flat: NDArray[np.int64] = ranks.reshape(-1)
    return flat


def _entropy(p: Float64) -> float:
    held = p[p > 0]
    return float(-(held * np.log(held)).sum())


def active(means: Array) -> list[int]:
    """Return the dimensions whose posterior mean varies over the data, the most variable first."""
    variance = means.astype(np.float64).var(axis=0)
    return [int(index) for index in np.argsort(-variance, kind="stable") if variance[index] > ACTIVE]


def traversals(
    model: Model, means: Array, item: int, classes: Any = None, steps: int = STEPS
) -> tuple[list[int], Array]:
    """Vary each active dimension of one item's latent. Return the dimensions and uint8 images (dimensions, steps, C, H, W).

    A dimension goes from REACH standard deviations below the mean of all posterior means to as many above it.
    """
    spec = model.manifest.spec
    if not spec.pictures:
        raise EvaluationError(f"model: {model.manifest.name} generates {spec.noun}, not images; choose an image model")
    centre, deviation = means.mean(axis=0), means.std(axis=0)
    dimensions, rows = active(means), []
    for dimension in dimensions:
        latents = np.repeat(means[item : item + 1], steps, axis=0).astype(np.float32)
        latents[:, dimension] = centre[dimension] + deviation[dimension] * np.linspace(-REACH, REACH, steps)
        rows.append(pixels_of(model, model.sample(steps, latents=latents, classes=classes).data))
    return dimensions, np.asarray(rows).reshape(len(rows), steps, *spec.shape)


def of_model(model: Model, data: RealData, item: int) -> tuple[dict[str, Any], bytes]:
    """Return the active dimensions, with MIG and DCI if the data's factors are known, and a PNG of traversals from a test item.

    The PNG has one row for each active dimension. Raises UnsupportedTask for a model that cannot encode into a latent, and EvaluationError
    for an item that does not exist.
    """
    manifest = model.manifest
    check_can(manifest)
    if not 0 <= item < data.test.n:
        raise EvaluationError(f"item: {item} does not exist; there are {data.test.n} test items, from 0", field="item")
    some = data.train.picked(MOST_ITEMS, 0)
    train, test = _means(model, some), _means(model, data.test)
    classes = conditions(model, data.test, ("encode", "decode"))(item, item + 1).get("classes")
    dimensions, rows = traversals(model, test, item, classes)
    if not dimensions:
        raise EvaluationError(
            f"model: {manifest.name} has no active latent dimension, as its posterior has collapsed; choose another model"
        )
    figures: dict[str, Any] = {
        "model": manifest.name, "version": manifest.version, "data": data.name, "latent": int(test.shape[1]), "active": len(dimensions),
        "dimensions": dimensions,
    }  # fmt: skip
    if some.factors is not None and data.test.factors is not None:
        figures |= _by_factor(train, some.factors, test, data.test.factors, some.factor_names)
    pixels = rows.reshape(-1, *rows.shape[2:])
    return figures, imaging.to_png(imaging.grid(pixels, columns=rows.shape[1], scale=max(1, round(56 / rows.shape[3]))))


def check_can(manifest: Manifest) -> None:
    """Raise UnsupportedTask for a model without an encoder into a latent space, or of items that no picture shows."""
    lacks = None
    if manifest.space is None or not supports(manifest, "interpolate") or not supports(manifest, "reconstruct"):
        lacks = "it has no encoder into a latent space, as a VAE has"
    elif not manifest.spec.pictures:
        lacks = f"it makes {manifest.spec.noun}, not images"
    if lacks:
        raise UnsupportedTask(
            f"{manifest.name}: its latent dimensions cannot be analysed: {lacks}; {abilities(manifest)}", field="model"
        )


def _means(model: Model, images: RealImages) -> Array:
    """Return the posterior means (N, L) of the images."""
    given = conditions(model, images, ("encode",))
    parts = map_batches(
        lambda start, stop: model.encode(inputs(model, images, start, stop), **given(start, stop)).placed, images.n, BATCH
    )  # fmt: skip
    return np.concatenate(parts)


def _by_factor(train: Array, factors: Array, test: Array, test_factors: Array, names: Sequence[str]) -> dict[str, Any]:
    """Return MIG and DCI as JSON values with their protocol."""
    gaps = mig(train, factors)
    parts = dci(train, factors, test, test_factors)
    importance = parts.importance.T.tolist()
    return {
        "mig": rounded(float(gaps.mean())), "mig_by_factor": dict(zip(names, map(rounded, gaps.tolist()), strict=True)),
        "dci_disentanglement": rounded(parts.disentanglement), "dci_completeness": rounded(parts.completeness),
        "dci_informativeness": rounded(parts.informativeness),
        "importance": {name: [rounded(value) for value in column] for name, column in zip(names, importance, strict=True)},
        "protocol": {"codes": "posterior means", "train": len(train), "test": len(test), "bins": BINS, "trees": TREES},
    }  # fmt: skip


def to_markdown(figures: Values) -> str:
    """Return the figures of `of_model` as Markdown."""
    lines = [
        f"# {figures['model']} {figures['version']} on {figures['data']}",
        f"{figures['active']} of {figures['latent']} dimensions are active",
    ]
    if "mig" in figures:
        names = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
        lines.append(table([directed(name) for name in names], [[f"{figures[name]:.3f}" for name in names]]))
        dimensions = figures["dimensions"]
        rows = [
            [factor, f"{figures['mig_by_factor'][factor]:.3f}", *(f"{shares[j]:.2f}" for j in dimensions)]
            for factor, shares in figures["importance"].items()
        ]
        lines.append(table(("factor", "mig", *(f"z{j}" for j in dimensions)), rows))
    return "\n\n".join(lines) + "\n"
