"""The exports of a family: tasks as modules with their tensors described. Making graphs of them is training.export's work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import nn

from manifold.runtime import operations
from manifold.runtime.kinds import DataSpec
from manifold.runtime.manifest import Classification, CodesSpec, Conditions, InputSpec, LatentSpec, Scoring, TensorSpec
from manifold.runtime.operations import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A module whose positional arguments are `inputs` and whose outputs (a tensor or a tuple) are `outputs`."""

    module: nn.Module
    inputs: Sequence[InputSpec]
    outputs: Sequence[TensorSpec]
    to_onnx: Callable[[], Any] | None = None  # makes the onnx.ModelProto itself, for graphs with loops
    max_rows: int = 1024

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the module's outputs by role, for inputs by role."""
        module = self.module.eval()
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(inputs[spec.role]) for spec in self.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.role: output.numpy() for spec, output in zip(self.outputs, outputs, strict=True)}


@dataclass(frozen=True)
class Exports:
    """Everything about an artifact that only the family knows."""

    tasks: dict[str, Task]
    latent: LatentSpec | None = None
    codes: CodesSpec | None = None
    scoring: Scoring | None = None
    classification: Classification | None = None
    conditions: Conditions | None = None
    classes: bool = False  # whether the tasks take a condition over the data set's classes
    sampler: str | None = (
        None  # the score task's output with the logits of one parallel pass, for artifacts whose sampler loops
    )
    autoregressive: bool = (
        False  # the sampler goes on from what it drew: where one draw flips, the rest of the item is another
    )
    spec: DataSpec | None = None  # of the items, where the model rounds them to fewer levels than the data has
    description: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # more provenance

    def drive(self, steps: Generator[Run, dict[str, NDArray[Any]], T]) -> T:
        """Run a use case to its end by the modules themselves, before there is an artifact."""
        return operations.drive(steps, lambda task, inputs: self.tasks[task](inputs))
