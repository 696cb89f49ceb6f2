"""The cost of a request: requests/s compared with an empty FastAPI route and with the engine alone, all in one run.

    python benchmarks/serving.py MODELS [--rounds 5] [--seconds 3] [--only NAME ...]

MODELS is a folder with mlp.onnx (latent 20 to 1x28x28) and dcgan32.onnx (latent 64 to 1x32x32), decoders of `z` to `x` in [0, 1]. The script
starts `python -m manifold.service` with them and with the shipped mnist-vae, and an empty FastAPI route, on free ports of 127.0.0.1, and loads
them with wrk, 32 connections. Rounds are interleaved, results are medians, and any answer but 200 voids one. The engine alone is
`runtime.load(...)` in its own process with one thread. There is no such load generator for gRPC, so gRPC and REST are also compared by the
server's CPU time for a request that a Python client sends. The output is a table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

EMPTY = "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\nasync def empty():\n    return {}\n"
SIZES = {"mlp": (20, 28), "dcgan": (64, 32)}
FILES = {"mlp": "mlp.onnx", "dcgan": "dcgan32.onnx"}


def repository(models: Path, root: Path) -> None:
    """Write a repository: the two decoders with hand-written manifests, and mnist-vae."""
    for name, (latent, size) in SIZES.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(models / FILES[name], folder / "decode.onnx")
        manifest = {
            "name": name, "version": 1, "latent": {"size": latent},
            "data": {"kind": "image", "height": size, "width": size, "channels": 1, "range": [0, 1]},
            "tasks": {"decode": {
                "graph": "decode.onnx", "inputs": [{"role": "latent", "name": "z", "source": "latent", "shape": [latent]}],
                "outputs": [{"role": "data", "name": "x", "shape": [1, size, size]}],
            }},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (root / "mnist-vae").symlink_to(Path("models/mnist-vae").resolve())


def latents(name: str, n: int) -> np.ndarray[Any, Any]:
    """Return latent rows that a client would send."""
    return np.random.default_rng(7).uniform(-1, 1, (n, SIZES[name][0])).round(3).astype(np.float32)


def as_json(name: str, n: int) -> bytes:
    return json.dumps(
        {"model": name, "encoding": "array", "latents": np.round(latents(name, n).astype(float), 3).tolist()}
    ).encode()


def as_npy(name: str, n: int) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, latents(name, n))
    return buffer.getvalue()


# name: path, body, content type, accept, rows of a request
JSON, NPY = "application/json", "application/x-npy"
LOADS: dict[str, tuple[str, Callable[[], bytes], str, str, int]] = {
    "latent row, JSON": ("/sample", lambda: as_json("mlp", 1), JSON, JSON, 1),
    "64 latent rows, JSON": ("/sample", lambda: as_json("mlp", 64), JSON, JSON, 64),
    "64 latent rows, npy, MLP": ("/sample?model=mlp", lambda: as_npy("mlp", 64), NPY, NPY, 64),
    "64 latent rows, npy, DCGAN": ("/sample?model=dcgan", lambda: as_npy("dcgan", 64), NPY, NPY, 64),
    "n=1, PNG": ("/sample", lambda: b'{"model":"mlp"}', JSON, "image/png", 1),
    "n=1, PNG, mnist-vae": ("/sample", lambda: b'{"model":"mnist-vae"}', JSON, "image/png", 1),
    "n=64, PNG grid": ("/sample", lambda: b'{"model":"mlp","n":64}', JSON, "image/png", 64),
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started(command: list[str], url: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a server. Return it when it answers."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return process
        except OSError:
            time.sleep(0.01)
    process.kill()
    raise SystemExit(f"{' '.join(command)} does not answer")


def wrk(
    url: str, folder: Path, seconds: int, body: bytes = b"", kind: str = JSON, accept: str = "*/*", headers: Mapping[str, str] | None = None
) -> float:  # fmt: skip
    """Return requests/s with 32 connections. Any answer but 200 voids the result."""
    (folder / "body").write_bytes(body)
    script = folder / "load.lua"
    lines = [f"wrk.method = '{'POST' if body else 'GET'}'", f"wrk.headers['Accept'] = '{accept}'"]
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in (headers or {}).items()]
    if body:
        lines += [
            f"wrk.headers['Content-Type'] = '{kind}'",
            f"wrk.body = io.open('{folder / 'body'}', 'rb'):read('*a')",
        ]
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"{url}: some answers were not 200, or connections broke\n{output}")
    match = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert match
    return float(match.group(1))


ENGINE = """
import json, sys, time
import numpy as np
from pathlib import Path
from manifold.runtime import codecs, engine, recipes
root, seconds = Path(sys.argv[1]), float(sys.argv[2])
def rate(call):
    for _ in range(5): call()
    end, n = time.perf_counter() + seconds, 0
    began = time.perf_counter()
    while time.perf_counter() < end:
        call(); n += 1
    return n / (time.perf_counter() - began)
found = {}
for name in ("mlp", "dcgan"):
    model = engine.load(root / name, device="cpu", threads=1)
    z = np.random.default_rng(7).uniform(-1, 1, (64, model.manifest.space.size)).astype(np.float32)
    found[name] = 64 * rate(lambda: model.run("decode", {"latent": z}))
