"""The comparison of reports: whether they are comparable, their ranks, and their table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from manifold.evaluation import markdown
from manifold.evaluation.cells import bounded, directed, split_of, title
from manifold.evaluation.errors import ProtocolMismatch
from manifold.evaluation.report import Values
from manifold.runtime.manifest import figures
from manifold.runtime.manifest.figures import BITS, DISTANCES, STORED

# keys of a protocol that must agree before two numbers are compared, as errors call them; seeds may differ
COMPARABLE = {
    "extractor_sha256": "extractors",
    "reference": "reference images",
    "n": "numbers of images",
    "resize": "rules of resizing",
}
RANKS = ("kid", "fid_infinity", "fd_classifier_infinity")  # neither depends on how many images there were
OTHERS = ("kid", "is_marginal", "is_prior", "precision", "recall", "confident", "class_accuracy", "bits_per_dim", "psnr_mean")  # fmt: skip
# descriptions of the same x: those of a PixelCNN give the number of levels
SAME = {"pixels at 256 levels": "levels", "pixels at 2 levels, the nearest": "grey values binarised at 1/2"}
TEST_ANCHORS = {name: f"test_{name}" for name in ("is_marginal", "is_prior", "class_accuracy", "confident")}


def check_same_data(data: Mapping[str, str]) -> None:
    """Raise ProtocolMismatch if models are measured on different data sets. `data` gives the data set of each; an empty name is unknown."""
    groups = _grouped((name, model) for model, name in data.items() if name)
    if len(groups) > 1:
        raise ProtocolMismatch(
            f"these models cannot be compared: they are measured on different data sets ({_listed(groups, 'on')}). "
            "Compare models of one data set, or measure all of them on one with --data",
            field="data",
        )


def check_comparable(reports: Sequence[Values]) -> None:
    """Raise ProtocolMismatch if two reports were not measured in the same way. The message says which models differ, and in what."""
    for key, title_ in COMPARABLE.items():
        values = [json.dumps(report["protocol"].get(key), sort_keys=True) for report in reports]
        if len(set(values)) == 1:
            continue
        groups = _grouped((_said(key, report["protocol"]), title(report)) for report in reports)
        raise ProtocolMismatch(
            f"these models cannot be compared: they were measured with different {title_} ({_listed(groups, 'with')}). "
            "Evaluate all of them with the same options",
            field=key,
        )


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the models by the value that they share."""
    groups: dict[str, list[str]] = {}
    for value, model in pairs:
        groups.setdefault(value, []).append(model)
    return groups


def _listed(groups: Mapping[str, Sequence[str]], word: str) -> str:
    return "; ".join(f"{', '.join(models)} {word} {value}" for value, models in groups.items())


def _said(key: str, protocol: Values) -> str:
    """Return a value of a protocol in words."""
    value = protocol.get(key)
    if key == "extractor_sha256":
        return f"{protocol.get('extractor', 'an unknown extractor')} (SHA-256 {str(value)[:12]})"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {shown if len(shown := str(each)) <= 20 else shown[:12]}" for name, each in value.items()
        )
    return str(value)


def ranks(reports: Sequence[Values], metric: str) -> list[int | None]:
    """Return the rank of each report by a metric; 1 is the lowest value, None if the metric is missing. Raises ProtocolMismatch."""
    check_comparable(reports)
    values = [report["metrics"].get(metric) for report in reports]
    known = sorted(value for value in values if value is not None)
    return [None if value is None else 1 + known.index(value) for value in values]


def ranked(reports: Sequence[Values]) -> list[Values]:
    """Return the reports, best first, by KID, or by the distance extrapolated to infinitely many images if any lacks KID. Raises ProtocolMismatch."""
    for metric in RANKS:
        places = ranks(reports, metric)
        if None not in places:
            return [reports[index] for index in np.argsort(np.asarray(places, int), kind="stable")]
    return list(reports)


