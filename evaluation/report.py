"""A report as JSON, as Markdown, as one HTML page, and as metrics of a manifest. Formats only; the numbers come from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.page import page, plot, table
from manifold.evaluation.records import RANKS, Pictures, ranks
from manifold.runtime import codecs, imaging, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.manifest import Manifest, Metric

Array = NDArray[Any]
Values = Mapping[str, Any]

# what a number is measured in, where it is not a pure one
UNITS = {"nll": "nats", "nll_se": "nats", "class_divergence": "nats", "bits_per_dim": "bits", "psnr": "dB"}
PAIRED = {"kid": "kid_se", "is_marginal": "is_marginal_sd", "is_prior": "is_prior_sd", "nll": "nll_se"}
LIKELIHOODS = ("nll", "bits_per_dim")
RECORDED = "evaluation"  # marks metrics of a manifest that an evaluation wrote


def to_json(report: Values) -> str:
    """One JSON object, the same bytes for the same numbers."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


# --- tables -------------------------------------------------------------------------------------------------------------------


def shown(name: str, metrics: Values) -> str:
    """A number as text, with its error where it has one."""
    text = f"{metrics[name]:.4g}"
    return f"{text} ± {metrics[PAIRED[name]]:.2g}" if PAIRED.get(name) in metrics else text


def bounded(name: str, report: Values) -> str:
    """A number as text; ≤ where the truth may be lower, as it is of a bound."""
    bound = report["details"].get(name, {}).get("bound", "exact") if name in LIKELIHOODS else "exact"
    return ("" if bound == "exact" else "≤ ") + shown(name, report["metrics"])


def metric_rows(report: Values) -> list[tuple[str, str, str]]:
    """Name, value with unit, and what real images score where that is known."""
    anchors = report["anchors"]
    perfect = anchors.get("perfect_generator", {})
    beside = {
        "kid": _named(anchors, "train_vs_test_kid", "train against test"),
        "is_marginal": _named(anchors, "test_is_marginal", "test"),
        "is_prior": _named(anchors, "test_is_prior", "test"),
        "class_accuracy": _named(anchors, "test_class_accuracy", "test"),
        "confident": _named(anchors, "test_confident", "test"),
        "nearest_train_distance": _named(anchors, "test_nearest_train_distance", "test"),
    }
    for name in ("fd_classifier", "fid"):
        floor = perfect.get("resampled", perfect.get("closed_form"))
        parts = [
            _named(anchors, "train_vs_test", "train against test"),
            f"perfect generator {floor:.4g}" if floor is not None else "",
        ]
        beside[name] = ", ".join(part for part in parts if part)
    metrics = report["metrics"]
    return [
        (name, " ".join([bounded(name, report), UNITS.get(name, "")]).strip(), beside.get(name, ""))
        for name in metrics
        if name not in PAIRED.values()
    ]


def _named(anchors: Values, key: str, label: str) -> str:
    return f"{label} {anchors[key]:.4g}" if key in anchors else ""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_markdown(report: Values) -> str:
    """The report as Markdown: metrics beside their anchors, classes, protocol."""
    parts = [
        f"# {_title(report)}",
        markdown_table(("metric", "value", "real images"), metric_rows(report)),
    ]
    if report["by_class"]:
        columns = list(report["by_class"][0])
        columns += [key for row in report["by_class"] for key in row if key not in columns]
        columns = list(dict.fromkeys(columns))
        parts.append(markdown_table(columns, [[_cell(row.get(key)) for key in columns] for row in report["by_class"]]))
    parts += [f"- {warning}" for warning in report["warnings"]]
    parts.append("Protocol: " + "; ".join(f"{key} {_plain(value)}" for key, value in report["protocol"].items()))
    return "\n\n".join(parts) + "\n"


def _title(report: Values) -> str:
    version = f" {report['version']}" if "version" in report else ""
    prior = f", prior {report['prior']}" if "prior" in report else ""
    return f"{report['model']}{version}{prior}"


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return str(value)[:16] + "…" if isinstance(value, str) and len(value) == 64 else str(value)


