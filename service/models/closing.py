"""Models that are out of service while their last runs end.

A run cannot be stopped, even if its client has disconnected. It ends in its thread, and the model's memory counts until then.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from manifold.service.aside import later
from manifold.service.models.batcher import Batcher

log = structlog.get_logger()


@dataclass(eq=False)
class ClosedModel:
    """A closed model whose last runs have not ended."""

    name: str
    weight: int  # size of its graphs, bytes
    parts: list[Any]  # its batcher and its model; no other object refers to them
    running: set[Future[Any]]


class Closing:
    """The closed models of a registry whose last runs have not ended."""

    def __init__(self) -> None:
        self._held: set[ClosedModel] = set()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return sorted({held.name for held in self._held})

    @property
    def weight(self) -> int:
        """The size of their graphs, in bytes."""
        return sum(held.weight for held in self._held)

    def begin(self, name: str, weight: int, parts: list[Any]) -> None:
        """Close a batcher, and free it with its model in a thread, now or after the last run. `parts` contains both."""
        batcher: Batcher = parts[0]
        batcher.close()
        running = set(batcher.running)
        del batcher
        if not running:
            later(parts.clear)
            return
        held = ClosedModel(name, weight, parts, running)
        self._held.add(held)
        self._none.clear()
        loop = asyncio.get_running_loop()

        def ended(run: Future[Any]) -> None:
            with suppress(RuntimeError):  # the event loop has ended, and the process is about to end
                loop.call_soon_threadsafe(self._run_ended, held, run)

        for run in list(running):
            run.add_done_callback(ended)

    def _run_ended(self, held: ClosedModel, run: Future[Any]) -> None:
        held.running.discard(run)
        if not held.running:
            self._held.discard(held)
            if not self._held:
                self._none.set()
            # at the next turn of the event loop, nothing else refers to them
            asyncio.get_running_loop().call_soon(later, held.parts.clear)

    async def wait(self, seconds: float) -> bool:
        """Wait until the last runs have ended, for at most `seconds`. Return whether they have ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()
        return not self._held
