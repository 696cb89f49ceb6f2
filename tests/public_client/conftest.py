"""The service as another process, and the public clients of the Open Inference Protocol as users have them: `tritonclient`, unmodified.

The clients have their own environment (.venv-tritonclient), because they need an older protobuf than the service. `make test` creates it and runs
these tests.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("MANIFOLD_PYTHON", str(ROOT / ".venv/bin/python"))
MODELS = (
    "mnist-vae", "mnist-cvae", "mnist-vqvae", "mnist-gan", "mnist-classifier", "digits-pixelcnn", "transactions-vae", "nslkdd-cvae",
    "mnist-vae-2d",
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """The addresses of the service."""

    http: str
    grpc: str


def free_ports() -> tuple[int, int]:
    """Return two free ports. They are below those of outgoing connections (32768 and above on Linux), so that no connection takes one."""
    port = random.SystemRandom().randrange(18_000, 20_000, 2)
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", port))
        b.bind(("127.0.0.1", port + 1))
    return port, port + 1


def start(root: Path, **settings: str) -> tuple[subprocess.Popen[bytes], Service]:
    port, rpc = free_ports()
    environment = {
        **os.environ, "MANIFOLD_PORT": str(port), "MANIFOLD_GRPC_PORT": str(rpc), "MANIFOLD_MODELS_DIR": str(root), "MANIFOLD_DEVICE": "cpu",
        "MANIFOLD_TRUST_LOOPBACK": "true", **settings,
    }  # fmt: skip
    process = subprocess.Popen([PYTHON, "-m", "manifold.service"], cwd=ROOT, env=environment)
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return process, Service(f"127.0.0.1:{port}", f"127.0.0.1:{rpc}")
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError("the service does not get ready")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        (root / name).symlink_to(ROOT / "models" / name)
    process, found = start(root)
    yield found
    stop(process)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Service]:
    """Start a service that queues at most 64 rows."""
    (tmp_path / "digits-pixelcnn").symlink_to(ROOT / "models/digits-pixelcnn")
    process, found = start(tmp_path, MANIFOLD_QUEUE_ROWS="64")
    yield found
    stop(process)
