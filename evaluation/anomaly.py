"""The evaluation of a model as an anomaly detector: measured false positive rates, detected anomalies, and a comparison with peers.

All figures are measured on items that were not used in training. A false positive is a flagged item that is known to be normal. For
unlabelled items only the flagged share is stated. evaluation.rates compares the rates with the requested ones. If anomalies are known, there are
four figures:

- AUROC.
- Average precision, which depends on the share of anomalies among the evaluated items.
- Recall at the threshold that flags 1% of the other evaluated items (`found_at_1%`).
- Recall at the threshold that was calibrated for 1% beforehand (`flagged_at_1%`).

evaluation.peers fits the peers to the same training items. evaluation.agreement compares their ranks of all evaluated items with those of the
model, which needs no labels. If anomalies are known, the peers are baselines: there is a warning if one has a higher AUROC than the model. Image
data sets contain no known anomalies, so the images of another data set are used.

Items are read in batches. One batch, and the training items for the peers, are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import agreement, peers, rates
from manifold.evaluation.agreement import Agreement
from manifold.evaluation.judged_items import InputItems, JudgedItems
from manifold.evaluation.peers import Peer
from manifold.evaluation.report import rounded
from manifold.runtime import imaging, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.scores.drift import Distance
from manifold.runtime.scores.measured import RATE, RECORDED

Array = NDArray[Any]
Float64 = NDArray[np.float64]

CHANCE = 0.5  # AUROC of random scores
CORRELATION = "rank_correlation_"  # such a figure is named after the peer


@dataclass
class Judgement:
    """The figures of a detector. `terms` and `peers` are empty if no anomalies are known."""

    # for items known to be normal: requested rate, measured rate, and the interval of evaluation.rates
    rates: list[dict[str, Any]]
    terms: dict[str, dict[str, float]] = field(default_factory=dict)
    peers: dict[str, dict[str, float]] = field(default_factory=dict)
    # (n,), whether a held-out item is known to be normal
    normal: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    anomalies: int = 0
    unlabelled: list[dict[str, Any]] = field(default_factory=list)  # the figures of `rates` for other items
    scores: Float64 | None = None  # scores of all evaluated items, known anomalies last
    agreement: Agreement | None = None  # the comparison with the scores of the peers; None without training items
    warnings: list[str] = field(default_factory=list)
    shift: str = (
        ""  # the reason why the held-out items and the calibration items are not exchangeable; empty if they are
    )
    comparison: Distance | None = None  # the scores of held-out items against the calibration scores
    held_out: bool = True  # False for items that the model may have been trained on
    notes: Sequence[str] = ()  # how the model was chosen and fitted
    order: Distance | None = None  # the scores of the first half of a file against those of the second half

    @property
    def n(self) -> int:
        """The number of held-out items, which are not known to be anomalies."""
        return len(self.normal)

    def named(self, noun: str) -> str:
        """Return the name of the evaluated items: held-out rows, or rows."""
        return f"held-out {noun}" if self.held_out else noun


def judge(
    model: Model,
    train: InputItems,
    test: InputItems,
    anomalies: InputItems | None = None,
    normal: NDArray[np.bool_] | None = None,
    *,
    shift: str = "",
    numbers: NDArray[np.int64] | None = None,
) -> Judgement:
    """Evaluate a model as a detector on held-out items and known anomalies. Without training items there are no peers.

    `normal` (n,) marks the held-out items that are known to be normal. By default these are all if anomalies are given, and none otherwise.
    `shift` is the reason why the held-out items and the calibration items are not exchangeable.
    `numbers` (n,) are the numbers of the held-out items in a file. Raises UnsupportedTask for a model without a calibration.
    """
    scoring, calibrated = model.manifest.scoring, model.calibrated
    assert scoring is not None
    if not calibrated.n:
        raise UnsupportedTask(
            f"model: {model.name} has no calibration, so it has no false positive rates to measure; calibrate it with `manifold calibrate`",
            field="model",
        )
    judged = JudgedItems(test, anomalies)
    normal = np.full(len(test), anomalies is not None) if normal is None else normal
    by_term, by_peer = _scores(judged, lambda items: model.score(items).terms, peers.fit(train))
    placed = calibrated.place(by_term)
    scores = placed[scoring.score]
    p = calibrated.p_values(scoring.score, scores)[: len(test)]
    judgement = Judgement(
        rates.measure(calibrated, scoring.score, p[normal]), normal=normal, anomalies=len(judged.anomalies), scores=scores,
        unlabelled=rates.measure(calibrated, scoring.score, p[~normal]), shift=shift,
        agreement=agreement.compare(scores, by_peer) if by_peer else None,
    )  # fmt: skip
    compared = normal if normal.any() else ~normal
    own_scores = scores[: len(test)][compared]
    judgement.comparison = rates.comparison(calibrated, scoring.score, own_scores)
    judgement.order = None if numbers is None else rates.order(own_scores, numbers[compared])
    judgement.warnings += rates.warnings(
        model.manifest.spec.noun, shift=shift, compared=judgement.comparison, ordered=judgement.order,
        labelled=bool(normal.any()),
    )  # fmt: skip
    if not len(judged.anomalies):
        return judgement
    labels = np.arange(len(judged)) >= len(test)
    # normal items, then anomalies
    ranked = np.concatenate([compared, labels[len(test) :]])
    for name, values in placed.items():
        flagged = calibrated.p_values(name, values[labels]) <= 0.01
        judgement.terms[name] = {
            **figures(labels[ranked], values[ranked]),
            "flagged_at_1%": rounded(float(flagged.mean())),
        }
    judgement.peers = {name: figures(labels[ranked], values[ranked]) for name, values in by_peer.items()}
    judgement.warnings += _weak(judgement, scoring.score)
    return judgement


def _weak(judgement: Judgement, score: str) -> Iterator[str]:
    """Yield warnings about a score that ranks anomalies worse than chance, or worse than a baseline."""
    own = judgement.terms[score]["auroc"]
    if own < CHANCE:
        yield (
            f"the AUROC {own:.3f} is below {CHANCE}: known anomalies have lower scores than other items, so this detector is not usable. Check that the "
            "truth marks the anomalies and not the normal items, and that no important column is left out"
        )
    for name, numbers in judgement.peers.items():
        if numbers["auroc"] > max(own, CHANCE):
            yield f"the baseline {peers.NAMES.get(name, name)} is better here: its AUROC is {numbers['auroc']:.3f}, this model's is {own:.3f}"


def _scores(
    judged: JudgedItems, terms: Callable[[Array], Mapping[str, Float64]], fitted_peers: Mapping[str, Peer]
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return the terms of all evaluated items and the scores of the peers, (n,) by name. Each item is read once."""
    by_term, by_peer = [], []
    for items in judged.batches():
        by_term.append(terms(items))
        by_peer.append({name: peer(items) for name, peer in fitted_peers.items()})
    return _joined(by_term), _joined(by_peer)


