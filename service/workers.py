"""Several processes that serve as one: one port, one answer per seed, one page of metrics, and changes of models in all of them.

The keeper binds the port of HTTP and hands the socket to its workers, which also share gRPC's port (SO_REUSEPORT). It starts a worker anew
that has ended by itself, passes signals on, and relays what one worker asks all to do (service.cluster). It serves nothing itself.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import structlog

from runtime import backends
from service import merging
from service.cluster import Result
from service.settings import Settings, SettingsError

log = structlog.get_logger()

SECONDS = 0.5  # between looks at what no message tells
AGAIN = 1.0  # before a worker that has ended is started anew
YOUNG = 3.0  # a worker that ends before it is so old was not able to start
FAILURES = 5  # of them in a row, after which the service ends
PATIENCE = 3.0  # seconds with a worker that does not say what it has counted; then what it said last is taken

Work = Callable[[Settings, socket.socket, Connection, tuple[str, ...]], None]  # a worker's whole life


@dataclass
class Worker:
    """One process, and the line to it."""

    process: Any
    line: Connection
    began: float
    listens: bool = False
    page: dict[str, merging.Family] = field(default_factory=dict)  # of its metrics, when they were asked for last


@dataclass
class Errand:
    """Something that all workers were told to do."""

    origin: Worker
    number: int  # by the origin's count
    verb: str
    argument: str
    open: list[Worker]  # have not answered
    results: list[Result] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)


class Keeper:
    """Of the workers."""

    def __init__(self, settings: Settings, work: Work) -> None:
        self.settings, self.work = settings, work
        self.workers: list[Worker] = []
        self.errands: dict[int, Errand] = {}
        self.ended: list[dict[str, merging.Family]] = []  # one, of all workers that have ended
        self.unloaded: set[str] = set()
        self.failures, self.next_start = 0, 0.0
        self.stopping = False
        self._numbers = itertools.count()
        self._spawn = multiprocessing.get_context("spawn")

    def run(self) -> int:
        """Serves until told to stop. The exit status."""
        with bound(self.settings) as listening, reserved(self.settings):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            if hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, lambda number, frame: self._pass_on(number))
            while not self.stopping or self.workers:
                self._fill(listening)
                self._hear()
                self._go_on_without()
                if self.failures >= FAILURES:
                    log.error("workers do not start", tried=self.failures)
                    self._stop(signal.SIGTERM, None)
        return 3 if self.failures >= FAILURES else 0

    # --- processes ---

    def _fill(self, listening: socket.socket) -> None:
        """As many workers as there should be."""
        while not self.stopping and len(self.workers) < self.settings.workers and time.monotonic() >= self.next_start:
            ours, theirs = self._spawn.Pipe()
            process = self._spawn.Process(
                target=self.work, args=(self.settings, listening, theirs, tuple(self.unloaded))
            )
            process.start()
            theirs.close()
            self.workers.append(Worker(process, ours, time.monotonic()))

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for worker in self.workers:
            if worker.process.is_alive():
                os.kill(worker.process.pid, number)

    def _bury(self, worker: Worker) -> None:
        """A worker has ended: what it had counted stays, and nobody waits for it."""
        worker.process.join()
        self.workers.remove(worker)
        worker.line.close()
        self.ended = [merging.merge([], [*self.ended, worker.page])]
        for number, errand in list(self.errands.items()):
            if errand.origin is worker:
                del self.errands[number]
            elif worker in errand.open:
                errand.open.remove(worker)
                self._settle(number)
        if not self.stopping:
            young = time.monotonic() - worker.began < YOUNG
            self.failures = self.failures + 1 if young else 0
            self.next_start = time.monotonic() + AGAIN
            log.error(
                "a worker has ended, another one is started", pid=worker.process.pid, status=worker.process.exitcode
            )

    # --- messages ---

    def _hear(self) -> None:
        by_line = {worker.line: worker for worker in self.workers}
        by_end = {worker.process.sentinel: worker for worker in self.workers}
        for ready in wait([*by_line, *by_end], SECONDS):
            if isinstance(ready, Connection):
                self._read(by_line[ready])
            elif by_end[ready] in self.workers:
                self._bury(by_end[ready])

    def _read(self, worker: Worker) -> None:
        try:
            kind, number, *rest = worker.line.recv()
        except (EOFError, OSError):  # it is ending: its sentinel will say so
            worker.process.join(SECONDS)
            return
        if kind == "open":
            worker.listens = True
        elif kind == "ask":
            self._send_out(worker, number, *rest)
        elif number in self.errands:
            errand = self.errands[number]
            if worker in errand.open:
                errand.open.remove(worker)
                errand.results.append(rest[0])
                if errand.verb == "metrics" and rest[0][0] == "ok":
                    worker.page = merging.parse(rest[0][1])
            self._settle(number)

    def _send_out(self, origin: Worker, asked: int, verb: str, argument: str) -> None:
        number = next(self._numbers)
        # one that still starts is not waited for to have counted nothing; a change of models it has to hear of
        told = [worker for worker in self.workers if worker.listens or verb != "metrics"]
        errand = self.errands[number] = Errand(origin, asked, verb, argument, told)
        if verb in ("load", "unload"):
            (self.unloaded.add if verb == "unload" else self.unloaded.discard)(argument)
        for worker in list(errand.open):
            if not self._tell(worker, ("do", number, verb, argument)):
                errand.open.remove(worker)
        self._settle(number)

    def _settle(self, number: int) -> None:
        """Answers whoever asked, once all that are left have."""
        errand = self.errands.get(number)
        if errand is None or errand.open:
            return
        del self.errands[number]
        results = errand.results
        if errand.verb == "metrics":
            merged = merging.merge([worker.page for worker in self.workers], self.ended)
            results = [("ok", merging.text(merged).decode())]
        self._tell(errand.origin, ("answer", errand.number, results))

    def _go_on_without(self) -> None:
        """A worker that hangs does not keep the others from being watched."""
        for number, errand in list(self.errands.items()):
            if errand.verb == "metrics" and time.monotonic() - errand.began > PATIENCE:
                silent = [worker.process.pid for worker in errand.open]
                log.warning("workers do not say what they have counted", pids=silent)
                errand.open.clear()
                self._settle(number)

    @staticmethod
    def _tell(worker: Worker, message: Result) -> bool:
        try:
            worker.line.send(message)
        except OSError:  # it is ending
            return False
        return True


def bound(settings: Settings) -> socket.socket:
    """The socket of HTTP. Raises SettingsError where the port cannot be had."""
    return _bind(settings.host, settings.port, shared=False)


def reserved(settings: Settings) -> socket.socket:
    """gRPC's port, kept so that nobody else takes it while workers share it; any port where there is no gRPC."""
    if not settings.rpc_port:
        return socket.socket()
    _bind(settings.host, settings.rpc_port, shared=False).close()  # nobody else has it
    return _bind(settings.host, settings.rpc_port, shared=True)


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise SettingsError(f"port: {host}:{port} cannot be had: {error.strerror}", field="port") from None
    return found


def allowed(settings: Settings) -> int:
    """How many workers there may be. Raises SettingsError where several cannot share what they are to run on."""
    if settings.workers == 1:
        return 1
    if not hasattr(socket, "SO_REUSEPORT") or sys.platform == "win32":
        raise SettingsError("workers: this system lets processes not share a port; take 1", field="workers")
    devices = {settings.of_model(name).device for name in settings.models} | {settings.device}
    if devices == {"cpu"} or backends.cuda_missing() is not None:
        return settings.workers
    if "cuda" in devices:
        raise SettingsError("workers: one process owns a GPU; take 1, or device cpu", field="workers")
    log.warning("one process owns a GPU: there is one worker", asked=settings.workers)
    return 1
