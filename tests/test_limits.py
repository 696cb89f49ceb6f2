"""gRPC clients that are slow, silent, many, or send too much: their calls are ended or refused, and other clients are answered meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from manifold.service.rpc import limits
from manifold.service.rpc import server as rpc
from manifold.service.stubs import inference_pb2, inference_pb2_grpc
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from tests import foreign
from tests.served import Served, served, until

pytestmark = pytest.mark.slow  # the tests wait for clients that do nothing

CODE = grpc.StatusCode
RECEIVE = SEND = 0.5  # the service's time limits in seconds
SAMPLE = "/manifold.v1.Manifold/Sample"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("limits")
    foreign.write(root)
    return root


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[Served]:
    with served(
        root, grpc=True, receive_seconds=RECEIVE, send_seconds=SEND, max_stream_items=1_000_000, max_body_bytes=2**20
    ) as service:
        yield service


@pytest.fixture
def channel(service: Served) -> Iterator[grpc.Channel]:
    with connected(service) as channel:
        yield channel


def connected(service: Served) -> grpc.Channel:
    """Return a new connection."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    return grpc.insecure_channel(service.target, options=options)


@contextlib.contextmanager
def silence() -> Iterator[Callable[[], Iterator[Any]]]:
    """Yield a function that returns request iterators which send nothing until the block ends."""
    over = threading.Event()

    def requests() -> Iterator[Any]:
        over.wait(60)
        yield from ()

    try:
        yield requests
    finally:
        over.set()


def refusals(service: Served, reason: str) -> float:
    return service.metric(rf'manifold_refused_total\{{reason="{reason}"\}}')


def is_well(service: Served) -> bool:
    with connected(service) as channel:
        return bool(stubs.ManifoldStub(channel).Sample(pb.SampleRequest(seed=1), timeout=30).seed == 1)


def code_of(call: Any) -> grpc.StatusCode:
    """Return the status with which a call ends, after any part of its answer."""
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    return caught.value.code()


def is_empty(service: Served) -> bool:
    intake, rooms = service.app.intake, service.server.rpc.limits
    return (intake.held, intake.calls.taken, len(rooms.open), len(rooms._receiving)) == (0, 0, 0, 0)


def test_a_message_that_does_not_come_is_not_waited_for(service: Served, channel: grpc.Channel) -> None:
    """This also holds for the first call of a service, when no handler can send a status yet."""
    before = service.cuts("slow_body")
    with silence() as nothing:
        waiting = channel.stream_unary(SAMPLE).future(nothing(), timeout=60)
        assert waiting.code() is CODE.DEADLINE_EXCEEDED
        assert waiting.details() == f"no message arrived within {RECEIVE:g} s; send it faster"
    assert service.cuts("slow_body") == before + 1
    until(lambda: is_empty(service))
    assert is_well(service)


@pytest.mark.parametrize("method", [SAMPLE, "/manifold.v1.Manifold/SampleStream", "/grpc.health.v1.Health/Check"])
def test_a_call_that_ends_without_a_message_gets_a_status(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        list(channel.stream_stream(method)(iter(()), timeout=20))
    assert (failure.value.code(), failure.value.details()) == (CODE.INVALID_ARGUMENT, limits.NO_MESSAGE)


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/manifold.v1.Manifold/AnomalyScoreFile", CODE.DEADLINE_EXCEEDED),
        (limits.INFERENCES, CODE.UNAVAILABLE),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", CODE.DEADLINE_EXCEEDED),
    ],
)
def test_a_silent_stream_ends_with_a_status(
    method: str, code: grpc.StatusCode, service: Served, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_SECONDS", RECEIVE)
    with silence() as nothing:
        call = channel.stream_stream(method)(nothing(), timeout=60)
        assert code_of(call) is code
        assert call.details() == f"no message arrived within {RECEIVE:g} s; send it faster"
    until(lambda: is_empty(service))


def test_a_stream_of_inferences_may_be_silent_for_longer(service: Served, channel: grpc.Channel) -> None:
    """A client of Triton opens such a stream early, and sends when it has something to send."""
    go = threading.Event()

    def requests() -> Iterator[inference_pb2.ModelInferRequest]:
        go.wait(60)
        yield inference_pb2.ModelInferRequest(model_name="nothing", id="late")

    with silence() as nothing:
        late = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=60)
        assert (
            code_of(channel.stream_stream("/manifold.v1.Manifold/AnomalyScoreFile")(nothing(), timeout=60))
            is CODE.DEADLINE_EXCEEDED
        )
        go.set()
        assert next(late).infer_response.id == "late"
    until(lambda: is_empty(service))


