"""The service as a client sees it: time to ready, resident memory, and requests/s beside an empty route of the same application.

    python benchmarks/service.py [--rounds 5]

Needs wrk. Starts `python -m service` on a free port of 127.0.0.1; rounds are interleaved, figures are medians. Prints one JSON line.
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
from pathlib import Path

LOADS = {
    "empty": ("/health/live", "", "*/*"),
    "sample_png": ("/sample", "{}", "image/png"),
    "sample_json": ("/sample", "{}", "application/json"),
    "latents_array": ("/sample", json.dumps({"latents": [[0.1] * 20], "encoding": "array"}), "application/json"),
    "sample_64_png": ("/sample", '{"n": 64}', "image/png"),
}


def script(body: str, accept: str, folder: Path) -> Path:
    path = folder / "load.lua"
    method = "POST" if body else "GET"
    path.write_text(
        f"wrk.method='{method}' wrk.body=[==[{body}]==] wrk.headers['Content-Type']='application/json' wrk.headers['Accept']='{accept}'"
    )
    return path


def rate(port: int, path: str, body: str, accept: str, folder: Path, seconds: int = 3) -> float:
    """Requests/s with 32 connections; any answer but 200 voids it."""
    command = [
        "wrk",
        "-t1",
        "-c32",
        f"-d{seconds}s",
        "-s",
        str(script(body, accept, folder)),
        f"http://127.0.0.1:{port}{path}",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"{path}: refused or broken\n{output}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found
    return float(found.group(1))


def start(port: int) -> tuple[subprocess.Popen[bytes], float]:
    """The service and the seconds until it was ready."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service"], env={**os.environ, "MANIFOLD_PORT": str(port)}, stderr=subprocess.DEVNULL
    )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed (Debian's package wrk)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready = []
    for _ in range(3):
        process, seconds = start(port)
        memory = resident(process.pid)
        ready.append(seconds)
        process.terminate()
        process.wait(20)
    process, _ = start(port)
    rates: dict[str, list[float]] = {name: [] for name in LOADS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, load in LOADS.items():
                rates[name].append(rate(port, *load, Path(folder)))
    after = resident(process.pid)
    process.terminate()
    process.wait(20)
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    ratios = {
        f"{name}_over_empty": round(value / medians["empty"], 3) for name, value in medians.items() if name != "empty"
    }
    print(
        json.dumps(
            {
                "ready_s": round(statistics.median(ready), 2),
                "resident_mb": round(memory),
                "after_load_mb": round(after),
                **medians,
                **ratios,
            }
        )
    )


if __name__ == "__main__":
    main()
