"""A model judged as a detector: the rates that it keeps, what it finds, and how an isolation forest and plain neighbours do.

Figures are on rows that training never saw. Where anomalies are known: AUROC, average precision (which depends on their share among the
judged rows), the share found where 1% of the other judged rows are flagged too, and the share that the calibrated line for 1% flags, which
was drawn before. The two peers are fitted on the same training items: an isolation forest (Liu, Ting and
Zhou, 2008) and the mean distance to the five nearest training items, in encoded columns or in pixels. Where the model loses to them, it says
so. Images have no known anomalies of their own: those of another data set stand in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.report import rounded
from manifold.runtime import imaging, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest, Metric

Array = NDArray[Any]
Float64 = NDArray[np.float64]

RATES = (0.001, 0.01, 0.05, 0.1)
NEIGHBOURS = 5
REFERENCES = 10_000  # training items at most, for plain neighbours
FITTED = 60_000  # and for the forest
RECORDED = "manifold fit"


@dataclass
class Judgement:
    """The figures of a detector. `terms` and `peers` are empty if no anomalies are known."""

    rates: list[dict[str, Any]]  # asked, met, and the 95% interval of Beta-Binomial(n; k, n_cal + 1 - k) over n
    terms: dict[str, dict[str, float]] = field(default_factory=dict)
    peers: dict[str, dict[str, float]] = field(default_factory=dict)
    n: int = 0  # rows that are not known to be anomalies
    anomalies: int = 0
    scores: Float64 | None = None  # of all judged rows, the known anomalies last
    warnings: list[str] = field(default_factory=list)


def judge(model: Model, train: Array, test: Array, anomalies: Array | None = None) -> Judgement:
    """Judge a model by model inputs (n, *shape): training items, held-out ones, and known anomalies."""
    from scipy.stats import betabinom

    scoring, calibrated = model.manifest.scoring, model.calibrated
    assert scoring is not None
    anomalies = test[:0] if anomalies is None else anomalies
    everything = np.concatenate([test, anomalies])
    placed = calibrated.place(model.score(everything).terms)
    judgement = Judgement([], n=len(test), anomalies=len(anomalies), scores=placed[scoring.score])
    p = calibrated.p_values(scoring.score, placed[scoring.score])[: len(test)]
    for rate in RATES:
        line = calibrated.threshold(scoring.score, rate)
        if line.score is not None and line.p_value is not None:
            met, k = float((p <= line.p_value).mean()), round(line.p_value * (calibrated.n + 1))
            low, high = betabinom(len(test), k, calibrated.n + 1 - k).ppf([0.025, 0.975]) / len(test)
            judgement.rates.append(
                {"asked": rate, "met": rounded(met), "expected": [rounded(float(low)), rounded(float(high))]}
            )
    if not len(anomalies):
        return judgement
    labels = np.arange(len(everything)) >= len(test)
    for name, values in placed.items():
        flagged = calibrated.p_values(name, values[labels]) <= 0.01
        judgement.terms[name] = {**figures(labels, values), "flagged_at_1%": rounded(float(flagged.mean()))}
    judgement.peers = {name: figures(labels, values) for name, values in _peers(train, test, anomalies).items()}
    own = judgement.terms[scoring.score]["auroc"]
    for name, numbers in judgement.peers.items():
        if numbers["auroc"] > own:
            judgement.warnings.append(f"{name} does better here: AUROC {numbers['auroc']:.3f}, this model {own:.3f}")
    return judgement


def figures(labels: NDArray[np.bool_], scores: Float64) -> dict[str, float]:
    """Return AUROC, average precision, and the share of anomalies above the 99% quantile of the other rows."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    line = np.quantile(scores[~labels], 0.99)
    return {
        "auroc": rounded(float(roc_auc_score(labels, scores))),
        "average_precision": rounded(float(average_precision_score(labels, scores))),
        "found_at_1%": rounded(float((scores[labels] > line).mean())),
    }


def _peers(train: Array, test: Array, anomalies: Array) -> dict[str, Float64]:
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.Generator(np.random.Philox(0)).permutation(len(train))
    train, items = (
        np.nan_to_num(part.reshape(len(part), -1), nan=0.0)
        for part in (train[chosen[:FITTED]], np.concatenate([test, anomalies]))
    )
    forest = IsolationForest(random_state=0).fit(train)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train[:REFERENCES])
    return {
        "IForest": -forest.score_samples(items),
        "input kNN": nearest.kneighbors(items)[0].mean(axis=1),
    }


def fitted(items: Array, spec: ImageSpec) -> Array:
    """Return uint8 images (N, C, H, W) of another data set as inputs of a model of `spec`: made grey and resized, as the service does."""
    if items.shape[1:] == spec.shape:
        return imaging.from_uint8(items, spec)
    return imaging.from_uint8(np.stack([imaging.read_image(imaging.to_png(item), spec)[0] for item in items]), spec)


def record(model: Model, judgement: Judgement, against: str | None = None) -> Manifest:
    """Write the figures into the artifact's manifest, in place of earlier ones. `against` names the data set of the anomalies."""
    manifest = manifests.read(model.folder)
    assert manifest.scoring is not None
    common = {"by": RECORDED, "n": judgement.n, "anomalies": judgement.anomalies, "score": manifest.scoring.score}
    if against is not None:
        common["against"] = against
    new = [
        Metric(name=f"false_positive_rate_at_{rate['asked']:g}", value=rate["met"], protocol={**common, "expected": rate["expected"]})
        for rate in judgement.rates
    ]  # fmt: skip
    if judgement.terms:
        beside = {
            name: numbers
            for name, numbers in (*judgement.peers.items(), *judgement.terms.items())
            if name != manifest.scoring.score
        }
        for name, value in judgement.terms[manifest.scoring.score].items():
            others = {other: numbers[name] for other, numbers in beside.items() if name in numbers}
            new.append(Metric(name=name, value=value, protocol={**common, "beside": others}))
    kept = [metric for metric in manifest.metrics if metric.protocol.get("by") != RECORDED]
    made = manifest.model_copy(update={"metrics": (*kept, *new)})
    repository.save(model.folder, made)
    return made
