"""Several processes that serve as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from runtime import backends
from service import merging, workers
from service.histograms import Histogram
from service.settings import ModelSettings, Settings, SettingsError
from service.stubs import inference_pb2 as pb
from service.stubs import inference_pb2_grpc as stubs
from tests import foreign
from tests.conftest import ROOT
from tests.served import free_port, until

COUNT = 2


class Running:
    """`python -m service` with workers."""

    def __init__(self, root: Path, log: Path, **settings: str) -> None:
        self.port, self.rpc, self.log = free_port(), free_port(), log
        environment = {
            **os.environ, "MANIFOLD_PORT": str(self.port), "MANIFOLD_GRPC_PORT": str(self.rpc), "MANIFOLD_MODELS_DIR": str(root),
            "MANIFOLD_WORKERS": str(COUNT), "MANIFOLD_DEVICE": "cpu", "MANIFOLD_DEFAULT_MODEL": "foreign", **settings,
        }  # fmt: skip
        with log.open("wb") as file:
            self.process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=file)
        until(lambda: self.said("ready") >= COUNT, 120)

    def said(self, word: str) -> int:
        """Lines of the log with that event."""
        assert self.process.poll() is None, self.log.read_text()
        return sum(f"] {word} " in line for line in self.log.read_text().splitlines())

    def call(self, path: str, method: str = "POST", **fields: Any) -> httpx.Response:
        """On a connection of its own, so that any worker may take it."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, json=fields if method == "POST" else None, timeout=60)

    def pids(self) -> set[int]:
        """Of the workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        workers = set()
        for pid in found:
            with suppress(OSError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    workers.add(int(pid))
        return workers

    def metric(self, name: str) -> float:
        """A number of /metrics; 0 where it is not there."""
        answer = self.call("/metrics", "GET")
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("workers")
    foreign.write(root)
    service = Running(root, root / "log")
    yield service
    if service.process.poll() is None:
        service.stop()


def test_one_answer_per_seed_and_one_page_of_metrics(running: Running) -> None:
    assert len(running.pids()) == COUNT
    sample = 'manifold_requests_total{route="/sample",status="200"}'
    before = running.metric(sample)
    answers = [running.call("/sample", seed=7, encoding="array").json()["data"] for _ in range(24)]
    assert all(answer == answers[0] for answer in answers)
    assert running.metric(sample) == before + 24
    assert running.metric('manifold_request_seconds_count{route="/sample"}') == running.metric(sample)
    assert running.metric("manifold_ready") == 1
    for _ in range(8):
        with grpc.insecure_channel(f"127.0.0.1:{running.rpc}") as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            assert stub.ModelInfer(pb.ModelInferRequest(model_name="foreign"), timeout=30).model_name == "foreign"


def test_models_change_in_all_of_them(running: Running) -> None:
    assert running.call("/v2/repository/models/foreign/unload").status_code == 200
    assert {running.call("/sample").status_code for _ in range(16)} == {503}
    # also in one that is started meanwhile
    victim = min(running.pids())
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in running.pids() and len(running.pids()) == COUNT)
    until(lambda: running.said("not ready") >= 1, 120)  # nothing is loaded in it
    assert {running.call("/sample").status_code for _ in range(16)} == {503}
    assert running.call("/admin/models/foreign/load").json()["state"] == "ready"
    assert {running.call("/sample").status_code for _ in range(16)} == {200}
    assert running.call("/admin/models/nope/load").status_code == 404


def test_a_worker_that_ends_is_replaced_and_no_counter_goes_back(running: Running) -> None:
    sample = 'manifold_requests_total{route="/sample",status="200"}'
    before, told = running.metric(sample), running.said("ready")
    victim = min(running.pids())
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in running.pids())
    assert running.metric(sample) == before
    until(lambda: running.said("ready") > told, 120)
    assert {running.call("/sample").status_code for _ in range(8)} == {200}
    assert running.metric(sample) == before + 8


def test_one_that_hangs_keeps_nobody_from_watching_the_others(running: Running) -> None:
    sample = 'manifold_requests_total{route="/sample",status="200"}'
    before, victim = running.metric(sample), min(running.pids())
    os.kill(victim, signal.SIGSTOP)
    try:
        assert running.call("/sample").status_code == 200
        assert running.metric(sample) == before + 1
    finally:
        os.kill(victim, signal.SIGCONT)
    assert running.metric(sample) == before + 1


def test_told_to_stop_all_end(running: Running) -> None:
    pids = running.pids()
    assert running.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_keeper_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    service = Running(tmp_path, tmp_path / "log")
    pids = service.pids()
    service.process.kill()
    service.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


# --- the keeper ---


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be had"):
            workers.bound(Settings(port=port))
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be had"):
            workers.reserved(Settings(port=port - 1, grpc_port=port))


def test_a_gpu_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Settings(workers=3, device="cpu")
    assert workers.allowed(cpu) == 3
    monkeypatch.setattr(backends, "cuda_missing", lambda: "there is none")
    assert workers.allowed(Settings(workers=3)) == 3
    monkeypatch.setattr(backends, "cuda_missing", lambda: None)
    assert workers.allowed(cpu) == 3
    assert workers.allowed(Settings(workers=3)) == 1
    for settings in (
        Settings(workers=2, device="cuda"),
        Settings(workers=2, device="cpu", models={"a": ModelSettings(device="cuda")}),
    ):
        with pytest.raises(SettingsError, match="one process owns a GPU"):
            workers.allowed(settings)


# --- metrics ---


def page(requests: int, ready: int, memory: int, seconds: list[float]) -> dict[str, merging.Family]:
    registry = CollectorRegistry()
    Counter("manifold_requests", "Requests", ["route"], registry=registry).labels('/a"b').inc(requests)
    Gauge("manifold_ready", "Ready", registry=registry).set(ready)
    Gauge("manifold_queued_rows", "Rows", ["model"], registry=registry).labels("a").set(memory)
    Gauge("manifold_disk_bytes", "Disk", ["kind"], registry=registry).labels("free").set(memory)
    histogram = Histogram("manifold_run_seconds", "Runs", (0.1, 1.0), ("model",), registry).labels("a")
    for value in seconds:
        histogram.observe(value)
    return merging.parse(generate_latest(registry).decode())


def test_pages_merge() -> None:
    merged = merging.text(merging.merge([page(3, 1, 10, [0.05, 0.5]), page(4, 0, 20, [5.0])])).decode()
    for line in (
        'manifold_requests_total{route="/a\\"b"} 7.0', "manifold_ready 0.0", 'manifold_queued_rows{model="a"} 30.0',
        'manifold_disk_bytes{kind="free"} 20.0', 'manifold_run_seconds_bucket{le="0.1",model="a"} 1.0',
        'manifold_run_seconds_bucket{le="1.0",model="a"} 2.0', 'manifold_run_seconds_bucket{le="+Inf",model="a"} 3.0',
        'manifold_run_seconds_sum{model="a"} 5.55',
    ):  # fmt: skip
        assert line in merged.splitlines(), merged


def test_what_ended_workers_counted_stays_and_their_gauges_go() -> None:
    gone = merging.merge([], [page(3, 0, 10, [0.5]), page(2, 0, 10, [])])
    found = merging.merge([page(4, 1, 20, [])], [gone])
    assert found["manifold_requests"].samples["manifold_requests_total", (("route", '/a"b'),)] == 9
    assert list(found["manifold_ready"].samples.values()) == [1]
    assert list(found["manifold_queued_rows"].samples.values()) == [20]
    merged = merging.text(found).decode()
    assert 'manifold_run_seconds_count{model="a"} 1.0' in merged.splitlines()
    assert merging.parse(merged) == merging.parse(merging.text(merging.parse(merged)).decode())
