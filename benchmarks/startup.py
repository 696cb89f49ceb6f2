"""From nothing to ready: seconds, memory, and how long the event loop stands still while models load.

    python benchmarks/startup.py [--rounds 3]

Starts `python -m service` on the shipped models on a free port of 127.0.0.1, and, for the stalls, loads the same models in this process
beside an event loop that wakes up every millisecond. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(port: int) -> tuple[subprocess.Popen[bytes], float]:
    """The service and the seconds until it was ready."""
    began = time.perf_counter()
    environment = {**os.environ, "MANIFOLD_PORT": str(port), "MANIFOLD_GRPC_PORT": "0"}
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=subprocess.DEVNULL, cwd=ROOT)
    while time.perf_counter() - began < 60:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1):
                return process, time.perf_counter() - began
        except OSError:
            time.sleep(0.01)
    process.kill()
    raise SystemExit("the service does not become ready")


def resident(pid: int) -> float:
    """MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) / 1000


def stalls() -> list[float]:
    """Milliseconds that the event loop was late by while all models were loaded, the longest first."""
    sys.path[0] = str(ROOT)  # instead of this folder
    from runtime import backends
    from service.registry import Registry
    from service.settings import Settings

    async def watch() -> list[float]:
        registry = Registry(Settings(models_dir=ROOT / "models", device="cpu"))
        backends.import_ahead(entry.folder for entry in registry.entries.values())  # as the service does
        loading = asyncio.get_running_loop().run_in_executor(None, registry.load)
        late = []
        while not loading.done():
            asked = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(1000 * (time.perf_counter() - asked) - 1)
        await loading
        return sorted(late, reverse=True)

    sys.setswitchinterval(0.001)  # as the service does
    return asyncio.run(watch())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready, memory = [], []
    for _ in range(rounds):
        process, seconds = start(port)
        ready.append(seconds)
        memory.append(resident(process.pid))
        process.terminate()
        process.wait(20)
    late = stalls()
    print(
        json.dumps({
            "models": sum(1 for _ in (ROOT / "models").iterdir()), "ready_s": round(statistics.median(ready), 2),
            "resident_mb": round(statistics.median(memory)), "longest_stalls_ms": [round(each, 1) for each in late[:5]],
            "stalls_over_50_ms": sum(each > 50 for each in late),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
