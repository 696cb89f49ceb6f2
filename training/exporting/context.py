"""The data that the steps of an export share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.graphs import batches
from manifold.runtime.manifest import Manifest
from manifold.runtime.runner import example_inputs
from manifold.training.data import Data
from manifold.training.data.parts import first
from manifold.training.exporting.tasks import Exports
from manifold.training.runs import ResolvedRun

Array = NDArray[Any]
LOOPS = ("sample", "impute")  # the tasks that may draw in a loop


@dataclass
class Context:
    """The state of an export. Each step reads it, writes files into the folder, and replaces the manifest."""

    run: ResolvedRun
    data: Data
    exported: Exports
    folder: Path  # the folder in which the artifact is built
    manifest: Manifest
    examples: dict[str, dict[str, Array]] = field(default_factory=dict)  # inputs by task and role
    expected: dict[str, dict[str, Array]] = field(default_factory=dict)  # torch's outputs for the examples
    opened: Model | None = None

    @property
    def engine(self) -> Model:
        """Return the runtime's engine with the graphs, after they are written and padded."""
        assert self.opened is not None, "the graphs are not opened yet"
        return self.opened

    @property
    def loops(self) -> Sequence[str]:
        """Return the tasks in which one different draw changes the rest of an item."""
        return LOOPS if self.exported.autoregressive or self.exported.sampler else ()

    def update(self, **changes: Any) -> None:
        """Replace the values of these keys of the manifest."""
        self.manifest = self.manifest.model_copy(update=changes)


Step = Callable[[Context], None]


def examples(manifest: Manifest, data: Data) -> dict[str, dict[str, Array]]:
    """Return example inputs for each task. Data inputs are test items, which are repeated if there are few."""
    inputs = {task: example_inputs(spec, manifest, batches.ROWS) for task, spec in manifest.tasks.items()}
    items = data.inputs(first(data.test, batches.ROWS))
    for given in inputs.values():
        if "data" in given:
            given["data"] = np.resize(items, given["data"].shape)
    return inputs
