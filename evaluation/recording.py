"""The conversion between reports and manifest metrics: write an evaluation's figures into a manifest, and read them again as reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manifold.evaluation.cells import title, unit_of
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.report import Values
from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.manifest import Manifest, Metric
from manifold.runtime.manifest.figures import BITS, DISTANCES, EVALUATED, STORED

RECORDED = EVALUATED  # marks the metrics of a manifest that an evaluation wrote


def recorded(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the reports in the manifest, one for each prior and protocol."""
    reports: dict[str, dict[str, Any]] = {}
    for metric in manifest.metrics:
        if metric.protocol.get("by") != RECORDED:
            continue
        protocol, prior = dict(metric.protocol["common"]), metric.protocol.get("prior")
        key = json.dumps([protocol, prior], sort_keys=True)
        report = reports.setdefault(key, _empty(manifest, protocol, prior))
        report["metrics"][metric.name] = metric.value
        report["anchors"] |= metric.protocol.get("anchors", {})
        if "detail" in metric.protocol:
            report["details"][metric.name] = metric.protocol["detail"]
    return list(reports.values())


def _empty(manifest: Manifest, protocol: dict[str, Any], prior: str | None) -> dict[str, Any]:
    """Return a report without figures."""
    return {
        "model": manifest.name, "version": manifest.version, **({"prior": prior} if prior else {}), "protocol": protocol,
        "metrics": {}, "anchors": {}, "details": {}, "by_class": [], "curve": [], "warnings": [],
    }  # fmt: skip


def record(folder: Path, report: Values) -> Manifest:
    """Write the report's figures into the manifest in `folder`. They replace earlier figures of the same prior and protocol.

    Raises EvaluationError if the manifest is of another model or version.
    """
    manifest = manifests.read(folder)
    if (report["model"], report.get("version")) != (manifest.name, manifest.version):
        raise EvaluationError(
            f"{folder}: it contains {manifest.name} {manifest.version}, but the report is of {title(report)}; evaluate this version"
        )
    common = {"by": RECORDED, "prior": report.get("prior"), "common": report["protocol"]}
    common = {key: value for key, value in common.items() if value is not None}
    kept = [
        metric for metric in manifest.metrics if any(metric.protocol.get(key) != value for key, value in common.items())
    ]
    return repository.save_metrics(folder, (*kept, *_metrics(report, common)))


def _metrics(report: Values, common: dict[str, Any]) -> list[Metric]:
    """Return the report's figures, each with its protocol. Distances also carry the anchors, and bits per dimension those of codecs."""
    metrics = []
    of_codecs = {key: value for key, value in report["anchors"].items() if key in STORED}
    others = {key: value for key, value in report["anchors"].items() if key not in STORED}
    for name, value in report["metrics"].items():
        detail = {"detail": report["details"][name]} if name in report["details"] else {}
        anchors = others if name in DISTANCES else of_codecs if name == BITS else {}
        protocol = {**common, **detail, **({"anchors": anchors} if anchors else {})}
        metrics.append(Metric(name=name, value=value, unit=unit_of(name), protocol=protocol))
    return metrics
