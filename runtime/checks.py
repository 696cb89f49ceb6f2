"""What `manifold check` says about an artifact beyond loading it: does every task run, do its bits depend on the batch."""

from __future__ import annotations

import functools

from runtime import batches
from runtime.engine import Model, example_inputs
from runtime.errors import ManifoldError


def run_all(model: Model) -> list[str]:
    """Runs every task at every batch size; what is wrong, one line each."""
    problems = []
    for name, task in model.manifest.tasks.items():
        inputs = example_inputs(task, model.manifest, batches.ROWS)
        try:
            found = batches.dependence(functools.partial(model.run, name), inputs)
        except ManifoldError as error:
            problems.append(f"tasks.{name}: {error.message}")
            continue
        problems += [f"tasks.{name}: {line}; this graph cannot promise the same item in every batch" for line in found]
    return problems
