"""Request smuggling: no request hidden in another one is answered, directly or through HAProxy, as a whole or byte by byte."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifold.service.http.connections import Protocol
from tests import foreign
from tests.proxied import HAPROXY, haproxy
from tests.served import Served, served
from tests.shapes import BODY, CHUNKED, LAST, LENGTH, SHAPES, UPGRADE, Shape, chunks, post

JAVA = shutil.which("java")
CURL = shutil.which("curl")
FORWARDED = b"x-forwarded-for"  # HAProxy adds this header to each request that it recognises
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
CLIENT = Path(__file__).parent / "Upgrading.java"


class Recorded:
    """A service that records which requests reach it."""

    def __init__(self, service: Served) -> None:
        self.service, self.seen = service, list[tuple[str, str, bool]]()
        self._inner, service.app._entered = service.app._entered, self._note

    async def _note(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/health/ready":  # requests of HAProxy's health check
            self.seen.append((scope["method"], scope["path"], any(name == FORWARDED for name, _ in scope["headers"])))
        await self._inner(scope, receive, send)

    def ask(self, content: bytes, port: int | None = None) -> bytes:
        """Return everything that the service sends for the bytes of a connection, until it closes."""
        self.seen.clear()
        with socket.create_connection(("127.0.0.1", port or self.service.port), timeout=20) as connection:
            connection.sendall(content)
            found = b""
            while piece := connection.recv(65536):
                found += piece
        return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    root = tmp_path_factory.mktemp("smuggling")
    foreign.write(root)
    with served(root, receive_seconds=0.5) as service:
        yield Recorded(service)


@pytest.fixture(scope="module")
def proxy(service: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if HAPROXY is None:
        pytest.skip("haproxy is not installed")
    with haproxy(tmp_path_factory.mktemp("haproxy"), service.service.port) as ports:
        yield ports["8080"]


def statuses(content: bytes, sent: bytes) -> tuple[int, ...]:
    """Return the statuses of consecutive answers, each as long as its header says."""
    found: list[int] = []
    while content:
        head = ANSWER.match(content)
        assert head is not None, content[:80]
        found.append(int(head[1]))
        size = re.search(rb"content-length: (\d+)", head[2].lower())
        first = found[0] is found[-1] and len(found) == 1
        without = found[-1] == 100 or (first and sent.startswith(b"HEAD"))
        content = content[head.end() + (0 if without or size is None else int(size[1])) :]
    return tuple(found)


def check(shape: Shape, service: Recorded) -> None:
    assert statuses(service.ask(shape.sent), shape.sent) == shape.answers
    heard = [path for _, path, _ in service.seen]
    assert "/smuggled" not in heard
    assert "/metrics" not in heard
    # a refused request may still be seen, if the fault is in its body
    answers, refused = len([status for status in shape.answers if status != 100]), not shape.sent.endswith(LAST)
    assert len(heard) in (answers, answers - refused)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_nothing_is_smuggled(shape: Shape, service: Recorded) -> None:
    check(shape, service)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_nothing_is_smuggled_byte_by_byte(shape: Shape, service: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte arrives alone, as in its own packet: the parser must not depend on packet boundaries."""
    whole = Protocol.data_received

    def data_received(self: Protocol, data: bytes) -> None:
        for at in range(len(data)):
            if self.transport.is_closing():
                break
            whole(self, data[at : at + 1])

    monkeypatch.setattr(Protocol, "data_received", data_received)
    check(shape, service)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_nothing_is_smuggled_through_haproxy(shape: Shape, service: Recorded, proxy: int) -> None:
    """The proxy may repair a request and see the one behind it. The service must not see a request that the proxy does not see."""
    sent = shape.sent if shape.sent.endswith(LAST) else shape.sent + LAST
    answer = service.ask(sent, proxy)
    if answer.startswith(b"HTTP/1.1"):  # not if HAProxy answers in HTTP/2, which it supports
        found = statuses(answer, sent)
        assert set(found) <= {100, 200, 400, 404, 405, 422, 501}
        most = len(re.findall(rb"HTTP/?\d|GET /health/live\r", sent))
        assert 1 <= len([status for status in found if status != 100]) <= most
    assert all(forwarded for _, _, forwarded in service.seen)
    assert "/metrics" not in [path for _, path, _ in service.seen]


