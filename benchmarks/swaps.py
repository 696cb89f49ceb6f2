"""A model that is replaced under load: failed requests, answers of another version, and growth of memory.

    python benchmarks/swaps.py [--rate 500] [--swaps 50] [--cycles 200]

First, requests arrive at an even rate while new versions of one model are published and loaded, one after another. Each answer's image must be
the one that its stated version makes from the seed. Two artifacts alternate, so that neighbouring versions differ. Then a model is unloaded and
loaded many times. The script compares resident memory after the first twenty cycles and after all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import serving
from memory import resident

sys.path.insert(0, str(Path(__file__).parent.parent))

MODELS = Path(__file__).parent.parent / "models"
TURNS = ("mnist-vae", "mnist-beta-vae")  # two models with the same shapes
NAME, SEED, SETTLED = "swapped", 7, 20
CONNECTIONS = 32
BODY = json.dumps({"model": NAME, "seed": SEED}).encode()


def publish(root: Path, version: int) -> None:
    """Publish the next version with one rename."""
    from manifold.runtime import repository

    source = repository.find(TURNS[version % 2], MODELS)
    folder = root / f".staging-{version}"
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": NAME, "version": version}))
    (root / NAME).mkdir(exist_ok=True)
    folder.rename(root / NAME / str(version))


def expected() -> list[bytes]:
    """Return the answer of each of the two versions for the seed, exactly as the service encodes it."""
    from manifold import runtime

    answers = []
    for name in TURNS:
        array = runtime.load(MODELS / name, device="cpu").sample(1, seed=SEED).data
        answers.append(np.ascontiguousarray(array, "<f4").tobytes())
    return answers


def post(port: int, path: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", b""), timeout=60) as answer:
        answer.read()


class Load:
    """Requests at an even rate, as npy, over kept-alive connections."""

    def __init__(self, port: int, rate: float) -> None:
        self.port, self.rate, self.images = port, rate, expected()
        self.sent, self.failed, self.wrong = 0, 0, 0
        self.seconds: list[float] = []
        self.versions: set[int] = set()
        self.over = False

    async def run(self) -> None:
        began = time.monotonic()
        due: asyncio.Queue[float] = asyncio.Queue()
        clients = [asyncio.create_task(self._client(due)) for _ in range(CONNECTIONS)]
        while not self.over:
            at = began + self.sent / self.rate
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            due.put_nowait(at)
            self.sent += 1
        for _ in clients:
            due.put_nowait(-1)
        await asyncio.gather(*clients)

    async def _client(self, due: asyncio.Queue[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /sample HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-npy\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        while (at := await due.get()) >= 0:
            writer.write(head.encode() + BODY)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower()
            content = await reader.readexactly(int(lines.split(b"content-length:")[1].split(b"\r\n")[0]))
            self.seconds.append(time.monotonic() - at)
            if b" 200 " not in lines.split(b"\r\n")[0]:
                self.failed += 1
                continue
            version = int(lines.split(b"x-model-version:")[1].split(b"\r\n")[0])
            self.versions.add(version)
            self.wrong += not content.endswith(self.images[version % 2])
        writer.close()


async def swap(port: int, root: Path, rate: float, swaps: int) -> None:
    load = Load(port, rate)
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(load.run())
    await asyncio.sleep(1)
    began = time.monotonic()
    for version in range(2, swaps + 2):
        await loop.run_in_executor(None, publish, root, version)
        await loop.run_in_executor(None, post, port, f"/admin/models/{NAME}/load")
        shutil.rmtree(root / NAME / str(version - 1))
    took = time.monotonic() - began
    await asyncio.sleep(1)
    load.over = True
    await running
    quantiles = 1000 * np.quantile(load.seconds, [0.5, 0.99, 1])
    print(
        f"{load.sent} requests at {rate:g}/s during {swaps} swaps in {took:.1f} s: {load.failed} failed, {load.wrong} from a wrong version, "
        f"{len(load.versions)} versions answered; median {quantiles[0]:.1f} ms, 99% {quantiles[1]:.1f} ms, slowest {quantiles[2]:.0f} ms",
        flush=True,
    )


def cycle(port: int, pid: int, cycles: int) -> None:
    settled = 0.0
    for count in range(1, cycles + 1):
        post(port, f"/admin/models/{NAME}/unload")
        post(port, f"/admin/models/{NAME}/load")
        if count == SETTLED:
            settled = resident(pid)
        if count in (SETTLED, cycles) or count % 60 == SETTLED:
            now = resident(pid)
            print(
                f"after {count} unloads and loads: {now:.1f} MB, {now / settled:.3f} times the value after {SETTLED}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--cycles", type=int, default=200)
    options = parser.parse_args()
    port = serving.free_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        publish(root, 1)
        environment: dict[str, Any] = {
            "MANIFOLD_PORT": str(port), "MANIFOLD_DEVICE": "cpu", "MANIFOLD_MODELS_DIR": folder, "MANIFOLD_VERSIONS": "latest",
            "MANIFOLD_TRUST_LOOPBACK": "true",
        }  # fmt: skip
        service = serving.started(
            [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready", **environment
        )
        try:
            asyncio.run(swap(port, root, options.rate, options.swaps))
            cycle(port, service.pid, options.cycles)
        finally:
            service.terminate()
            service.wait(30)


if __name__ == "__main__":
    main()
