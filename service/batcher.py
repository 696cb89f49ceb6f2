"""Rows of concurrent requests in one run: admission, deadlines, cancellation, and who pays for what goes wrong.

One Batcher a model. A use case (a generator of runs, see runtime.operations) is driven here. A run goes at once where the engine is free;
what arrives while it works is joined into the next run (service.queueing says how), so an idle service adds no delay and a busy one batches
by itself. Since no item depends on its batch-mates, how rows are grouped can never be seen in an answer.

Runs that take less than a thread's hop would are run in place; the others on the model's worker threads, outside the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Model, not_finite
from runtime.errors import Busy, DeadlineExceeded, Unavailable
from runtime.operations import Run
from service import tracing
from service.queueing import Outputs, Piece, Queue, Work
from service.settings import ModelSettings

Array = NDArray[Any]
T = TypeVar("T")

IN_PLACE = 0.001  # seconds of work: a run that is expected to take less does not leave the event loop
ASIDE = 64  # rows from which drawing noise and combining outputs leave it too
SWEEP = 0.05  # seconds between looks at deadlines


@dataclass(slots=True)
class Timing:
    """Milliseconds of one request, summed over its runs."""

    queue: float = 0.0
    compute: float = 0.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the engine, for whoever counts them."""

    task: str
    rows: int
    requests: int
    reason: str  # why it went then: `idle` engine, `full` batch, `next` after another run, `alone` after a failure
    seconds: float
    in_place: bool
    failed: bool


@dataclass(slots=True)
class Tally:
    """What the runs of a task add up to."""

    runs: int = 0
    rows: int = 0
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0


class Costs:
    """Seconds that a run takes: a moving mean for each task and power of two of rows."""

    KEPT = 0.8  # of the mean, at each new run

    def __init__(self) -> None:
        self._seconds: dict[str, dict[int, float]] = {}
        self.a_row: dict[str, float] = {}  # seconds a row of each task, at the largest size that has been seen

    def add(self, task: str, rows: int, seconds: float) -> None:
        """A run of `rows` rows took so long."""
        known, size = self._seconds.setdefault(task, {}), rows.bit_length()
        known[size] = self.KEPT * known.get(size, seconds) + (1 - self.KEPT) * seconds
        if size == max(known):
            self.a_row[task] = self.KEPT * self.a_row.get(task, seconds / rows) + (1 - self.KEPT) * seconds / rows

    def of(self, task: str, rows: int) -> float | None:
        """What a run of so many rows will take, from the nearest size that has been seen; None before the first."""
        known, size = self._seconds.get(task), rows.bit_length()
        if not known:
            return None
        nearest = min(known, key=lambda each: (abs(each - size), each))
        return known[nearest] * max(1.0, 2.0 ** (size - nearest))


