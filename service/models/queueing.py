"""The queue of one model: which requests go into the next batch, and with how many rows. It uses no threads and no event loop.

Runs of the same task are batched. Tasks take turns. Half of a batch goes to the oldest requests, so that they always make progress, and half to
those with the fewest rows left, which keeps the mean wait short (Schrage, 1968, on the shortest remaining time). A request with one row never
waits for the end of a request with a thousand. Requests of equal size are run whole, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = dict[str, Array]
Line = (
    str | tuple[Any, ...]
)  # a task; with it the length of its free axes and the numbers that a run has only once, if there are any

WINDOW = 2  # multiple of the batch size: number of oldest requests that are considered


@dataclass(eq=False, slots=True)
class Work:
    """One run of one request, from its place in the queue to its outputs."""

    task: str
    inputs: Mapping[str, Array]  # (rows, ...) each
    rows: int
    asked: float  # seconds on the monotonic clock
    deadline: float
    done: asyncio.Future[list[Outputs]]  # in pieces, in the order of the rows
    length: int | None = None  # length of free axes, which all inputs of a run share
    shared: tuple[float | str, ...] = ()  # the numbers that all rows of a run share, such as the steps of a sampler
    taken: int = 0  # rows that have been sent to the engine
    back: int = 0  # rows that have come back
    began: float | None = None  # when the first row was sent, seconds
    compute: float = 0.0  # time of the runs that contained its rows, seconds
    pieces: list[tuple[int, Outputs]] = field(default_factory=list)

    @property
    def line(self) -> Line:
        """The key of the runs that it can be batched with."""
        return self.task if self.length is None and not self.shared else (self.task, self.length, *self.shared)

    @property
    def over(self) -> bool:
        """True if it has ended or its client has disconnected."""
        return self.done.done()

    def fail(self, error: BaseException) -> None:
        """End it with an error, unless it has ended already."""
        if not self.done.done():
            self.done.set_exception(error)

    def receive(self, start: int, outputs: Outputs) -> None:
        """Add the outputs of some rows, in any order. The last rows end it."""
        self.pieces.append((start, outputs))
        self.back += len(next(iter(outputs.values())))
        if self.back == self.rows and not self.done.done():
            self.pieces.sort(key=lambda piece: piece[0])
            self.done.set_result([piece for _, piece in self.pieces])


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a request's run: rows start .. stop - 1."""

    work: Work
    start: int
    stop: int

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The rows of every input."""
        if self.stop - self.start == self.work.rows:
            return self.work.inputs
        return {role: array[self.start : self.stop] for role, array in self.work.inputs.items()}


class Queue:
    """A queue of work by task. Tasks take turns."""

    def __init__(self) -> None:
        self._by_task: OrderedDict[Line, dict[int, Work]] = OrderedDict()  # lines, oldest first
        self._again: deque[Piece] = deque()  # to run alone, because their batch has failed
        # by line, not sent to the engine yet; cancelled rows count until they are noticed
        self.rows: dict[Line, int] = {}

    def __bool__(self) -> bool:
        return bool(self._by_task or self._again)

    def __iter__(self) -> Iterator[Work]:
        for line in self._by_task.values():
            yield from line.values()

    def put(self, work: Work) -> None:
        """Add work at the end of the line of its task."""
        self._by_task.setdefault(work.line, {})[id(work)] = work
        self.rows[work.line] = self.rows.get(work.line, 0) + work.rows

    def put_alone(self, pieces: list[Piece]) -> None:
        """Run these pieces next, each alone."""
        self._again.extend(pieces)

    def take(self, limit: Callable[[Line], int]) -> list[Piece]:
        """Return the next batch: pieces of one line, at most `limit(line)` rows. Empty if the queue is empty."""
        while self._again:
            piece = self._again.popleft()
            if not piece.work.over:
                return [piece]
        while self._by_task:
            key, line = self._by_task.popitem(last=False)
            most = limit(key)
            for work in [work for work in islice(line.values(), WINDOW * most) if work.over]:
                del line[id(work)]
                self.rows[key] -= work.rows - work.taken
            pieces = _shares(line, most)
            for work in [piece.work for piece in pieces]:
                if work.taken == work.rows:
                    del line[id(work)]
            self.rows[key] -= sum(piece.stop - piece.start for piece in pieces)
            if line:
                self._by_task[key] = line  # at the end, because the other tasks take their turn first
            else:
                del self.rows[key]
            if pieces:
                return pieces
        return []

    def drain(self) -> list[Work]:
        """Remove and return all work in the queue."""
        waiting = [*self, *(piece.work for piece in self._again)]
        self._by_task.clear()
        self._again.clear()
        self.rows.clear()
        return waiting


def _shares(line: dict[int, Work], limit: int) -> list[Piece]:
    """Return pieces of at most `limit` rows: half for the oldest requests, half for the shortest. One half may use rows that the other leaves."""
    waiting = list(islice(line.values(), WINDOW * limit))
    shares: dict[int, int] = {}
    left = limit

    def give(work: Work, most: int) -> None:
        nonlocal left
        share = min(work.rows - work.taken - shares.get(id(work), 0), most)
        if share > 0:
            shares[id(work)] = shares.get(id(work), 0) + share
            left -= share

    for work in waiting:
        give(work, left - limit // 2)
    for work in sorted(waiting, key=lambda work: work.rows - work.taken):
        give(work, left)
    pieces = []
    for work in waiting:
        if share := shares.get(id(work)):
            start, work.taken = work.taken, work.taken + share
            pieces.append(Piece(work, start, work.taken))
    return pieces
