"""The exports of a family: its tasks, as torch modules with descriptions of their tensors. training.export converts them to graphs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import nn

from manifold.runtime import operations
from manifold.runtime.kinds import DataSpec
from manifold.runtime.manifest import (
    Classification,
    CodesSpec,
    Conditions,
    InputSpec,
    LatentSpec,
    PathSpec,
    Scoring,
    TensorSpec,
)
from manifold.runtime.operations import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A torch module with the positional arguments `inputs` and the outputs `outputs` (a tensor or a tuple)."""

    module: nn.Module
    inputs: Sequence[InputSpec]
    outputs: Sequence[TensorSpec]
    to_onnx: Callable[[], Any] | None = None  # builds the onnx.ModelProto, for graphs with loops
    max_rows: int = 1024
    quick: bool = False  # whether the ONNX graph comes from a trace, in a twentieth of the time; no operation may depend on values
    any_mask: bool = False  # impute: whether each unknown value is drawn given all known ones
    traced: bool = False  # whether TorchScript traces the module in spite of `to_onnx`, because it has no loops

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the module on inputs by role. Return its outputs by role."""
        module = self.module.eval()
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(inputs[spec.role]) for spec in self.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.role: output.numpy() for spec, output in zip(self.outputs, outputs, strict=True)}


@dataclass(frozen=True)
class Exports:
    """The parts of an artifact that the family defines."""

    tasks: dict[str, Task]
    latent: LatentSpec | None = None
    codes: CodesSpec | None = None
    path: PathSpec | None = None
    scoring: Scoring | None = None
    classification: Classification | None = None
    conditions: Conditions | None = None
    classes: bool = False  # whether the tasks take a condition over the data set's classes
    optional_class: bool = False  # whether weights of zero mean "no class"
    # the score task's output with the logits of one parallel pass, for samplers with loops
    sampler: str | None = None
    autoregressive: bool = (
        False  # whether each draw depends on earlier ones, so that one different draw changes the rest
    )
    spec: DataSpec | None = None  # spec of the items, if the model rounds them to fewer levels than the data has
    description: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # additional provenance

    def drive(self, steps: Generator[Run, dict[str, NDArray[Any]], T]) -> T:
        """Run a use case to its end with the torch modules, before there is an artifact."""
        return operations.drive(steps, lambda task, inputs: self.tasks[task](inputs))
