"""Reports beside each other: whether they may be compared, their ranks, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manifold.evaluation import markdown
from manifold.evaluation.cells import DISTANCES, LIKELIHOODS, bounded, title
from manifold.evaluation.errors import ProtocolMismatch
from manifold.evaluation.report import Values

# what must agree before two numbers are compared; a seed may differ
COMPARABLE = ("extractor_sha256", "reference", "n", "resize")
RANKS = ("kid", "fid_infinity", "fd_classifier_infinity")  # neither depends on how many images there were
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
    """Return the rank of each report by a metric, 1 the lowest; None if it lacks the metric. Raises ProtocolMismatch."""
    check_comparable(reports)
    values = [report["metrics"].get(metric) for report in reports]
    known = sorted(value for value in values if value is not None)
    return [None if value is None else 1 + known.index(value) for value in values]


def ranked(reports: Sequence[Values]) -> list[Values]:
    """Return the best first by KID, or by the distance extrapolated to infinitely many images if some lack a KID. Raises ProtocolMismatch."""
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
        note = f"\n\nnll left out, as x is not the same: {'; '.join(sorted(map(str, observed)))}"
    metrics = [name for name in RANKS if any(name in report["metrics"] for report in reports)]
    places = list(zip(*(ranks(reports, name) for name in metrics), strict=True)) or [()] * len(reports)
    rows = [_row(report, place, names) for report, place in zip(reports, places, strict=True)]
    rows += _anchor_rows(reports[0]["anchors"], distance, names)
    return markdown.table((f"rank by {', '.join(metrics)}", "model", *names), rows) + note


def _row(report: Values, places: Sequence[int | None], names: Sequence[str]) -> list[str]:
    cells = [bounded(name, report) if name in report["metrics"] else "" for name in names]
    return [", ".join("-" if place is None else str(place) for place in places), title(report), *cells]


def _anchor_rows(anchors: Values, distance: str, names: Sequence[str]) -> list[list[str]]:
    """Return rows of what real images and a perfect generator score."""
    rows = []
    if "train_vs_test" in anchors:
        pairs = {distance: "train_vs_test", "kid": "train_vs_test_kid"}
        rows.append(["", "*real: train against test*", *_anchor_cells(anchors, pairs, names)])
        rows.append(["", "*real: test*", *_anchor_cells(anchors, TEST_ANCHORS, names)])
    if floor := anchors.get("perfect_generator", {}):
        value = floor.get("resampled", floor["closed_form"])
        rows.append(["", "*a perfect generator*", *[f"{value:.4g}" if name == distance else "" for name in names]])
    return rows


def _anchor_cells(anchors: Values, keys: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{anchors[keys[name]]:.4g}" if keys.get(name) in anchors else "" for name in names]
