"""The service as a process: it starts without importing torch, answers, and ends on a signal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import trustme
from onnx import TensorProto, helper, numpy_helper

from manifold.service import server
from manifold.service.processes import keeper as workers
from manifold.service.processes import ports
from manifold.service.settings import Settings, SettingsError
from manifold.service.telemetry import logs
from tests import foreign
from tests.conftest import ROOT
from tests.served import answers, free_port, until

pytestmark = pytest.mark.slow  # the tests start and stop processes


@contextmanager
def service(
    models: Path, port: int, *, prelude: str = "", first: str = "", streams: str = "", **more: str
) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m manifold.service` on a port of loopback, after some lines of Python or of the shell, with the streams redirected."""
    environment = {
        **os.environ,
        "MANIFOLD_MODELS_DIR": str(models),
        "MANIFOLD_PORT": str(port),
        "MANIFOLD_GRPC_PORT": "0",  # another process may use the next port
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"MANIFOLD_DEFAULT_MODEL": "foreign", **more}
    command = [sys.executable, "-m", "manifold.service"]
    if prelude:
        lines = (
            "from manifold.service.processes import early",
            "early.prepare()",
            prelude,
            "from manifold.service import __main__",
            "raise SystemExit(__main__.main())",
        )
        command = [sys.executable, "-c", "\n".join(lines)]
    command = ["sh", "-c", f'{first} exec "$@" {streams}', "sh", *command]
    with subprocess.Popen(command, cwd=models, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    until(lambda: process.poll() is not None or answers(f"{url}/health/ready"), 240)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""


def output(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Return the exit status and the lines of stderr."""
    _, error = process.communicate(timeout=120)
    return process.returncode, error.splitlines()


def events(lines: list[str]) -> list[str]:
    """Return the events of a log in JSON. Every line must be JSON."""
    return [json.loads(line)["event"] for line in lines]


def test_starts_answers_and_ends(tmp_path: Path) -> None:
    """If a port is taken, the service prints one line and exits with status 2 before it loads a model, with workers and for gRPC too."""
    foreign.write(tmp_path)
    port, rpc, free = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with service(tmp_path, port, MANIFOLD_GRPC_PORT=str(rpc)) as process:
        wait_until_ready(url, process)
        assert httpx.post(f"{url}/sample", json={"seed": 1}, headers={"accept": "image/png"}).content[1:4] == b"PNG"
        with ExitStack() as stack:
            taken = {"MANIFOLD_PORT": str(free), "MANIFOLD_GRPC_PORT": str(rpc), "MANIFOLD_LOG_FORMAT": "json"}
            several = {"MANIFOLD_WORKERS": "2", "MANIFOLD_DEVICE": "cpu"}
            others = [
                stack.enter_context(service(tmp_path, port, **more))
                for more in ({}, several, taken, {**taken, **several})
            ]
            lines = [line for other in others for line in expect(other, 2)]
        busy = f"port: 127.0.0.1:{port} is not available: another process uses it; stop that process, or choose another port"
        assert lines[:2] == [f"{busy} (--port, MANIFOLD_PORT, or make serve PORT=...)"] * 2
        assert [event.split(":")[0] for event in events(lines[2:])] == ["grpc_port"] * 2
        process.send_signal(signal.SIGTERM)
        status, lines = output(process)
        assert status == 0
        assert not any("Traceback" in line for line in lines)


def expect(process: subprocess.Popen[str], status: int) -> list[str]:
    """Return the lines of stderr of a process that must exit with this status."""
    found, lines = output(process)
    assert found == status, lines
    return lines


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_counts_from_the_first_instruction(tmp_path: Path, workers: str) -> None:
    """At every stage of the start, SIGHUP is ignored, and SIGTERM and SIGINT end the service."""
    foreign.write(tmp_path)
    options = {"MANIFOLD_WORKERS": workers, "MANIFOLD_DEVICE": "cpu", "MANIFOLD_LOG_FORMAT": "json"}
    with ExitStack() as stack:
        for place in range(3):
            process = stack.enter_context(service(tmp_path, free_port(), MANIFOLD_GRPC_PORT="0", **options))
            until(lambda: ignores_hangup(process.pid))  # noqa: B023
            time.sleep(place * 0.4)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM if place % 2 else signal.SIGINT)
            expect(process, 0)


def ignores_hangup(pid: int) -> bool:
    """Return whether the main thread of a process blocks SIGHUP. If so, it has run its first lines of Python."""
    found = re.search(r"SigBlk:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found.group(1), 16) & 1 << signal.SIGHUP - 1)


def test_told_to_stop_while_models_load(tmp_path: Path) -> None:
    """Loading takes longer than the test, so the service does not wait for it."""
    slow(tmp_path)
    port = free_port()
    options = {"MANIFOLD_GRPC_PORT": "0", "MANIFOLD_DRAIN_SECONDS": "0.2", "MANIFOLD_LOG_FORMAT": "json"}
    with service(tmp_path, port, **options) as process:
        until(lambda: answers(f"http://127.0.0.1:{port}/health/live"))
        assert "foreign" in httpx.get(f"http://127.0.0.1:{port}/health/ready").json()["reason"]
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        found = events(expect(process, 0))
        assert "ready" not in found
        assert [event for event in found if event.startswith("stop")] == ["stopping", "stopped"]
        assert time.monotonic() - began < 10


def slow(root: Path) -> None:
    """Write the foreign model with a constant that ONNX Runtime computes while loading, for a minute or more."""
    path = foreign.write(root) / "generator.onnx"
    model = onnx.load(path)
    size = numpy_helper.from_array(np.asarray([1800, 1800], np.int64), "size")
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1e-4])
    chain = [helper.make_node("ConstantOfShape", ["size"], ["c0"], value=value)]
    chain += [helper.make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(600)]
    chain.append(helper.make_node("ReduceMin", ["c600"], ["least"], keepdims=0))
    first, second, *others = model.graph.node
    second.output[0] = "before"
    add = helper.make_node("Add", ["before", "least"], ["squashed"])
    nodes = [*chain, first, second, add, *others]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(size)
    onnx.save(model, path)


def test_every_line_of_the_log_is_in_its_format(tmp_path: Path) -> None:
    """The lines come from a client without TLS on gRPC, one that speaks no HTTP, a broken model, warnings, and an uncaught error."""
    foreign.write(tmp_path)
    broken = tmp_path / "broken/1"
    shutil.copytree(tmp_path / "foreign/1", broken)
    (broken / "generator.onnx").write_bytes(b"\x08\x09" + b"junk" * 50)
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**manifest, "name": "broken"}))
    certificate = trustme.CA().issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    port, rpc = free_port(), free_port()
    options = {
        "MANIFOLD_GRPC_PORT": str(rpc),
        "MANIFOLD_TLS_KEY": str(key),
        "MANIFOLD_TLS_CERTIFICATE": str(chain),
        "MANIFOLD_LOG_FORMAT": "json",
    }
    with service(tmp_path, port, prelude=NOISE, **options) as process:
        until(lambda: answers(f"https://127.0.0.1:{port}/health/live"))
        for number in (port, rpc, port):
            with socket.create_connection(("127.0.0.1", number), timeout=30) as connection:
                connection.sendall(b"nonsense\r\n\r\n")
                while connection.recv(1000):
                    pass
        process.send_signal(signal.SIGTERM)
        found = events(expect(process, 0))
    for event in (
        "model unavailable",
        "of a library",
        "to stderr",
        "uncaught error in a thread",
        "UserWarning: a warning",
    ):
        assert any(event in each for each in found), found


# log lines that libraries write
NOISE = """
import logging, sys, threading, warnings
from manifold.service.telemetry import logs
begin = logs.start
def start(style):
    begin(style)
    logging.getLogger("of.a.library").error("of a %s", "library")
    logging.getLogger("of.a.library").error("wrong %d", "number", "of", "values")
    print("to stderr", file=sys.stderr)
    warnings.warn("a warning")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
logs.start = start
"""


def test_an_error_that_nobody_expected_is_one_record(tmp_path: Path) -> None:
    fault = "import manifold.service.models.registry as each\neach.Registry.__init__ = lambda *_: 1 / 0"
    foreign.write(tmp_path)
    with service(tmp_path, free_port(), prelude=fault, MANIFOLD_LOG_FORMAT="json") as process:
        (record,) = map(json.loads, expect(process, 1))
    assert record["event"] == "uncaught error"
    assert "ZeroDivisionError" in record["exception"]


def test_standard_streams_that_are_closed_hold_up_nobody(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    port = free_port()
    with service(
        tmp_path, port, streams="<&- >&- 2>&-", MANIFOLD_LOG_REQUESTS="true", MANIFOLD_GRPC_PORT="0"
    ) as process:
        until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"))
        assert {answers(f"http://127.0.0.1:{port}/health/live") for _ in range(3)} == {True}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_few_open_files_and_a_log_that_nobody_reads(tmp_path: Path) -> None:
    """The service logs which limit is reached, refuses connections above it, and answers when there is room again."""
    foreign.write(tmp_path)
    port = free_port()
    with service(
        tmp_path, port, first="ulimit -n 64;", MANIFOLD_LOG_FORMAT="json", MANIFOLD_LOG_REQUESTS="true"
    ) as process:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        with ExitStack() as stack:
            address = ("127.0.0.1", port)
            found = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(100)]
            refused = [connection.recv(100) for connection in found[64:]]
            assert all(answer.startswith(b"HTTP/1.1 503") for answer in refused)
            used = workers.processor_seconds(process.pid)
            time.sleep(0.5)
            assert workers.processor_seconds(process.pid) - used < 0.25  # there is no busy loop
        until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"))
        with socket.create_connection(address, timeout=30) as connection:  # lines of 150 bytes; a pipe holds 64 KiB
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)
            body = b'{"status":"live"}'
            received = b""
            while received.count(body) < 1000:
                received += connection.recv(2**20)
        process.send_signal(signal.SIGTERM)
        lines = expect(process, 0)
    first = json.loads(lines[0])
    assert first["event"] == "the limit of open files is low: more connections are refused"
    assert first["limit"] == 64
    assert events(lines).count("request") >= 1000


def test_lost_lines_are_told_though_no_line_follows() -> None:
    reading, writing = os.pipe()
    writer = logs.LogWriter(writing, "json")
    writer.write("x" * (logs.MOST - 1) + "\n")  # more than fits into the pipe
    until(lambda: not writer._lines)
    writer.write("lost\n")
    with open(reading) as file:
        assert len(next(file)) == logs.MOST
        assert json.loads(next(file))["lines"] == 1
    writer.drain()
    assert writer._lost == 0


def test_lines_of_the_log_that_are_lost_are_counted() -> None:
    reading, writing = os.pipe()
    writer = logs.LogWriter(writing, "json")
    for number in range(30_000):  # more than the pipe and the queue hold; the reader starts later
        writer.write(f'{{"event": "{number}", "more": "{"x" * 80}"}}\n')
    writer.drain(0.01)
    kept, lost = list[str](), 0
    with open(reading) as file:
        while len(kept) + lost < 30_000:
            record = json.loads(next(file))
            lost += record.get("lines", 0)
            kept += [record["event"]] if "more" in record else []
    assert lost > 0
    with open("/dev/full", "w") as full:  # a full file system loses lines, but raises no error
        broken = logs.LogWriter(full.fileno(), "json")
        broken.write("a line\n")
        broken.drain()
        until(lambda: broken._lost == 1)
    assert kept == [str(number) for number in range(len(kept))]
    writer.drain()
    os.close(writing)


# --- ports ---


def test_addresses_that_cannot_be_had() -> None:
    for host, pattern in (
        ("no-such-host.invalid", "^host: 'no-such-host.invalid' is not a known address or name"),
        (
            "192.0.2.1",
            "^host: '192.0.2.1' is not an address of this machine; choose another host .--host, MANIFOLD_HOST",
        ),
        ("2001:db8::1", "^host: '2001:db8::1' is not an address of this machine"),
    ):
        for act in (ports.check_host, ports.bound, ports.check_rpc):
            with pytest.raises(SettingsError, match=pattern):
                act(Settings(host=host, port=free_port()))


def test_one_port_for_both_servers_is_refused() -> None:
    """The port is not taken by another process: both servers have it."""
    same = Settings(port=8123, grpc_port=8123)
    for act in (ports.bound, server.check):
        with pytest.raises(SettingsError, match=r"^grpc_port: 8123 is also the port of HTTP; .*--grpc-port"):
            act(same)
    ports.check_different(Settings(port=0, grpc_port=0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_told_from_a_free_one(host: str) -> None:
    with ExitStack() as stack:
        sockets = ports.bound(Settings(host=host, port=0))
        for each in sockets:
            stack.enter_context(each)
        port = sockets[0].getsockname()[1]
        of_grpc = "--grpc-port, MANIFOLD_GRPC_PORT, or make serve GRPC_PORT="
        with pytest.raises(SettingsError, match=f"port: {host}:{port} is not available: another process uses it"):
            ports.bound(Settings(host=host, port=port))
        with pytest.raises(SettingsError, match=f"grpc_port: {host}:{port} is not .*{of_grpc}"):
            ports.check_rpc(Settings(host=host, port=1, grpc_port=port))
        with pytest.raises(SettingsError, match=f"grpc_port: {host}:{port} is not .*{of_grpc}"):
            ports.reserved(Settings(host=host, port=1, grpc_port=port))
    for each in ports.reserved(Settings(host=host, port=1, grpc_port=port)):  # the ports are free again at once
        each.close()


@pytest.mark.parametrize(("name", "value"), [("MANIFOLD_MODELS_DIR", "nowhere"), ("MANIFOLD_DEVICE", "tpu")])
def test_a_wrong_setting_is_one_message_and_a_status(name: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manifold.service"],
        env={**os.environ, name: value, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert name in done.stderr
    assert "Traceback" not in done.stderr
