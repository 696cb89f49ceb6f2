"""A report: numbers with their protocol, and the pictures that go with them. Also as JSON, which is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.runtime.errors import shown

Array = NDArray[Any]
Values = Mapping[str, Any]  # a report as `Report.as_dict` gives it

DIGITS = 6  # significant, of every number in a report


@dataclass
class Report:
    """Numbers with their protocol. `as_dict` is the JSON."""

    model: str
    version: int | None
    protocol: dict[str, Any]
    metrics: dict[str, float]
    anchors: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # protocol of single metrics, beyond the common one
    by_class: list[dict[str, Any]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)  # [images, distance]
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
    """Return the value with DIGITS significant digits: the digits after them are noise. Infinite values stay so."""
    return float(f"{value:.{DIGITS}g}")


def to_json(report: Values) -> str:
    """Return one JSON object, the same bytes for the same numbers."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Return the report in a JSON file. Raises EvaluationError if it is not one."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        check_report(report)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(f"{path}: not a report of `manifold evaluate --out`: {error}") from None
    return report


def check_report(report: Values) -> None:
    """Raise ValueError, KeyError or TypeError for a JSON value that lacks what comparisons need of `Report.as_dict`."""
    for key in ("protocol", "metrics", "anchors", "details"):
        if not isinstance(report[key], dict):
            raise ValueError(f"{key} is not an object")
    report["model"], report["protocol"]["extractor_sha256"]
    if not {"fid", "fd_classifier"} & report["metrics"].keys():
        raise ValueError("metrics have no Fréchet distance")
    if wrong := [name for name, value in report["metrics"].items() if not isinstance(value, int | float)]:
        raise ValueError(f"metrics: {shown(wrong[0])} is not a number")
