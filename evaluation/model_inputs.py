"""The conversion of a data set's images to a model's inputs, with the classes or real values that it is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.images import RealImages
from manifold.runtime.engine import Model

Array = NDArray[Any]
# returns the conditions of items start .. stop - 1 as arguments of Model's methods
Conditions = Callable[[int, int], Mapping[str, Any]]


def inputs(model: Model, images: RealImages, start: int, stop: int) -> Array:
    """Return images start .. stop - 1 as the model's inputs (n, C, H, W)."""
    return model.manifest.spec.to_model(np.asarray(images.batch(start, stop).pixels))


def conditions(model: Model, images: RealImages, tasks: Sequence[str]) -> Conditions:
    """Return the items' own classes or real values, if a task takes a condition. Raises EvaluationError if the data lacks them."""
    specs = [model.manifest.tasks[name] for name in tasks if name in model.manifest.tasks]
    if all(spec.input("condition") is None for spec in specs):
        return no_conditions
    if model.manifest.conditions is None:
        return lambda start, stop: {"classes": [int(label) for label in images.labels[start:stop]]}
    names = model.manifest.conditions.names
    if images.factors is None or not set(names) <= set(images.factor_names):
        raise EvaluationError(
            f"data: {images.name} lacks {', '.join(names)}, on which {model.manifest.name} is conditioned; choose its own data set",
            field="data",
        )
    values = images.factors[:, [images.factor_names.index(name) for name in names]]
    return lambda start, stop: {"classes": values[start:stop]}


def no_conditions(start: int, stop: int) -> Mapping[str, Any]:
    """Return an empty mapping, for models without a condition."""
    return {}


def joined(classes: Sequence[Any]) -> Any:
    """Join the classes, or rows of real values, of single items to those of a batch."""
    if isinstance(classes[0], np.ndarray):
        return np.concatenate(classes)
    return [label for labels in classes for label in labels]
