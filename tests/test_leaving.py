"""Clients that disconnect during scoring of or calibration on a file of rows: the work ends, and no error is logged."""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manifold.runtime.scores import recalibration
from tests import tabled
from tests.served import served, until
from tests.tabled import HEADER, ROW

MB = 2**20


class Gate:
    """A gate that holds each chunk before it is encoded until `open` is set, and counts the chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from manifold.runtime.tables import columns

        self.chunks, self.open, self._encode = 0, threading.Event(), columns.encode
        self._recalibrate, self.stopped = recalibration.recalibrate, lambda: False
        monkeypatch.setattr(columns, "encode", self.encode)
        monkeypatch.setattr(recalibration, "recalibrate", self.recalibrate)

    def recalibrate(self, *arguments: Any, stopped: Callable[[], bool], **options: Any) -> Any:
        self.stopped = stopped
        return self._recalibrate(*arguments, stopped=stopped, **options)

    def encode(self, *arguments: Any, **options: Any) -> Any:
        self.chunks += 1
        assert self.open.wait(60)
        return self._encode(*arguments, **options)


@pytest.mark.parametrize("transport", ["http", "grpc", "calibrate"])
def test_work_ends_when_the_client_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """The client leaves in the first pass of a budget, before any answer, and during a calibration."""
    from manifold.service.http import admin

    gate = Gate(monkeypatch)
    monkeypatch.setattr(admin, "LOOK", 0.01)
    tabled.write(tmp_path)
    content = HEADER + ROW * 200_000
    with served(tmp_path, default_model="rows", grpc=True) as service:
        leave = {"http": leave_http, "grpc": leave_grpc, "calibrate": leave_calibration}[transport]
        batcher = service.registry.entries["rows", 1].batcher
        assert batcher is not None
        leave(service, content, gate)
        gate.open.set()
        until(lambda: batcher._free == batcher.instances and not batcher._asides)
        assert service.client.get("/health/live").status_code == 200
        until(lambda: not any(map(busy, threading.enumerate())))
    assert gate.chunks <= 3


def busy(thread: threading.Thread) -> bool:
    """Return whether a thread is calibrating on a file."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "recalibrate":
            return True
        frame = frame.f_back
    return False


def leave_http(service: Any, content: bytes, gate: Gate) -> None:
    post_and_leave(service, "/anomaly-score?budget=5", content, gate)
    until(lambda: not service.app.flights._all)


def post_and_leave(service: Any, target: str, content: bytes, gate: Gate) -> None:
    """Send a file, and close the connection during the first chunk."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(head.encode() + content)
        until(lambda: gate.chunks == 1)


def leave_grpc(service: Any, content: bytes, gate: Gate) -> None:
    import grpc

    from manifold.service.stubs import manifold_pb2 as pb
    from manifold.service.stubs import manifold_pb2_grpc as stubs

    def sent() -> Iterator[pb.ScoreFileRequest]:
        yield pb.ScoreFileRequest(kind="csv", request=pb.ScoreRequest(budget=5))
        for start in range(0, len(content), MB):
            yield pb.ScoreFileRequest(chunk=content[start : start + MB])

    with grpc.insecure_channel(service.target) as channel:
        call = stubs.ManifoldStub(channel).AnomalyScoreFile(sent(), timeout=60)
        until(lambda: gate.chunks == 1)
        call.cancel()
        until(lambda: service.metric(r"manifold_requests_total\{.*AnomalyScoreFile.*CANCELLED.*\}") == 1)


def leave_calibration(service: Any, content: bytes, gate: Gate) -> None:
    """Wait until the work is cancelled, because the request itself ends only after the work."""
    post_and_leave(service, "/admin/models/rows/calibrate", content, gate)
    until(lambda: gate.stopped())


def test_a_client_that_leaves_while_it_sends_is_no_internal_error(tmp_path: Path) -> None:
    tabled.write(tmp_path)
    with served(tmp_path, default_model="rows") as service:
        for target in ("/admin/models/rows/calibrate", "/anomaly-score"):
            head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 9\r\n\r\n"
            with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
                client.sendall(head.encode() + b"half")
        for route in ("/admin/models/{name}/calibrate", "/anomaly-score"):
            series = rf'manifold_requests_total\{{route="{re.escape(route)}",status="499"\}}'
            until(lambda series=series: service.metric(series) == 1)  # type: ignore[misc]
        assert service.metric(r'manifold_errors_total\{type="internal"\}') == 0
