"""What a family exports: tasks as modules with their tensors described. Making graphs of them is training.export's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from runtime.manifest import Classification, CodesSpec, Conditions, InputSpec, LatentSpec, Scoring, TensorSpec


@dataclass(frozen=True)
class Task:
    """A module whose positional arguments are `inputs` and whose outputs (a tensor or a tuple) are `outputs`."""

    module: nn.Module
    inputs: Sequence[InputSpec]
    outputs: Sequence[TensorSpec]
    to_onnx: Callable[[], Any] | None = None  # makes the onnx.ModelProto itself, for graphs with loops
    max_rows: int = 1024


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
    description: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # more provenance
