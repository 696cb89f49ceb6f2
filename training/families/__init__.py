"""One file per family of models; its name is the family's name. The file holds paper, config, modules, losses, recipe and exports.

A family file exposes

    Config                      frozen dataclass, extends training.phases.Recipe
    PRESETS                     {"smoke" | "cpu" | "gpu": {key: value}}
    build(config, data)         the model, an nn.Module
    phases(model, config)       what the loop trains; losses are methods of the model with "loss" in their names
    evaluate(model, batch)      per-item test figures {name: (B,)}, with "loss" among them
    monitor(model, batch)       what else to log of the test part at the end of an epoch, as JSON values
    draw(model, n, generator)   n items for the sample sheet; None from a family that makes none
    report(model, config, data) the figures that go into the manifest
    exports(model, config, data) the tasks: training.export.Exports
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import Metric
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.phases import Phase, Recipe


class Family(Protocol):
    """The interface of a family file; see above."""

    Config: type[Recipe]
    PRESETS: dict[str, dict[str, Any]]
    build: Callable[[Any, Data], nn.Module]
    phases: Callable[[Any, Any], list[Phase]]
    evaluate: Callable[[Any, Batch], dict[str, Tensor]]
    monitor: Callable[[Any, Batch], dict[str, Any]]
    draw: Callable[[Any, int, torch.Generator], Tensor | None]
    report: Callable[[Any, Any, Data], list[Metric]]
    exports: Callable[[Any, Any, Data], Exports]


def names() -> list[str]:
    """The families there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Family:
    """The family called `name`; TrainingError lists the valid ones otherwise."""
    if name not in names():
        raise TrainingError(f"unknown family {name!r}; valid are {', '.join(names())}", field="family", valid=names())
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))
