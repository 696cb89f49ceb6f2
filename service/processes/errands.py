"""Commands that all workers carry out because one of them, or a signal, asked for it: each ends within a time limit.

Whoever asks gets one answer: the results of the workers that answered, and an error that names those that did not. Requests for metrics are
joined: while one is under way, those that come are answered together by the next one.
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

METRICS_SECONDS = 3.0  # for a worker to say what it has counted; then what it said last is taken
UP, RESTARTS = "manifold_worker_up", "manifold_worker_restarts"

Result = list[Any]  # ["ok", value] or ["error", type, message]


class Doer(Protocol):
    """A worker, as far as commands are concerned."""

    place: int
    listens: bool
    page: dict[str, MetricFamily]

    @property
    def name(self) -> str:
        """The worker's name in log messages."""
        ...

    @property
    def answers(self) -> bool:
        """True if it answered what it was asked last."""
        ...

    def tell(self, message: Any) -> bool:
        """Send it a message. Return False if too much is waiting for it. One that is ending will be forgotten."""
        ...


@dataclass(eq=False)
class Errand:
    """A command under way."""

    verb: str
    argument: str
    asked: list[tuple[Doer, int]]  # who asked, with the number by which they know it; nobody if a signal did
    until: float
    began: float = field(default_factory=time.monotonic)
    open: list[Doer] = field(default_factory=list)  # have not answered
    silent: list[Doer] = field(default_factory=list)  # will not be waited for any longer
    results: list[Result] = field(default_factory=list)


class Errands:
    """The commands under way. `workers` is the list that the keeper of the workers changes."""

    def __init__(self, workers: Sequence[Doer], seconds: float) -> None:
        self.workers, self.seconds = workers, seconds
        self.unloaded: set[str] = set()  # models, for workers that start later
        self.restarts = 0
        self._ended: list[dict[str, MetricFamily]] = []  # one, of all workers that have ended
        self._open: dict[int, Errand] = {}
        self._scrape: Errand | None = None  # the request for metrics that is under way
        self._next: list[tuple[Doer, int]] = []  # who waits for the next one
        self._numbers = itertools.count()

    def ask(self, verb: str, argument: str = "", origin: Doer | None = None, number: int = 0) -> None:
        """Begin a command."""
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
        # one that hangs is not waited for again and again; one that starts has counted nothing
        self._begin(self._scrape, [worker for worker in self.workers if worker.listens and worker.answers])

    def _begin(self, errand: Errand, workers: Sequence[Doer]) -> None:
        number = next(self._numbers)
        self._open[number] = errand
        for worker in workers:
            if not worker.tell(["do", number, errand.verb, errand.argument]):
                errand.silent.append(worker)
            elif worker.listens:  # one that starts does it before it serves, and is not waited for
                errand.open.append(worker)
        self._settle(number)

    def done(self, worker: Doer, number: int, result: Result) -> None:
        """Note a worker's result."""
        errand = self._open.get(number)
        if errand is None or worker not in errand.open:
            return
        errand.open.remove(worker)
        errand.results.append(result)
        if errand.verb == "metrics" and result[0] == "ok":
            worker.page = merging.parse(result[1])
        self._settle(number)

    def forget(self, worker: Doer) -> None:
        """Note that a worker has ended. What it counted stays; the one that takes its place finds everything as it is now."""
        self._ended = [merging.merge([], [*self._ended, worker.page])]
        self._next = [each for each in self._next if each[0] is not worker]
        for number, errand in list(self._open.items()):
            errand.asked = [each for each in errand.asked if each[0] is not worker]
            for group in (errand.open, errand.silent):
                if worker in group:
                    group.remove(worker)
            self._settle(number)

    def end_overdue(self) -> None:
        """Answer for the workers that have had their time."""
        for number, errand in list(self._open.items()):
            if time.monotonic() >= errand.until:
                errand.silent += errand.open
                errand.open.clear()
                self._settle(number)

    @property
    def due(self) -> float:
        """The time at which the next command is overdue, on the monotonic clock."""
        return min((errand.until for errand in self._open.values()), default=math.inf)

    def _settle(self, number: int) -> None:
        """Answer who asked, once all that are left have answered."""
        errand = self._open.get(number)
        if errand is None or errand.open:
            return
        del self._open[number]
        if errand.verb == "unload" and errand.results and all(result[0] == "error" for result in errand.results):
            # no worker has such a model; one that comes by this name is to be served
            self.unloaded.discard(errand.argument)
        if errand.silent:
            log.warning(
                "workers do not answer", verb=errand.verb, argument=errand.argument, workers=_names(errand.silent)
            )
        results = self._page() if errand.verb == "metrics" else [*errand.results, *_unanswered(errand)]
        for origin, asked in errand.asked:
            if not origin.tell(["answer", asked, results]):
                log.warning("a worker does not take an answer", verb=errand.verb, worker=origin.name)
        if not errand.asked and errand.verb == "keys":
            _log_reload(results)
        if errand is self._scrape:
            self._scrape = None
            self._begin_scrape()

    def _page(self) -> list[Result]:
        """Return the page of metrics of all workers, with what they said last."""
        merged = merging.merge([worker.page for worker in self.workers], self._ended)
        up = MetricFamily("gauge", "1 where a worker process answers its parent")
        for worker in self.workers:
            up.samples[UP, (("worker", str(worker.place)),)] = float(worker.listens and worker.answers)
        restarts = MetricFamily(
            "counter", "Worker processes that ended by themselves, or were ended because they did not answer"
        )
        restarts.samples[f"{RESTARTS}_total", ()] = float(self.restarts)
        merged |= {UP: up, RESTARTS: restarts}
        return [["ok", merging.text(merged).decode()]]


def _unanswered(errand: Errand) -> list[Result]:
    """Return the error that names the workers that did not answer; none if all did."""
    if not errand.silent:
        return []
    what = f"{errand.verb} {errand.argument}".strip()
    within = time.monotonic() - errand.began
    who = f"{_names(errand.silent)} did not answer within {within:.0f} s"
    others = f"{len(errand.results)} others did" if errand.results else "no other did"
    return [["error", "Unavailable", f"{what}: {who}; {others}. Look at GET /metrics ({UP}), then try again"]]


def _names(workers: Sequence[Doer]) -> str:
    return ", ".join(worker.name for worker in workers)


def _log_reload(results: list[Result]) -> None:
    """Log how the reload went that a signal asked for."""
    if reasons := sorted({result[2] for result in results if result[0] == "error"}):
        log.error("not reloaded everywhere", reasons=reasons)
    else:
        log.info("reloaded", workers=len(results))
