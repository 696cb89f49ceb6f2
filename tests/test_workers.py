"""Several processes that act as one service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from manifold.runtime.errors import Busy, Unavailable
from manifold.runtime.graphs import backends
from manifold.service.processes import cluster, errands, line, merging
from manifold.service.processes import keeper as workers
from manifold.service.settings import ModelSettings, Settings, SettingsError
from manifold.service.stubs import inference_pb2 as pb
from manifold.service.stubs import inference_pb2_grpc as stubs
from manifold.service.telemetry.histograms import Histogram
from tests import foreign
from tests.conftest import ROOT
from tests.served import free_port, until

pytestmark = pytest.mark.slow  # the tests start and stop processes

COUNT = 2
HANG, DRAIN = 4.0, 0.5  # seconds; the settings of the service


class Running:
    """A service with several workers, run as `python -m manifold.service`."""

    def __init__(self, root: Path, log: Path, **settings: str) -> None:
        self.port, self.rpc, self.log = free_port(), free_port(), log
        environment = {
            **os.environ, "MANIFOLD_PORT": str(self.port), "MANIFOLD_GRPC_PORT": str(self.rpc), "MANIFOLD_MODELS_DIR": str(root),
            "MANIFOLD_WORKERS": str(COUNT), "MANIFOLD_DEVICE": "cpu", "MANIFOLD_DEFAULT_MODEL": "foreign", "MANIFOLD_LOG_FORMAT": "json",
            "MANIFOLD_HANG_SECONDS": str(HANG), "MANIFOLD_DRAIN_SECONDS": str(DRAIN), **settings,
        }  # fmt: skip
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manifold.service"], cwd=ROOT, env=environment, stderr=file
            )

    def __enter__(self) -> Running:
        with ExitStack() as stack:
            stack.callback(self.kill)
            until(lambda: self.said("ready") >= COUNT, 120)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End the parent. Its workers end by themselves, even those that hang."""
        self.process.kill()
        self.process.wait()

    def said(self, event: str) -> int:
        """Return the number of log lines with that event. Every line must be JSON."""
        assert self.process.poll() is None, self.log.read_text()
        return sum(json.loads(line)["event"] == event for line in self.log.read_text().splitlines())

    def call(self, path: str, method: str = "POST", **fields: Any) -> httpx.Response:
        """Send a request on a new connection, so that any worker may take it."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, json=fields if method == "POST" else None, timeout=60)

    def pids(self) -> set[int]:
        """Return the pids of the workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        workers = set()
        for pid in found:
            with suppress(OSError):  # the worker has just ended
                if b"manifold.service.processes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    workers.add(int(pid))
        return workers

    def metric(self, name: str) -> float:
        """Return a number of /metrics, or 0 if absent."""
        answer = self.call("/metrics", "GET")
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def scrapes(self, count: int) -> list[str]:
        """Return pages of metrics that are requested all at once."""
        with ExitStack() as stack:
            address = ("127.0.0.1", self.port)
            found = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(count)]
            for connection in found:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return [stack.enter_context(connection.makefile("rb")).read().decode() for connection in found]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("workers")
    foreign.write(root)
    keys = root / "keys"
    keys.write_text("")
    with Running(root, root / "log", MANIFOLD_KEYS_FILE=str(keys), MANIFOLD_AUTH="off") as service:
        yield service


def test_one_answer_per_seed_and_one_page_of_metrics(running: Running) -> None:
    assert len(running.pids()) == COUNT
    sample = 'manifold_requests_total{route="/sample",status="200"}'
    before = running.metric(sample)
    answers = [running.call("/sample", seed=7, encoding="array").json()["data"] for _ in range(24)]
    assert all(answer == answers[0] for answer in answers)
    assert running.metric(sample) == before + 24
    assert running.metric('manifold_request_seconds_count{route="/sample"}') == running.metric(sample)
    assert running.metric("manifold_ready") == 1
    assert [running.metric(f'manifold_worker_up{{worker="{place}"}}') for place in range(COUNT)] == [1, 1]
    for _ in range(8):
        with grpc.insecure_channel(f"127.0.0.1:{running.rpc}") as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            assert stub.ModelInfer(pb.ModelInferRequest(model_name="foreign"), timeout=30).model_name == "foreign"


