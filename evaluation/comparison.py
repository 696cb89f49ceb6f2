"""The comparison of reports: whether they are comparable, their ranks, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manifold.evaluation import markdown
from manifold.evaluation.cells import DISTANCES, LIKELIHOODS, bounded, directed, title
from manifold.evaluation.errors import ProtocolMismatch
from manifold.evaluation.report import Values

# protocol keys that must be equal before two reports are compared; seeds may differ
COMPARABLE = ("extractor_sha256", "reference", "n", "resize")
RANKS = ("kid", "fid_infinity", "fd_classifier_infinity")  # unbiased by the number of images
OTHERS = ("kid", "is_marginal", "is_prior", "precision", "recall", "confident", "class_accuracy", "nll", "bits_per_dim", "psnr")  # fmt: skip
TEST_ANCHORS = {name: f"test_{name}" for name in ("is_marginal", "is_prior", "class_accuracy", "confident")}


def check_comparable(reports: Sequence[Values]) -> None:
    """Raise ProtocolMismatch if two reports were not measured in the same way. The message names what differs."""
    first = reports[0]
    for other in reports[1:]:
        for key in COMPARABLE:
            ours, theirs = first["protocol"].get(key), other["protocol"].get(key)
            if ours != theirs:
                raise ProtocolMismatch(
                    f"{first['model']} and {other['model']} were measured under different protocols: {key} is {ours} and {theirs}; "
                    "evaluate both in the same way",
                    field=key,
                )


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
    names = [
        name
        for name in (distance, f"{distance}_infinity", *OTHERS)
        if any(name in report["metrics"] for report in reports)
    ]
    note = ""
    observed = {report["details"].get("nll", {}).get("observed") for report in reports if "nll" in report["metrics"]}
    if len(observed) > 1:
        names = [name for name in names if name not in LIKELIHOODS]
        note = f"\n\nnll is omitted, as the models' x differs: {'; '.join(sorted(map(str, observed)))}"
    metrics = [name for name in RANKS if any(name in report["metrics"] for report in reports)]
    places = list(zip(*(ranks(reports, name) for name in metrics), strict=True)) or [()] * len(reports)
    rows = [_row(report, place, names) for report, place in zip(reports, places, strict=True)]
    rows += _anchor_rows(reports[0]["anchors"], distance, names)
    return markdown.table((f"rank by {', '.join(metrics)}", "model", *map(directed, names)), rows) + note


def _row(report: Values, places: Sequence[int | None], names: Sequence[str]) -> list[str]:
    cells = [bounded(name, report) if name in report["metrics"] else "" for name in names]
    return [", ".join("-" if place is None else str(place) for place in places), title(report), *cells]


def _anchor_rows(anchors: Values, distance: str, names: Sequence[str]) -> list[list[str]]:
    """Return rows with the figures of real images and of a perfect generator."""
    rows = []
    if "train_vs_test" in anchors:
        pairs = {distance: "train_vs_test", "kid": "train_vs_test_kid"}
        rows.append(["", "*real: training images against test images*", *_anchor_cells(anchors, pairs, names)])
        rows.append(["", "*real: test images*", *_anchor_cells(anchors, TEST_ANCHORS, names)])
    if floor := anchors.get("perfect_generator", {}):
        value = floor.get("resampled", floor["closed_form"])
        rows.append(["", "*a perfect generator*", *[f"{value:.4g}" if name == distance else "" for name in names]])
    return rows


def _anchor_cells(anchors: Values, keys: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{anchors[keys[name]]:.4g}" if keys.get(name) in anchors else "" for name in names]