def to_markdown(reports: Sequence[Values]) -> str:
    """Return a Markdown table of several reports, best first, with the anchor rows that they share."""
    distance = next(name for name in DISTANCES if name in reports[0]["metrics"])
    wanted = (distance, f"{distance}_infinity", *OTHERS)
    names = [name for name in wanted if any(name in report["metrics"] for report in reports)]
    note = ""
    likelihoods = _likelihoods(reports)
    observed = {observed for found in likelihoods for observed in found.values()}
    if len(observed) > 1:
        names = [name for name in names if name != BITS]
        note = f"\n\nlikelihoods are omitted, as the models' x differs: {'; '.join(sorted(observed))}"
    else:
        place = names.index(BITS) if BITS in names else len(names)
        names[place:place] = dict.fromkeys(name for found in likelihoods for name in found)
    if unknown := {name for report in reports for name in report["metrics"] if figures.EARLIER.fullmatch(name)}:
        note += (
            f"\n\nfigures of earlier versions are omitted, as their protocol is unknown: {', '.join(sorted(unknown))}"
        )
    metrics = [name for name in RANKS if any(name in report["metrics"] for report in reports)]
    places = list(zip(*(ranks(reports, name) for name in metrics), strict=True)) or [()] * len(reports)
    rows = [_row(report, place, names) for report, place in zip(reports, places, strict=True)]
    rows += _anchor_rows(reports, distance, names)
    return markdown.table((f"rank by {', '.join(metrics)}", "model", *map(directed, names)), rows) + note


def _likelihoods(reports: Sequence[Values]) -> list[dict[str, str]]:
    """Return for each report the names of its likelihoods in nats, with the description of x."""
    found = []
    for report in reports:
        names = [name for name in report["metrics"] if figures.is_likelihood(name) and not name.endswith(figures.SE)]
        observed = {name: str(report["details"].get(name, {}).get("observed")) for name in names}
        found.append({name: SAME.get(text, text) for name, text in observed.items()})
    return found


def _row(report: Values, places: Sequence[int | None], names: Sequence[str]) -> list[str]:
    cells = [bounded(name, report) if name in report["metrics"] else "" for name in names]
    return [", ".join("-" if place is None else str(place) for place in places), title(report), *cells]


def _anchors(reports: Sequence[Values]) -> Values:
    """Return the anchors of the first report, and those of lossless codecs from the first report that has them."""
    codecs = ({key: each["anchors"][key] for key in STORED if key in each["anchors"]} for each in reports)
    return {**reports[0]["anchors"], **next(filter(None, codecs), {})}


def _anchor_rows(reports: Sequence[Values], distance: str, names: Sequence[str]) -> list[list[str]]:
    """Return rows with the figures of real images, of a perfect generator, and of lossless codecs if the table has bits per dimension.

    If the models had other training images, the row of training images names the model whose images it describes.
    """
    rows, anchors, split = [], _anchors(reports), split_of(reports[0])
    differ = len({report["anchors"].get("train_vs_test") for report in reports}) > 1
    of_model = f" of {reports[0]['model']}" if differ else ""
    if "train_vs_test" in anchors:
        pairs = {distance: "train_vs_test", "kid": "train_vs_test_kid"}
        rows.append(
            ["", f"*real: training images{of_model} against {split} images*", *_anchor_cells(anchors, pairs, names)]
        )
        rows.append(["", f"*real: {split} images*", *_anchor_cells(anchors, TEST_ANCHORS, names)])
    if floor := anchors.get("perfect_generator", {}):
        value = floor.get("resampled", floor["closed_form"])
        rows.append(["", "*a perfect generator*", *[f"{value:.4g}" if name == distance else "" for name in names]])
    for key, title_ in STORED.items():
        if key in anchors and BITS in names:
            figure = f"{anchors[key][BITS]:.4g}"
            rows.append(["", f"*{title_}, lossless, on sheets*", *[figure if name == BITS else "" for name in names]])
    return rows


def _anchor_cells(anchors: Values, keys: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{anchors[keys[name]]:.4g}" if keys.get(name) in anchors else "" for name in names]
