"""Rows that wait for one model: who goes next, and with how many rows. No threads and no event loop in here.

Runs of the same task are joined. Tasks take turns. Within a batch every request gets an equal share of the rows, and what small ones leave
goes to large ones (max-min fairness; Bertsekas and Gallager, 1992, "Data Networks", section 6.5.2), oldest first among equals: a request of
one row never waits for the end of one of a thousand.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = dict[str, Array]


@dataclass(eq=False, slots=True)
class Work:
    """One run of one request, from its place in the queue to its outputs."""

    task: str
    inputs: Mapping[str, Array]  # (rows, ...) each
    rows: int
    asked: float  # seconds on the monotonic clock
    deadline: float
    done: asyncio.Future[Outputs]
    taken: int = 0  # rows that have gone to the engine
    back: int = 0  # rows that have come back
    began: float | None = None  # when the first of them went
    compute: float = 0.0  # seconds of the runs it was part of
    pieces: list[tuple[int, Outputs]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done()

    def fail(self, error: BaseException) -> None:
        """Ends it with an error, unless it has ended before."""
        if not self.done.done():
            self.done.set_exception(error)

    def receive(self, start: int, outputs: Outputs) -> None:
        """Rows have come back, in any order; the last ones end it."""
        self.pieces.append((start, outputs))
        self.back += len(next(iter(outputs.values())))
        if self.back == self.rows and not self.done.done():
            self.pieces.sort(key=lambda piece: piece[0])
            parts = [piece for _, piece in self.pieces]
            whole = (
                parts[0]
                if len(parts) == 1
                else {role: np.concatenate([part[role] for part in parts]) for role in parts[0]}
            )
            self.done.set_result(whole)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows start .. stop - 1 of a request's run."""

    work: Work
    start: int
    stop: int

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Its rows of every input."""
        if self.stop - self.start == self.work.rows:
            return self.work.inputs
        return {role: array[self.start : self.stop] for role, array in self.work.inputs.items()}


class Queue:
    """Work by task, in turn."""

    def __init__(self) -> None:
        self._by_task: OrderedDict[str, deque[Work]] = OrderedDict()
        self._again: deque[Piece] = deque()  # to be run alone: the batch they were in has failed
        self.rows: dict[
            str, int
        ] = {}  # by task, that have not gone to the engine; cancelled ones count until their turn

    def __bool__(self) -> bool:
        return bool(self._by_task or self._again)

    def __iter__(self) -> Iterator[Work]:
        for line in self._by_task.values():
            yield from line

    def put(self, work: Work) -> None:
        """At the end of its task's line."""
        line = self._by_task.get(work.task)
        if line is None:
            line = self._by_task[work.task] = deque()
        line.append(work)
        self.rows[work.task] = self.rows.get(work.task, 0) + work.rows

    def put_alone(self, pieces: list[Piece]) -> None:
        """To be run next, each by itself."""
        self._again.extend(pieces)

    def take(self, limit: Callable[[str], int]) -> list[Piece]:
        """The next batch, of one task and at most `limit(task)` rows; empty where nothing waits."""
        while self._again:
            piece = self._again.popleft()
            if not piece.work.over:
                return [piece]
        while self._by_task:
            task, line = self._by_task.popitem(last=False)
            pieces = _shares(line, limit(task))
            self.rows[task] -= sum(piece.stop - piece.start for piece in pieces)
            while line and (line[0].over or line[0].taken == line[0].rows):
                gone = line.popleft()
                self.rows[task] -= gone.rows - gone.taken
            if line:
                self._by_task[task] = line  # at the end: the other tasks' turn comes first
            if pieces:
                return pieces
        return []

    def drain(self) -> list[Work]:
        """Everything that waits, taken out."""
        waiting = [*self, *(piece.work for piece in self._again)]
        self._by_task.clear()
        self._again.clear()
        self.rows.clear()
        return waiting


def _shares(line: deque[Work], limit: int) -> list[Piece]:
    """Pieces of at most `limit` rows together, in the line's order."""
    chosen: list[Work] = []
    total = 0
    for work in line:
        if not work.over and work.taken < work.rows:
            chosen.append(work)
            total += work.rows - work.taken
            if len(chosen) == limit:
                break
    shares = {id(work): work.rows - work.taken for work in chosen}
    if total > limit:
        left = limit
        for place, work in enumerate(sorted(chosen, key=lambda work: work.rows - work.taken)):
            shares[id(work)] = min(work.rows - work.taken, left // (len(chosen) - place))
            left -= shares[id(work)]
    pieces = []
    for work in chosen:
        start, work.taken = work.taken, work.taken + shares[id(work)]
        pieces.append(Piece(work, start, work.taken))
    return pieces
