"""Commands that all workers carry out, at the request of one of them or of a signal. Each command has a time limit.

The worker that asked gets one answer: the results of the workers that answered, and an error that names the others. Requests for metrics are
joined: requests that arrive during a scrape are answered together by the next one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from manifold.service.processes import merging
from manifold.service.processes.merging import MetricFamily

log = structlog.get_logger()

METRICS_SECONDS = 3.0  # time limit for the metrics of a worker; after it, its previous metrics are used
UP, RESTARTS = "manifold_worker_up", "manifold_worker_restarts"
UP_MEANS = "1 if a worker process answers its parent"
RESTARTS_MEANS = "Number of worker processes that ended unexpectedly or were killed because they did not answer"

Result = list[Any]  # ["ok", value] or ["error", type, message]


class Doer(Protocol):
    """The part of a worker that commands need."""

    place: int
    listens: bool
    page: dict[str, MetricFamily]

    @property
    def name(self) -> str:
        """The worker's name in log messages."""
        ...

    @property
    def answers(self) -> bool:
        """True if it answered its last heartbeats."""
        ...

    def tell(self, message: Any) -> bool:
        """Send a message to it. Return False if too many messages are waiting. A worker that is ending needs no message."""
        ...


@dataclass(eq=False)
class Errand:
    """A command that is being carried out."""

    verb: str
    argument: str
    asked: list[tuple[Doer, int]]  # the workers that asked, with their number for it; none if a signal asked
    until: float
    began: float = field(default_factory=time.monotonic)
    open: list[Doer] = field(default_factory=list)  # workers that have not answered
    silent: list[Doer] = field(default_factory=list)  # workers that are no longer waited for
    results: list[Result] = field(default_factory=list)


class Errands:
    """The commands that are being carried out. The parent process changes the list `workers`."""

    def __init__(self, workers: Sequence[Doer], seconds: float) -> None:
        self.workers, self.seconds = workers, seconds
        self.unloaded: set[str] = set()  # names of models, for workers that start later
        self.restarts = 0
        self._ended: list[dict[str, MetricFamily]] = []  # one merged page, of all workers that have ended
        self._open: dict[int, Errand] = {}
        self._scrape: Errand | None = None  # the running scrape
        self._next: list[tuple[Doer, int]] = []  # the workers that wait for the next one
        self._numbers = itertools.count()

    def ask(self, verb: str, argument: str = "", origin: Doer | None = None, number: int = 0) -> None:
        """Start a command."""
        asked = [] if origin is None else [(origin, number)]
        if verb == "metrics":
            self._next += asked
            self._begin_scrape()
            return
        if verb in ("load", "unload"):
            (self.unloaded.add if verb == "unload" else self.unloaded.discard)(argument)
        self._begin(Errand(verb, argument, asked, time.monotonic() + self.seconds), self.workers)

    def _begin_scrape(self) -> None:
        if self._scrape is not None or not self._next:
            return
        asked, self._next = self._next, []
        self._scrape = Errand("metrics", "", asked, time.monotonic() + min(METRICS_SECONDS, self.seconds))
        # a worker that hangs is not waited for again, and a worker that is starting has counted nothing
        self._begin(self._scrape, [worker for worker in self.workers if worker.listens and worker.answers])

    def _begin(self, errand: Errand, workers: Sequence[Doer]) -> None:
        number = next(self._numbers)
        self._open[number] = errand
        for worker in workers:
            if not worker.tell(["do", number, errand.verb, errand.argument]):
                errand.silent.append(worker)
            elif worker.listens:  # a worker that is starting obeys before it serves, and is not waited for
                errand.open.append(worker)
        self._settle(number)

    def done(self, worker: Doer, number: int, result: Result) -> None:
        """Record a worker's result."""
        errand = self._open.get(number)
        if errand is None or worker not in errand.open:
            return
        errand.open.remove(worker)
        errand.results.append(result)
        if errand.verb == "metrics" and result[0] == "ok":
            worker.page = merging.parse(result[1])
        self._settle(number)

    def forget(self, worker: Doer) -> None:
        """Record that a worker has ended. Its counts are kept, and its replacement starts with the current state."""
        self._ended = [merging.merge([], [*self._ended, worker.page])]
        self._next = [each for each in self._next if each[0] is not worker]
        for number, errand in list(self._open.items()):
            errand.asked = [each for each in errand.asked if each[0] is not worker]
            for group in (errand.open, errand.silent):
                if worker in group:
                    group.remove(worker)
            self._settle(number)

    def end_overdue(self) -> None:
        """Answer commands whose time limit has passed, without the workers that are missing."""
        for number, errand in list(self._open.items()):
            if time.monotonic() >= errand.until:
                errand.silent += errand.open
                errand.open.clear()
                self._settle(number)

    @property
    def due(self) -> float:
        """The earliest time limit of a command, on the monotonic clock."""
        return min((errand.until for errand in self._open.values()), default=math.inf)

    def _settle(self, number: int) -> None:
        """Answer the workers that asked, if no answer is missing."""
        errand = self._open.get(number)
        if errand is None or errand.open:
            return
        del self._open[number]
        if errand.verb == "unload" and errand.results and all(result[0] == "error" for result in errand.results):
            # no worker has such a model; a later model with this name will be served
            self.unloaded.discard(errand.argument)
        if errand.silent:
            log.warning(
                "workers did not answer", verb=errand.verb, argument=errand.argument, workers=_names(errand.silent)
            )
        results = self._page() if errand.verb == "metrics" else [*errand.results, *_unanswered(errand)]
        for origin, asked in errand.asked:
            if not origin.tell(["answer", asked, results]):
                log.warning("a worker does not read an answer", verb=errand.verb, worker=origin.name)
        if not errand.asked and errand.verb == "keys":
            _log_reload(results)
        if errand is self._scrape:
            self._scrape = None
            self._begin_scrape()

    def _page(self) -> list[Result]:
        """Return the merged metrics of all workers, from their latest pages."""
        merged = merging.merge([worker.page for worker in self.workers], self._ended)
        up = MetricFamily("gauge", UP_MEANS)
        for worker in self.workers:
            up.samples[UP, (("worker", str(worker.place)),)] = float(worker.listens and worker.answers)
        restarts = MetricFamily("counter", RESTARTS_MEANS)
        restarts.samples[f"{RESTARTS}_total", ()] = float(self.restarts)
        merged |= {UP: up, RESTARTS: restarts}
        return [["ok", merging.text(merged).decode()]]


def _unanswered(errand: Errand) -> list[Result]:
    """Return the error that names the workers that did not answer, or nothing if all did."""
    if not errand.silent:
        return []
    what = f"{errand.verb} {errand.argument}".strip()
    within = time.monotonic() - errand.began
    who = f"{_names(errand.silent)} did not answer within {within:.0f} s"
    others = f"{len(errand.results)} others did" if errand.results else "no other did"
    return [["error", "Unavailable", f"{what}: {who}; {others}. See {UP} in GET /metrics, then retry"]]


def _names(workers: Sequence[Doer]) -> str:
    return ", ".join(worker.name for worker in workers)


def _log_reload(results: list[Result]) -> None:
    """Log the result of a reload that a signal requested."""
    if reasons := sorted({result[2] for result in results if result[0] == "error"}):
        log.error("the reload failed in some workers", reasons=reasons)
    else:
        log.info("reloaded", workers=len(results))
