"""Models that are out of service while their last runs end.

A run cannot be stopped, and its request may have left long ago. It ends in its thread, and until then the model's memory counts.
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
    """The parts that a closed model still holds."""

    name: str
    weight: int  # bytes of its graphs
    parts: list[Any]  # its batcher and its model, which nobody else holds
    running: set[Future[Any]]


class Closing:
    """The models of a registry whose last runs have not ended."""

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
        """The bytes of their graphs."""
        return sum(held.weight for held in self._held)

    def begin(self, name: str, weight: int, parts: list[Any]) -> None:
        """Close a batcher and free it with its model, which are the `parts`: in a thread, now or after the last run."""
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
            with suppress(RuntimeError):  # the event loop has ended: so has the process, nearly
                loop.call_soon_threadsafe(self._run_ended, held, run)

        for run in list(running):
            run.add_done_callback(ended)

    def _run_ended(self, held: ClosedModel, run: Future[Any]) -> None:
        held.running.discard(run)
        if not held.running:
            self._held.discard(held)
            if not self._held:
                self._none.set()
            # by the event loop's next turn, nothing else refers to them
            asyncio.get_running_loop().call_soon(later, held.parts.clear)

    async def wait(self, seconds: float) -> bool:
        """Wait until the last runs have ended, at most so long. Return whether they have."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()
        return not self._held