def test_a_stream_that_nobody_reads_ends(service: Served, channel: grpc.Channel) -> None:
    before = service.cuts("slow_reader")
    call = stubs.ManifoldStub(channel).SampleStream(pb.SampleRequest(n=500_000), timeout=60)
    until(lambda: service.cuts("slow_reader") == before + 1)
    until(lambda: service.batcher.rows == 0)
    assert is_well(service)
    # CANCELLED: the client read too late even for the status
    assert code_of(call) in (CODE.DEADLINE_EXCEEDED, CODE.CANCELLED)
    until(lambda: is_empty(service))


def test_requests_without_end_are_not_gathered(service: Served, channel: grpc.Channel) -> None:
    """If a client sends and never reads, each request waits for the answer to the previous one, and the stream ends."""
    sent = itertools.count()
    request = inference_pb2.ModelInferRequest(model_name="nothing", id="a" * 10_000)
    before = service.cuts("slow_reader")
    call = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer((request for _ in sent), timeout=60)
    until(lambda: service.cuts("slow_reader") == before + 1)
    assert next(sent) < 20_000
    assert is_well(service)
    call.cancel()
    until(lambda: is_empty(service))


def test_calls_have_a_limit_over_both_transports(root: Path) -> None:
    with served(root, grpc=True, max_calls=2) as service, connected(service) as channel, silence() as nothing:
        streams = [inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(nothing()) for _ in range(2)]
        until(lambda: service.app.intake.calls.taken == 2)
        with pytest.raises(grpc.RpcError) as caught:
            stubs.ManifoldStub(channel).Sample(pb.SampleRequest())
        assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
        assert caught.value.details() == "calls: the server is already processing 2 of them (limit 2). Retry after 1 s."
        answer = httpx.post(f"{service.url}/sample", json={})
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "busy")
        assert refusals(service, "calls") == 2
        # health checks are always answered
        for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(f"{service.url}{path}").status_code == 200, path
        until(lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1)
        for stream in streams:
            stream.cancel()
        until(lambda: service.app.intake.calls.taken == 0)
        assert is_well(service)


def test_messages_have_a_limit_together(root: Path) -> None:
    """Messages and bodies of HTTP share one limit. Small messages are not counted."""
    with (
        served(root, grpc=True, max_bodies_bytes=2**20, max_body_bytes=2**20) as service,
        connected(service) as channel,
    ):
        service.app.intake.hold(2**20 - 100_000)
        stub = stubs.ManifoldStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Encode(pb.EncodeRequest(images=[b"a" * 200_000]))
        assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
        assert refusals(service, "bodies") == 1
        assert is_well(service)
        service.app.intake.held = 0
        with pytest.raises(grpc.RpcError) as caught:
            stub.Encode(pb.EncodeRequest(images=[b"a" * 200_000]))
        assert caught.value.code() is CODE.FAILED_PRECONDITION  # the model does not encode, so the message was read
        until(lambda: is_empty(service))


def test_half_messages_have_a_limit_together(root: Path) -> None:
    """gRPC keeps the received part of a message. Calls that only wait are ended before calls that have sent a part."""
    with (
        served(
            root, grpc=True, max_bodies_bytes=2 * (2**20 + limits.FRAME), max_body_bytes=2**20, receive_seconds=60
        ) as service,
        connected(service) as channel,
        silence() as nothing,
    ):
        assert is_well(service)
        waiting = [channel.stream_unary(SAMPLE).future(nothing()) for _ in range(5)]
        assert is_well(service)
        until(lambda: service.cuts("bodies") >= 1)
        assert len(service.server.rpc.limits._receiving) <= 2
        for each in waiting:
            each.cancel()
        until(lambda: is_empty(service))


def test_watches_have_a_limit_in_number_and_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCHES", 2)
    monkeypatch.setattr(limits, "WATCH_SECONDS", 0.5)
    with served(root, grpc=True) as service, connected(service) as channel, silence() as nothing:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(each for each in watch if each.status == 1)
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(nothing())
        until(lambda: service.server.rpc.limits.watches.taken == 2)
        assert (
            code_of(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
            is CODE.RESOURCE_EXHAUSTED
        )
        assert is_well(service)
        assert code_of(watch) is CODE.RESOURCE_EXHAUSTED
        assert code_of(reflected) is CODE.RESOURCE_EXHAUSTED
        until(lambda: service.server.rpc.limits.watches.taken == 0)
        assert refusals(service, "watches") == 1


def test_connections_have_a_limit(root: Path) -> None:
    with served(root, grpc=True, max_connections=3, receive_seconds=0.5) as service, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connected(service)) for _ in range(3)]
        for channel in channels:
            stubs.ManifoldStub(channel).Sample(pb.SampleRequest(seed=1))
        with connected(service) as one_more, pytest.raises(grpc.RpcError) as caught:
            stubs.ManifoldStub(one_more).Sample(pb.SampleRequest(seed=1))
        assert caught.value.code() is CODE.UNAVAILABLE
        channels[0].close()
        until(lambda: _is_well_soon(service))


