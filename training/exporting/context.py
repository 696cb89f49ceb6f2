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
LOOPS = ("sample", "impute")  # the tasks whose loops draw


@dataclass
class Context:
    """An export under way. Each step reads it, writes files into the folder, and replaces the manifest."""

    run: ResolvedRun
    data: Data
    exported: Exports
    folder: Path  # where the artifact is made
    manifest: Manifest
    examples: dict[str, dict[str, Array]] = field(default_factory=dict)  # inputs by task and role
    expected: dict[str, dict[str, Array]] = field(default_factory=dict)  # what torch gives for them
    opened: Model | None = None

    @property
    def engine(self) -> Model:
        """Return the graphs in the runtime's engine, once they are written and padded."""
        assert self.opened is not None, "the graphs are not opened yet"
        return self.opened

    @property
    def loops(self) -> Sequence[str]:
        """Return the tasks in which one draw that flips changes the rest of an item."""
        return LOOPS if self.exported.autoregressive or self.exported.sampler else ()

    def update(self, **changes: Any) -> None:
        """Change keys of the manifest."""
        self.manifest = self.manifest.model_copy(update=changes)


Step = Callable[[Context], None]


def examples(manifest: Manifest, data: Data) -> dict[str, dict[str, Array]]:
    """Return inputs for each task, with test items if it takes data. They repeat if there are few."""
    inputs = {task: example_inputs(spec, manifest, batches.ROWS) for task, spec in manifest.tasks.items()}
    items = data.inputs(first(data.test, batches.ROWS))
    for given in inputs.values():
        if "data" in given:
            given["data"] = np.resize(items, given["data"].shape)
    return inputs
