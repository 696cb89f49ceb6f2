"""A report: figures with their protocol, and the images for its page. A report can be written as JSON and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.runtime.errors import cut, shown
from manifold.runtime.manifest import figures

Array = NDArray[Any]
Values = Mapping[str, Any]  # a report as `Report.as_dict` gives it

DIGITS = 6  # significant digits of every number in a report


@dataclass
class Report:
    """A set of figures with their protocol. `as_dict` returns the JSON values."""

    model: str
    version: int | None
    protocol: dict[str, Any]
    metrics: dict[str, float]
    anchors: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)  # additional protocol by metric
    by_class: list[dict[str, Any]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)  # [number of images, distance]
    warnings: list[str] = field(default_factory=list)
    prior: str | None = None
    checksum: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, in a fixed order."""
        named = {"model": self.model, "version": self.version, "checksum": self.checksum, "prior": self.prior}
        return {
            **{key: value for key, value in named.items() if value is not None},
            "protocol": self.protocol, "metrics": self.metrics, "anchors": self.anchors, "details": self.details,
            "by_class": self.by_class, "curve": self.curve, "warnings": self.warnings,
        }  # fmt: skip


@dataclass
class Pictures:
    """The uint8 images that a report's page shows."""

    samples: Array | None = None
    by_class: dict[str, Array] = field(default_factory=dict)
    originals: Array | None = None
    reconstructions: Array | None = None
    neighbours: Array | None = None  # the training image nearest to each sample


def rounded(value: float) -> float:
    """Return the value with DIGITS significant digits, as further digits are noise. Infinite values stay infinite."""
    return float(f"{value:.{DIGITS}g}")


def to_json(report: Values) -> str:
    """Return the report as one JSON object. Equal reports give equal bytes."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return the report in a JSON file. Figures of earlier versions get their present names. Raises EvaluationError if it is not one."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        check_report(report)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        raise EvaluationError(
            f"{path}: not a report of `manifold evaluate --out`: {cut(str(error))}{missing}; write one with it"
        ) from None
    return renamed(report)


def renamed(report: Values) -> dict[str, Any]:
    """Return the report with the present names of its figures, see `runtime.manifest.figures`. Figures without a known protocol keep their names."""
    values, details = report["metrics"], dict(report["details"])
    earlier = [
        {"name": name, "value": value, "protocol": {"detail": details[name]} if name in details else {}}
        for name, value in values.items()
    ]
    metrics = {}
    for name, metric in zip(values, figures.renamed(earlier), strict=True):
        metrics[metric["name"]] = metric["value"]
        if name in details:
            del details[name]
            details[metric["name"]] = metric["protocol"]["detail"]
    return {**report, "metrics": metrics, "details": details}


def check_report(report: Values) -> None:
    """Raise ValueError, KeyError or TypeError if a JSON value lacks the keys of `Report.as_dict` that comparisons need."""
    for key in ("protocol", "metrics", "anchors", "details"):
        if not isinstance(report[key], dict):
            raise ValueError(f"{key} is not an object")
    report["model"], report["protocol"]["extractor_sha256"]
    if not {"fid", "fd_classifier"} & report["metrics"].keys():
        raise ValueError("metrics: no Fréchet distance (fid or fd_classifier)")
    if wrong := [name for name, value in report["metrics"].items() if not isinstance(value, int | float)]:
        raise ValueError(f"metrics: {shown(wrong[0])} is not a number")
