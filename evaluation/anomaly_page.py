"""The report page of a detector of rows: columns, measured false positive rates, detected anomalies, and the top rows with reasons."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation import file_rows, rates
from manifold.evaluation.anomaly import BASELINES, Float64, InputItems, JudgedItems, Judgement
from manifold.evaluation.file_rows import FileRow, JudgedFile
from manifold.evaluation.page import page, plot, table
from manifold.runtime.engine import Model
from manifold.runtime.errors import cut
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import Manifest
from manifold.runtime.repository import replacing
from manifold.runtime.scores import reasons
from manifold.runtime.tables import described, rows
from manifold.runtime.tables.schema import NumericColumn

SHOWN = 10  # number of rows in a list
LEAST_SHARE = 0.01  # smallest share of a column that is listed as a reason
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
            *((f"baseline: {BASELINES.get(name, name)}", numbers) for name, numbers in judgement.peers.items()),
        ]
        columns = ("AUROC", "average precision", f"recall at 1% {rate}", "recall at the calibrated threshold for 1%")
        parts.append(table(("score", *(f"{column} (higher is better)" for column in columns)), [
            (name, *(f"{numbers[key]:.3f}" if key in numbers else "" for key in FIGURES)) for name, numbers in named
        ]))  # fmt: skip
    parts.append(_histogram(judgement))
    parts.append(
        "<h2>The most anomalous rows</h2>" + _most_anomalous(model, spec, judgement, JudgedItems(test, anomalies), file)
    )
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


def _most_anomalous(
    model: Model, spec: TableSpec, judgement: Judgement, judged: JudgedItems, file: JudgedFile | None
) -> str:
    """Return three lists: known anomalies, rows known to be normal, and unlabelled rows."""
    assert judgement.scores is not None
    normal = judgement.normal
    known = np.ones(len(judged) - judgement.n, bool)
    groups = {
        "Known anomalies": np.concatenate([np.zeros(judgement.n, bool), known]),
        "Rows known to be normal": np.concatenate([normal, ~known]),
        "Unlabelled rows": np.concatenate([~normal, ~known]),
    }
    chosen = {}
    for name, mask in groups.items():
        places = np.flatnonzero(mask)
        chosen[name] = places[np.argsort(-judgement.scores[places], kind="stable")[:SHOWN]]
    numbers = {} if file is None else {place: int(file.numbers[place]) for place in np.concatenate([*chosen.values()])}
    rows_of = {} if file is None else file_rows.read(file.path, spec, set(numbers.values()))
    shown = [
        f"<h3>{name}</h3>" + _list(model, spec, judgement.scores, judged, places, [rows_of.get(numbers.get(place, 0)) for place in places], numbers)
        for name, places in chosen.items() if len(places)
    ]  # fmt: skip
    return "".join(shown)


def _list(
    model: Model, spec: TableSpec, all_scores: Float64, judged: JudgedItems, places: NDArray[np.int64],
    of_file: Sequence[FileRow | None], numbers: Mapping[int, int],
) -> str:  # fmt: skip
    """Return a table of rows with their scores, their numbers in the file, the reasons, and all values."""
    items = np.concatenate([judged.items(place, place + 1) for place in places.tolist()])
    scores = model.score(items)
    decoded = _decoded(items, spec)
    given = [row if read is None else read.given for row, read in zip(decoded, of_file, strict=True)]
    cells = [row if read is None else read.cells for row, read in zip(decoded, of_file, strict=True)]
    because = ["" for _ in places]
    if scores.surprise is not None:
        why = model.runner.drive(reasons.find(model.manifest, items, scores, model.calibrated))
        because = [_because(reason, row) for reason, row in zip(spec.explain(why, given), cells, strict=True)]
    head = [
        "score",
        *(["row"] if numbers else []),
        *(["id"] if spec.id else []),
        *spec.carried.passed,
        "reasons",
        "all values",
    ]
    lines = []
    for place, row, reason in zip(places.tolist(), cells, because, strict=True):
        copied = [_cell(row.get(name)) for name in ([spec.id] if spec.id else []) + list(spec.carried.passed)]
        number = [str(numbers[place])] if numbers else []
        values = ", ".join(f"{name} = {_cell(row.get(name))}" for name in spec.names)
        texts = [f"{all_scores[place]:.2f}", *number, *copied, reason]
        opened = f"<details><summary>show</summary>{html.escape(values)}</details>"
        lines.append("".join(f"<td>{html.escape(text)}</td>" for text in texts) + f"<td>{opened}</td>")
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _decoded(items: NDArray[Any], spec: TableSpec) -> list[dict[str, Any]]:
    """Return model inputs as rows, with None for a missing value and for a category that did not occur in training."""
    decoded = rows.decode(np.nan_to_num(items, nan=0.0), spec, held=False)
    for row, item in zip(decoded, items, strict=True):
        for column, block in spec.placed:
            if np.isnan(item[block.start]) or (not isinstance(column, NumericColumn) and not item[block].any()):
                row[column.name] = None
    return decoded


def _because(reason: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the three columns with the largest excess, each with its value in the file and the expected value."""
    columns = ", ".join(
        f"{column['column']} = {_cell(row.get(column['column']))}, expected {_cell(column['expected'])} ({column['share']:.0%})"
        for column in reason["columns"][:3]
        if column["excess"] > 0 and column["share"] >= LEAST_SHARE
    )
    return columns or "an unusual position in latent space"


def _cell(value: Any) -> str:
    """Return a cell of a file unchanged but shortened, and a computed number with four digits."""
    return "(none)" if value is None else f"{value:.4g}" if isinstance(value, float) else cut(str(value))


def _histogram(judgement: Judgement) -> str:
    """Return a histogram of the scores of normal rows, of unlabelled rows, and of known anomalies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert judgement.scores is not None
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = np.linspace(judgement.scores.min(), np.quantile(judgement.scores, 0.995), 60)
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
