"""The start of the service until it is ready: seconds, memory, and how long the event loop is blocked while models load.

    python benchmarks/startup.py [--rounds 3] [--models 20]

The script starts `python -m manifold.service` on the shipped models, or on this many of them, on a free port of 127.0.0.1: once with all models
loaded, and once lazily, where models are verified and loaded on the first request. To measure how long the loop is blocked, and the gain of
loading in parallel, the same models are loaded in separate processes beside an event loop that wakes up every millisecond. Rounds alternate. The
output is one JSON line of medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import serving

ROOT = Path(__file__).parent.parent


def start(models: Path, lazy: bool) -> tuple[float, float]:
    """Return the seconds until the service was ready, and its memory in MB at that time."""
    port, began = serving.free_port(), time.perf_counter()
    process = serving.started(
        [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready",
        MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT="0", MANIFOLD_MODELS_DIR=str(models), MANIFOLD_LAZY=str(lazy),
    )  # fmt: skip
    try:
        return time.perf_counter() - began, resident(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match.group(1)) / 1000


def loading(models: Path, at_once: int | None) -> tuple[float, list[float]]:
    """Return the seconds that loading took, and the delays of the event loop meanwhile in milliseconds, longest first."""
    sys.path[0] = str(ROOT)  # instead of this folder
    from manifold.runtime.graphs import backends
    from manifold.service.models import registry
    from manifold.service.settings import Settings

    registry.MOST_AT_ONCE = at_once or registry.MOST_AT_ONCE

    async def watch() -> tuple[float, list[float]]:
        held = registry.Registry(Settings(models_dir=models, device="cpu"))
        backends.import_ahead(entry.folder for entry in held.entries.values())  # the service does the same
        began = time.perf_counter()
        done = asyncio.get_running_loop().run_in_executor(None, held.load)
        late = []
        while not done.done():
            asked = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(1000 * (time.perf_counter() - asked) - 1)
        await done
        return time.perf_counter() - began, sorted(late, reverse=True)

    sys.setswitchinterval(0.001)  # the service does the same
    return asyncio.run(watch())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, help="number of models, the first ones by name (default: all)")
    arguments = parser.parse_args()
    names = sorted(path.name for path in (ROOT / "models").iterdir())[: arguments.models]
    figures: defaultdict[str, list[float]] = defaultdict(list)
    late: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).symlink_to(ROOT / "models" / name)
        for _ in range(arguments.rounds):
            for key, lazy in (("", False), ("lazy_", True)):
                seconds, memory = start(Path(folder), lazy)
                figures[key + "ready_s"].append(seconds)
                figures[key + "resident_mb"].append(memory)
            for key, at_once in (("load_s", None), ("load_one_at_a_time_s", 1)):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                    seconds, stalls = fresh.submit(loading, Path(folder), at_once).result()
                figures[key].append(seconds)
                late += stalls if at_once is None else []
    print(
        json.dumps({
            "models": len(names), **{key: round(statistics.median(values), 2) for key, values in figures.items()},
            "longest_stalls_ms": [round(stall, 1) for stall in sorted(late)[:-6:-1]], "stalls_over_50_ms": sum(stall > 50 for stall in late),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
