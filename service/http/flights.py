"""The requests that are being answered. Their work ends when the client closes the connection."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from manifold.service.http.incoming import Incoming

POLL = 0.05  # seconds: requests older than that get a watcher


@dataclass(eq=False, slots=True)
class Flight:
    """A request that is being answered."""

    task: asyncio.Task[Any]
    request: Incoming
    began: float
    watcher: asyncio.Task[None] | None = None
    over: bool = False
    gone: bool = False

    async def watch(self) -> None:
        """Cancel the work if the client closes the connection. The body has been read, so the next message is the end."""
        if await self.request.gone() and not self.over:
            self.gone = True
            self.task.cancel()


class Flights:
    """The set of requests that are being answered. Only requests that take long get a watcher."""

    def __init__(self) -> None:
        self._all: set[Flight] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: Incoming) -> Flight:
        """Add the request of the current task."""
        task = asyncio.current_task()
        assert task is not None
        flight = Flight(task, request, time.monotonic())
        self._all.add(flight)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._poll)
        return flight

    def end(self, flight: Flight) -> None:
        """Remove a request that has been answered, or whose client has disconnected."""
        flight.over = True
        self._all.discard(flight)
        if flight.watcher is not None:
            flight.watcher.cancel()

    def _poll(self) -> None:
        self._timer = None
        now = time.monotonic()
        for flight in self._all:
            if flight.watcher is None and flight.request.read and now - flight.began > POLL:
                flight.watcher = flight.task.get_loop().create_task(flight.watch())
        if self._all:
            self._timer = asyncio.get_running_loop().call_later(POLL, self._poll)
