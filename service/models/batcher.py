"""Batching of concurrent requests: admission, deadlines, cancellation, and isolation of failures.

Every model has one Batcher, which drives use cases (generators of runs, see runtime.operations). If the engine is idle, a run starts immediately.
Requests that arrive while it is running are batched into the next run (models/queueing.py), so that an idle service adds no delay and a busy
one batches without settings. No item depends on the other items of its batch, so batching never changes a response.

A run that takes less time than a hop to a thread runs on the event loop, if the cost of its graph is fixed (runtime.graphs.fixed_cost). All other
runs use the model's worker threads, outside the interpreter's lock. Nothing waits for a run on the event loop, and neither does `close`.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import lengths
from manifold.runtime.engine import Model
from manifold.runtime.errors import Busy, DeadlineExceeded, Unavailable
from manifold.runtime.manifest import RANDOM, Manifest, TensorSpec
from manifold.runtime.operations import Run
from manifold.runtime.runner import joined, not_finite
from manifold.service.aside import LARGE, PIXEL, aside
from manifold.service.models.costs import InPlace, RunCosts
from manifold.service.models.queueing import Line, Outputs, Piece, Queue, Work
from manifold.service.settings import ModelSettings
from manifold.service.telemetry import tracing

Array = NDArray[Any]
T = TypeVar("T")

LONG = 0.02  # seconds: a run that is expected to take longer has a lower priority than the event loop and shorter runs
NICE = 10  # that priority, in the system's units: a tenth of a core beside a busy thread, or a whole idle core
LEAST_STEP = 4096  # smallest cost of a row in the steps of a use case, in bytes (service.aside)
RUN_SECONDS = (
    0.1  # duration of the runs of a sampler, if several rows are needed for it; larger ones would not be faster
)
FIRST_ROWS = 8  # number of rows in its first run, before its cost is known
SWEEP = 0.05  # seconds between checks of deadlines


@dataclass(slots=True)
class RunTiming:
    """The times of one request, in milliseconds, summed over its runs."""

    queue: float = 0.0
    compute: float = 0.0


@dataclass(frozen=True, slots=True)
class Ran:
    """The record of one run of the engine, for metrics."""

    task: str
    rows: int
    requests: int
    reason: str  # why it started then: `idle` engine, `full` batch, `next` after another run, `alone` after a failure
    seconds: float
    in_place: bool
    failed: bool


@dataclass(slots=True)
class Tally:
    """The totals of the runs of a task."""

    runs: int = 0
    rows: int = 0
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0


class Batcher:
    """The runner of the use cases of one model."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        assert settings.instances and settings.max_rows and settings.queue_rows and settings.queue_bytes
        self.model, self.instances = model, settings.instances
        self.queue_rows, self.queue_bytes, self.queue_ms = settings.queue_rows, settings.queue_bytes, settings.queue_ms
        self.rows, self.bytes = 0, 0  # totals of requests that are queued or running
        self.listener: Callable[[Ran], None] = lambda ran: None
        self.costs, self.in_place = RunCosts(), InPlace(model)
        self.tallies = {name: Tally() for name in model.manifest.tasks}
        self._queue = Queue()
        self._asides: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._most = {
            name: max(task.min_rows, min(settings.max_rows, task.max_rows))
            for name, task in model.manifest.tasks.items()
        }
        self._step_bytes = _step_bytes(model.manifest)
        self._shared = {name: task.shared for name, task in model.manifest.tasks.items() if task.shared}
        self._has_lengths = any(task.longest is not None for task in model.manifest.tasks.values())
        name = model.manifest.name
        self._pool = ThreadPoolExecutor(settings.instances, thread_name_prefix=name)
        self._long = ThreadPoolExecutor(settings.instances, thread_name_prefix=f"{name}-long", initializer=_step_back)
        self.running: set[Future[Any]] = set()  # in its threads, also for clients that have disconnected
        self._free = settings.instances
        self._scheduled = False
        self._turn = True  # whether borrowed work goes first if both wait
        self._until = 0.0  # expected end of the run that started last, on the monotonic clock
        self._reason = "idle"
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    # --- called by use cases ---

    async def drive(
        self, steps: Generator[Run, Outputs, T], rows: int, deadline: float, work: float = 0
    ) -> tuple[T, RunTiming]:
        """Run a use case of `rows` rows to its end. `deadline` is on the monotonic clock. `work` is the smallest cost of its first step, in
        bytes (service.aside).

        Raise Busy immediately if the queue is full or too slow for the deadline, and DeadlineExceeded if a run would start too late.
        """
        if self._has_lengths:
            steps = lengths.bucketed(self.model.manifest, steps)
        timing, held, parts = RunTiming(), 0, None
        self._admit(rows, deadline)
        self.rows += rows
        try:
            while True:
                step = functools.partial(self._step, steps, parts)
                size = max(work, rows * self._step_bytes)
                run, run_rows = step() if size < LARGE else await aside(step, size)  # small steps avoid a coroutine
                work = 0
                if not isinstance(run, Run):
                    return run, timing
                self.bytes -= held
                held = sum(array.nbytes for array in run.inputs.values())
                self.bytes += held
                if parts is None and self.bytes > max(self.queue_bytes, held):
                    raise self._busy(
                        "bytes", f"{self.bytes >> 20} MiB of inputs are queued (limit {self.queue_bytes >> 20} MiB)"
                    )
                parts = await self._run(run, run_rows, deadline, timing)
        finally:
            self.rows -= rows
            self.bytes -= held

    async def borrow(self, call: Callable[[], T]) -> T:
        """Return `call()`, which runs in one of the model's threads, in turn with the runs."""
        if self._closed:
            raise Unavailable("the service is stopping; retry after a moment, or use another replica", field="model")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asides.append((call, future))
        self._schedule()
        return await future

    def close(self) -> None:
        """Refuse queued and new work. Runs end in their threads (`running`); this function does not wait for them."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for work in self._queue.drain():
            work.fail(Unavailable("the service is stopping; retry after a moment, or use another replica"))
        while self._asides:
            _, future = self._asides.popleft()
            if not future.done():
                future.set_exception(
                    Unavailable("the service is stopping; retry after a moment, or use another replica")
                )
        for pool in (self._pool, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    # --- admission ---

    def _admit(self, rows: int, deadline: float) -> None:
        if self._closed:
            raise Unavailable("the service is stopping; retry after a moment, or use another replica", field="model")
        if not self.rows:
            return
        if self.rows + rows > self.queue_rows:
            raise self._busy("rows", f"{self.rows} rows are queued (limit {self.queue_rows})")
        wait, allowed = self.wait(), deadline - time.monotonic()
        if self.queue_ms is not None:
            allowed = min(allowed, self.queue_ms / 1000)
        if wait > allowed:
            raise self._busy(
                "wait",
                f"the estimated waiting time is {1000 * wait:.0f} ms, but this request may wait at most {1000 * max(allowed, 0):.0f} ms",
            )

    def wait(self) -> float:
        """Estimate the seconds until all queued rows have been sent to the engine, from the times of earlier runs."""
        queued = (
            sum([rows * (self.costs.a_row(line) or 0.0) for line, rows in self._queue.rows.items()]) / self.instances
        )
        return queued if self._free else queued + max(0.0, self._until - time.monotonic())

    def _busy(self, reason: str, what: str) -> Busy:
        seconds = max(1, math.ceil(self.wait()))
        return Busy(f"{self.model.manifest.name}: {what}. Retry after {seconds} s.", retry_after=seconds, reason=reason)

    # --- one use case ---

    def _step(self, steps: Generator[Run, Outputs, T], parts: list[Outputs] | None) -> tuple[Run | T, int]:
        """Return the use case's next run with its number of rows, or its result and 0. `parts` are the outputs of the previous run, in pieces.

        This step draws noise, joins and combines outputs, and checks the inputs of a run. Large steps run off the event loop.
        """
        try:
            run = next(steps) if parts is None else steps.send(joined(parts))
        except StopIteration as finished:
            result: T = finished.value
            return result, 0
        return run, self.model.runner.check(run.task, run.inputs)

    async def _run(self, run: Run, rows: int, deadline: float, timing: RunTiming) -> list[Outputs]:
        if self._closed:  # it was closed after the request was admitted
            raise Unavailable("the service is stopping; retry after a moment, or use another replica", field="model")
        loop = asyncio.get_running_loop()
        work = Work(run.task, run.inputs, rows, time.monotonic(), deadline, loop.create_future())
        if self._has_lengths:
            work.length = lengths.of(self.model.manifest.tasks[run.task], run.inputs)
        if run.task in self._shared:
            work.shared = tuple(_common(run.inputs[role]) for role in self._shared[run.task])
        self._queue.put(work)
        self._schedule()
        parts = await work.done
        assert work.began is not None
        timing.queue += 1000 * (work.began - work.asked)
        timing.compute += 1000 * work.compute
        tracing.spent("queue", work.asked, work.began)
        tracing.spent(
            "run", work.began, work.began + work.compute, model=self.model.manifest.name, task=run.task, rows=rows
        )
        return parts

    # --- the queue and the engine ---

    def _schedule(self) -> None:
        """Dispatch after the callbacks that are due now, so that requests that arrived together run together."""
        if self._free and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._free and not self._closed:
            if self._asides and (self._turn or not self._queue):
                self._turn = False  # the next turn is a run's, so that many uploads do not block requests
                self._start_aside(*self._asides.popleft())
                continue
            self._turn = True
            batch = self._queue.take(self._limit)
            self._drop_late([piece.work for piece in batch])
            batch = [piece for piece in batch if not piece.work.over]
            if not batch:
                if self._queue or self._asides:
                    continue
                self._reason = "idle"
                return
            task, rows = batch[0].work.task, sum(piece.stop - piece.start for piece in batch)
            if self.in_place.allows(task, rows):
                self._land(batch, self._attempt(batch), in_place=True)
                if self._queue or self._asides:
                    self._schedule()  # later, because the event loop has other work
                else:
                    self._reason = "idle"
                return
            self._start(batch)

    def _limit(self, line: Line) -> int:
        """Return the largest number of rows of a run. A sampler whose cost depends on its steps gets as many as take about RUN_SECONDS."""
        task = line if isinstance(line, str) else line[0]
        if task not in self._shared:
            return self._most[task]
        least, a_row = self.model.manifest.tasks[task].min_rows, self.costs.a_row(line)
        rows = FIRST_ROWS if a_row is None else int(RUN_SECONDS / max(a_row, 1e-9))
        return min(self._most[task], max(1, rows // least) * least)

    def _start(self, batch: list[Piece]) -> None:
        self._free -= 1
        expected = self.costs.of(batch[0].work.line, sum(piece.stop - piece.start for piece in batch)) or 0.0
        self._until = time.monotonic() + expected
        pool = self._long if expected > LONG else self._pool
        self._submit(pool, functools.partial(self._attempt, batch), functools.partial(self._landed, batch))

    def _submit(self, pool: ThreadPoolExecutor, call: Callable[[], T], landed: Callable[[Future[T]], None]) -> None:
        """Run `call` on one of a pool's threads, and then `landed` on the event loop."""
        loop, future = asyncio.get_running_loop(), pool.submit(call)

        def back(done: Future[T]) -> None:
            with suppress(RuntimeError):  # the event loop has ended, and every waiting request with it
                loop.call_soon_threadsafe(arrive, done)

        def arrive(done: Future[T]) -> None:
            self.running.discard(done)
            landed(done)

        self.running.add(future)
        future.add_done_callback(back)

    def _landed(self, batch: list[Piece], attempt: Future[Attempt]) -> None:
        self._free += 1
        if attempt.cancelled():
            for piece in batch:
                piece.work.fail(Unavailable("the service is stopping; retry after a moment, or use another replica"))
            return
        self._land(batch, attempt.result(), in_place=False)
        self._schedule()

    def _start_aside(self, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        if future.done():  # its client has disconnected
            return
        self._free -= 1

        def back(done: Future[Any]) -> None:
            self._free += 1
            if not future.done():
                error = (
                    Unavailable("the service is stopping; retry after a moment, or use another replica")
                    if done.cancelled()
                    else done.exception()
                )
                future.set_result(done.result()) if error is None else future.set_exception(error)
            self._schedule()

        self._submit(self._pool, call, back)

    def _attempt(self, batch: list[Piece]) -> Attempt:
        """Run a batch, on the event loop or in a thread."""
        began, working = time.monotonic(), time.thread_time()
        try:
            computed = self.model.runner.compute(batch[0].work.task, joined([each.inputs for each in batch]))
            outputs: Outputs | Exception = computed
            shares = _shares_of(batch, computed)
        except Exception as error:  # any error of a graph is reported to the requests in the batch
            outputs, shares = error, []
        return Attempt(outputs, shares, began, time.monotonic(), time.thread_time() - working)

    def _land(self, batch: list[Piece], attempt: Attempt, *, in_place: bool) -> None:
        """Pass the outputs to the requests. If the run failed, the rows of each request run again alone."""
        task, rows = batch[0].work.task, sum(piece.stop - piece.start for piece in batch)
        seconds = attempt.ended - attempt.began
        line = batch[0].work.line
        reason = "full" if rows == self._limit(line) else self._reason
        self._reason = "next"
        for piece in batch:
            piece.work.began = attempt.began if piece.work.began is None else piece.work.began
            piece.work.compute += seconds
        failed = isinstance(attempt.outputs, Exception)
        self._count(Ran(task, rows, len(batch), reason, seconds, in_place, failed))
        if isinstance(attempt.outputs, Exception):
            if len(batch) == 1 or self._closed:  # work that is put back now would never run
                for piece in batch:
                    piece.work.fail(attempt.outputs)
            else:
                self._reason = "alone"
                self._queue.put_alone(batch)
                self._schedule()
            return
        self.costs.add(line, rows, seconds)
        self.in_place.ran(task, rows, attempt.work)
        for piece, (outputs, strange) in zip(batch, attempt.shares, strict=True):
            if strange is not None:
                piece.work.fail(self.model.runner.strange(strange))
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
        """End work whose deadline has passed, even if the engine is busy for a long time."""
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
                        f"the deadline passed after {waited:.0f} ms in the queue; request less, or allow more time "
                        "(HTTP: header X-Deadline-Ms; gRPC: deadline of the call)"
                    )
                )


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of a run or the exception that it raised, its start and end (monotonic clock, s), and its time on a core (s)."""

    outputs: Outputs | Exception
    shares: list[
        tuple[Outputs, str | None]
    ]  # for each piece: its outputs, and the role of an output that is not finite
    began: float
    ended: float
    work: float


def _step_back() -> None:
    """Lower the priority of this thread, if the system supports that. It cannot be raised again."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _shares_of(batch: list[Piece], outputs: Outputs) -> list[tuple[Outputs, str | None]]:
    """Return the outputs of each piece, and the role of an output that is not finite in its rows."""
    strange = not_finite(outputs)
    if len(batch) == 1:
        return [(outputs, strange)]
    shares, start = [], 0
    for piece in batch:
        stop = start + piece.stop - piece.start
        share = {role: array[start:stop] for role, array in outputs.items()}
        shares.append((share, not_finite(share) if strange is not None else None))
        start = stop
    return shares


def _common(values: Array) -> float | str:
    """Return the number that all rows have, or `mixed`."""
    return float(values[0]) if (values == values[0]).all() else "mixed"


def _step_bytes(manifest: Manifest) -> float:
    """Return the cost of a row in the steps between runs, in bytes (service.aside): noise is drawn, all other values are copied."""
    drawn, copied = 0, 0
    for task in manifest.tasks.values():
        noise = sum(_bytes(tensor) for tensor in task.inputs if tensor.source in RANDOM)
        drawn = max(drawn, noise)
        copied = max(copied, sum(_bytes(tensor) for tensor in (*task.inputs, *task.outputs)) - noise)
    return max(LEAST_STEP, PIXEL * drawn, copied / 4)


def _bytes(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
