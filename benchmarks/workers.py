"""One process compared with several on one port: requests/s, and the CPU time of a request, all in one run.

    python benchmarks/workers.py [--workers 1 2] [--rounds 3] [--seconds 4]

The script starts `python -m manifold.service` with each number of workers on the shipped mnist-vae, on free ports of 127.0.0.1, and loads them in
turn with wrk, 32 connections; any answer but 200 voids a run. The load generator runs on the same cores, so the cores that it used are printed too.
The output is a table of medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import serving

NAME = "mnist-vae"
LOADS = {
    "one image, PNG": (b'{"n":1}', "image/png"),
    "64 images, a PNG grid": (b'{"n":64}', "image/png"),
    "64 images, a PNG each in JSON": (b'{"n":64}', serving.JSON),
}


def family(pid: int) -> list[int]:
    """Return the pids of a process and of its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(process for child in children for process in family(int(child)))]


def generator_seconds() -> float:
    """Return the CPU time of this process's finished children, which are the load generators."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    figures: defaultdict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    services: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        (folder / "models" / NAME).symlink_to(Path("models", NAME).resolve())
        try:
            for workers in options.workers:
                port = serving.free_port()
                url = f"http://127.0.0.1:{port}"
                services[workers] = (
                    serving.started(
                        [sys.executable, "-m", "manifold.service"], f"{url}/health/ready", MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT="0",
                        MANIFOLD_MODELS_DIR=str(folder / "models"), MANIFOLD_DEVICE="cpu", MANIFOLD_WORKERS=str(workers), MANIFOLD_DEFAULT_MODEL=NAME,
                    ),
                    url,
                )  # fmt: skip
            for _ in range(options.rounds):
                for load, (body, accept) in LOADS.items():
                    for workers, (process, url) in services.items():
                        before, others = sum(map(serving.cpu_seconds, family(process.pid))), generator_seconds()
                        rate = serving.wrk(f"{url}/sample", folder, options.seconds, body, accept=accept)
                        spent = sum(map(serving.cpu_seconds, family(process.pid))) - before
                        generator = (generator_seconds() - others) / options.seconds
                        figures[load, workers].append((rate, 1e6 * spent / (rate * options.seconds), generator))
        finally:
            for process, _ in services.values():
                process.terminate()
                process.wait(30)
    print(f"{os.cpu_count()} cores\n")
    print(
        "| load | workers | requests/s | relative to the first | CPU time per request | load generator |\n|---|---|---|---|---|---|"
    )
    for (load, workers), rounds in figures.items():
        rate, cpu, generator = (statistics.median(values) for values in zip(*rounds, strict=True))
        first = statistics.median(rate for rate, _, _ in figures[load, options.workers[0]])
        print(f"| {load} | {workers} | {rate:,.0f} | {rate / first:.2f} | {cpu:,.0f} µs | {generator:.2f} cores |")


if __name__ == "__main__":
    main()
