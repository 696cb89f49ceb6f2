"""The memory budget: which models are unloaded so that another one can load.

Only graphs count, by the size of their files. A closed model counts until its last run has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import structlog

from manifold.service.aside import aside
from manifold.service.models.closing import Closing
from manifold.service.models.entries import Entry, stamp
from manifold.service.settings import Settings

log = structlog.get_logger()

POLL = 0.02  # seconds between two attempts to free memory
PATIENCE = 2.0  # seconds to wait for models that are running, before a model loads beyond the budget


class Memory:
    """The memory that the graphs of loaded models take, within `settings.memory_bytes` if that is set."""

    def __init__(self, settings: Settings, entries: Mapping[tuple[str, int], Entry], closing: Closing) -> None:
        """Keep a reference to `entries`, which the registry changes."""
        self.settings, self.entries, self.closing = settings, entries, closing
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def room_for(self, coming: Entry) -> AsyncIterator[None]:
        """Free memory for a model, which loads inside the block. With a budget, one model loads at a time."""
        budget = self.settings.memory_bytes
        if budget is None:
            yield
            return
        async with self._turn:
            if not coming.retired:
                await self._wait_for_room(coming, budget)
            yield

    async def _wait_for_room(self, coming: Entry, budget: int) -> None:
        """Wait a moment for models that are running, and longer for the last runs of closed models."""
        if not coming.weight:
            coming.weight = sum(size for _, size, *_ in await aside(lambda: stamp(coming.folder), pool="disk"))
        began = time.monotonic()
        while not self._make_room(coming, budget):
            if coming.retired or not self._may_get_room(time.monotonic() - began):
                log.warning("over the memory budget", model=coming.name, bytes=coming.weight)
                return
            await asyncio.sleep(POLL)

    def _may_get_room(self, waited: float) -> bool:
        """Return whether to keep waiting. A closed model will certainly free its memory; a running model may not."""
        if self.closing.weight:
            return waited < self.settings.deadline_ms / 1000
        return waited < PATIENCE and any(entry.state == "ready" for entry in self.entries.values())

    def _make_room(self, coming: Entry, budget: int) -> bool:
        """Unload models without requests as far as needed, the least recently used first. Return whether the budget suffices."""
        awake = [entry for entry in self.entries.values() if entry.state == "ready" and entry is not coming]
        over = coming.weight + self.closing.weight + sum(entry.weight for entry in awake) - budget
        for entry in sorted(awake, key=lambda entry: entry.used):
            if over <= 0:
                break
            if not entry.users and not entry.wanted:
                before = self.closing.weight
                entry.sleep()
                over -= entry.weight - (self.closing.weight - before)
                log.info("unloaded to free memory", model=entry.name, version=entry.version, bytes=entry.weight)
        return over <= 0