class Batcher:
    """Runs the use cases of one model."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        assert settings.instances and settings.max_rows and settings.queue_rows and settings.queue_bytes
        self.model, self.instances = model, settings.instances
        self.queue_rows, self.queue_bytes, self.queue_ms = settings.queue_rows, settings.queue_bytes, settings.queue_ms
        self.rows, self.bytes = 0, 0  # accepted and not yet answered
        self.listener: Callable[[Ran], None] = lambda ran: None
        self.costs, self.work = Costs(), Costs()  # by the clock, and by a core's time: waits for the lock left out
        self.tallies = {name: Tally() for name in model.manifest.tasks}
        self._queue = Queue()
        self._asides: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._most = {
            name: max(task.min_rows, min(settings.max_rows, task.max_rows))
            for name, task in model.manifest.tasks.items()
        }
        self._pool = ThreadPoolExecutor(settings.instances, thread_name_prefix=model.manifest.name)
        self._free = settings.instances
        self._scheduled = False
        self._turn = True  # of borrowed work, where both wait
        self._until = 0.0  # when the last run that has begun is expected to end, on the monotonic clock
        self._reason = "idle"
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    # --- what the handlers call ---

    async def drive(self, steps: Generator[Run, Outputs, T], rows: int, deadline: float) -> tuple[T, Timing]:
        """Runs a use case of `rows` rows to its end. `deadline` is on the monotonic clock.

        Raises Busy at once where the queue is full or too slow for the deadline, DeadlineExceeded where a run would start too late.
        """
        timing, held, outputs = Timing(), 0, None
        self._admit(rows, deadline)
        self.rows += rows
        try:
            while True:
                run = await self._step(steps, outputs, rows)
                if not isinstance(run, Run):
                    return run, timing
                self.bytes -= held
                held = sum(array.nbytes for array in run.inputs.values())
                self.bytes += held
                if outputs is None and self.bytes > max(self.queue_bytes, held):
                    raise self._busy(
                        "bytes", f"{self.bytes >> 20} MiB are queued, the limit is {self.queue_bytes >> 20}"
                    )
                outputs = await self._run(run, deadline, timing)
        finally:
            self.rows -= rows
            self.bytes -= held

    async def borrow(self, call: Callable[[], T]) -> T:
        """Anything else on one of the model's threads, in turn with the runs."""
        if self._closed:
            raise Unavailable("the service is stopping", field="model")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asides.append((call, future))
        self._schedule()
        return await future

    def close(self) -> None:
        """Lets running work end; refuses what waits."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for work in self._queue.drain():
            work.fail(Unavailable("the service is stopping"))
        while self._asides:
            _, future = self._asides.popleft()
            if not future.done():
                future.set_exception(Unavailable("the service is stopping"))
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- admission ---

    def _admit(self, rows: int, deadline: float) -> None:
        if self._closed:
            raise Unavailable("the service is stopping", field="model")
        if not self.rows:
            return
        if self.rows + rows > self.queue_rows:
            raise self._busy("rows", f"{self.rows} rows are queued, the limit is {self.queue_rows}")
        wait, allowed = self.wait(), deadline - time.monotonic()
        if self.queue_ms is not None:
            allowed = min(allowed, self.queue_ms / 1000)
        if wait > allowed:
            raise self._busy(
                "wait",
                f"the rows that are queued will take {1000 * wait:.0f} ms, and {1000 * max(allowed, 0):.0f} are allowed",
            )

    def wait(self) -> float:
        """Seconds until what is queued now will have gone to the engine, by what runs have taken so far."""
        a_row = self.costs.a_row
        queued = sum([rows * a_row.get(task, 0.0) for task, rows in self._queue.rows.items()]) / self.instances
        return queued if self._free else queued + max(0.0, self._until - time.monotonic())

    def _busy(self, reason: str, what: str) -> Busy:
        seconds = max(1, math.ceil(self.wait()))
        return Busy(f"{self.model.manifest.name}: {what}; try again in {seconds} s", retry_after=seconds, reason=reason)

    # --- one use case ---

    async def _step(self, steps: Generator[Run, Outputs, T], outputs: Outputs | None, rows: int) -> Run | T:
        """The use case's next run, or its result."""

        def step() -> Run | T:
            try:
                return next(steps) if outputs is None else steps.send(outputs)
            except StopIteration as finished:
                result: T = finished.value
                return result

        return step() if rows < ASIDE else await asyncio.get_running_loop().run_in_executor(None, step)

    async def _run(self, run: Run, deadline: float, timing: Timing) -> Outputs:
        rows = self.model.check(run.task, run.inputs)
        loop = asyncio.get_running_loop()
        work = Work(run.task, run.inputs, rows, time.monotonic(), deadline, loop.create_future())
        self._queue.put(work)
        self._schedule()
        outputs = await work.done
        assert work.began is not None
        timing.queue += 1000 * (work.began - work.asked)
        timing.compute += 1000 * work.compute
        tracing.spent("queue", work.asked, work.began)
        tracing.spent(
            "run", work.began, work.began + work.compute, model=self.model.manifest.name, task=run.task, rows=rows
        )
        return outputs

    # --- the queue and the engine ---

    def _schedule(self) -> None:
        """After the callbacks that are due now: requests that arrived together go together."""
        if self._free and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._free:
            if self._asides and (self._turn or not self._queue):
                self._turn = False  # the next one is a run's, so that a row of uploads does not keep requests out
                self._start_aside(*self._asides.popleft())
                continue
            self._turn = True
            batch = self._queue.take(self._most.__getitem__)
            self._drop_late([piece.work for piece in batch])
            batch = [piece for piece in batch if not piece.work.over]
            if not batch:
                if self._queue or self._asides:
                    continue
                self._reason = "idle"
                return
            task, rows = batch[0].work.task, sum(piece.stop - piece.start for piece in batch)
            expected = self.work.of(task, rows)
            if expected is not None and expected < IN_PLACE and self.model.device == "cpu":
                self._land(batch, self._attempt(batch), in_place=True)
                if self._queue or self._asides:
                    self._schedule()  # not at once: the event loop has others to serve
                else:
                    self._reason = "idle"
                return
            self._start(batch)

    def _start(self, batch: list[Piece]) -> None:
        self._free -= 1
        expected = self.costs.of(batch[0].work.task, sum(piece.stop - piece.start for piece in batch)) or 0.0
        self._until = time.monotonic() + expected
        loop = asyncio.get_running_loop()

        def landed(attempt: Future[Attempt]) -> None:
            loop.call_soon_threadsafe(self._landed, batch, attempt)

        self._pool.submit(self._attempt, batch).add_done_callback(landed)

    def _landed(self, batch: list[Piece], attempt: Future[Attempt]) -> None:
        self._free += 1
        if attempt.cancelled():
            for piece in batch:
                piece.work.fail(Unavailable("the service is stopping"))
            return
        self._land(batch, attempt.result(), in_place=False)
        self._schedule()

    def _start_aside(self, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._free -= 1
        loop = asyncio.get_running_loop()

        def back(done: Future[Any]) -> None:
            self._free += 1
            if not future.done():
                error = Unavailable("the service is stopping") if done.cancelled() else done.exception()
                future.set_result(done.result()) if error is None else future.set_exception(error)
            self._schedule()

        self._pool.submit(call).add_done_callback(lambda done: loop.call_soon_threadsafe(back, done))

    def _attempt(self, batch: list[Piece]) -> Attempt:
        """The run itself, wherever it runs."""
        began, working = time.monotonic(), time.thread_time()
        try:
            inputs = [piece.inputs for piece in batch]
            whole = (
                inputs[0]
                if len(inputs) == 1
                else {role: np.concatenate([each[role] for each in inputs]) for role in inputs[0]}
            )
            outputs: Outputs | Exception = self.model.compute(batch[0].work.task, whole)
        except Exception as error:  # whatever a graph raises is the answer of those whose rows were in it
            outputs = error
        return Attempt(outputs, began, time.monotonic(), time.thread_time() - working)

    def _land(self, batch: list[Piece], attempt: Attempt, *, in_place: bool) -> None:
        """Hands outputs out; where the run failed, everybody's rows run again by themselves."""
        task, rows = batch[0].work.task, sum(piece.stop - piece.start for piece in batch)
        seconds = attempt.ended - attempt.began
        reason = "full" if rows == self._most[task] else self._reason
        self._reason = "next"
        for piece in batch:
            piece.work.began = attempt.began if piece.work.began is None else piece.work.began
            piece.work.compute += seconds
        failed = isinstance(attempt.outputs, Exception)
        self._count(Ran(task, rows, len(batch), reason, seconds, in_place, failed))
        if isinstance(attempt.outputs, Exception):
            if len(batch) == 1:
                batch[0].work.fail(attempt.outputs)
            else:
                self._reason = "alone"
                self._queue.put_alone(batch)
                self._schedule()
            return
        self.costs.add(task, rows, seconds)
        self.work.add(task, rows, attempt.work)
        strange = not_finite(attempt.outputs)
        start = 0
        for piece in batch:
            stop = start + piece.stop - piece.start
            outputs = (
                attempt.outputs
                if len(batch) == 1
                else {role: array[start:stop] for role, array in attempt.outputs.items()}
            )
            start = stop
            if strange and (role := not_finite(outputs)):
                piece.work.fail(self.model.strange(role))
            else:
                piece.work.receive(piece.start, outputs)

    def _count(self, ran: Ran) -> None:
        tally = self.tallies[ran.task]
        tally.runs += 1
        tally.rows += ran.rows
        tally.requests += ran.requests
        tally.failed += ran.failed
        tally.seconds += ran.seconds
        self.listener(ran)

    # --- deadlines ---

    def _sweep(self) -> None:
        """Ends what waits beyond its deadline, though the engine may be busy for long."""
        self._sweeper = None
        self._drop_late(list(self._queue))
        if self.rows:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _drop_late(self, works: list[Work]) -> None:
        now = time.monotonic()
        for work in works:
            if now > work.deadline:
                waited = 1000 * (now - work.asked)
                work.fail(
                    DeadlineExceeded(
                        f"the deadline passed after {waited:.0f} ms in the queue; ask for less, or allow more by X-Deadline-Ms"
                    )
                )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a run gave, or what it raised, when (seconds on the monotonic clock), and its thread's time on a core."""

    outputs: Outputs | Exception
    began: float
    ended: float
    work: float
