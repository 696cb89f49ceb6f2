"""Fast models that run beside a slow one, which gets ten times as many requests as it can answer: the goodput that the fast ones keep.

    python benchmarks/neighbours.py [--seconds 5] [--rounds 3] [--times 10] [--slow 1] [--tree FOLDER]

Three kinds of models are served: `tiny` runs in place on the event loop, `small` runs for some milliseconds in its thread, and `slow` takes a
tenth of a second for a row (`--slow` models of this kind). The load is open and comes from a client in its own process: `tiny` and `small` get
requests at a fixed rate, a share of the rate that both reach together when they are alone. In turns, they run alone, and beside slow models that
each get `--times` as many requests as they can answer. For the fast models, an answer counts if it is a 200 within 300 ms. The output has one
line for each model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
DEADLINE = 300  # milliseconds; the deadline of the fast models
ROUNDS_OF_SLOW, ROUNDS_OF_SMALL = 5000.0, 150.0  # rounds for one row of tests.foreign.looping: about 100 ms and 2 ms
WARM = 0.5  # seconds of warm-up that are not measured


class Client:
    """A client of one model with kept-alive connections. It implements just enough of HTTP/1.1."""

    def __init__(self, port: int, model: str, rounds: float, deadline: int) -> None:
        self.port, self.model, self.deadline = port, model, deadline
        latents = [[rounds, *[0.0] * 5]]
        body = json.dumps({"model": model, "latents": latents, "encoding": "array"}).encode()
        head = (
            "POST /sample HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: application/x-npy\r\n"
            f"X-Deadline-Ms: {deadline}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> tuple[int, float]:
        """Send one request. Return the status (0 if there was no answer) and the seconds."""
        began = time.perf_counter()
        try:
            connection = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = connection
            writer.write(self.request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            self.idle.append(connection)
            return int(head[9:12]), time.perf_counter() - began
        except (OSError, asyncio.IncompleteReadError):
            return 0, time.perf_counter() - began

    async def capacity(self, seconds: float, connections: int) -> float:
        """Return answers per second for this many clients that wait for their answers."""
        end, answered = time.perf_counter() + seconds, 0

        async def one() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                status, _ = await self.ask()
                answered += status == 200

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(connections)))
        return answered / (time.perf_counter() - began)

    async def offer(self, rate: float, seconds: float) -> dict[str, Any]:
        """Send requests at a fixed rate, independent of the earlier ones."""
        tasks, began = [], time.perf_counter()
        count = int(rate * (seconds + WARM))
        for number in range(count):
            if (wait := began + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.ask()))
        sent = time.perf_counter() - began
        results = (await asyncio.gather(*tasks))[int(rate * WARM) :]
        good = sorted(taken for status, taken in results if status == 200 and 1000 * taken <= self.deadline)
        return {
            "model": self.model, "offered": len(results) / (sent - WARM), "goodput": len(good) / (sent - WARM),
            "p50": good[len(good) // 2] if good else None, "p99": good[int(0.99 * len(good))] if good else None,
            "statuses": dict(Counter(status for status, _ in results)),
        }  # fmt: skip


async def measure(port: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure in each round the fast models alone, then beside the slow ones."""
    fast = [Client(port, "tiny", 1.0, DEADLINE), Client(port, "small", ROUNDS_OF_SMALL, DEADLINE)]
    slow = [Client(port, f"slow{i}", ROUNDS_OF_SLOW, 2000) for i in range(options.slow)]
    for client in (*fast, *slow):
        await client.capacity(0.5, 1)
    rates = options.rates or [
        options.share * rate for rate in await asyncio.gather(*(client.capacity(2, 4) for client in fast))
    ]
    can = await slow[0].capacity(2, 1)
    answered = []
    for _ in range(options.rounds):
        for beside in (False, True):
            tasks = [client.offer(rate, options.seconds) for client, rate in zip(fast, rates, strict=True)]
            others = [client.offer(options.times * can, options.seconds) for client in slow] if beside else []
            answered += [{**one, "beside": beside} for one in await asyncio.gather(*tasks, *others)]
            await asyncio.sleep(1)
    return answered


def report(answered: list[dict[str, Any]]) -> None:
    print(
        "| model | offered/s | alone: goodput/s | median, p99 ms | beside slow ones: goodput/s | median, p99 ms | kept | statuses |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(one["model"] for one in answered):
        alone = [one for one in answered if one["model"] == name and not one["beside"]]
        beside = [one for one in answered if one["model"] == name and one["beside"]]
        cells = [name, f"{_median(beside, 'offered'):.1f}"]
        for group in (alone, beside):
            cells += (
                [
                    f"{_median(group, 'goodput'):.1f}",
                    f"{1000 * _median(group, 'p50'):.1f}, {1000 * _median(group, 'p99'):.1f}",
                ]
                if group
                else ["", ""]
            )
        kept = f"{_median(beside, 'goodput') / _median(alone, 'goodput'):.2f}" if alone else ""
        print("|", " | ".join([*cells, kept, str(beside[-1]["statuses"])]), "|")


def _median(group: list[dict[str, Any]], key: str) -> float:
    return statistics.median(one[key] or 0.0 for one in group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--times", type=float, default=10, help="offered rate of a slow model, as a multiple of its capacity"
    )
    parser.add_argument(
        "--share", type=float, default=0.25, help="offered rate of the fast models, as a share of their capacity"
    )
    parser.add_argument(
        "--rates", type=float, nargs=2, help="offered rates of the fast models in requests/s, instead of --share"
    )
    parser.add_argument("--slow", type=int, default=1, help="number of slow models")
    parser.add_argument("--tree", type=Path, default=HERE)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(asyncio.run(measure(options.client, options))))
        return
    sys.path[0] = str(HERE)
    sys.path.append(str(HERE / "benchmarks"))
    import serving

    from tests import foreign

    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), serving.free_port()
        foreign.write(root, name="tiny")
        for name in ("small", *(f"slow{i}" for i in range(options.slow))):
            foreign.write(root, foreign.looping, name=name)
        os.chdir(options.tree)
        service = serving.started(
            [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready", MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT="0",
            MANIFOLD_MODELS_DIR=str(root), MANIFOLD_DEVICE="cpu", MANIFOLD_DEFAULT_MODEL="tiny",
        )  # fmt: skip
        try:
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--client", str(port)]
            answered = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        finally:
            service.terminate()
            service.wait(60)
    report(answered)


if __name__ == "__main__":
    main()