def test_models_change_in_all_of_them_and_in_one_that_is_replaced(running: Running) -> None:
    assert running.call("/v2/repository/models/foreign/unload").status_code == 200
    assert {running.call("/sample").status_code for _ in range(16)} == {503}
    sample = 'manifold_requests_total{route="/sample",status="503"}'
    before, files = running.metric(sample), len(os.listdir(f"/proc/{running.process.pid}/fd"))
    victim = min(running.pids())
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in running.pids())
    assert running.metric(sample) == before  # the counts of the ended worker are kept
    # SIGHUP, which reloads the keys, ends no worker, in any state of its start
    while len(running.pids()) < COUNT or not running.said("not ready"):  # no model is loaded in it
        running.process.send_signal(signal.SIGHUP)
        for pid in running.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        time.sleep(0.02)
    assert running.said("a worker has ended and is restarted") == 1
    assert {running.call("/sample").status_code for _ in range(16)} == {503}
    assert running.metric(sample) == before + 16
    assert running.metric("manifold_worker_restarts_total") == 1
    assert len(os.listdir(f"/proc/{running.process.pid}/fd")) == files
    assert running.call("/admin/models/foreign/load").json()["state"] == "ready"
    assert {running.call("/sample").status_code for _ in range(16)} == {200}
    assert running.call("/admin/models/nope/load").status_code == 404


def test_a_worker_that_stands_still_holds_up_nobody_and_is_replaced(running: Running) -> None:
    """There are more requests for metrics than commands that fit into a pipe."""
    sample = 'manifold_requests_total{route="/sample",status="200"}'
    before, told, victim = running.metric(sample), running.said("ready"), min(running.pids())
    os.kill(victim, signal.SIGSTOP)
    assert running.call("/sample").status_code == 200
    pages = running.scrapes(400)
    assert all(page.startswith("HTTP/1.1 200") for page in pages)
    assert any(f'manifold_worker_up{{worker="{place}"}} 0' in page for page in pages for place in range(COUNT))
    assert running.said("workers did not answer") == 1  # there is only one wait for a worker that hangs
    assert running.metric(sample) == before + 1
    until(lambda: victim not in running.pids() and running.said("ready") > told)
    assert running.said("a worker does not answer and is killed") == 1
    assert running.metric(sample) == before + 1