def comparison(reports: Sequence[Values]) -> str:
    """A Markdown table of several reports, best first, with the anchor rows that they share."""
    distance = next(name for name in ("fid", "fd_classifier") if name in reports[0]["metrics"])
    names = [
        distance,
        f"{distance}_infinity",
        "kid",
        "is_marginal",
        "is_prior",
        "precision",
        "recall",
        "confident",
        "class_accuracy",
        "nll",
        "bits_per_dim",
        "psnr",
    ]
    names = [name for name in names if any(name in report["metrics"] for report in reports)]
    left_out = ""
    observed = {report["details"].get("nll", {}).get("observed") for report in reports if "nll" in report["metrics"]}
    if len(observed) > 1:
        names = [name for name in names if name not in LIKELIHOODS]
        left_out = f"\n\nnll left out, as x is not the same: {'; '.join(sorted(map(str, observed)))}"
    by = [name for name in RANKS if any(name in report["metrics"] for report in reports)]
    places = list(zip(*(ranks(reports, name) for name in by), strict=True)) or [()] * len(reports)
    rows = []
    for report, place in zip(reports, places, strict=True):
        cells = [bounded(name, report) if name in report["metrics"] else "" for name in names]
        rows.append([", ".join("-" if number is None else str(number) for number in place), _title(report), *cells])
    anchors = reports[0]["anchors"]
    real = {
        distance: "train_vs_test", "kid": "train_vs_test_kid", "is_marginal": "test_is_marginal", "is_prior": "test_is_prior",
        "class_accuracy": "test_class_accuracy", "confident": "test_confident",
    }  # fmt: skip
    if "train_vs_test" in anchors:
        both = {"is_marginal", "is_prior", "class_accuracy", "confident"}
        train = [f"{anchors[real[n]]:.4g}" if n in real and n not in both and real[n] in anchors else "" for n in names]
        test = [f"{anchors[real[n]]:.4g}" if n in both and real[n] in anchors else "" for n in names]
        rows += [["", "*real: train against test*", *train], ["", "*real: test*", *test]]
    floor = anchors.get("perfect_generator", {})
    if floor:
        value = floor.get("resampled", floor["closed_form"])
        rows.append(["", "*a perfect generator*", *[f"{value:.4g}" if name == distance else "" for name in names]])
    return markdown_table((f"rank by {', '.join(by)}", "model", *names), rows) + left_out


def disentanglement(found: Values) -> str:
    """Figures of `manifold disentangle` as Markdown."""
    lines = [
        f"# {found['model']} {found['version']} on {found['data']}",
        f"{found['active']} of {found['latent']} dimensions are active",
    ]
    if "mig" in found:
        names = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
        lines.append(markdown_table(names, [[f"{found[name]:.3f}" for name in names]]))
        rows = [
            [
                name,
                f"{found['mig_by_factor'][name]:.3f}",
                *(f"{found['importance'][name][j]:.2f}" for j in found["dimensions"]),
            ]
            for name in found["importance"]
        ]
        lines.append(markdown_table(("factor", "mig", *(f"z{j}" for j in found["dimensions"])), rows))
    return "\n\n".join(lines) + "\n"


# --- the page -----------------------------------------------------------------------------------------------------------------


def to_html(report: Values, pictures: Pictures) -> str:
    """One page that needs nothing else: numbers, sheets, curve."""
    parts = [f"<h1>{html.escape(_title(report))}</h1>"]
    parts += [f'<p class="warn">{html.escape(warning)}</p>' for warning in report["warnings"]]
    parts.append(table(("metric", "value", "real images"), metric_rows(report)))
    if pictures.samples is not None and len(pictures.samples):
        parts.append(_figure(pictures.samples, f"The first {len(pictures.samples)} images, none left out", 8))
    if pictures.by_class:
        parts.append("<h2>By class</h2>")
        rows = []
        for row in report["by_class"]:
            sheet = pictures.by_class.get(row["class"])
            values = [(key, _cell(value)) for key, value in row.items()]
            rows.append((values, _image(sheet, len(sheet)) if sheet is not None and len(sheet) else ""))
        keys = list(dict.fromkeys(key for row in report["by_class"] for key in row))
        head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(dict(values).get(key, ''))}</td>" for key in keys)
            + f"<td>{sheet}</td></tr>"
            for values, sheet in rows
        )
        parts.append(f"<table><tr>{head}<th>as the extractor sees it</th></tr>{body}</table>")
    if pictures.originals is not None and pictures.reconstructions is not None:
        pairs = np.stack([pictures.originals, pictures.reconstructions], axis=1).reshape(
            -1, *pictures.originals.shape[1:]
        )
        parts.append(
            "<h2>Reconstructions</h2>" + _figure(pairs, "Test images, each with its reconstruction to its right", 8)
        )
    if pictures.neighbours is not None and pictures.samples is not None:
        count = min(16, len(pictures.neighbours))
        pairs = np.stack([pictures.samples[:count], pictures.neighbours[:count]], axis=1)
        parts.append(
            "<h2>Memorisation</h2>"
            + _figure(
                pairs.reshape(-1, *pairs.shape[2:]),
                "Samples, each with the nearest training image (by pixels) to its right",
                8,
            )
        )
    if len(report["curve"]) > 2:
        parts.append("<h2>Distance by number of images</h2>" + _curve(report))
    parts.append(
        "<h2>Protocol</h2>" + table(("", ""), [(key, _plain_full(value)) for key, value in report["protocol"].items()])
    )
    if report["details"]:
        parts.append(table(("metric", "how"), [(key, _plain_full(value)) for key, value in report["details"].items()]))
    return page(_title(report), parts)


