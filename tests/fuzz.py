"""A run of a hundred thousand hostile cases against a real service: no 500, no crash, no growth of memory.

    python -m tests.fuzz [--cases 100000] [--seed 1] [--schemathesis PATH/TO/st]

The script starts `python -m manifold.service` on loopback with keys, and sends the cases that tests/hostile.py draws over HTTP and gRPC. If
schemathesis' command is given (`pip install schemathesis`, in its own environment), it also sends the requests that schemathesis makes from the
OpenAPI document. It prints the answers by status, and the service's memory and open files after the first fifth and at the end. It ends with
status 1 if something broke.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from manifold.service import security
from tests import foreign, hostile
from tests.conftest import ROOT, ROWS, SHIPPED
from tests.served import free_port

SHARES = {"images": 0.25, "arrays": 0.1, "forms": 0.1, "tables": 0.15, "json": 0.2, "messages": 0.2}
ROUND = 500  # cases that hypothesis draws in one run
GROWTH = 1.1  # largest allowed growth of memory, from the first fifth to the end
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance", "response_headers_conformance",
    "unsupported_method", "ignored_auth", "negative_data_rejection",
)  # fmt: skip


class Service:
    """The process of the service, with the memory and files that the system reports for it."""

    def __init__(self, folder: Path) -> None:
        models = folder / "models"
        foreign.write(models)
        for name in set(hostile.MODELS) - {"foreign"}:
            shutil.copytree(SHIPPED / name, models / name)
        self.token, key = security.create("fuzz", ["infer", "admin"])
        self.port, rpc_port = free_port(), free_port()
        self.url, self.target = f"http://127.0.0.1:{self.port}", f"127.0.0.1:{rpc_port}"
        told = {
            "auth": "on",
            "keys": key,
            "models_dir": models,
            "port": self.port,
            "grpc_port": rpc_port,
            "max_items": 64,
            "max_pixels": 4_000_000,
        }
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **{f"MANIFOLD_{name.upper()}": str(value) for name, value in told.items()},
        }
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manifold.service"], env=environment, cwd=folder, stderr=log
            )
        while not self._ready():
            time.sleep(0.2)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit(self.log.read_text())
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        return False

    def memory(self) -> float:
        """Return the resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def files(self) -> int:
        """Return the number of open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> int:
        """Stop the process and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()


def rounds(strategy: Any, send: Callable[[Any], Any], cases: int, first: int) -> Iterator[Any]:
    """Yield the outcomes of this many cases, in rounds."""
    done, number = 0, first
    while done < cases:
        outcomes: list[Any] = []

        @seed(number)
        @settings(
            max_examples=min(ROUND, cases - done),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(drawn: Any) -> None:
            outcomes.append(send(drawn))  # noqa: B023

        run()
        done, number = done + len(outcomes), number + 1
        yield from outcomes


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", help="its command")
    options = parser.parse_args()
    began, broken = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder)) as service:
        headers = {"Authorization": f"Bearer {service.token}"}
        with (
            httpx.Client(base_url=service.url, headers=headers, timeout=120) as client,
            grpc.insecure_channel(service.target) as channel,
        ):
            row, other = ROWS["transactions-vae"], ROWS["nslkdd-cvae"]
            kinds: dict[str, Any] = dict(hostile.cases(client.post, row, other))
            metadata = [("authorization", headers["Authorization"])]
            kinds["messages"] = hostile.messages(row), lambda drawn: hostile.call(channel, drawn, metadata)
            outcomes: dict[str, Counter[Any]] = {name: Counter() for name in kinds}
            marks = []
            for part, share in ((0, 0.2), (1, 0.8)):
                for name, (strategy, send) in kinds.items():
                    cases = round(options.cases * share * SHARES[name])
                    try:
                        outcomes[name].update(rounds(strategy, send, cases, options.seed * 1000 + part * 500))
                    except (hostile.Broken, httpx.TransportError) as error:
                        broken += 1
                        print(f"{name}: {error}"[:2000])
                marks.append((service.memory(), service.files()))
                print(
                    f"after {sum(map(Counter.total, outcomes.values()))} cases: {marks[-1][0]:.0f} MB, {marks[-1][1]} files",
                    flush=True,
                )
            for name, found in outcomes.items():
                print(
                    f"{name}: {found.total()} cases: "
                    + ", ".join(f"{key} {count}" for key, count in sorted(found.items()))
                )
        if options.schemathesis:
            done = subprocess.run(
                [
                    options.schemathesis, "run", f"{service.url}/openapi.json", "-H", f"Authorization: {headers['Authorization']}",
                    "--phases", "examples,coverage,fuzzing", "-n", str(max(10, options.cases // 500)), "--continue-on-failure",
                    "--checks", ",".join(CHECKS), "--seed", str(options.seed), "--suppress-health-check", "all",
                ],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            broken += done.returncode != 0
            told = [line.strip() for line in done.stdout.splitlines() if "generated," in line or "Tested" in line]
            print("schemathesis:", done.stdout[-3000:] if done.returncode else "; ".join(told))
            print(f"after schemathesis: {service.memory():.0f} MB, {service.files()} files")
        log = service.log.read_text()
        internal = log.count("internal")
        if internal:
            print(log[-4000:])
        status = service.stop()
    grown = marks[1][0] / marks[0][0]
    print(
        f"{time.monotonic() - began:.0f} s; memory {grown:.3f} of what it was after the first fifth; "
        f"{internal} internal errors in the log; exit status {status}"
    )
    return int(bool(broken or internal or status or grown > GROWTH))


if __name__ == "__main__":
    sys.exit(main())
