"""A model judged as a detector: the rates that it keeps, what it finds, and how an isolation forest and plain neighbours do.

Figures are on rows that training never saw. Where anomalies are known: AUROC, average precision (which depends on their share among the
judged rows), the share found where 1% of the other judged rows are flagged too, and the share that the calibrated line for 1% flags, which
was drawn before. The two peers are fitted on the same training items: an isolation forest (Liu, Ting and
Zhou, 2008) and the mean distance to the five nearest training items, in encoded columns or in pixels. Where the model loses to them, it says
so. Images have no known anomalies of their own: those of another data set stand in.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.page import page, plot, table
from manifold.evaluation.records import rounded
from manifold.runtime import imaging, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.scores import reasons
from manifold.runtime.tables import rows
from manifold.runtime.tables.schema import NumericColumn

Array = NDArray[Any]
Float64 = NDArray[np.float64]

RATES = (0.001, 0.01, 0.05, 0.1)
NEIGHBOURS = 5
REFERENCES = 10_000  # training items at most, for plain neighbours
FITTED = 60_000  # and for the forest
RECORDED = "manifold fit"
SHOWN = 10  # rows on the page
FIGURES = ("auroc", "average_precision", "found_at_1%", "flagged_at_1%")


@dataclass
class Judgement:
    """What was measured. `terms` and `peers` are empty where no anomalies are known."""

    rates: list[dict[str, Any]]  # asked, met, and the 95% interval of Beta-Binomial(n; k, n_cal + 1 - k) over n
    terms: dict[str, dict[str, float]] = field(default_factory=dict)
    peers: dict[str, dict[str, float]] = field(default_factory=dict)
    n: int = 0  # rows that are not known to be anomalies
    anomalies: int = 0
    scores: Float64 | None = None  # of all judged rows, the known anomalies last
    warnings: list[str] = field(default_factory=list)


def judge(model: Model, train: Array, test: Array, anomalies: Array | None = None) -> Judgement:
    """Items at the graph's edge, (n, *shape): those of training, held-out ones, and known anomalies."""
    from scipy.stats import betabinom

    about, calibrated = model.manifest.scoring, model.calibrated
    assert about is not None
    strange = anomalies if anomalies is not None and len(anomalies) else test[:0]
    everything = np.concatenate([test, strange])
    placed = calibrated.place(model.score(everything).terms)
    found = Judgement([], n=len(test), anomalies=len(strange), scores=placed[about.score])
    p = calibrated.p_values(about.score, placed[about.score])[: len(test)]
    for rate in RATES:
        line = calibrated.threshold(about.score, rate)
        if line.score is not None and line.p_value is not None:
            met, k = float((p <= line.p_value).mean()), round(line.p_value * (calibrated.n + 1))
            low, high = betabinom(len(test), k, calibrated.n + 1 - k).ppf([0.025, 0.975]) / len(test)
            found.rates.append(
                {"asked": rate, "met": rounded(met), "expected": [rounded(float(low)), rounded(float(high))]}
            )
    if not len(strange):
        return found
    labels = np.arange(len(everything)) >= len(test)
    for name, values in placed.items():
        flagged = calibrated.p_values(name, values[labels]) <= 0.01
        found.terms[name] = {**figures(labels, values), "flagged_at_1%": rounded(float(flagged.mean()))}
    found.peers = {name: figures(labels, values) for name, values in _peers(train, test, strange).items()}
    own = found.terms[about.score]["auroc"]
    for name, numbers in found.peers.items():
        if numbers["auroc"] > own:
            found.warnings.append(f"{name} does better here: AUROC {numbers['auroc']:.3f}, this model {own:.3f}")
    return found


def figures(labels: NDArray[np.bool_], scores: Float64) -> dict[str, float]:
    """AUROC, average precision, and the share of anomalies above the 99% quantile of the other rows."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    line = np.quantile(scores[~labels], 0.99)
    return {
        "auroc": rounded(float(roc_auc_score(labels, scores))),
        "average_precision": rounded(float(average_precision_score(labels, scores))),
        "found_at_1%": rounded(float((scores[labels] > line).mean())),
    }


def _peers(train: Array, test: Array, strange: Array) -> dict[str, Float64]:
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    chosen = np.random.Generator(np.random.Philox(0)).permutation(len(train))
    train, items = (
        np.nan_to_num(each.reshape(len(each), -1), nan=0.0)
        for each in (train[chosen[:FITTED]], np.concatenate([test, strange]))
    )
    forest = IsolationForest(random_state=0).fit(train)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train[:REFERENCES])
    return {
        "IForest": -forest.score_samples(items),
        "input kNN": nearest.kneighbors(items)[0].mean(axis=1),
    }


def fitted(items: Array, spec: ImageSpec) -> Array:
    """uint8 images (N, C, H, W) of another data set as they come to the edge of a model of `spec`: made grey, scaled, as the service does."""
    if items.shape[1:] == spec.shape:
        return imaging.from_uint8(items, spec)
    return imaging.from_uint8(np.stack([imaging.read_image(imaging.to_png(item), spec)[0] for item in items]), spec)


def record(model: Model, found: Judgement, against: str | None = None) -> Manifest:
    """Writes the figures into the artifact's manifest, in place of earlier ones. `against` names the data set of the anomalies."""
    manifest = manifests.read(model.folder)
    assert manifest.scoring is not None
    common = {"by": RECORDED, "n": found.n, "anomalies": found.anomalies, "score": manifest.scoring.score}
    if against is not None:
        common["against"] = against
    new = [
        Metric(name=f"false_positive_rate_at_{each['asked']:g}", value=each["met"], protocol={**common, "expected": each["expected"]})
        for each in found.rates
    ]  # fmt: skip
    if found.terms:
        beside = {
            name: numbers
            for name, numbers in (*found.peers.items(), *found.terms.items())
            if name != manifest.scoring.score
        }
        for name, value in found.terms[manifest.scoring.score].items():
            others = {other: numbers[name] for other, numbers in beside.items() if name in numbers}
            new.append(Metric(name=name, value=value, protocol={**common, "beside": others}))
    kept = [metric for metric in manifest.metrics if metric.protocol.get("by") != RECORDED]
    made = manifest.model_copy(update={"metrics": (*kept, *new)})
    repository.save(model.folder, made)
    return made


