"""The report page of a detector of rows: measured false positive rates, detected anomalies, the top rows with reasons, a comparison with other
detectors, and the columns."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import agreement, peers, rates
from manifold.evaluation.agreement import Agreement
from manifold.evaluation.anomaly import Float64, Judgement
from manifold.evaluation.file_rows import JudgedFile
from manifold.evaluation.judged_items import InputItems, JudgedItems
from manifold.evaluation.page import page, plot, table
from manifold.evaluation.shown_rows import Column, ShownRows
from manifold.runtime.engine import Model
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.repository import replacing
from manifold.runtime.tables import described

SHOWN = 10  # number of rows in a list
FIGURES = ("auroc", "average_precision", "found_at_1%", "flagged_at_1%")


def write(
    path: Path,
    model: Model,
    judgement: Judgement,
    test: InputItems,
    anomalies: InputItems | None = None,
    file: JudgedFile | None = None,
) -> None:
    """Write the page into a file."""
    with replacing(path) as temporary:
        temporary.write_text(to_html(model, judgement, test, anomalies, file))


def to_html(
    model: Model,
    judgement: Judgement,
    test: InputItems,
    anomalies: InputItems | None = None,
    file: JudgedFile | None = None,
) -> str:
    """Return the report of a model that was fitted to a table: false positive rates, detected anomalies, top rows with reasons, and columns.

    Rows are shown as they are in `file`. If it is not given, they are decoded from the model's inputs.
    """
    manifest, scoring = model.manifest, model.manifest.scoring
    spec = TableSpec.of(manifest.spec, f"model: {manifest.name}")
    assert scoring is not None and judgement.scores is not None
    parts = [f"<h1>{html.escape(manifest.name)} {manifest.version}</h1><p>{html.escape(manifest.description)}</p>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in judgement.notes]
    if scoring.combination is not None and scoring.combination.said:
        parts.append(f"<p>{html.escape(scoring.combination.said)}</p>")
    parts += [f'<p class="warn">{html.escape(warning)}</p>' for warning in judgement.warnings]
    parts += _rates(model, judgement)
    if judgement.terms:
        rate, others = (
            ("false positive rate", "normal") if judgement.rates else ("of the unlabelled rows flagged", "unlabelled")
        )
        parts.append(f"<h2>Known anomalies</h2><p>{_known(judgement, spec)} {_recalls(others)}</p>")
        named = [
            *(
                (f"{name} (this model's score)" if name == scoring.score else name, numbers)
                for name, numbers in judgement.terms.items()
            ),
            *((f"baseline: {_named(name)}", numbers) for name, numbers in judgement.peers.items()),
        ]
        columns = ("AUROC", "average precision", f"recall at 1% {rate}", "recall at the calibrated threshold for 1%")
        parts.append(table(("score", *(f"{column} (higher is better)" for column in columns)), [
            (name, *(f"{numbers[key]:.3f}" if key in numbers else "" for key in FIGURES)) for name, numbers in named
        ]))  # fmt: skip
    parts.append(_histogram(judgement))
    top, compared = _most_anomalous(judgement), judgement.agreement
    only = {name: compared.only(name)[:SHOWN] for name in compared.ranks} if compared else {}
    listed = np.unique(np.concatenate([*top.values(), *only.values()]))
    shown = ShownRows(model, spec, JudgedItems(test, anomalies), file, listed.tolist())
    parts += ["<h2>The most anomalous rows</h2>", *_lists(judgement, top, shown)]
    if compared is not None:
        parts += _agreement(judgement, compared, only, shown)
    parts.append(
        "<h2>Columns</h2>"
        + table(("column", "kind", "values", "changes that the model cannot detect"), _columns(manifest, spec))
    )
    return page(f"{manifest.name} {manifest.version}", parts)


def _rates(model: Model, judgement: Judgement) -> list[str]:
    """Return the sections on flagged shares: false positive rates of rows known to be normal, and flagged shares of unlabelled rows."""
    calibration = model.calibrated.calibration
    assert calibration is not None
    normal = int(judgement.normal.sum())
    calibrated = f"Calibrated on {html.escape(calibration.source)}. The smallest p-value is 1/{calibration.n + 1}. "
    parts = []
    if judgement.rates:
        parts.append(
            f"<h2>False positive rates</h2><p>{calibrated}Measured on {normal} {judgement.named('rows')} that are known to be normal.</p>"
        )
        parts.append(_table_of(judgement.rates, "measured rate (close to the requested rate is better)"))
    if judgement.unlabelled:
        parts.append(
            f"<h2>Flagged among unlabelled rows</h2><p>{'' if judgement.rates else calibrated}Measured on {judgement.n - normal} "
            f"{judgement.named('rows')} without a label. If none of them is an anomaly, the flagged share is expected in the interval. A larger share "
            "means that they contain anomalies, or that the calibration does not fit them. Labels are needed to tell which.</p>"
        )
        parts.append(_table_of(judgement.unlabelled, "flagged share"))
    return [*parts, *_exchangeable(judgement)] if parts else []


def _exchangeable(judgement: Judgement) -> list[str]:
    """Return paragraphs on whether the evaluated rows and the calibration rows are exchangeable."""
    parts = []
    if judgement.shift:
        parts.append(f'<p class="warn">{html.escape(rates.not_exchangeable(judgement.shift, "rows"))}</p>')
    if (compared := judgement.comparison) is not None:
        parts.append(
            f"<p>Scores of these rows and of the calibration rows: Kolmogorov-Smirnov distance {compared.statistic:.3f}, p = {compared.p_value:.2g}. "
            "A p-value near 0 means that they are not exchangeable.</p>"
        )
    return parts


def _table_of(measured: Sequence[Mapping[str, Any]], met: str) -> str:
    return table(("requested rate", met, "95% interval for rows that are exchangeable with the calibration rows"), [
        (f"{rate['asked']:.1%}", f"{rate['met']:.2%}", rates.interval_of(rate)) for rate in measured
    ])  # fmt: skip


def _known(judgement: Judgement, spec: TableSpec) -> str:
    rule = "" if spec.truth is None else f" ({html.escape(str(spec.truth))})"
    return f"{judgement.anomalies} rows{rule}, which were not used in training."


def _recalls(others: str) -> str:
    """Return what the two columns of recall mean."""
    return (
        f"The two columns of recall use different thresholds. The first is set on these rows, so that 1% of the {others} ones are above it. "
        "The second is the one that the model uses: it was calibrated for 1% on other rows."
    )


def _columns(manifest: Manifest, spec: TableSpec) -> list[tuple[str, str, str, str]]:
    """Return the description of each column, including that of the classes."""
    fitted = manifest.provenance.get("data")
    label = fitted.get("label") if isinstance(fitted, dict) else None
    return [
        (each.column, each.kind, each.values, each.unseen) for each in described.describe(spec, label, manifest.classes)
    ]


def _most_anomalous(judgement: Judgement) -> dict[str, NDArray[np.int64]]:
    """Return the places of the rows with the highest scores: of known anomalies, of rows known to be normal, and of unlabelled rows."""
    assert judgement.scores is not None
    normal, known = judgement.normal, np.ones(judgement.anomalies, bool)
    groups = {
        "Known anomalies": np.concatenate([np.zeros(judgement.n, bool), known]),
        "Rows known to be normal": np.concatenate([normal, ~known]),
        "Unlabelled rows": np.concatenate([~normal, ~known]),
    }
    chosen = {}
    for name, mask in groups.items():
        places = np.flatnonzero(mask)
        chosen[name] = places[np.argsort(-judgement.scores[places], kind="stable")[:SHOWN]]
    return {name: places for name, places in chosen.items() if len(places)}


def _lists(judgement: Judgement, top: Mapping[str, NDArray[np.int64]], shown: ShownRows) -> Iterator[str]:
    """Yield a table of the rows with the highest scores for each group."""
    assert judgement.scores is not None
    for name, places in top.items():
        scores = ("score", [f"{score:.2f}" for score in judgement.scores[places]])
        yield f"<h3>{name}</h3>" + shown.table(places.tolist(), [scores])


def _agreement(
    judgement: Judgement, found: Agreement, only: Mapping[str, NDArray[np.int64]], shown: ShownRows
) -> Iterator[str]:
    """Yield the comparison with other detectors: rank correlations, and the rows that only one detector ranks high."""
    names = [_named(peer) for peer in found.peers]
    rows = f"{found.n} {judgement.named('rows')}{', including the known anomalies' if judgement.anomalies else ''}"
    yield (
        f"<h2>Comparison with other detectors</h2><p>These detectors were fitted to the same training rows: {', '.join(names)}. Each ranks the {rows}.</p>"
    )
    if found.compares:
        yield f"<p>{html.escape(agreement.meaning('rows'))}</p>"
        yield table(("detectors", "rank correlation", f"among the {found.top} highest of both"), [
            (f"{_named(a)}, {_named(b)}", "undefined" if value is None else f"{value:.3f}", f"{found.shared(a, b)} rows")
            for (a, b), value in found.correlations.items()
        ])  # fmt: skip
    yield "".join(f"<p>{html.escape(said)}</p>" for said in agreement.doubts(found, "rows", peers.NAMES))
    if not found.lists:
        return
    said = f"{agreement.rule(found, 'rows')} {agreement.ADVICE}"
    yield f"<h3>Rows that only one detector ranks high</h3><p>{html.escape(said)}</p>"
    for name, places in only.items():
        size = found.sizes[name]
        if not size:
            yield f"<p>Only {_named(name)}: no row.</p>"
            continue
        cut = f"; the first {SHOWN} are shown" if size > SHOWN else ""
        yield f"<h4>Only {_named(name)}: {size} of {found.n} rows{cut}</h4>"
        ranks = [(f"rank: {_named(each)}", [str(rank) for rank in found.ranks[each][places]]) for each in found.ranks]
        yield shown.table(places.tolist(), [*ranks, *_labels(judgement, places)], explained=name == agreement.OWN)


def _labels(judgement: Judgement, places: NDArray[np.int64]) -> list[Column]:
    """Return the column that says what is known about rows; none if nothing is known about any row."""
    if not judgement.anomalies and not judgement.normal.any():
        return []
    names = np.concatenate(
        [np.where(judgement.normal, "normal", "unlabelled"), np.full(judgement.anomalies, "anomaly")]
    )
    return [("known", names[places].tolist())]


def _named(name: str) -> str:
    """Return the name of the model or of a peer in texts."""
    return peers.NAMES.get(name, name)


def _histogram(judgement: Judgement) -> str:
    """Return a histogram of the scores of normal rows, of unlabelled rows, and of known anomalies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert judgement.scores is not None
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = judgement.scores.min(), np.quantile(judgement.scores, 0.995)
    edges = np.linspace(low, high if high > low else low + 1, 60)  # equal scores have one bar
    held_out = judgement.scores[: judgement.n]
    parts: Mapping[str, Float64] = {
        "known to be normal": held_out[judgement.normal],
        "unlabelled": held_out[~judgement.normal],
        "known anomalies": judgement.scores[judgement.n :],
    }
    for name, values in parts.items():
        if len(values):
            axes.hist(np.minimum(values, edges[-1]), edges.tolist(), density=True, alpha=0.6, label=name)
    axes.set_xlabel("score (higher is more anomalous; the last bar includes all larger scores)")
    axes.set_yticks([])
    axes.legend()
    return plot(figure, "Distribution of scores")
