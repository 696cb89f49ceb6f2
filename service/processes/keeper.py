"""The parent process of several workers that act as one service: one port, the same result for a seed, and one page of metrics.

The parent (Keeper) opens the ports before anything is loaded, and passes the HTTP sockets to the workers, which also share the gRPC port
(SO_REUSEPORT). It restarts a worker that has ended by itself or does not answer, ends all workers on a signal, and relays commands from one
worker to all (processes/errands.py). It serves no requests, and never waits for a worker: messages are queued (processes/line.py), and every
command and the end of the service have a time limit.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import queue
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from manifold.runtime.graphs import backends
from manifold.service.processes import early, line
from manifold.service.processes.errands import Errands
from manifold.service.processes.line import Line, Message
from manifold.service.processes.merging import MetricFamily
from manifold.service.settings import Settings, SettingsError

log = structlog.get_logger()

TICK = 0.5  # seconds between checks of the workers
SOON = 0.02  # the same while a worker is ending, seconds
BEAT = 1.0  # seconds between heartbeats
BUSY = 10.0  # multiple of the time limit for a worker that uses the processor: it may be loading a large model
SHARE = 0.1  # share of a core from which a worker counts as using the processor
FIRST = 60.0  # shortest time limit for a worker that is starting, seconds
GRACE = 4.0  # seconds after notice and drain at which workers are killed; they normally end before (server.py)
AGAIN, LONGEST = (
    1.0,
    30.0,
)  # seconds before a worker is restarted: doubled each time, from the first value up to the second
SETTLED = 60.0  # seconds after which a worker counts as started successfully
FAILURES = 5  # number of consecutive workers that end before they serve, after which the service ends
FAILED = 3  # exit status in that case


@dataclass(eq=False)
class Worker:
    """One worker process, and the connection to it."""

    place: int  # its place among the workers; its replacement gets the same place
    process: subprocess.Popen[bytes]
    line: Line
    began: float
    listens: bool = False
    page: dict[str, MetricFamily] = field(default_factory=dict)  # its metrics at the last scrape
    answered: bool = False  # whether it has ever answered a heartbeat
    beat: int = 0  # the number of the last heartbeat
    waiting: bool = False  # whether the answer to it is missing
    silent: float = 0.0  # seconds since the heartbeat, without times in which this process did not run itself
    killed: bool = False
    used: float = 0.0  # processor time at its last answer, seconds

    @property
    def name(self) -> str:
        """The worker's name in log messages."""
        return f"worker {self.place} (pid {self.process.pid})"

    @property
    def answers(self) -> bool:
        """True if it answered all heartbeats, except possibly the last one."""
        return self.silent < 2 * BEAT

    def tell(self, message: Any) -> bool:
        """Send a message to it. Return False if too many messages are waiting. A worker that is ending needs no message."""
        return self.line.send(message) or self.line.closed

    def hear(self, number: int) -> None:
        """Record its answer to a heartbeat."""
        if number == self.beat:
            self.answered, self.waiting, self.silent = True, False, 0.0
            self.used = processor_seconds(self.process.pid)

    def hangs(self, limit: float) -> bool:
        """Return whether it has not answered for too long."""
        limit = limit if self.answered else max(limit, FIRST)
        if self.silent <= limit:
            return False
        return self.silent > BUSY * limit or processor_seconds(self.process.pid) - self.used < SHARE * self.silent