def _joined(batches: Sequence[Mapping[str, Float64]]) -> dict[str, Float64]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def figures(labels: NDArray[np.bool_], scores: Float64) -> dict[str, float]:
    """Return AUROC, average precision, and the share of anomalies above the 99% quantile of the other items."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    line = np.quantile(scores[~labels], 0.99)
    return {
        "auroc": rounded(float(roc_auc_score(labels, scores))),
        "average_precision": rounded(float(average_precision_score(labels, scores))),
        "found_at_1%": rounded(float((scores[labels] > line).mean())),
    }


def fitted(items: Array, spec: ImageSpec) -> Array:
    """Convert uint8 images (N, C, H, W) of another data set to inputs for `spec`. They are made grey and resized, as in the service."""
    if items.shape[1:] == spec.shape:
        return imaging.from_uint8(items, spec)
    return imaging.from_uint8(np.stack([imaging.read_image(imaging.to_png(item), spec)[0] for item in items]), spec)


def _doubts(judgement: Judgement) -> dict[str, Any]:
    """Return what says whether the held-out items and the calibration items are exchangeable, for the protocol of a rate."""
    found: dict[str, Any] = {"shift": judgement.shift} if judgement.shift else {}
    for name, distance in (("kolmogorov_smirnov", judgement.comparison), ("kolmogorov_smirnov_order", judgement.order)):
        if distance is not None:
            found[name] = {"distance": rounded(distance.statistic), "p_value": rounded(distance.p_value)}
    return found


def record(model: Model, judgement: Judgement, against: str | None = None) -> Manifest:
    """Write the figures into the artifact's manifest. They replace earlier figures. `against` names the data set of the anomalies."""
    manifest = manifests.read(model.folder)
    assert manifest.scoring is not None
    common: dict[str, Any] = {"by": RECORDED, "anomalies": judgement.anomalies, "score": manifest.scoring.score}
    if manifest.scoring.calibration is not None:
        common["calibration"] = manifest.scoring.calibration.id
    if against is not None:
        common["against"] = against
    normal = int(judgement.normal.sum())
    new = [
        Metric(
            name=f"{name}{rate['asked']:g}",
            value=rate["met"],
            protocol={**common, "n": n, "expected": rate["expected"], "interval": rates.INTERVAL, **_doubts(judgement)},
        )
        for name, n, measured in (
            (RATE, normal, judgement.rates),
            ("flagged_unlabelled_at_", judgement.n - normal, judgement.unlabelled),
        )
        for rate in measured
    ]
    common["n"] = judgement.n
    if judgement.terms:
        beside = {
            name: numbers
            for name, numbers in (*judgement.peers.items(), *judgement.terms.items())
            if name != manifest.scoring.score
        }
        for name, value in judgement.terms[manifest.scoring.score].items():
            others = {other: numbers[name] for other, numbers in beside.items() if name in numbers}
            new.append(Metric(name=name, value=value, protocol={**common, "beside": others}))
    if judgement.agreement is not None:
        new += _correlations(judgement.agreement, common)
    kept = [metric for metric in manifest.metrics if metric.protocol.get("by") != RECORDED]
    return repository.save_metrics(model.folder, (*kept, *new))


def correlation_name(peer: str) -> str:
    """Return the name in manifests of the rank correlation with a peer."""
    return CORRELATION + peers.NAMES[peer].lower().replace(" ", "_")


def _correlations(found: Agreement, common: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the rank correlation with each peer. There is none with a detector whose scores are all equal."""
    for peer in found.peers:
        value = found.correlations[agreement.OWN, peer]
        if value is not None:
            high = {"ranked_high": found.top, "both_rank_high": found.shared(agreement.OWN, peer)}
            yield Metric(
                name=correlation_name(peer),
                value=rounded(value),
                protocol={**common, "n": found.n, "peer": peer, **high},
            )
