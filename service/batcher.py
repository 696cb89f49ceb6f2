"""Admission and running: bounded by rows, cut into pieces, deadlines and cancellation honoured before each piece.

One Batcher a model. A use case (a generator of runs, see runtime.operations) is driven here: each run goes to one of the model's worker
threads in pieces of at most `max_rows`, so that a large request lets small ones in between. Since no item depends on its batch-mates,
how rows are grouped can never be seen in an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from runtime.engine import Model, joined
from runtime.errors import Busy, DeadlineExceeded
from runtime.operations import Run
from service.settings import ModelSettings

Array = NDArray[Any]
T = TypeVar("T")


@dataclass
class Timing:
    """Milliseconds of one request, summed over its runs."""

    queue: float = 0.0
    compute: float = 0.0


class Batcher:
    """Runs the use cases of one model."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        assert settings.instances and settings.max_rows and settings.queue_rows
        self.model, self.max_rows, self.queue_rows = model, settings.max_rows, settings.queue_rows
        self.pool = ThreadPoolExecutor(settings.instances, thread_name_prefix=model.manifest.name)
        self.rows = 0  # accepted and not yet answered

    async def drive(self, steps: Generator[Run, dict[str, Array], T], rows: int, deadline: float) -> tuple[T, Timing]:
        """Runs a use case of `rows` rows to its end. `deadline` is on the monotonic clock.

        Raises Busy at once where the queue is full, DeadlineExceeded before a piece that would start too late.
        """
        if self.rows + rows > self.queue_rows and self.rows:
            raise Busy(
                f"{self.model.manifest.name}: {self.rows} rows are queued, the limit is {self.queue_rows}; try again in a second"
            )
        self.rows += rows
        timing = Timing()
        try:
            run = next(steps)
            while True:
                run = steps.send(await self._run(run, deadline, timing))
        except StopIteration as finished:
            return finished.value, timing
        finally:
            steps.close()
            self.rows -= rows

    async def _run(self, run: Run, deadline: float, timing: Timing) -> dict[str, Array]:
        rows = max(len(array) for array in run.inputs.values())
        task = self.model.manifest.task(run.task)
        step = self.max_rows if task is None else max(task.min_rows, min(self.max_rows, task.max_rows))
        pieces = []
        for start in range(0, rows, step):
            piece = (
                run.inputs
                if rows <= step
                else {role: array[start : start + step] for role, array in run.inputs.items()}
            )
            pieces.append(await self._piece(run.task, piece, deadline, timing))
        return joined(pieces)

    async def _piece(self, task: str, inputs: Mapping[str, Array], deadline: float, timing: Timing) -> dict[str, Array]:
        asked = time.monotonic()

        def work() -> tuple[dict[str, Array], float, float]:
            began = time.monotonic()
            if began > deadline:
                raise DeadlineExceeded(
                    f"the deadline passed after {1000 * (began - asked):.0f} ms in the queue; ask for less, or allow more by X-Deadline-Ms"
                )
            return self.model.run(task, inputs), began, time.monotonic()

        outputs, began, ended = await asyncio.get_running_loop().run_in_executor(self.pool, work)
        timing.queue += 1000 * (began - asked)
        timing.compute += 1000 * (ended - began)
        return outputs

    def close(self) -> None:
        """Lets running work end and refuses new work."""
        self.pool.shutdown(wait=True, cancel_futures=True)
