"""The false positive rates that were measured with the calibration of a model. The figures of its manifest record them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from manifold.runtime.manifest import Manifest, Metric

RECORDED = "manifold fit"  # the value of `by` in the protocol of figures that depend on the calibration
RATE = "false_positive_rate_at_"  # such a figure is named after the requested rate


@dataclass(frozen=True)
class MeasuredRate:
    """A false positive rate that was measured on items that are known to be normal."""

    requested: float
    measured: float
    n: int  # number of items
    interval: tuple[
        float, float
    ]  # 95% interval of the measured rate for items that are exchangeable with the calibration items

    @property
    def outside(self) -> bool:
        """Whether the measured rate lies outside the interval."""
        return is_outside(self.measured, self.interval)


@dataclass(frozen=True)
class Measured:
    """The rates that were measured with a calibration."""

    rates: tuple[MeasuredRate, ...] = ()
    score: str = ""  # the term that they were measured with
    shift: str | None = None  # the reason why the items and the calibration items are not exchangeable

    def nearest(self, term: str, rate: float) -> MeasuredRate | None:
        """Return the measurement whose requested rate is nearest to `rate` (as a ratio); None if there is none for this term."""
        if term != self.score or not self.rates:
            return None
        wanted = math.log(max(rate, sys.float_info.min))
        return min(self.rates, key=lambda each: abs(math.log(each.requested) - wanted))


NOTHING = Measured()


def is_outside(rate: float, interval: tuple[float, float]) -> bool:
    """Return whether a measured rate lies outside its interval."""
    return not interval[0] <= rate <= interval[1]


def interval_text(rate: float, interval: tuple[float, float]) -> str:
    """Return the interval of a measured rate as text, with a mark if the rate lies outside."""
    return f"{interval[0]:.2%} to {interval[1]:.2%}{': outside' if is_outside(rate, interval) else ''}"


def of(manifest: Manifest) -> Measured:
    """Return the rates that the manifest records for its present calibration.

    A reason for a shift is also read from the flagged shares of unlabelled items. Figures of an earlier calibration are left out: those that name
    another calibration, or name none in an artifact that was calibrated again.
    """
    calibration = manifest.scoring.calibration if manifest.scoring else None
    if manifest.scoring is None or calibration is None:
        return NOTHING
    unnamed = None if "recalibrated" in manifest.provenance else calibration.id
    current = [
        metric
        for metric in of_calibration(manifest.metrics)
        if metric.protocol.get("calibration", unnamed) == calibration.id
    ]
    found = [(metric, rate) for metric in current if (rate := _rate(metric)) is not None]
    reasons = (metric.protocol.get("shift") for metric in current)
    stated = next((reason for reason in reasons if isinstance(reason, str)), None)
    score = manifest.scoring.score
    is_own = all(metric.protocol.get("score", score) == score for metric, _ in found)
    rates = tuple(rate for _, rate in found) if is_own else ()
    return Measured(rates, score, stated or calibration.shift)


def of_calibration(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the figures that depend on the calibration."""
    return [metric for metric in metrics if metric.protocol.get("by") == RECORDED]


def _rate(metric: Metric) -> MeasuredRate | None:
    """Return a figure as a measured rate; None for another figure, and for one without the number of items or the interval."""
    stated, n, interval = metric.name.removeprefix(RATE), metric.protocol.get("n"), metric.protocol.get("expected")
    try:
        requested = float(stated)
        low, high = map(float, interval)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if not metric.name.startswith(RATE) or not 0 < requested < 1 or type(n) is not int:
        return None
    return MeasuredRate(requested, metric.value, n, (low, high))
