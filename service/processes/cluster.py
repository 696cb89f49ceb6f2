"""The connection of a worker to the parent process. A command to one worker is carried out by all workers.

Messages are lists. A worker sends ["open", 0] when its event loop runs. It sends ["ask", id, verb, argument] and receives ["answer", id, results].
It receives ["do", id, verb, argument] and sends ["done", id, result]. The event loop returns a heartbeat ["beat", id] unchanged, so that the
parent notices an event loop that hangs. A result is ["ok", value] or ["error", type, message].
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from manifold.runtime import errors
from manifold.runtime.errors import Busy, ManifoldError, Unavailable
from manifold.service.processes.errands import METRICS_SECONDS, Result
from manifold.service.processes.line import Line, Message

log = structlog.get_logger()

MARGIN = 5.0  # seconds after a command's time limit in which the parent reports the workers that did not answer
MOST = 64  # largest number of commands that wait for an answer; above it 429
METRICS = "metrics"

Deed = Callable[[str], Awaitable[Any]]


class Cluster:
    """The connection of one worker. `deeds` contains its commands by verb. `lost` is called when the parent process has ended."""

    def __init__(
        self, line: Line, deeds: Mapping[str, Deed], lost: Callable[[], None], seconds: float, heard: Sequence[Message] = ()
    ) -> None:  # fmt: skip
        """Set up the connection. `seconds` is the time limit of a command. `heard` contains messages that arrived before the event loop ran."""
        self.line, self.deeds, self.lost, self.seconds, self.heard = line, deeds, lost, seconds, heard
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[Result]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scrapes: list[asyncio.Task[list[Any]]] = []  # the running scrape, and the one that follows it
        self._writing = False

    def open(self) -> None:
        """Start listening, on the running event loop."""
        asyncio.get_running_loop().add_reader(self.line.fileno(), self._read)
        self._say(["open", 0])
        for message in self.heard:
            self._hear(message)

    def close(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.line.fileno())
        loop.remove_writer(self.line.fileno())

    async def everywhere(self, verb: str, argument: str = "") -> list[Any]:
        """Run a command in all workers and return their results. Raise their errors as one, and Unavailable if some do not answer in time."""
        if len(self._waiting) >= MOST:
            raise Busy(
                f"{verb}: {MOST} commands wait for the workers. Retry after 1 s.", retry_after=1.0, reason="commands"
            )
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        limit = MARGIN + (min(METRICS_SECONDS, self.seconds) if verb == METRICS else self.seconds)
        try:
            results = await asyncio.wait_for(answer, limit if self._say(["ask", number, verb, argument]) else 0)
        except TimeoutError:
            raise Unavailable(f"{verb}: the parent process did not answer within {limit:g} s; retry") from None
        finally:
            self._waiting.pop(number, None)
        if failed := [result for result in results if result[0] == "error"]:
            raise as_error(failed)
        return [result[1] for result in results]

    async def metrics(self) -> bytes:
        """Return the metrics of all workers. Requests that arrive during a scrape share the next one."""
        if len(self._scrapes) < 2:
            before = self._scrapes[-1] if self._scrapes else None
            self._scrapes.append(asyncio.create_task(self._scrape(before)))
        (page,) = await asyncio.shield(self._scrapes[-1])
        return str(page).encode()

    async def _scrape(self, before: asyncio.Task[list[Any]] | None) -> list[Any]:
        try:
            if before is not None:
                await asyncio.wait([before])
            return await self.everywhere(METRICS)
        finally:
            self._scrapes.remove(asyncio.current_task())  # type: ignore[arg-type]

    def _say(self, message: Message) -> bool:
        """Send a message without waiting. Return False if the parent process accepts none."""
        sent = self.line.send(message)
        if self.line.waiting and not self._writing:
            self._writing = True
            asyncio.get_running_loop().add_writer(self.line.fileno(), self._write)
        return sent

    def _write(self) -> None:
        self.line.flush()
        if not self.line.waiting:
            self._writing = False
            asyncio.get_running_loop().remove_writer(self.line.fileno())

    def _read(self) -> None:
        for message in self.line.receive():
            self._hear(message)
        if self.line.closed:
            self.close()
            self.lost()

    def _hear(self, message: Message) -> None:
        kind, number, *rest = message
        if kind == "beat":
            self._say(message)
        elif kind == "answer":
            waiting = self._waiting.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(rest[0])
        elif kind == "do":
            task = asyncio.get_running_loop().create_task(self._do(number, *rest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _do(self, number: int, verb: str, argument: str) -> None:
        try:
            result: Result = ["ok", await self.deeds[verb](argument)]
        except ManifoldError as error:
            result = ["error", type(error).__name__, error.message]
        except Exception as error:  # the worker that asked waits for an answer
            log.exception("a command failed in a worker", verb=verb, argument=argument)
            result = ["error", "Unavailable", f"{type(error).__name__} in a worker; see the log"]
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._say(["done", number, result])


def as_error(failed: list[Result]) -> ManifoldError:
    """Return one error for several: the type of the first, and each message once."""
    kind = getattr(errors, failed[0][1], Unavailable)
    error: ManifoldError = kind("; ".join(dict.fromkeys(str(result[2]) for result in failed)))
    return error