def _plain_full(value: Any) -> str:
    return (
        ", ".join(f"{key}: {_plain_full(part)}" for key, part in value.items())
        if isinstance(value, Mapping)
        else str(value)
    )


def _image(images: Array, columns: int) -> str:
    scale = max(1, round(40 / images.shape[2]))
    content = codecs.to_base64(imaging.to_png(imaging.grid(images, columns=columns, scale=scale)))
    return f'<img alt="" src="data:image/png;base64,{content}">'


def _figure(images: Array, caption: str, columns: int) -> str:
    return f"<figure>{_image(images, columns)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _curve(report: Values) -> str:
    """The distance against 1/N with the line that is extrapolated, as a PNG within the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes, values = np.asarray(report["curve"]).T
    name = next(name for name in ("fid", "fd_classifier") if name in report["metrics"])
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(1 / sizes, values, "o", ms=4, label="measured")
    slope, constant = np.polyfit(1 / sizes, values, 1)
    ends = np.asarray([0, 1 / sizes.min()])
    axes.plot(ends, constant + slope * ends, "-", lw=1, label=f"extrapolated to {constant:.4g}")
    axes.set_xlabel("1 / number of images")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    axes.legend()
    return plot(figure, f"{name} against 1/N")


# --- recording ----------------------------------------------------------------------------------------------------------------


def recorded(manifest: Manifest) -> list[dict[str, Any]]:
    """Reports that evaluations wrote into the manifest, one for each prior and protocol."""
    reports: dict[str, dict[str, Any]] = {}
    for metric in manifest.metrics:
        if metric.protocol.get("by") != RECORDED:
            continue
        protocol = dict(metric.protocol["common"])
        prior = metric.protocol.get("prior")
        key = json.dumps([protocol, prior], sort_keys=True)
        report = reports.setdefault(
            key,
            {
                "model": manifest.name, "version": manifest.version, **({"prior": prior} if prior else {}), "protocol": protocol,
                "metrics": {}, "anchors": {}, "details": {}, "by_class": [], "curve": [], "warnings": [],
            },
        )  # fmt: skip
        report["metrics"][metric.name] = metric.value
        report["anchors"] |= metric.protocol.get("anchors", {})
        if "detail" in metric.protocol:
            report["details"][metric.name] = metric.protocol["detail"]
    return list(reports.values())


def record(folder: Path, report: Values) -> Manifest:
    """Writes the report's numbers into the manifest of the artifact in `folder`, in place of an earlier record of the same prior and protocol.

    Raises EvaluationError where the manifest is of another model or version.
    """
    manifest = manifests.read(folder)
    if (report["model"], report.get("version")) != (manifest.name, manifest.version):
        raise EvaluationError(f"{folder} is {manifest.name} {manifest.version}, the report is of {_title(report)}")
    common = {"by": RECORDED, "prior": report.get("prior"), "common": report["protocol"]}
    common = {key: value for key, value in common.items() if value is not None}
    new = []
    for name, value in report["metrics"].items():
        detail = {"detail": report["details"][name]} if name in report["details"] else {}
        anchors = {"anchors": report["anchors"]} if name in ("fid", "fd_classifier") else {}
        new.append(Metric(name=name, value=value, unit=UNITS.get(name, ""), protocol={**common, **detail, **anchors}))
    kept = [
        metric for metric in manifest.metrics if any(metric.protocol.get(key) != value for key, value in common.items())
    ]
    updated = manifest.model_copy(update={"metrics": (*kept, *new)})
    repository.save(folder, updated)
    return updated
