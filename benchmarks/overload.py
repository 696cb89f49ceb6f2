"""Overload: the answered rate for each offered rate, and how long accepted requests wait.

    python benchmarks/overload.py MODELS [--rows 32] [--queue-ms 500] [--seconds 6] [--plot docs/images/overload.png]

MODELS is the same folder as for benchmarks/serving.py. The load is open: a client in its own process sends requests of `--rows` latent rows to the
DCGAN decoder at a fixed rate, without waiting for earlier answers. The capacity is the rate of 8 connections that each wait for their answers.
Then a quarter to ten times the capacity is offered. Every request that is not answered with 200 within its deadline counts as lost, with its
status. The script prints a table and draws it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import serving

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0)
WARM = 1.0  # seconds of warm-up at each rate that are not measured


class Client:
    """A client with kept-alive connections to the service. It implements just enough of HTTP/1.1."""

    def __init__(self, port: int, body: bytes) -> None:
        self.port = port
        head = (
            "POST /sample?model=dcgan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\nAccept: application/x-npy\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> tuple[int, float]:
        """Send one request. Return the status (0 if there was no answer) and the seconds."""
        began = time.perf_counter()
        try:
            reader, writer = (
                self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
            )
            writer.write(self.request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.idle.append((reader, writer))
            return int(head[9:12]), time.perf_counter() - began
        except (OSError, asyncio.IncompleteReadError):
            return 0, time.perf_counter() - began


async def closed(client: Client, seconds: float, connections: int = 8) -> float:
    """Return the capacity: requests/s of 8 clients that wait for their answers."""
    end, answered = time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            status, _ = await client.ask()
            answered += status == 200

    await asyncio.gather(*(one() for _ in range(connections)))
    return answered / seconds


async def offered(client: Client, rate: float, seconds: float) -> dict[str, Any]:
    """Send requests at a fixed rate."""
    tasks: list[asyncio.Task[tuple[int, float]]] = []
    began = time.perf_counter()
    count = int(rate * (seconds + WARM))
    for number in range(count):
        if (wait := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(client.ask()))
    sent = time.perf_counter() - began
    results = (await asyncio.gather(*tasks))[int(rate * WARM) :]
    accepted = np.asarray([taken for status, taken in results if status == 200])
    return {
        "offered": len(results) / (sent - WARM), "goodput": len(accepted) / (sent - WARM),
        "statuses": dict(Counter(status for status, _ in results)),
        "p50": float(np.quantile(accepted, 0.5)) if len(accepted) else None,
        "p99": float(np.quantile(accepted, 0.99)) if len(accepted) else None,
    }  # fmt: skip


async def measure(port: int, body: bytes, seconds: float) -> list[dict[str, Any]]:
    """Measure the capacity, then each share of it."""
    client = Client(port, body)
    await closed(client, 2)
    capacity = await closed(client, seconds)
    return [{"share": share, **await offered(client, share * capacity, seconds)} for share in SHARES]


def plot(points: list[dict[str, Any]], limit: float, path: Path) -> None:
    """Plot goodput and p99 over the offered rate."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker as mticker

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    load = [point["offered"] for point in points]
    left.plot(load, [point["goodput"] for point in points], "o-", label="answered in time")
    left.plot(load, load, ":", color="grey", label="offered")
    left.set(xscale="log", yscale="log", xlabel="offered requests/s", ylabel="goodput, requests/s")
    left.legend()
    right.plot(load, [1000 * point["p99"] for point in points], "o-", label="p99 of accepted requests")
    right.plot(load, [1000 * point["p50"] for point in points], "s--", label="median of accepted requests")
    right.axhline(limit, color="grey", linestyle=":", label="queue time limit")
    right.set(xscale="log", xlabel="offered requests/s", ylabel="ms", ylim=(0, None))
    right.legend()
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(mticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(mticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(mticker.NullLocator())
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--queue-ms", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:  # this process makes the load
        port, body = options.client
        print(json.dumps(asyncio.run(measure(int(port), Path(body).read_bytes(), options.seconds))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), serving.free_port()
        serving.repository(options.models, folder / "models")
        (folder / "body").write_bytes(serving.as_npy("dcgan", options.rows))
        service = serving.started(
            [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready", MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT="0",
            MANIFOLD_MODELS_DIR=str(folder / "models"), MANIFOLD_DEVICE="cpu", MANIFOLD_QUEUE_MS=str(options.queue_ms),
        )  # fmt: skip
        try:
            command = [
                sys.executable,
                __file__,
                str(options.models),
                "--seconds",
                str(options.seconds),
                "--client",
                str(port),
                str(folder / "body"),
            ]
            points = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        finally:
            service.terminate()
            service.wait(30)
    best = max(point["goodput"] for point in points)
    print(
        "| offered / capacity | offered/s | goodput/s | share of the best | median | p99 | statuses |\n|---|---|---|---|---|---|---|"
    )
    for point in points:
        print(
            f"| {point['share']:g} | {point['offered']:.0f} | {point['goodput']:.0f} | {point['goodput'] / best:.2f} "
            f"| {1000 * point['p50']:.0f} ms | {1000 * point['p99']:.0f} ms | {point['statuses']} |"
        )
    if options.plot:
        plot(points, options.queue_ms, options.plot)


if __name__ == "__main__":
    main()