model = engine.load(root / "mlp", device="cpu", threads=1)
def grid():
    samples = model.sample(64)
    texts = recipes.for_samples(model.manifest, model.checksum, samples, {})
    return model.manifest.spec.sheet(samples.data, texts)
found["grid"] = rate(grid)
print(json.dumps(found))
"""


def engine_alone(root: Path, seconds: int) -> dict[str, float]:
    """Return rows/s at 64 rows at a time, and grids/s with their PNG."""
    command = [sys.executable, "-c", ENGINE, str(root), str(seconds)]
    rates: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return rates


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def transports(port: int, rpc_port: int, pid: int, calls: int = 3000) -> dict[str, float]:
    """Return the server's CPU time in microseconds per request of one latent row. Each of 8 connections has a client in its own thread."""
    import concurrent.futures
    import http.client

    import grpc

    from manifold.service.stubs import manifold_pb2 as pb
    from manifold.service.stubs import manifold_pb2_grpc as stubs

    row = latents("mlp", 1)
    message = pb.SampleRequest(
        model="mlp", encoding="array", latents=pb.Array(type=0, shape=row.shape, content=row.tobytes())
    )
    body = as_json("mlp", 1)

    def over_rest(n: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(n):
            connection.request("POST", "/sample", body, {"Content-Type": JSON})
            assert connection.getresponse().read()
        connection.close()

    def over_grpc(n: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{rpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = stubs.ManifoldStub(channel)
            for _ in range(n):
                assert stub.Sample(message).data.content

    microseconds = {}
    for name, load in (("REST", over_rest), ("gRPC", over_grpc)):
        load(200)
        before = cpu_seconds(pid)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(load, [calls // 8] * 8))
        microseconds[name] = 1e6 * (cpu_seconds(pid) - before) / (calls // 8 * 8)
    return microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of the loads to run (default: all)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("this benchmark needs wrk; install the Debian package wrk")
    chosen = {name: load for name, load in LOADS.items() if not options.only or name in options.only}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository(options.models, folder / "models")
        (folder / "empty.py").write_text(EMPTY)
        empty_port, port, rpc_port = free_port(), free_port(), free_port()
        empty = started(
            [sys.executable, "-m", "uvicorn", "empty:app", "--port", str(empty_port), "--no-access-log", "--log-level", "warning"],
            f"http://127.0.0.1:{empty_port}/", PYTHONPATH=str(folder),
        )  # fmt: skip
        ours = started(
            [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready",
            MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT=str(rpc_port), MANIFOLD_MODELS_DIR=str(folder / "models"), MANIFOLD_DEVICE="cpu",
        )  # fmt: skip
        rates: dict[str, list[float]] = {"empty": [], **{name: [] for name in chosen}}
        engine: dict[str, list[float]] = {}
        try:
            for _ in range(options.rounds):
                rates["empty"].append(wrk(f"http://127.0.0.1:{empty_port}/", folder, options.seconds))
                for name, (path, body, kind, accept, _) in chosen.items():
                    rates[name].append(
                        wrk(f"http://127.0.0.1:{port}{path}", folder, options.seconds, body(), kind, accept)
                    )
                for name, value in engine_alone(folder / "models", options.seconds).items():
                    engine.setdefault(name, []).append(value)
            cpu = transports(port, rpc_port, ours.pid)
        finally:
            for process in (ours, empty):
                process.terminate()
                process.wait(30)
    report(
        {name: statistics.median(values) for name, values in rates.items()},
        {name: statistics.median(values) for name, values in engine.items()},
        cpu,
    )


def report(rates: dict[str, float], engine: dict[str, float], cpu: dict[str, float]) -> None:
    """Print the table."""
    print(
        "| load | requests/s | rows/s | relative to the empty route | relative to the engine |\n|---|---|---|---|---|"
    )
    print(f"| an empty FastAPI route | {rates['empty']:,.0f} | | 1 | |")
    against = {
        "64 latent rows, npy, MLP": "mlp",
        "64 latent rows, npy, DCGAN": "dcgan",
        "n=64, PNG grid": "grid",
        "64 latent rows, JSON": "mlp",
    }
    for name, rate in rates.items():
        if name == "empty":
            continue
        rows = rate * LOADS[name][4]
        other = engine.get(against.get(name, ""))
        share = "" if other is None else f"{(rate if against[name] == 'grid' else rows) / other:.2f}"
        print(f"| {name} | {rate:,.0f} | {rows:,.0f} | {rate / rates['empty']:.2f} | {share} |")
    alone = f"MLP {engine['mlp']:,.0f} rows/s, DCGAN {engine['dcgan']:,.0f} rows/s"
    print(f"\nThe engine alone, 64 rows a run: {alone}; 64 samples and their PNG {engine['grid']:,.0f}/s")
    print(
        "The server's CPU time per request of one latent row: "
        + ", ".join(f"{name} {value:.0f} µs" for name, value in cpu.items())
    )


if __name__ == "__main__":
    main()