def _is_well_soon(service: Served) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return is_well(service)
    return False


def test_a_connection_without_a_word_of_http2_is_closed(service: Served) -> None:
    host, port = service.target.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        while connection.recv(4096):
            pass


def test_a_small_message_that_unpacks_to_a_large_one_is_refused(service: Served, channel: grpc.Channel) -> None:
    call = channel.unary_unary(SAMPLE).with_call
    with pytest.raises(grpc.RpcError) as caught:
        call(bytes(32 * 2**20), compression=grpc.Compression.Gzip)
    assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
    assert is_well(service)


def test_metadata_have_a_limit(service: Served, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stubs.ManifoldStub(channel).Sample(pb.SampleRequest(), metadata=[("x-long", "a" * 64_000)])
    assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
    assert is_well(service)


def test_bytes_that_are_no_message_get_a_status(service: Served, channel: grpc.Channel) -> None:
    for method in (
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ):
        assert code_of(channel.stream_stream(method)(iter([b"\xff\xff"]), timeout=30)) is CODE.INVALID_ARGUMENT, method


# --- HTTP/2 without a library ---


def request(target: str, message: bytes = b"", stream: int = 1) -> bytes:
    """Return a call with one message. Its header fields are not compressed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": target,
        ":authority": "a",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    head = b"".join(
        b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode()) for name, value in fields.items()
    )
    return frame(HEADERS, head, 4, stream) + frame(DATA, b"\0" + struct.pack(">I", len(message)) + message, 1, stream)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
NO_WINDOW = struct.pack(">HI", 4, 0)  # settings of a client that reads nothing of any stream


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Yield the kind, flags and payload of each frame that the service sends."""
    with connection.makefile("rb") as reading:
        while len(head := reading.read(9)) == 9:
            yield head[3], head[4], reading.read(int.from_bytes(head[:3]))


def http2(service: Served, settings: bytes = b"") -> socket.socket:
    host, port = service.target.split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(PREFACE + frame(SETTINGS, settings) + frame(SETTINGS, flags=1))
    return connection


def test_a_channel_that_only_pings_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients ping every 10 s, so that routers do not drop an idle connection. Here the interval is in milliseconds."""
    assert rpc.ALIVE["grpc.http2.min_ping_interval_without_data_ms"] <= 5_000
    monkeypatch.setitem(rpc.ALIVE, "grpc.http2.min_ping_interval_without_data_ms", 20)
    with served(root, grpc=True) as service, http2(service) as connection:
        pause = threading.Event()
        for number in range(10):
            pause.wait(0.04)  # the test needs this interval
            connection.sendall(frame(PING, bytes([number] * 8)))
        kinds = []
        for kind, flags, payload in frames(connection):
            kinds.append(kind)
            if kind == PING and flags == 1 and payload == bytes([9] * 8):
                break
        assert GOAWAY not in kinds


def test_a_channel_that_pings_all_the_time_is_not_kept(service: Served) -> None:
    with http2(service) as connection:
        connection.sendall(frame(PING, b"12345678") * 10)
        assert any(kind == GOAWAY and b"too_many_pings" in payload for kind, _, payload in frames(connection))


def test_a_stream_that_reads_not_even_its_status_is_reset(service: Served) -> None:
    """The handler has ended. Only the stream is left, which gRPC would keep until the client disconnects."""
    before = service.cuts("slow_reader")
    with http2(service, NO_WINDOW) as connection:
        connection.sendall(request("/manifold.v1.Manifold/SampleStream", pb.SampleRequest(n=1000).SerializeToString()))
        until(lambda: service.cuts("slow_reader") == before + 1)
        over = threading.Event()

        def ask() -> None:  # gRPC releases a call only at the next one
            while not over.wait(0.1):
                is_well(service)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            assert any(kind == RST_STREAM for kind, _, _ in frames(connection))
        finally:
            over.set()
            asking.join()
    until(lambda: is_empty(service))


def test_a_watcher_that_does_not_read_keeps_nobody_from_hearing(root: Path) -> None:
    with served(root, grpc=True) as service, http2(service, NO_WINDOW) as connection, connected(service) as channel:
        connection.sendall(request("/grpc.health.v1.Health/Watch"))
        until(lambda: service.server.rpc.limits.watches.taken == 1)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(each for each in watch if each.status == health_pb2.HealthCheckResponse.SERVING)
        service.registry.leaving = True
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        service.registry.leaving = False
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
