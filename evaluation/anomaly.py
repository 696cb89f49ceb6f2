"""A model judged as a detector: the rates that it keeps, what it finds, and how an isolation forest and plain neighbours do.

Figures are on rows that training never saw. A false alarm is a flagged row that is known to be normal: of unlabelled rows, only the share that
is flagged is stated. Where anomalies are known: AUROC, average precision (which depends on their share among the
judged rows), the share found where 1% of the other judged rows are flagged too, and the share that the calibrated line for 1% flags, which
was drawn before. The two peers are fitted on the same training items: an isolation forest (Liu, Ting and
Zhou, 2008) and the mean distance to the five nearest training items, in encoded columns or in pixels. If the model loses to them, a warning
says so. Images have no known anomalies of their own: those of another data set stand in.

Items are read in batches. In memory are one batch, and the training items that the peers are fitted on: at most FITTED, and FITTED_VALUES values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.report import rounded
from manifold.runtime import imaging, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.scores.scoring import Calibrated

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Peer = Callable[[Array], Float64]  # scores (n,) of items

RATES = (0.001, 0.01, 0.05, 0.1)
NEIGHBOURS = 5
REFERENCES = 10_000  # training items at most, for plain neighbours
FITTED = 60_000  # and for the forest
FITTED_VALUES = 2**28  # of these items, at most: 1 GiB as float32
SCORED = 2048  # items of a batch
SCORED_VALUES = 2**24  # of a batch at most, unless one item has more
RECORDED = "manifold fit"


class InputItems(Protocol):
    """Items as model inputs, such as an array (n, *shape). They may be read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Array:
        """Return the items of a slice, or at these indices."""
        ...