def test_a_body_behind_an_upgrade_arrives_in_the_next_packet(service: Recorded) -> None:
    """The head is sent alone, as `curl --http2` and Java do, followed by a body that looks like a request."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = post(UPGRADE, b"Expect: 100-continue\r\n", b"Content-Length: %d\r\n" % len(hidden))
    service.seen.clear()
    with socket.create_connection(("127.0.0.1", service.service.port), timeout=20) as connection:
        connection.sendall(head)
        found = connection.recv(4096)
        assert found == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(hidden + LAST)
        while piece := connection.recv(4096):
            found += piece
    assert statuses(found, head) == (100, 400, 200)
    assert service.seen == [("POST", "/sample", False), ("GET", "/health/live", False)]


def test_a_body_behind_an_upgrade_is_whole_and_its_connection_goes_on(service: Recorded) -> None:
    padding = b" " * 3_000_000
    requests = [
        post(UPGRADE, b"Content-Length: %d\r\n" % len(BODY + padding)) + BODY + padding,
        post(UPGRADE, CHUNKED)
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY, *[padding[:1000]] * 99))
        + b"0\r\n\r\n",
        post(LENGTH) + BODY,
        post(UPGRADE, CHUNKED) + chunks(BODY),
    ]
    found = service.ask(b"".join(requests) + LAST)
    assert statuses(found, requests[0]) == (200,) * 5
    assert found.count(b'"seed":1') == 4


def test_trailers_are_no_headers(service: Recorded) -> None:
    """Middleware that checks headers before the service does not see trailers, even if they come in one packet with the head."""
    found = service.ask(
        post(CHUNKED) + chunks(BODY)[:-2] + b"X-Request-ID: trailing\r\nX-Deadline-Ms: no\r\n\r\n" + LAST
    )
    assert statuses(found, b"") == (200, 200)
    assert b"trailing" not in found


def test_a_client_that_waits_for_100_and_gets_an_error_is_not_read_on(service: Recorded) -> None:
    """The client may send its body or the next request. Only closing the connection avoids the ambiguity."""
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\n"
    found = service.ask(head)
    assert found.startswith(b"HTTP/1.1 404")
    assert b"connection: close" in found


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_curl_that_offers_http2(size: int, chunked: bool, service: Recorded, tmp_path: Path) -> None:
    if CURL is None or "HTTP2" not in subprocess.run([CURL, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("there is no curl with HTTP/2")
    (tmp_path / "body").write_bytes(BODY + b" " * size)
    more = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    more += [
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        f"@{tmp_path / 'body'}",
        "-o",
        str(tmp_path / "answer"),
    ]
    once = [
        "--http2",
        "-s",
        "-w",
        "%{http_code} %{http_version} %{num_connects}\n",
        *more,
        f"{service.service.url}/sample",
    ]
    done = subprocess.run([CURL, *once, "--next", *once], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n") == ["200 1.1 1", "200 1.1 0", ""], done.stderr
    assert b'"seed":1' in (tmp_path / "answer").read_bytes()
    assert service.seen[-1][:2] == ("POST", "/sample")


@pytest.mark.skipif(JAVA is None, reason="there is no Java")
def test_javas_client_as_it_comes(service: Recorded) -> None:
    """java.net.http.HttpClient offers HTTP/2 in each request by default."""
    assert JAVA is not None
    done = subprocess.run(
        [JAVA, "-XX:TieredStopAtLevel=1", str(CLIENT), f"{service.service.url}/sample"], capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.stdout.split() == ["200"] * 6, done.stderr
    assert [path for _, path, _ in service.seen[-6:]] == ["/sample"] * 6


def test_curl_that_knows_that_it_is_http2(service: Recorded) -> None:
    """HTTP/2 with prior knowledge is refused with an answer that says so."""
    found = service.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("00000604000000000000030000006400"))
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"use HTTP/1.1" in found
