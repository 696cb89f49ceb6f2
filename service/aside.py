"""Work off the event loop: one function, one threshold, and a thread pool for each kind of work.

Small work of a request (parsing, checking, writing) runs on the event loop, because a hop to a thread costs about 60 µs. Work of `LARGE` bytes
or more runs in a thread. The cost of work is stated in bytes of arrays that are copied or compared. `JSON`, `PIXEL` and `ROW` convert other
work to this unit, by its time on one core.

The pools are separate so that one kind of work cannot block another: a slow disk occupies threads of `disk` only, and models that load for
minutes occupy threads of `models` only.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

T = TypeVar("T")
Pool = Literal["requests", "disk", "models"]

LARGE = 256 * 1024  # bytes of arrays; about half a millisecond of one core
# the number of bytes of arrays that cost as much as ...
JSON = 4  # ... reading and checking a byte of JSON, of protobuf fields or of a form
PIXEL = 8  # ... reading or writing a byte of pixels of a picture
ROW = 5 * 1024  # ... reading or writing a row of a table, or the entry of an item in a response

THREADS: dict[Pool, int] = {"requests": max(4, os.cpu_count() or 1), "disk": 16, "models": 16}


async def aside(call: Callable[[], T], size: float = LARGE, pool: Pool = "requests") -> T:
    """Return `call()`, which runs in a thread of the pool if its cost is `LARGE` bytes or more, and otherwise on the event loop.

    Work of the pools `disk` and `models` is passed without a size, because it may wait even if it is small.
    """
    if size < LARGE:
        return call()
    return await asyncio.get_running_loop().run_in_executor(_threads(pool), call)


def later(call: Callable[[], object], pool: Pool = "disk") -> None:
    """Run `call` in a thread of the pool without waiting for it. It must not raise an error."""
    _threads(pool).submit(call)


@functools.cache
def _threads(pool: Pool) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS[pool], thread_name_prefix=f"manifold-{pool}")