class JudgedItems:
    """The items that a model is judged by: held-out ones, then known anomalies."""

    def __init__(self, test: InputItems, anomalies: InputItems | None = None) -> None:
        self.test, self.anomalies = test, test[:0] if anomalies is None else anomalies

    def __len__(self) -> int:
        return len(self.test) + len(self.anomalies)

    def items(self, start: int, stop: int) -> Array:
        """Return the items start .. stop - 1."""
        n = len(self.test)
        pieces = [
            part[first:last]
            for part, first, last in (
                (self.test, start, min(stop, n)),
                (self.anomalies, max(start - n, 0), min(stop, len(self)) - n),
            )
            if first < last
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def batches(self) -> Iterator[Array]:
        """Yield all items in order."""
        size = _size(self.test, SCORED, SCORED_VALUES)
        for start in range(0, len(self), size):
            yield self.items(start, start + size)


def _size(items: InputItems, most: int, values: int) -> int:
    """Return how many items to read at once: `most`, or as many as have `values` values, at least 1."""
    return max(1, min(most, values // max(1, items[:1].size)))


@dataclass
class Judgement:
    """The figures of a detector. `terms` and `peers` are empty if no anomalies are known."""

    # of rows known to be normal: asked, met, and the 95% interval of Beta-Binomial(n; k, n_cal + 1 - k) over n
    rates: list[dict[str, Any]]
    terms: dict[str, dict[str, float]] = field(default_factory=dict)
    peers: dict[str, dict[str, float]] = field(default_factory=dict)
    # (n,), which of the rows that are not known to be anomalies are known to be normal
    normal: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    anomalies: int = 0
    unlabelled: list[dict[str, Any]] = field(default_factory=list)  # the same figures as `rates`, of the other rows
    scores: Float64 | None = None  # of all judged rows, the known anomalies last
    warnings: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Rows that are not known to be anomalies."""
        return len(self.normal)


def judge(
    model: Model,
    train: InputItems,
    test: InputItems,
    anomalies: InputItems | None = None,
    normal: NDArray[np.bool_] | None = None,
) -> Judgement:
    """Judge a model by training items, held-out ones, and known anomalies. Without training items there are no peers.

    `normal` (n,) says which held-out items are known to be normal. By default all are if anomalies are given, and none otherwise.
    """
    scoring, calibrated = model.manifest.scoring, model.calibrated
    assert scoring is not None
    judged = JudgedItems(test, anomalies)
    normal = np.full(len(test), anomalies is not None) if normal is None else normal
    peers = _peers(train) if len(judged.anomalies) and len(train) else {}
    by_term, by_peer = _scores(judged, lambda items: model.score(items).terms, peers)
    placed = calibrated.place(by_term)
    p = calibrated.p_values(scoring.score, placed[scoring.score])[: len(test)]
    judgement = Judgement(
        _rates(calibrated, scoring.score, p[normal]), normal=normal, anomalies=len(judged.anomalies), scores=placed[scoring.score],
        unlabelled=_rates(calibrated, scoring.score, p[~normal]),
    )  # fmt: skip
    if not len(judged.anomalies):
        return judgement
    labels = np.arange(len(judged)) >= len(test)
    compared = np.concatenate(
        [normal if normal.any() else ~normal, labels[len(test) :]]
    )  # anomalies beside normal rows
    for name, values in placed.items():
        flagged = calibrated.p_values(name, values[labels]) <= 0.01
        judgement.terms[name] = {
            **figures(labels[compared], values[compared]),
            "flagged_at_1%": rounded(float(flagged.mean())),
        }
    judgement.peers = {name: figures(labels[compared], values[compared]) for name, values in by_peer.items()}
    own = judgement.terms[scoring.score]["auroc"]
    for name, numbers in judgement.peers.items():
        if numbers["auroc"] > own:
            judgement.warnings.append(f"{name} does better here: AUROC {numbers['auroc']:.3f}, this model {own:.3f}")
    return judgement


def _rates(calibrated: Calibrated, term: str, p: Float64) -> list[dict[str, Any]]:
    """Return for each rate the share of p-values (n,) that its line flags; nothing for no rows."""
    from scipy.stats import betabinom

    found: list[dict[str, Any]] = []
    for rate in RATES if len(p) else ():
        line = calibrated.threshold(term, rate)
        if line.score is not None and line.p_value is not None:
            met, k = float((p <= line.p_value).mean()), round(line.p_value * (calibrated.n + 1))
            low, high = betabinom(len(p), k, calibrated.n + 1 - k).ppf([0.025, 0.975]) / len(p)
            found.append({"asked": rate, "met": rounded(met), "expected": [rounded(float(low)), rounded(float(high))]})
    return found


def _scores(
    judged: JudgedItems, terms: Callable[[Array], Mapping[str, Float64]], peers: Mapping[str, Peer]
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return the terms of all judged items, and the scores of the peers, (n,) by name. Each item is read once."""
    by_term, by_peer = [], []
    for items in judged.batches():
        by_term.append(terms(items))
        by_peer.append({name: peer(items) for name, peer in peers.items()})
    return _joined(by_term), _joined(by_peer)


def _joined(batches: Sequence[Mapping[str, Float64]]) -> dict[str, Float64]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def figures(labels: NDArray[np.bool_], scores: Float64) -> dict[str, float]:
    """Return AUROC, average precision, and the share of anomalies above the 99% quantile of the other rows."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    line = np.quantile(scores[~labels], 0.99)
    return {
        "auroc": rounded(float(roc_auc_score(labels, scores))),
        "average_precision": rounded(float(average_precision_score(labels, scores))),
        "found_at_1%": rounded(float((scores[labels] > line).mean())),
    }


def _peers(train: InputItems) -> dict[str, Peer]:
    """Return the peers by name, fitted on a random selection of the training items."""
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.Generator(np.random.Philox(0)).permutation(len(train))
    rows = _flat(train, chosen[: _size(train, FITTED, FITTED_VALUES)])
    forest = IsolationForest(random_state=0).fit(rows)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows))).fit(rows[:REFERENCES])
    return {
        "IForest": lambda items: -forest.score_samples(_row(items)),
        "input kNN": lambda items: nearest.kneighbors(_row(items))[0].mean(axis=1),
    }


def _flat(items: InputItems, indices: NDArray[np.int64]) -> Array:
    """Return the items at these indices as rows (n, D). They are read in batches."""
    one = items[:1]
    rows = np.empty((len(indices), one.size), one.dtype)
    size = _size(items, SCORED, SCORED_VALUES)
    for start in range(0, len(indices), size):
        rows[start : start + size] = _row(items[indices[start : start + size]])
    return rows


def _row(items: Array) -> Array:
    """Return items as rows (n, D), a missing value as 0."""
    return np.nan_to_num(items.reshape(len(items), -1), nan=0.0)


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
        Metric(name=f"{name}_at_{rate['asked']:g}", value=rate["met"], protocol={**common, "expected": rate["expected"]})
        for name, rates in (("false_positive_rate", judgement.rates), ("flagged_unlabelled", judgement.unlabelled))
        for rate in rates
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
