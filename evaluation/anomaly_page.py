"""The page of a detector of rows: its columns, the rates that it keeps, what it finds, and the most anomalous rows with their reasons."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from manifold.evaluation.anomaly import Float64, InputItems, JudgedItems, Judgement
from manifold.evaluation.page import page, plot, table
from manifold.runtime.engine import Model
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.repository import replacing
from manifold.runtime.scores import reasons
from manifold.runtime.tables import rows
from manifold.runtime.tables.schema import NumericColumn

SHOWN = 10  # rows on the page
FIGURES = ("auroc", "average_precision", "found_at_1%", "flagged_at_1%")


def write(
    path: Path, model: Model, judgement: Judgement, test: InputItems, anomalies: InputItems | None = None
) -> None:
    """Write the page into a file."""
    with replacing(path) as temporary:
        temporary.write_text(to_html(model, judgement, test, anomalies))


def to_html(model: Model, judgement: Judgement, test: InputItems, anomalies: InputItems | None = None) -> str:
    """Return the report of a fitted table: schema, rates, what it finds, and the most anomalous rows with their reasons."""
    manifest, scoring = model.manifest, model.manifest.scoring
    spec = TableSpec.of(manifest.spec, f"model: {manifest.name}")
    assert scoring is not None and judgement.scores is not None
    calibration = scoring.calibration
    assert calibration is not None
    parts = [f"<h1>{html.escape(manifest.name)} {manifest.version}</h1><p>{html.escape(manifest.description)}</p>"]
    parts += [f'<p class="warn">{html.escape(warning)}</p>' for warning in judgement.warnings]
    parts.append("<h2>False alarms</h2>")
    parts.append(
        f"<p>Calibrated on {html.escape(calibration.source)}; p-values resolve 1 in {calibration.n + 1}. "
        f"Measured on {judgement.n} held-out rows.</p>"
    )
    parts.append(table(("rate asked for", "met", "95% interval for so many rows"), [
        (f"{rate['asked']:.1%}", f"{rate['met']:.2%}", "{:.2%} to {:.2%}".format(*rate["expected"])) for rate in judgement.rates
    ]))  # fmt: skip
    if judgement.terms:
        parts.append(f"<h2>Known anomalies</h2><p>{judgement.anomalies} of them, which training never saw.</p>")
        named = [
            *(
                (f"{name} (the score)" if name == scoring.score else name, numbers)
                for name, numbers in judgement.terms.items()
            ),
            *judgement.peers.items(),
        ]
        parts.append(table(("by", "AUROC", "average precision", "found at 1% false alarms", "flagged by the line for 1%"), [
            (name, *(f"{numbers[key]:.3f}" if key in numbers else "" for key in FIGURES)) for name, numbers in named
        ]))  # fmt: skip
    parts.append(_histogram(judgement))
    parts.append("<h2>The strangest rows</h2>" + _strangest(model, spec, judgement, JudgedItems(test, anomalies)))
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


def _strangest(model: Model, spec: TableSpec, judgement: Judgement, judged: JudgedItems) -> str:
    assert judgement.scores is not None and model.manifest.scoring is not None
    places = np.argsort(-judgement.scores, kind="stable")[:SHOWN]
    items = np.concatenate([judged.items(place, place + 1) for place in places.tolist()])
    scores = model.score(items)
    if scores.surprise is None:
        return ""
    given = rows.decode(np.nan_to_num(items, nan=0.0), spec, held=False)
    why = model.drive(reasons.find(model.manifest, items, scores, model.calibrated))
    lines: list[tuple[str, ...]] = []
    for place, reason in zip(places, spec.explain(why, given), strict=True):
        columns = ", ".join(
            f"{column['column']} = {_short(column['value'])}, expected {_short(column['expected'])} ({column['share']:.0%})"
            for column in reason["columns"][:3]
            if column["excess"] > 0
        )
        kind = "known anomaly" if place >= judgement.n else "held out"
        lines.append((f"{judgement.scores[place]:.2f}", kind, columns or "where it lies in latent space"))
    return table(("score", "row", "because of"), lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _histogram(judgement: Judgement) -> str:
    """Scores of held-out rows, and of known anomalies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert judgement.scores is not None
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = np.linspace(judgement.scores.min(), np.quantile(judgement.scores, 0.995), 60)
    parts: Mapping[str, Float64] = {
        "held out": judgement.scores[: judgement.n],
        "known anomalies": judgement.scores[judgement.n :],
    }
    for name, values in parts.items():
        if len(values):
            axes.hist(np.minimum(values, edges[-1]), edges.tolist(), density=True, alpha=0.6, label=name)
    axes.set_xlabel("score (the last bar holds all beyond)")
    axes.set_yticks([])
    axes.legend()
    return plot(figure, "Distribution of scores")
