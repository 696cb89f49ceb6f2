"""Clients that are slow, silent, or send too much: their connections are closed, and other clients are answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from manifold.service.http.connections import MAX_HEAD
from tests import foreign
from tests.served import Served, served, until

pytestmark = pytest.mark.slow  # the tests wait for clients that do nothing

RECEIVE, SEND = 0.6, 1.0  # the service's time limits in seconds
ENOUGH = 1024 * MAX_HEAD  # more than the buffers between a client and a busy service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("connections")
    foreign.write(root)
    with served(root, receive_seconds=RECEIVE, send_seconds=SEND, max_stream_items=1_000_000) as service:
        yield service


def connect(service: Served, content: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    connection.sendall(content)
    return connection


def rest(connection: socket.socket) -> bytes:
    """Return everything that still arrives."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


def error_of(answer: bytes) -> tuple[int, str]:
    """Return status and type of an error, which has the shape of all errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["type"]


def is_well(service: Served) -> bool:
    return httpx.post(f"{service.url}/sample", json={"seed": 1}, timeout=30).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /sample HTT", b"POST /sample HTTP/1.1\r\nHost: here\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes, service: Served) -> None:
    before = service.cuts("slow_head")
    with connect(service, sent) as connection:
        assert is_well(service)
        assert error_of(rest(connection)) == (408, "slow_head")
    assert service.cuts("slow_head") == before + 1


def test_a_head_that_trickles_has_no_more_time(service: Served) -> None:
    """A byte now and then (Slowloris) does not restart the time limit."""
    with connect(service, b"POST /sample HTTP/1.1\r\n") as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 10


def test_empty_lines_between_requests_are_not_requests(service: Served) -> None:
    with connect(service, b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert error_of(rest(connection)) == (408, "slow_head")


@pytest.mark.parametrize(
    "sent", [b"", b"POST /sample HTTP/1.1\r\n", b"POST /sample HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"]
)
def test_who_closes_half_of_a_connection_is_let_go(sent: bytes, service: Served) -> None:
    """The client will send nothing more, and the received bytes are no request."""
    with connect(service, sent) as connection:
        connection.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        rest(connection)
        assert time.monotonic() - began < 10
    until(lambda: len(service.server.server_state.connections) <= 1)  # the connection of httpx may still be open
    assert is_well(service)


@pytest.mark.parametrize("pieces", [0, 1, 10_000])
def test_a_body_that_does_not_come_is_not_waited_for(pieces: int, service: Served) -> None:
    before = service.cuts("slow_body")
    with connect(service, b"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n") as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(pieces):
                connection.sendall(b" ")
                time.sleep(0.05)
                if time.monotonic() - began > 20:
                    break
        answer = b""
        with contextlib.suppress(OSError):
            answer = rest(connection)
        assert time.monotonic() - began < 10
        if pieces < 2:  # if the client is still sending, a reset may discard the answer
            assert error_of(answer) == (408, "slow_body")
    until(lambda: service.cuts("slow_body") == before + 1)
    assert is_well(service)


def test_a_body_that_comes_slowly_but_comes_is_waited_for(service: Served) -> None:
    body = json.dumps({"seed": 1, "n": 1}).encode() + b" " * 16_000
    with connect(
        service, f"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    ) as connection:
        for start in range(0, len(body), 1000):
            connection.sendall(body[start : start + 1000])
            time.sleep(0.15)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def flood(prefix: bytes, unit: bytes, service: Served) -> bytes:
    """Send without end until the service closes the connection. Return its answer."""
    with connect(service, prefix) as connection:
        sent = 0
        with contextlib.suppress(OSError):
            while sent < ENOUGH:
                connection.sendall(unit * (4096 // len(unit)))
                sent += 4096
        assert sent < ENOUGH
        with contextlib.suppress(OSError):
            return rest(connection)
    return b""


@pytest.mark.parametrize(
    ("prefix", "unit"),
    [
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X-Many: b\r\n"),
        (
            b"POST /sample HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
            b"X-Trailer: b\r\n",
        ),
        (b"POST /sample HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"extension"),
        (b"", b"\r\n"),
    ],
    ids=["path", "header", "headers", "trailers", "extension", "lines"],
)
def test_heads_without_end_are_cut(prefix: bytes, unit: bytes, service: Served) -> None:
    def ended() -> float:
        """Return the number of closed connections. On a busy machine the flood may be too slow before it is too large."""
        return sum(service.cuts(reason) for reason in ("head_too_large", "malformed", "slow_head", "slow_body"))

    before = ended()
    answer = flood(prefix, unit, service)
    if answer:  # a reset may have discarded the answer
        assert error_of(answer)[0] in (431, 400, 408)
    until(lambda: ended() == before + 1)
    assert is_well(service)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /sample HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"POST /sample HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /sample HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"GET http://[::1 HTTP/1.1\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"POST /sample HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_gets_the_one_shape_of_an_error(sent: bytes, service: Served) -> None:
    with connect(service, sent) as connection:
        status, kind = error_of(rest(connection))
    assert (status, kind) in ((400, "malformed"), (408, "slow_head"), (408, "slow_body"), (404, "not_found"))
    assert is_well(service)


def test_who_does_not_read_is_left(service: Served) -> None:
    """If the client of a stream reads nothing, the stream ends and releases its memory."""
    before = service.cuts("slow_reader")
    body = json.dumps({"n": 500_000}).encode()
    head = f"POST /sample HTTP/1.1\r\nHost: here\r\nAccept: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    with connect(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head.encode() + body)
        until(lambda: service.cuts("slow_reader") == before + 1)
        until(lambda: service.batcher.rows == 0)
    assert is_well(service)


def test_a_thousand_idle_connections_are_in_nobodys_way(service: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip(f"a process may open {hard} files here, and both ends of a thousand connections are in this one")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with contextlib.ExitStack() as stack:
        with httpx.Client(timeout=30) as client:
            idle = [stack.enter_context(connect(service)) for _ in range(1000)]
            for _ in range(20):
                assert client.post(f"{service.url}/sample", json={"seed": 1}).status_code == 200
        assert len(idle) == 1000
        until(lambda: service.metric("manifold_connections") < 10)
    assert is_well(service)


def test_connections_have_a_limit(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    with served(tmp_path, max_connections=5) as service, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(service)) for _ in range(5)]
        with connect(service) as one_more:
            assert error_of(rest(one_more)) == (503, "too_many")
        idle[0].close()
        until(lambda: len(service.server.server_state.connections) == 4)
        assert is_well(service)


def test_bodies_have_a_limit_together(tmp_path: Path) -> None:
    """Bodies that are small enough one by one, and never end, are limited in total."""
    foreign.write(tmp_path)
    with served(tmp_path, max_bodies_bytes=2**20, max_body_bytes=2**20) as service, contextlib.ExitStack() as stack:
        head = b"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: 900000\r\n\r\n"
        waiting = [stack.enter_context(connect(service, head + b" " * 400_000)) for _ in range(3)]
        (refused,) = select.select(waiting, [], [], 30)[0]
        assert refused.recv(4096).split(b"\r\n")[0] == b"HTTP/1.1 429 Too Many Requests"
        others = [connection for connection in waiting if connection is not refused]
        assert select.select(others, [], [], 0.5)[0] == []  # the others are not refused
        assert is_well(service)  # a body that arrives in one piece is not counted
        for connection in waiting:
            connection.close()
        until(lambda: service.app.intake.held == 0)


def test_a_form_with_too_many_files_says_the_limit(tmp_path: Path) -> None:
    foreign.write(tmp_path)
    with served(tmp_path, max_items=2) as service:
        answer = httpx.post(f"{service.url}/encode", files=[("file", ("a", b"x"))] * 3, timeout=30)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "file: more than 2 files in a request; send several requests"


def test_pipelined_requests_are_answered_in_order(service: Served) -> None:
    requests = [json.dumps({"seed": seed, "encoding": "array"}).encode() for seed in range(5)]
    content = b"".join(
        f"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n{'Connection: close' if at == 4 else 'X-A: b'}\r\n\r\n".encode()
        + body
        for at, body in enumerate(requests)
    )
    with connect(service, content) as connection:
        answers = rest(connection).split(b"HTTP/1.1 200 OK")[1:]
    assert [json.loads(answer.partition(b"\r\n\r\n")[2])["seed"] for answer in answers] == list(range(5))
