"""The service as a process: it starts without torch in sight, answers, and ends when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import foreign
from tests.conftest import ROOT
from tests.served import free_port


@contextmanager
def service(models: Path, port: int, **more: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m service` on a port of loopback."""
    environment = {
        **os.environ,
        "MANIFOLD_MODELS_DIR": str(models),
        "MANIFOLD_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"MANIFOLD_DEFAULT_MODEL": "foreign", **more}
    with subprocess.Popen(
        [sys.executable, "-m", "service"], cwd=models, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("not ready")


def test_starts_answers_and_ends(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with service(tmp_path, port) as process:
        wait_until_ready(url, process)
        assert httpx.post(f"{url}/sample", json={"seed": 1}, headers={"accept": "image/png"}).content[1:4] == b"PNG"
        with service(tmp_path, port) as second:
            _, error = second.communicate(timeout=120)
            assert second.returncode != 0
            assert "address already in use" in error
        rpc_port = str(port + 1)
        with service(tmp_path, free_port(), MANIFOLD_GRPC_PORT=rpc_port) as second:
            _, error = second.communicate(timeout=120)
            assert second.returncode == 3
            assert "gRPC cannot listen" in error
            assert rpc_port in error
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in error


@pytest.mark.parametrize(("name", "value"), [("MANIFOLD_MODELS_DIR", "nowhere"), ("MANIFOLD_DEVICE", "tpu")])
def test_a_wrong_setting_is_one_message_and_a_status(name: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, name: value, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert name in done.stderr
    assert "Traceback" not in done.stderr