def test_a_command_says_which_workers_did_not_answer(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    with Running(tmp_path, tmp_path / "log", MANIFOLD_HANG_SECONDS="60", MANIFOLD_COMMAND_SECONDS="1") as service:
        victim = min(service.pids())
        os.kill(victim, signal.SIGSTOP)
        for path in ("/admin/models/foreign/load", "/v2/repository/models/foreign/unload", "/admin/reload"):
            answer = service.call(path)
            assert answer.status_code == 503, answer.text
            assert f"(pid {victim}) did not answer within 1 s; 1 others did" in answer.text
        # the parent is killed, and the worker that hangs ends too
        pids = service.pids()
        service.kill()
        until(lambda: not any(map(alive, pids)))


def test_told_to_stop_all_end_also_one_that_stands_still(running: Running) -> None:
    pids = running.pids()
    os.kill(min(pids), signal.SIGSTOP)
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < DRAIN + workers.GRACE + 8
    assert not any(map(alive, pids))
    told = [line for line in running.log.read_text().splitlines() if re.search(r"\bstopp(ing|ed)\b", line)]
    assert len(told) == 2 and "stopping" in told[0] and "stopped" in told[1]  # from the parent process only


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # ProcessLookupError if the process ends during the read
        return False


# --- the parent process ---


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
        with pytest.raises(SettingsError, match="several processes cannot share a GPU"):
            workers.allowed(settings)


class Told:
    """A worker that receives commands and never answers by itself."""

    def __init__(self, place: int, *, listens: bool = True, answers: bool = True, takes: bool = True) -> None:
        self.place, self.listens, self.answers, self.takes = place, listens, answers, takes
        self.name, self.page, self.heard = f"worker {place}", dict[str, merging.MetricFamily](), list[Any]()

    def tell(self, message: Any) -> bool:
        self.heard += [message] if self.takes else []
        return self.takes


def test_commands_reach_all_and_those_that_do_not_answer_are_named() -> None:
    told = [Told(0), Told(1), Told(2, listens=False), Told(3, takes=False)]
    work = errands.Errands(told, 0.0)
    work.ask("unload", "a", told[0], 5)
    assert [worker.heard for worker in told] == [[["do", 0, "unload", "a"]]] * 3 + [[]]
    work.done(told[0], 0, ["ok", None])
    work.done(told[2], 0, ["error", "UnknownModel", "it starts, and nobody waits for it"])
    work.end_overdue()
    (kind, number, (fine, silent)) = told[0].heard[-1]
    assert (kind, number, fine) == ("answer", 5, ["ok", None])
    assert silent[:2] == ["error", "Unavailable"]
    assert silent[2].startswith("unload a: worker 3, worker 1 did not answer within 0 s; 1 others did")
    work.done(told[1], 0, ["ok", None])  # too late, so it has no effect
    assert work.unloaded == {"a"}
    work.ask("load", "a")
    assert work.unloaded == set()


def test_a_name_that_no_worker_knows_is_not_unloaded_in_those_that_come() -> None:
    told = [Told(0), Told(1)]
    work = errands.Errands(told, 60)
    work.ask("unload", "a", told[0], 1)
    assert work.unloaded == {"a"}  # a worker that starts meanwhile needs this name
    for worker in told:
        work.done(worker, 0, ["error", "UnknownModel", "there is no model 'a'"])
    assert work.unloaded == set()


def test_one_that_ends_is_not_waited_for() -> None:
    told = [Told(0), Told(1)]
    work = errands.Errands(told, 60)
    work.ask("keys", "", told[0], 1)
    work.ask("keys", "", told[1], 2)
    work.done(told[0], 0, ["ok", None])
    work.done(told[0], 1, ["ok", None])
    work.forget(told.pop())
    assert told[0].heard[-1] == ["answer", 1, [["ok", None]]]
    assert work.due == float("inf")


def test_requests_for_metrics_are_joined() -> None:
    told = [Told(0), Told(1), Told(2, answers=False)]
    work = errands.Errands(told, 60)
    for number in range(300):
        work.ask("metrics", "", told[number % 2], number)
    assert [len(worker.heard) for worker in told] == [1, 1, 0]
    for worker in told[:2]:
        work.done(worker, 0, ["ok", "# TYPE a gauge\na 1.0\n"])
    assert [message[:2] for message in told[0].heard[1:]] == [["answer", 0], ["do", 1]]
    for worker in told[:2]:
        work.done(worker, 1, ["ok", "# TYPE a gauge\na 2.0\n"])
    answers = [message for worker in told for message in worker.heard if message[0] == "answer"]
    assert sorted(number for _, number, _ in answers) == list(range(300))
    assert all("\na 4.0\n" in results[0][1] for _, number, results in answers if number)
    assert 'manifold_worker_up{worker="2"} 0.0' in answers[-1][2][0][1]


def test_a_line_keeps_messages_whole_and_never_waits() -> None:
    ours, theirs = line.pair()
    other = line.Line(theirs, most=2000)
    messages = [["a", number, "x" * 900] for number in range(2000)]
    assert all(ours.send(message) for message in messages)  # more than fits into the socket
    found = list[Any]()
    reading = 0
    while len(found) < len(messages):
        ours.flush()
        found += other.receive()
        reading += 1
        assert reading < 10_000
    assert found == messages
    sent = 0
    while other.send(["b", sent, "y" * 900]):
        sent += 1
    assert 0 < other.waiting <= 2000 and not ours.closed
    while ours.receive() or other.waiting:
        other.flush()
    theirs.send(b"\xff\xff\xff\xff")  # a length that no message has
    lose(ours)
    assert not ours.send(["a", 0])
    ours.close()
    lose(other)
    other.close()


def lose(found: line.Line) -> None:
    """Read until the line is closed."""
    while not found.closed:
        found.receive()


def test_a_parent_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "MARGIN", 0.01)

    async def ask() -> None:
        ours, theirs = line.pair()
        with theirs:
            found = cluster.Cluster(ours, {}, lambda: None, 0.01)
            found.open()
            with pytest.raises(Unavailable, match="the parent process did not answer"):
                await found.everywhere("keys")
            waiting = [asyncio.create_task(found.everywhere("keys")) for _ in range(cluster.MOST + 1)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert sum(isinstance(result, Busy) for result in results) == 1
            found.close()
        ours.close()

    asyncio.run(ask())


def test_workers_that_end_again_and_again_are_started_less_often() -> None:
    keeper = workers.Keeper(Settings(workers=2), [])
    pauses = []
    for _ in range(7):
        keeper._put_off(failed=False)
        pauses.append(round(keeper.next_start - time.monotonic()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    keeper._put_off(failed=False, settled=True)
    assert round(keeper.next_start - time.monotonic()) == 1
    for _ in range(workers.FAILURES):
        assert not keeper.stops
        keeper._put_off(failed=True)
    assert keeper.stops == 1
    assert keeper.run() == workers.FAILED


def test_one_that_uses_the_processor_has_more_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        ours, theirs = line.pair()
        theirs.close()
        worker = workers.Worker(0, process, ours, 0.0, answered=True)
        until(lambda: workers.processor_seconds(process.pid) > 0.2)
        worker.silent = 2.0
        assert not worker.hangs(1.0)
        worker.silent = 11.0
        assert worker.hangs(1.0)
        worker.silent, worker.used = 2.0, workers.processor_seconds(process.pid) + 60
        assert worker.hangs(1.0)
        worker.answered = False  # the worker is still starting
        assert not worker.hangs(1.0)
        process.kill()
    worker.line.close()


# --- metrics ---


def page(requests: int, ready: int, memory: int, seconds: list[float]) -> dict[str, merging.MetricFamily]:
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
    for wanted in (
        'manifold_requests_total{route="/a\\"b"} 7.0', "manifold_ready 0.0", 'manifold_queued_rows{model="a"} 30.0',
        'manifold_disk_bytes{kind="free"} 20.0', 'manifold_run_seconds_bucket{le="0.1",model="a"} 1.0',
        'manifold_run_seconds_bucket{le="1.0",model="a"} 2.0', 'manifold_run_seconds_bucket{le="+Inf",model="a"} 3.0',
        'manifold_run_seconds_sum{model="a"} 5.55',
    ):  # fmt: skip
        assert wanted in merged.splitlines(), merged


def test_what_ended_workers_counted_stays_and_their_gauges_go() -> None:
    gone = merging.merge([], [page(3, 0, 10, [0.5]), page(2, 0, 10, [])])
    found = merging.merge([page(4, 1, 20, [])], [gone])
    assert found["manifold_requests"].samples["manifold_requests_total", (("route", '/a"b'),)] == 9
    assert list(found["manifold_ready"].samples.values()) == [1]
    assert list(found["manifold_queued_rows"].samples.values()) == [20]
    merged = merging.text(found).decode()
    assert 'manifold_run_seconds_count{model="a"} 1.0' in merged.splitlines()
    assert merging.parse(merged) == merging.parse(merging.text(merging.parse(merged)).decode())
