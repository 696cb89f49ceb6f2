"""The model families, one file each. The name of the file is the name of the family. It contains paper, config, modules, losses and exports.

A family file exposes

    Config                       the options, a subclass of training.recipes.Recipe
    build(config, data)          the model, an nn.Module
    phases(model, config)        the phases to train; their losses are called with a batch, and may be any callables
    evaluate(model, batch)       test figures of each item {name: (B,)}, which include "loss"
    exports(model, config, data) the tasks: training.exporting.tasks.Exports

and optionally, in place of the defaults below,

    PRESETS                      {"smoke" | "cpu" | "gpu": {key: value}}
    resolve(config, data)        the config with all options that depend on the data resolved; a second call changes nothing
    finish(model, config, data)  a last fit after training, of buffers that are not saved; it depends on its arguments alone
    monitor(model, batch)        other figures of the test split for the log at the end of an epoch, as JSON values; None if there are none
    draw(model, n, generator)    n items for the grid of samples, or None if the family cannot draw
    report(model, config, data)  the figures for the manifest; None if there are none
    FOLD                         {key: value}: changes to the options for the models of calibration folds, which only compute terms
    ITEMS                        what it learns: a tuple of "images" and "rows"; by default both
    NEEDS_CLASSES                True if the data need classes, unless the option INSTEAD_OF_CLASSES is given
    UNUSED                       names of options of every family that have no effect here, such as those of steps
    TERMS                        names of all terms that the option `score` can name, if they do not depend on other options

The last five are literals, so that commands read them without importing the family (training.outlines).

All functions except `resolve` get a resolved config.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manifold.runtime.errors import shown
from manifold.runtime.manifest import Metric
from manifold.training.batches import Batch
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.phases import Phase
from manifold.training.recipes import Recipe

SMOKE = {"epochs": 2, "test_items": 200, "ema": 0.9}


def _resolve(config: Any, data: Data) -> Any:
    """Return the config unchanged, for families without options that depend on the data."""
    return config


def _finish(model: Any, config: Any, data: Data) -> None:
    """Change nothing, for families without a last fit."""


def _draw(model: Any, n: int, generator: torch.Generator) -> Tensor | None:
    """Return None, for families that cannot draw."""
    return None


@dataclasses.dataclass(frozen=True)
class Family:
    """The interface of a family file, as described above."""

    Config: type[Recipe]
    build: Callable[[Any, Data], nn.Module]
    phases: Callable[[Any, Any], list[Phase]]
    evaluate: Callable[[Any, Batch], dict[str, Tensor]]
    exports: Callable[[Any, Any, Data], Exports]
    PRESETS: Mapping[str, dict[str, Any]] = dataclasses.field(
        default_factory=lambda: {"smoke": SMOKE, "cpu": {}, "gpu": {}}
    )
    resolve: Callable[[Any, Data], Any] = _resolve
    finish: Callable[[Any, Any, Data], None] = _finish
    monitor: Callable[[Any, Batch], dict[str, Any]] | None = None
    draw: Callable[[Any, int, torch.Generator], Tensor | None] = _draw
    report: Callable[[Any, Any, Data], list[Metric]] | None = None
    FOLD: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def names() -> list[str]:
    """Return the names of the families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Family:
    """Return the family with this name. Raises TrainingError for an unknown name."""
    if name not in names():
        raise TrainingError(
            f"family: unknown family {shown(name)}; valid are {', '.join(names())}", field="family", valid=names()
        )
    return of(importlib.import_module(f"{__name__}.{name}"))


def of(module: Any) -> Family:
    """Return the family that a module defines, with defaults for optional names. Raises TrainingError if a required name is missing."""
    fields = dataclasses.fields(Family)
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if not hasattr(module, name)]:
        raise TrainingError(
            f"{getattr(module, '__file__', module)}: it lacks {', '.join(missing)}; a family must define {', '.join(needed)}"
        )
    return Family(**{each.name: getattr(module, each.name) for each in fields if hasattr(module, each.name)})
