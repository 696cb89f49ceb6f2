"""Work off the event loop: one function, one threshold, and a thread pool for each kind of wait.

A request's own work (parsing, checking, writing) runs on the event loop if it is small, because a hop to a thread costs about 60 µs. From
`LARGE` bytes on it runs in a thread. The threshold is in bytes of arrays that are copied or compared; `JSON`, `PIXEL` and `ROW` convert
other work to it, by what it takes on one core.

The pools are apart so that one kind of work cannot keep another one out: a folder that does not answer holds threads of `disk` alone, and
models that load for minutes hold threads of `models` alone.
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
# the bytes of arrays that take as long as ...
JSON = 4  # ... a byte of JSON, of protobuf fields or of a form, to read and to check
PIXEL = 8  # ... a byte of pixels, to read from a picture or to write as one
ROW = 5 * 1024  # ... a row of a table or an item's entry in an answer, to read or to write

THREADS: dict[Pool, int] = {"requests": max(4, os.cpu_count() or 1), "disk": 16, "models": 16}


async def aside(call: Callable[[], T], size: float = LARGE, pool: Pool = "requests") -> T:
    """Return `call()`, which runs in a thread of the pool if its work is worth `LARGE` bytes or more, and here if it is not.

    Work of the pools `disk` and `models` is passed without a size: it may wait, however small it is.
    """
    if size < LARGE:
        return call()
    return await asyncio.get_running_loop().run_in_executor(_threads(pool), call)


def later(call: Callable[[], object], pool: Pool = "disk") -> None:
    """Run `call` in a thread of the pool, without waiting for it. It must not raise."""
    _threads(pool).submit(call)


@functools.cache
def _threads(pool: Pool) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS[pool], thread_name_prefix=f"manifold-{pool}")
