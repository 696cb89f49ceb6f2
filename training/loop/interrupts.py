"""The handling of Ctrl-C during a training step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from manifold.training.errors import TrainingError


class Interrupted(TrainingError):
    """The error after Ctrl-C. The step was completed and a checkpoint was written."""


@contextmanager
def finish_step() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C set a flag that the loop reads between steps. A second Ctrl-C interrupts immediately."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread, where the caller handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