class Keeper:
    """The parent process. It starts, restarts, watches and signals the workers."""

    def __init__(self, settings: Settings, listening: Sequence[socket.socket]) -> None:
        self.settings, self.listening = settings, listening
        self.workers: list[Worker] = []
        self.errands = Errands(self.workers, settings.command_seconds)
        self.failures, self.ended, self.next_start = 0, 0, 0.0
        self.stops = 0  # number of signals to stop that were received
        self.kill_at = float("inf")
        self.stopping_since: float | None = None  # when a signal to stop was received, on the monotonic clock
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._awake, self._wake = socket.socketpair()
        self._looked = self._beaten = time.monotonic()

    def run(self) -> int:
        """Serve until a signal to stop. Return the exit status."""
        for end in (self._awake, self._wake):
            end.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        early.heed(self._receive)
        try:
            while not self.stops or self.workers:
                self._obey()
                self._fill()
                self._hear()
                self._watch()
            if self.stopping_since is not None:
                log.info("stopped", seconds=round(time.monotonic() - self.stopping_since, 1))
        finally:  # no worker may outlive this process
            for worker in self.workers:
                worker.process.kill()
            for each in (self._selector, self._awake, self._wake):
                each.close()
        return FAILED if self.failures >= FAILURES else 0

    # --- signals ---

    def _receive(self, number: int) -> None:
        """Receive a signal, in the signal thread."""
        self._signals.put(number)
        with contextlib.suppress(OSError):  # the socket is full, so the loop wakes up anyway, or closed at the end
            self._wake.send(b"!")

    def _obey(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if self._signals.get_nowait() in early.STOPPING:
                    if self.stopping_since is None:
                        self.stopping_since, limits = time.monotonic(), self.settings
                        log.info("stopping", notice_seconds=limits.notice_seconds, drain_seconds=limits.drain_seconds)
                    self._stop()
                elif not self.stops:
                    self.errands.ask("keys")

    def _stop(self) -> None:
        """Pass the signal on. The first starts the end, the second ends the notice, the third ends the requests in flight."""
        self.stops += 1
        settings = self.settings
        left = {1: settings.notice_seconds + settings.drain_seconds, 2: settings.drain_seconds}.get(self.stops, 0.0)
        self.kill_at = min(self.kill_at, time.monotonic() + left + GRACE)
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)

    # --- processes ---

    def _fill(self) -> None:
        """Start workers until `settings.workers` are running."""
        free = set(range(self.settings.workers)) - {worker.place for worker in self.workers}
        while free and not self.stops and time.monotonic() >= self.next_start:
            try:
                self._start(free.pop())
            except OSError as error:  # no memory, processes or files left
                log.error("a worker cannot be started", reason=str(error))
                self._put_off(failed=True)

    def _start(self, place: int) -> None:
        ours, theirs = line.pair()
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                numbers = [theirs.fileno(), *(each.fileno() for each in self.listening)]
                process = subprocess.Popen(
                    [sys.executable, *subprocess._args_from_interpreter_flags(), "-m", "manifold.service.processes.worker", *map(str, numbers)],  # type: ignore[attr-defined]
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    pass_fds=numbers, process_group=0,  # this process passes on the signals of the terminal
                )  # fmt: skip
            undo.pop_all()
        worker = Worker(place, process, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self.workers.append(worker)
        settings = base64.b64encode(pickle.dumps(self.settings)).decode()
        worker.tell(["begin", os.getpid(), settings, sorted(self.errands.unloaded)])

    def _bury(self, worker: Worker) -> None:
        """Record that a worker has ended, and when its replacement may start."""
        self._read(worker)  # its last messages
        self.workers.remove(worker)
        self._unhear(worker)
        worker.line.close()
        self.errands.forget(worker)
        if self.stops:
            return
        self.errands.restarts += 1
        log.error(
            "a worker has ended and is restarted",
            worker=worker.place,
            pid=worker.process.pid,
            status=worker.process.returncode,
        )
        self._put_off(failed=not worker.listens, settled=time.monotonic() - worker.began > SETTLED)

    def _put_off(self, *, failed: bool, settled: bool = False) -> None:
        """Delay the next start, longer after each consecutive end of a worker. End the service if no worker starts."""
        self.failures = self.failures + 1 if failed else 0
        self.ended = 1 if settled else self.ended + 1
        self.next_start = time.monotonic() + min(LONGEST, AGAIN * 2 ** min(self.ended - 1, 10))
        if self.failures >= FAILURES:
            log.error("the workers do not start", tried=self.failures)
            self._stop()

    # --- messages ---

    def _hear(self) -> None:
        """Wait for messages, signals or the next check."""
        for worker in self.workers:
            if worker.line.closed:
                self._unhear(worker)
            else:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.line.waiting else 0)
                self._selector.modify(worker.line, events, worker)
        ending = any(worker.line.closed for worker in self.workers)
        for key, events in self._selector.select(SOON if ending else TICK):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._awake.recv(64)
                continue
            if events & selectors.EVENT_WRITE:
                key.data.line.flush()
            if events & selectors.EVENT_READ:
                self._read(key.data)

    def _unhear(self, worker: Worker) -> None:
        if worker.line.fileno() in self._selector.get_map():
            self._selector.unregister(worker.line)

    def _read(self, worker: Worker) -> None:
        for message in worker.line.receive():
            try:
                self._take(worker, message)
            except (TypeError, ValueError, KeyError, IndexError):
                log.exception("a worker sent an invalid message", worker=worker.place)

    def _take(self, worker: Worker, message: Message) -> None:
        kind, number, *rest = message
        if kind == "beat":
            worker.hear(number)
        elif kind == "open":
            worker.listens, self.failures = True, 0
        elif kind == "ask":
            verb, argument = rest
            self.errands.ask(verb, argument, worker, number)
        elif kind == "done":
            self.errands.done(worker, number, *rest)

    # --- checks ---

    def _watch(self) -> None:
        """Handle workers that have ended or hang, and commands that take too long."""
        now = time.monotonic()
        passed, self._looked = (
            min(now - self._looked, 2 * TICK),
            now,
        )  # at most two checks: more time has passed if this process did not run itself
        for worker in list(self.workers):
            worker.silent += passed if worker.waiting else 0.0
            if worker.process.poll() is not None:
                self._bury(worker)
            elif worker.line.closed:  # a worker closes its connection only when it ends
                worker.silent += passed
                self._kill_if(worker, now >= self.kill_at or worker.silent > FIRST)
            else:
                self._kill_if(
                    worker, now >= self.kill_at or (not self.stops and worker.hangs(self.settings.hang_seconds))
                )
        if now - self._beaten >= BEAT:
            self._beaten = now
            self._send_beats()
        self.errands.end_overdue()

    def _kill_if(self, worker: Worker, due: bool) -> None:
        if not due or worker.killed:
            return
        worker.killed = True
        worker.process.kill()
        silent = round(worker.silent, 1)
        log.error(
            "a worker does not answer and is killed", worker=worker.place, pid=worker.process.pid, silent_seconds=silent
        )

    def _send_beats(self) -> None:
        for worker in self.workers:
            if not worker.waiting and not worker.line.closed:
                worker.beat += 1
                worker.waiting = worker.tell(["beat", worker.beat])


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds; 0 if the system does not provide it."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid names on Linux
    except (OSError, AttributeError, OverflowError):
        return 0.0


def allowed(settings: Settings) -> int:
    """Return the number of workers that is possible. Raise SettingsError if several workers cannot share the port or the device."""
    if settings.workers == 1:
        return 1
    if not hasattr(socket, "SO_REUSEPORT") or sys.platform == "win32":
        raise SettingsError("workers: on this system, processes cannot share a port; set workers to 1", field="workers")
    devices = {settings.of_model(name).device for name in settings.models} | {settings.device}
    if devices == {"cpu"} or backends.cuda_missing() is not None:
        return settings.workers
    if "cuda" in devices:
        raise SettingsError(
            "workers: several processes cannot share a GPU; set workers to 1, or device to cpu", field="workers"
        )
    log.warning("several processes cannot share a GPU: one worker is started", requested=settings.workers)
    return 1
