"""What `manifold check` says about an artifact beyond loading it: do its bits depend on the batch, does every task run.

Also how an export finds out whether a graph needs its rows padded to a multiple.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Model, example_inputs
from runtime.errors import ManifoldError

Array = NDArray[Any]
SIZES = (1, 2, 3, 5, 64)
STRIDE = 4  # between the places in the large batch that smaller ones are cut from


def batch_dependence(run: Callable[[Mapping[str, Array]], dict[str, Array]], inputs: Mapping[str, Array]) -> list[str]:
    """Outputs whose bits differ between 64 rows at once and the same rows in smaller batches, one line each."""
    whole = run(inputs)
    differing: dict[str, tuple[int, float]] = {}
    for size in SIZES[:-1]:
        for start in range(0, SIZES[-1] - size + 1, STRIDE):
            rows = slice(start, start + size)
            for role, array in run({role: array[rows] for role, array in inputs.items()}).items():
                if not np.array_equal(array, whole[role][rows]):
                    distance = max(_distance(array, whole[role][rows]), differing.get(role, (0, 0.0))[1])
                    differing[role] = (size, distance)
    return [
        f"{role} differs by {distance:.2g} between {size} rows and {SIZES[-1]}"
        for role, (size, distance) in differing.items()
    ]


def _distance(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def run_all(model: Model) -> list[str]:
    """Runs every task at every batch size; what is wrong, one line each, with what to do."""
    problems = []
    for name, task in model.manifest.tasks.items():
        inputs = example_inputs(task, model.manifest, SIZES[-1])
        try:
            found = batch_dependence(functools.partial(model.run, name), inputs)
        except ManifoldError as error:
            problems.append(f"tasks.{name}: {error.message}")
            continue
        advice = 'set "min_rows": 4' if task.min_rows == 1 else "this graph cannot promise the same item in every batch"
        problems += [f"tasks.{name}: {line}; {advice}" for line in found]
    return problems
