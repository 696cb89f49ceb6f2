"""The steps of a use case: the runs that it needs, and how they are done.

A use case is a generator. It yields the runs that it needs and receives their outputs. The same code works in a notebook, where `drive` does
each run immediately, and in the service, where runs wait in a queue.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
T = TypeVar("T")


class Run(NamedTuple):
    """One run of a task that a use case needs."""

    task: str
    inputs: dict[str, Array]


Steps: TypeAlias = Generator[Run, dict[str, Array], T]


def drive(steps: Steps[T], run: Callable[[str, Mapping[str, Array]], dict[str, Array]]) -> T:
    """Run a use case to its end. `run(task, inputs)` returns the task's outputs by role."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(run(wanted.task, wanted.inputs))
    except StopIteration as finished:
        result: T = finished.value
        return result


def watched(steps: Steps[T], observe: Callable[[str], None]) -> Steps[T]:
    """Return the same use case. It calls `observe` with the name of the task before each run."""
    try:
        wanted = next(steps)
        while True:
            observe(wanted.task)
            wanted = steps.send((yield wanted))
    except StopIteration as finished:
        result: T = finished.value
        return result
