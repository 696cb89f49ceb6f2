"""Reports: numbers with their protocol, the pictures that go with them, and when two of them may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import ProtocolMismatch
from manifold.runtime.errors import shown

Array = NDArray[Any]

DIGITS = 6  # significant, of every number in a report
# what must agree before two numbers are compared; a seed may differ
COMPARABLE = ("extractor_sha256", "reference", "n", "resize")
RANKS = ("kid", "fid_infinity", "fd_classifier_infinity")  # neither depends on how many images there were


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
        """JSON values, in a fixed order."""
        named = {"model": self.model, "version": self.version, "checksum": self.checksum, "prior": self.prior}
        return {
            **{key: value for key, value in named.items() if value is not None},
            "protocol": self.protocol, "metrics": self.metrics, "anchors": self.anchors, "details": self.details,
            "by_class": self.by_class, "curve": self.curve, "warnings": self.warnings,
        }  # fmt: skip


@dataclass
class Pictures:
    """What the page shows: uint8 images."""

    samples: Array | None = None
    by_class: dict[str, Array] = field(default_factory=dict)
    originals: Array | None = None
    reconstructions: Array | None = None
    neighbours: Array | None = None  # the training image nearest to each sample


def rounded(value: float) -> float:
    """DIGITS significant digits: what follows is noise. Infinite values stay so."""
    return float(f"{value:.{DIGITS}g}")


def check_report(found: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for a JSON value that is not what `Report.as_dict` gives, as far as it is compared."""
    for key in ("protocol", "metrics", "anchors", "details"):
        if not isinstance(found[key], dict):
            raise ValueError(f"{key} is not an object")
    found["model"], found["protocol"]["extractor_sha256"]
    if not {"fid", "fd_classifier"} & found["metrics"].keys():
        raise ValueError("metrics have no Fréchet distance")
    if wrong := [name for name, value in found["metrics"].items() if not isinstance(value, int | float)]:
        raise ValueError(f"metrics: {shown(wrong[0])} is not a number")


def check_comparable(reports: Sequence[Mapping[str, Any]]) -> None:
    """Raises ProtocolMismatch where two reports were not measured in the same way, naming what differs."""
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


def ranks(reports: Sequence[Mapping[str, Any]], metric: str) -> list[int | None]:
    """Place of each report by a metric, 1 the lowest; None where it has none. Raises ProtocolMismatch."""
    check_comparable(reports)
    values = [report["metrics"].get(metric) for report in reports]
    known = sorted(value for value in values if value is not None)
    return [None if value is None else 1 + known.index(value) for value in values]


def ranked(reports: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Best first by KID, or by the distance extrapolated to infinitely many images where not all have a KID. Raises ProtocolMismatch."""
    for metric in RANKS:
        places = ranks(reports, metric)
        if None not in places:
            return [reports[index] for index in np.argsort(np.asarray(places, int), kind="stable")]
    return list(reports)
