"""The calibration of class probabilities: a temperature that is fitted to held-out items, and the calibration error that remains.

Guo et al., 2017, "On calibration of modern neural networks", arXiv 1706.04599. All functions use numpy and the engine's outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import operations
from manifold.runtime.engine import Model
from manifold.runtime.manifest import Metric
from manifold.runtime.operations import softmax
from manifold.training.data import Data, Part
from manifold.training.data.parts import batches

Array = NDArray[Any]

BINS = 15  # number of bins for the expected calibration error
BATCH = 500


def fit_temperature(energies: Array, labels: Array) -> float:
    """Return the T > 0 that minimises the cross-entropy of softmax(energies / T), for energies (N, C) and labels (N,)."""

    def loss(log_temperature: float) -> float:
        return cross_entropy(softmax(energies / np.exp(log_temperature)), labels)

    from scipy import optimize  # most models have no classes

    minimum = optimize.minimize_scalar(
        loss, bounds=(np.log(0.05), np.log(100.0)), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(minimum.x))


def cross_entropy(probabilities: Array, labels: Array) -> float:
    """Return the mean of -log p(label), in nats. A probability of 0 counts as 1e-30."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-30)).mean())


def calibration_error(probabilities: Array, labels: Array) -> float:
    """Return the mean of |accuracy - confidence| over BINS equal bins of the highest probability, weighted by their counts."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def figures(probabilities: Array, labels: Array, protocol: dict[str, Any]) -> list[Metric]:
    """Return the metrics accuracy, cross-entropy and expected calibration error."""
    right = float((probabilities.argmax(axis=1) == labels).mean())
    binned = {**protocol, "bins": BINS, "of": "the highest probability, equal widths"}
    entropy, error = cross_entropy(probabilities, labels), calibration_error(probabilities, labels)
    return [
        Metric(name="accuracy", value=round(right, 5), unit="fraction", protocol=protocol),
        Metric(name="cross_entropy", value=round(entropy, 5), unit="nats", protocol=protocol),
        Metric(name="calibration_error", value=round(error, 5), unit="fraction", protocol=binned),
    ]


def energies(model: Model, data: Data, part: Part) -> Array:
    """Return log p(y | x) before the temperature, up to a constant, for the items of a split, (N, C)."""
    parts = (operations.class_energies(model.manifest, data.inputs(held)) for held in batches(part, BATCH))
    return np.concatenate([model.runner.drive(steps) for steps in parts])
