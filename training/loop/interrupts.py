"""Ctrl-C while a step runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from manifold.training.errors import TrainingError


class Interrupted(TrainingError):
    """Ctrl-C was pressed: the step was finished and a checkpoint written."""


@contextmanager
def finish_step() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C set a flag that the loop reads between steps; a second one interrupts at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: the caller owns the signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
