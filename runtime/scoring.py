"""Latent placement: from terms of the score to calibrated p-values, a decision, a risk, and a reason.

p-values are conformal (Vovk et al., 2005; Bates et al., 2021, arXiv 2104.08279): p = (1 + k) / (n + 1) with k of n calibration scores at
least as high, from items that training never saw. So p is at least 1 / (n + 1), and the realised false positive rate at level alpha has
the law Beta(k, n + 1 - k), k = floor((n + 1) alpha).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import codecs, rows
from runtime.errors import ArtifactError
from runtime.manifest import Calibration, Scoring
from runtime.spec import DataSpec, ImageSpec

Float64 = NDArray[np.float64]

# risk is a fixed function of p, so that 900 means the same after retraining: linear in log p between these points
RISK = ((1.0, 0), (0.1, 600), (0.02, 900), (0.001, 980), (1e-6, 999))
BANDS = ((980, "extreme"), (900, "high"), (600, "elevated"), (0, "normal"))


@dataclass(frozen=True)
class Threshold:
    """Where the line is drawn."""

    score: float | None  # items above it are anomalies; None where the rate is below the calibration's resolution
    p_value: float
    false_positive_rate: float
    interval: tuple[float, float] | None  # 95% interval of the realised rate, over calibration sets of this size


class Calibrated:
    """The calibration of one artifact, and what follows from it."""

    def __init__(self, about: Calibration | None, scores: dict[str, Float64]) -> None:
        self.about, self.scores = about, scores

    @classmethod
    def read(cls, folder: Path, scoring: Scoring | None) -> Calibrated:
        """The artifact's calibration arrays. Raises ArtifactError where they do not fit the manifest."""
        if scoring is None or scoring.calibration is None:
            return cls(None, {})
        path = folder / scoring.calibration.file
        try:
            with np.load(path, allow_pickle=False) as content:
                scores = {name: np.asarray(content[name], np.float64) for name in content.files}
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {error}") from error
        for term in scoring.terms:
            values = scores.get(term.name)
            if (
                values is None
                or values.shape != (scoring.calibration.n,)
                or not np.isfinite(values).all()
                or (np.diff(values) < 0).any()
            ):
                raise ArtifactError(
                    f"{path}: {term.name!r} must be {scoring.calibration.n} finite numbers in ascending order"
                )
        return cls(scoring.calibration, scores)

    @property
    def n(self) -> int:
        """Calibration items."""
        return self.about.n if self.about else 0

    def p_values(self, term: str, values: Float64) -> Float64:
        """Conformal p-values (n,) of one term."""
        calibration = self.scores[term]
        at_least = len(calibration) - np.searchsorted(calibration, values, side="left")
        p: Float64 = (1 + at_least) / (len(calibration) + 1)
        return p

    def threshold(self, term: str, rate: float) -> Threshold:
        """The line for a false positive rate."""
        k = math.floor((self.n + 1) * rate * (1 + 1e-12))
        if k < 1:
            return Threshold(None, rate, rate, None)
        score = float(self.scores[term][max(self.n - k, 0)]) if k <= self.n else -math.inf
        return Threshold(score if math.isfinite(score) else None, k / (self.n + 1), rate, rate_interval(self.n, k))


@lru_cache(maxsize=256)
def rate_interval(n: int, k: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of Beta(k, n + 1 - k), by bisection on P(Beta(k, n + 1 - k) <= x) = P(Binomial(n, x) >= k)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    tail = np.arange(k, n + 1)
    log_choose = log_factorial[n] - log_factorial[tail] - log_factorial[n - tail]

    def below(x: float) -> float:
        logs = log_choose + tail * math.log(x) + (n - tail) * math.log1p(-x)
        return float(np.exp(logs).sum())

    def quantile(target: float) -> float:
        low, high = 1e-12, 1 - 1e-12
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < target else (low, middle)
        return (low + high) / 2

    return (0.0, 1.0) if k > n else (quantile((1 - level) / 2), quantile((1 + level) / 2))


def risk(p: float) -> int:
    """0 to 999, a fixed function of p: 0.1 is 600, 0.02 is 900, 0.001 is 980."""
    logs = [-math.log(point) for point, _ in RISK]
    return int(np.interp(-math.log(p), logs, [value for _, value in RISK]))


def band(value: int) -> str:
    """The name of a range of risk."""
    return next(name for least, name in BANDS if value >= least)


def explain(
    surprise: NDArray[Any], spec: DataSpec, scoring: Scoring, given: Sequence[rows.Row]
) -> list[dict[str, Any]]:
    """For each item where its nats are: columns by excess over the calibration mean, or a picture (white: as strange as 1 in 1000).

    `given` are the rows as they came; images need none.
    """
    if isinstance(spec, ImageSpec):
        by_pixel = surprise.reshape(len(surprise), -1, spec.height, spec.width).mean(axis=1, keepdims=True)
        scaled = by_pixel / (scoring.surprise_scale or float(by_pixel.max()) or 1.0)
        pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        return [{"map": codecs.to_base64(codecs.to_png(item))} for item in pixels]
    usual = np.asarray(scoring.surprise_mean or (0.0,) * len(spec.columns))
    explanations = []
    for item, row in zip(surprise, given, strict=True):
        columns = [
            {"column": name, "value": value, "nats": float(nats), "excess": float(nats - mean)}
            for name, value, nats, mean in zip(spec.names, rows.values(row, spec.names), item, usual, strict=True)
        ]
        explanations.append({"columns": sorted(columns, key=lambda column: -column["excess"])})
    return explanations
