"""A check that memory does not grow: mixed requests to the service on the shipped models, with its resident memory after each tenth of them.

    python benchmarks/memory.py [--requests 100000] [--clients 16]

The requests use every route, images and rows, answers as JSON, PNG and npy, streams, errors, and clients that disconnect. Their order is drawn
from a seed. The script prints one line after each tenth; the result is the last value divided by the first.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import serving

sys.path.insert(0, str(Path(__file__).parent.parent))


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match.group(1)) / 1000


def mixture() -> list[tuple[str, bytes, str, str]]:
    """Return requests: path, body, content type, accept."""
    from manifold.runtime import imaging
    from manifold.service.core.contract import EXAMPLE_ROW

    digit = imaging.to_png(np.random.default_rng(0).integers(0, 255, (1, 28, 28)).astype(np.uint8))
    image = base64.b64encode(digit).decode()
    samplers, sizes, kinds = (
        ("mnist-vae", "mnist-cvae", "transactions-vae"),
        (1, 7, 64),
        ("application/json", "application/x-npy"),
    )
    bodies: list[tuple[str, dict[str, Any], str]] = [
        *(("/sample", {"model": name, "n": n}, accept) for name in samplers for n in sizes for accept in kinds),
        *(("/sample", {"n": n}, "image/png") for n in (1, 3, 16)),
        ("/sample", {"n": 40}, "application/x-ndjson"), ("/sample", {"model": "digits-pixelcnn", "n": 2}, "image/png"),
        ("/encode", {"images": [image] * 3}, "application/json"), ("/reconstruct", {"images": [image]}, "image/png"),
        ("/interpolate", {"from": {"seed": 1}, "to": {"seed": 2}}, "image/webp"), ("/anomaly-score", {"images": [image], "explain": True}, "application/json"),
        ("/anomaly-score", {"model": "transactions-vae", "rows": [EXAMPLE_ROW] * 20, "explain": True}, "application/json"),
        ("/classify", {"model": "mnist-classifier", "images": [image] * 2}, "application/json"),
        ("/impute", {"model": "transactions-vae", "rows": [{**EXAMPLE_ROW, "amount": None}]}, "application/json"),
        ("/sample", {"model": "nobody"}, "application/json"), ("/sample", {"n": -1}, "application/json"), ("/encode", {"images": ["AAAA"]}, "application/json"),
    ]  # fmt: skip
    requests = [(path, json.dumps(body).encode(), "application/json", accept) for path, body, accept in bodies]
    return [
        *requests,
        ("/encode", digit, "image/png", "application/json"),
        ("/sample", b"{", "application/json", "*/*"),
    ]


async def client(
    port: int, requests: list[tuple[str, bytes, str, str]], numbers: asyncio.Queue[int], seed: int
) -> None:
    """Send requests by their numbers until none are left. Sometimes disconnect before the answer."""
    leaves = np.random.default_rng(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    while not numbers.empty():
        path, body, kind, accept = requests[numbers.get_nowait()]
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        if leaves.random() < 0.01:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
            continue
        lines = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in lines:
            await reader.readexactly(int(lines.split(b"content-length:")[1].split(b"\r\n")[0]))
        else:
            while (size := int((await reader.readline()).strip(), 16)) > 0:
                await reader.readexactly(size + 2)
            await reader.readline()
    writer.close()


async def run(port: int, pid: int, total: int, clients: int) -> None:
    """Send all requests in ten parts, and print the memory after each."""
    requests = mixture()
    order = np.random.default_rng(0).integers(0, len(requests), total)
    first = 0.0
    for part, chosen in enumerate(np.array_split(order, 10)):
        numbers: asyncio.Queue[int] = asyncio.Queue()
        for number in chosen:
            numbers.put_nowait(int(number))
        await asyncio.gather(*(client(port, requests, numbers, 100 * part + index) for index in range(clients)))
        now = resident(pid)
        first = first or now
        print(
            f"after {(part + 1) * total // 10:,} requests: {now:.0f} MB, {now / first:.3f} times the value after the first tenth",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    port = serving.free_port()
    service = serving.started(
        [sys.executable, "-m", "manifold.service"],
        f"http://127.0.0.1:{port}/health/ready",
        MANIFOLD_PORT=str(port),
        MANIFOLD_DEVICE="cpu",
    )
    try:
        asyncio.run(run(port, service.pid, options.requests, options.clients))
    finally:
        service.terminate()
        service.wait(30)


if __name__ == "__main__":
    main()
