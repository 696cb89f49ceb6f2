"""The families of models, one file each; a file's name is the family's name. The file holds paper, config, modules, losses, recipe and exports.

A family file exposes

    Config                       the options, extends training.recipes.Recipe
    build(config, data)          the model, an nn.Module
    phases(model, config)        what the loop trains; losses are methods of the model with "loss" in their names
    evaluate(model, batch)       per-item test figures {name: (B,)}, with "loss" among them
    exports(model, config, data) the tasks: training.exporting.tasks.Exports

and, if the defaults below do not suit it,

    PRESETS                      {"smoke" | "cpu" | "gpu": {key: value}}
    resolve(config, data)        the config with every option that depends on the data filled in; resolving it again changes nothing
    monitor(model, batch)        other figures of the test part for the log at the end of an epoch, as JSON values; None: there are none
    draw(model, n, generator)    n items for the sample sheet; None from a family that makes none
    report(model, config, data)  the figures for the manifest

All functions but `resolve` get a resolved config.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import Metric
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.phases import Phase
from manifold.training.recipes import Recipe

SMOKE = {"epochs": 2, "test_items": 200, "ema": 0.9}


def _resolve(config: Any, data: Data) -> Any:
    """Return the config as it is: no option depends on the data."""
    return config


def _draw(model: Any, n: int, generator: torch.Generator) -> Tensor | None:
    """Return None: nothing is drawn."""
    return None


def _report(model: Any, config: Any, data: Data) -> list[Metric]:
    """Return no figures."""
    return []


@dataclasses.dataclass(frozen=True)
class Family:
    """The interface of a family file; see above."""

    Config: type[Recipe]
    build: Callable[[Any, Data], nn.Module]
    phases: Callable[[Any, Any], list[Phase]]
    evaluate: Callable[[Any, Batch], dict[str, Tensor]]
    exports: Callable[[Any, Any, Data], Exports]
    PRESETS: Mapping[str, dict[str, Any]] = dataclasses.field(
        default_factory=lambda: {"smoke": SMOKE, "cpu": {}, "gpu": {}}
    )
    resolve: Callable[[Any, Data], Any] = _resolve
    monitor: Callable[[Any, Batch], dict[str, Any]] | None = None
    draw: Callable[[Any, int, torch.Generator], Tensor | None] = _draw
    report: Callable[[Any, Any, Data], list[Metric]] = _report


def names() -> list[str]:
    """Return the names of the families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Family:
    """Return the family called `name`. Raises TrainingError, which lists the valid names, for an unknown one."""
    if name not in names():
        raise TrainingError(f"unknown family {name!r}; valid are {', '.join(names())}", field="family", valid=names())
    return of(importlib.import_module(f"{__name__}.{name}"))


def of(module: Any) -> Family:
    """Return the family that a module exposes, with the defaults of what it leaves out. Raises TrainingError if a needed name is missing."""
    fields = dataclasses.fields(Family)
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if not hasattr(module, name)]:
        raise TrainingError(
            f"{getattr(module, '__file__', module)}: a family needs {', '.join(needed)}; {', '.join(missing)} is missing"
        )
    return Family(**{each.name: getattr(module, each.name) for each in fields if hasattr(module, each.name)})