# --- the page -----------------------------------------------------------------------------------------------------------------


def to_html(model: Model, found: Judgement, test: Array, anomalies: Array | None = None) -> str:
    """The report of a fitted table: schema, rates, what was found, and the strangest rows with their reasons."""
    manifest, spec, about = model.manifest, model.manifest.data, model.manifest.scoring
    assert isinstance(spec, TableSpec) and about is not None and found.scores is not None
    calibration = about.calibration
    assert calibration is not None
    parts = [f"<h1>{html.escape(manifest.name)} {manifest.version}</h1><p>{html.escape(manifest.description)}</p>"]
    parts += [f'<p class="warn">{html.escape(warning)}</p>' for warning in found.warnings]
    parts.append("<h2>False alarms</h2>")
    parts.append(
        f"<p>Calibrated on {html.escape(calibration.source)}; p-values resolve 1 in {calibration.n + 1}. "
        f"Measured on {found.n} held-out rows.</p>"
    )
    parts.append(table(("rate asked for", "met", "95% interval for so many rows"), [
        (f"{each['asked']:.1%}", f"{each['met']:.2%}", "{:.2%} to {:.2%}".format(*each["expected"])) for each in found.rates
    ]))  # fmt: skip
    if found.terms:
        parts.append(f"<h2>Known anomalies</h2><p>{found.anomalies} of them, which training never saw.</p>")
        named = [
            *(
                (f"{name} (the score)" if name == about.score else name, numbers)
                for name, numbers in found.terms.items()
            ),
            *found.peers.items(),
        ]
        parts.append(table(("by", "AUROC", "average precision", "found at 1% false alarms", "flagged by the line for 1%"), [
            (name, *(f"{numbers[key]:.3f}" if key in numbers else "" for key in FIGURES)) for name, numbers in named
        ]))  # fmt: skip
    parts.append(_histogram(found))
    everything = np.concatenate([test, anomalies]) if anomalies is not None else test
    parts.append("<h2>The strangest rows</h2>" + _strangest(model, spec, found, everything))
    parts.append("<h2>Columns</h2>" + table(("column", "kind", "values"), _columns(spec)))
    return page(f"{manifest.name} {manifest.version}", parts)


def _columns(spec: TableSpec) -> list[tuple[str, str, str]]:
    described = []
    for column in spec.columns:
        if isinstance(column, NumericColumn):
            described.append((column.name, f"numeric, {column.transform}", f"{column.minimum:g} to {column.maximum:g}"))
        else:
            names = ", ".join(column.categories[:8]) + (", …" if len(column.categories) > 8 else "")
            described.append((column.name, "categorical", f"{len(column.categories)}: {names}"))
    return described + [(name, "left out", reason) for name, reason in spec.ignored.items()]


def _strangest(model: Model, spec: TableSpec, found: Judgement, items: Array) -> str:
    assert found.scores is not None and model.manifest.scoring is not None
    places = np.argsort(-found.scores, kind="stable")[:SHOWN]
    scores = model.score(items[places])
    if scores.surprise is None:
        return ""
    given = rows.decode(np.nan_to_num(items[places], nan=0.0), spec, held=False)
    why = model.drive(reasons.find(model.manifest, items[places], scores, model.calibrated))
    lines: list[tuple[str, ...]] = []
    for place, reason in zip(places, spec.explain(why, given), strict=True):
        said = ", ".join(
            f"{each['column']} = {_short(each['value'])}, expected {_short(each['expected'])} ({each['share']:.0%})"
            for each in reason["columns"][:3]
            if each["excess"] > 0
        )
        kind = "known anomaly" if place >= found.n else "held out"
        lines.append((f"{found.scores[place]:.2f}", kind, said or "where it lies in latent space"))
    return table(("score", "row", "because of"), lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _histogram(found: Judgement) -> str:
    """Scores of held-out rows, and of known anomalies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert found.scores is not None
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = np.linspace(found.scores.min(), np.quantile(found.scores, 0.995), 60)
    parts: Mapping[str, Float64] = {"held out": found.scores[: found.n], "known anomalies": found.scores[found.n :]}
    for name, values in parts.items():
        if len(values):
            axes.hist(np.minimum(values, edges[-1]), edges.tolist(), density=True, alpha=0.6, label=name)
    axes.set_xlabel("score (the last bar holds all beyond)")
    axes.set_yticks([])
    axes.legend()
    return plot(figure, "Distribution of scores")
