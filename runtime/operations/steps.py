"""The steps of a use case: the runs that it asks for, and how they are answered.

A use case is a generator that yields the runs it needs and gets their outputs back, so that the same lines serve a notebook (`drive` answers
each run at once) and a server (which answers from a queue).
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
    """One run of a task that a use case asks for."""

    task: str
    inputs: dict[str, Array]


Steps: TypeAlias = Generator[Run, dict[str, Array], T]


def drive(steps: Steps[T], run: Callable[[str, Mapping[str, Array]], dict[str, Array]]) -> T:
    """Run a use case to its end; `run(task, inputs)` gives the task's outputs by role."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(run(wanted.task, wanted.inputs))
    except StopIteration as finished:
        result: T = finished.value
        return result


def watched(steps: Steps[T], observe: Callable[[str], None]) -> Steps[T]:
    """Return the same use case, which calls `observe` with the task of each run."""
    try:
        wanted = next(steps)
        while True:
            observe(wanted.task)
            wanted = steps.send((yield wanted))
    except StopIteration as finished:
        result: T = finished.value
        return result
