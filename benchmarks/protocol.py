"""The Open Inference Protocol compared with PyTriton in one run: the same decoder, the same requests, binary tensors.

    python benchmarks/protocol.py PYTRITON [--rounds 3] [--seconds 4]

PYTRITON is a Python that has nvidia-pytriton and onnxruntime. tritonclient comes from .venv-tritonclient (`make test` creates it). Both
servers decode latents with the same ONNX file and one thread; PyTriton uses dynamic batching up to 64 rows with 1 ms of delay, as in its
documentation. tritonclient sends requests one after the other and 32 at once, over HTTP and over gRPC; wrk sends them over 32
connections. Rounds alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import serving

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / ".venv-tritonclient/bin/python"
MODEL, LATENT = "mnist-vae", 20
ROWS = (1, 64)
WAYS = {
    "http": "one after the other",
    "grpc": "one after the other",
    "http.aio": "32 at once",
    "grpc.aio": "32 at once",
}

SERVER = """
import numpy as np, onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"])
@batch
def infer(latent):
    return [session.run(None, {{"latent": latent}})[0]]
with Triton(config=TritonConfig(http_port={http}, grpc_port={grpc}, metrics_port={metrics}, log_verbose=0)) as triton:
    triton.bind(model_name="mnist-vae", infer_func=infer, inputs=[Tensor(name="latent", dtype=np.float32, shape=({latent},))],
                outputs=[Tensor(name="data", dtype=np.float32, shape=(-1, -1, -1))],
                config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)))
    triton.serve()
"""

LOOP = """
import importlib, sys, time
import numpy as np
module = importlib.import_module("tritonclient." + sys.argv[1])
client = module.InferenceServerClient(sys.argv[2])
z = np.full((int(sys.argv[3]), 20), 0.1, np.float32)
def once():
    given = module.InferInput("latent", list(z.shape), "FP32")
    given.set_data_from_numpy(z)
    return client.infer("mnist-vae", [given]).as_numpy("data")
for _ in range(50): once()
end, count, began = time.perf_counter() + float(sys.argv[4]), 0, time.perf_counter()
while time.perf_counter() < end:
    once()
    count += 1
print(count / (time.perf_counter() - began), float(once().sum()))
"""


AT_ONCE = """
import asyncio, importlib, sys, time
import numpy as np
module = importlib.import_module("tritonclient." + sys.argv[1])
z = np.full((int(sys.argv[3]), 20), 0.1, np.float32)
async def main():
    async with module.InferenceServerClient(sys.argv[2]) as client:
        async def once():
            given = module.InferInput("latent", list(z.shape), "FP32")
            given.set_data_from_numpy(z)
            return (await client.infer("mnist-vae", [given])).as_numpy("data")
        async def some(end):
            count = 0
            while time.perf_counter() < end:
                await once()
                count += 1
            return count
        await asyncio.gather(*(once() for _ in range(50)))
        began = time.perf_counter()
        counts = await asyncio.gather(*(some(began + float(sys.argv[4])) for _ in range(32)))
        print(sum(counts) / (time.perf_counter() - began), float((await once()).sum()))
asyncio.run(main())
"""


def body(rows: int) -> tuple[bytes, int]:
    """Return a request with binary inputs and outputs, and the length of its JSON part."""
    raw = np.full((rows, LATENT), 0.1, np.float32).tobytes()
    head: dict[str, Any] = {
        "inputs": [{"name": "latent", "shape": [rows, LATENT], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "data", "parameters": {"binary_data": True}}],
    }  # fmt: skip
    text = json.dumps(head).encode()
    return text + raw, len(text)


def loop(kind: str, address: str, rows: int, seconds: float) -> tuple[float, float]:
    """Return requests/s of tritonclient's own loop, or of 32 of its coroutines, and the sum of the values of an answer."""
    program = AT_ONCE if kind.endswith(".aio") else LOOP
    done = subprocess.run(
        [CLIENT, "-c", program, kind, address, str(rows), str(seconds)], capture_output=True, text=True, check=True
    )
    rate, total = done.stdout.split()
    return float(rate), float(total)


def by_wrk(port: int, folder: Path, rows: int, seconds: float) -> float:
    """Return requests/s with 32 connections."""
    content, size = body(rows)
    return serving.wrk(
        f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer", folder, round(seconds), content, "application/octet-stream",
        headers={"Inference-Header-Content-Length": str(size)},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pytriton")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    options = parser.parse_args()
    ports = {name: (serving.free_port(), serving.free_port()) for name in ("PyTriton", "Manifold")}
    with tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        (folder / "models").mkdir()
        (folder / "models" / MODEL).symlink_to(ROOT / "models" / MODEL)
        http, grpc = ports["PyTriton"]
        model = str(next((ROOT / "models" / MODEL).glob("*/decode.onnx")))
        (folder / "server.py").write_text(
            SERVER.format(model=model, http=http, grpc=grpc, metrics=serving.free_port(), latent=LATENT)
        )
        theirs = serving.started(
            [options.pytriton, str(folder / "server.py")], f"http://127.0.0.1:{http}/v2/models/{MODEL}/ready"
        )
        http, grpc = ports["Manifold"]
        ours = serving.started(
            [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{http}/v2/health/ready", MANIFOLD_PORT=str(http), MANIFOLD_GRPC_PORT=str(grpc),
            MANIFOLD_DEVICE="cpu", MANIFOLD_MODELS_DIR=str(folder / "models"),
        )  # fmt: skip
        try:
            report(measure(ports, folder, options.rounds, options.seconds))
        finally:
            for process in (ours, theirs):
                process.terminate()
                process.wait(60)


def measure(
    ports: dict[str, tuple[int, int]], folder: Path, rounds: int, seconds: float
) -> dict[tuple[str, int, str], list[float]]:
    """Return requests/s by method, rows and server: one number for each round."""
    rates: dict[tuple[str, int, str], list[float]] = {}
    sums: dict[int, set[float]] = {rows: set() for rows in ROWS}
    for _ in range(rounds):
        for rows in ROWS:
            for name, (http, grpc) in ports.items():
                for (kind, how), port in zip(WAYS.items(), (http, grpc, http, grpc), strict=True):
                    rate, total = loop(kind, f"127.0.0.1:{port}", rows, seconds)
                    sums[rows].add(round(total, 1))
                    rates.setdefault((f"tritonclient.{kind}, {how}", rows, name), []).append(rate)
                rates.setdefault(("wrk, 32 connections", rows, name), []).append(by_wrk(http, folder, rows, seconds))
    assert all(len(values) == 1 for values in sums.values()), f"the servers do not agree: {sums}"
    return rates


def report(rates: dict[tuple[str, int, str], list[float]]) -> None:
    print("| method | rows | Manifold | PyTriton | ratio |")
    print("|---|---|---|---|---|")
    for way, rows in dict.fromkeys((way, rows) for way, rows, _ in rates):
        ours, theirs = (statistics.median(rates[way, rows, name]) for name in ("Manifold", "PyTriton"))
        print(f"| {way} | {rows} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
