"""A worker's line to the process that keeps the workers: what is asked of one of them is done by all.

Messages are tuples over a pipe. A worker says ("open", 0) once it listens; it says ("ask", id, verb, argument) and hears ("answer", id,
results); it is told ("do", id, verb, argument) and says ("done", id, result). A result is ("ok", value) or ("error", type, message).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import structlog

from runtime import errors
from runtime.errors import ManifoldError, Unavailable

log = structlog.get_logger()

Result = tuple[Any, ...]
Deed = Callable[[str], Awaitable[Any]]


class Cluster:
    """Of one worker. `deeds` by verb are what it can be told to do; `lost` is called when the keeper of the workers is gone."""

    def __init__(self, line: Connection, deeds: Mapping[str, Deed], lost: Callable[[], None]) -> None:
        self.line, self.deeds, self.lost = line, deeds, lost
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[Result]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()

    def open(self) -> None:
        """Listens from now on, in a thread: on event loops a pipe does not block, and then long messages come in halves."""
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), name="cluster", daemon=True).start()
        self.line.send(("open", 0))

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody is told any more
            while True:
                try:
                    message = self.line.recv()
                except (EOFError, OSError):
                    loop.call_soon_threadsafe(self.lost)
                    return
                loop.call_soon_threadsafe(self._hear, message)

    async def everywhere(self, verb: str, argument: str = "") -> list[Any]:
        """What each worker's deed gives. Raises the first error that one of them met."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._say(("ask", number, verb, argument))
        results = await answer
        for result in results:
            if result[0] == "error":
                raise as_error(result)
        return [result[1] for result in results]

    async def _say(self, message: Result) -> None:
        """Off the event loop: the pipe may be full for a moment."""
        async with self._sending:
            await asyncio.get_running_loop().run_in_executor(None, self.line.send, message)

    def _hear(self, message: Result) -> None:
        kind, number, *rest = message
        if kind == "answer":
            waiting = self._waiting.pop(number)
            if not waiting.done():
                waiting.set_result(rest[0])
            return
        task = asyncio.get_running_loop().create_task(self._do(number, *rest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, number: int, verb: str, argument: str) -> None:
        try:
            result: Result = ("ok", await self.deeds[verb](argument))
        except ManifoldError as error:
            result = ("error", type(error).__name__, error.message)
        except Exception as error:  # whoever asked waits for an answer
            log.exception("a worker could not do what all were told", verb=verb, argument=argument)
            result = ("error", "Unavailable", f"{type(error).__name__} in a worker; the log has more")
        await self._say(("done", number, result))


def as_error(result: Result) -> ManifoldError:
    """The error of a result."""
    kind = getattr(errors, result[1], Unavailable)
    error: ManifoldError = kind(result[2])
    return error
