"""HTTP connections: one write a response, and an end to those that hold one and do nothing with it.

uvicorn writes a response's head and its body one after the other, which are two system calls and two packets. Here the head waits until
the event loop's next turn, by when the body of a plain answer is there too.

uvicorn also lets a client take its time: for a head that never ends, for a body that never comes, for an answer that is never read. Here
each of these has a limit, looked after once a second for all connections together, so that a request pays nothing for it.
"""

from __future__ import annotations

import asyncio
import http
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from manifold.service.core import encoding
from manifold.service.http import replies
from manifold.service.settings import Settings

MAX_HEAD = 64 * 1024  # bytes of a request that are neither its body nor over: its line, its headers, its trailers
SLOWEST = 1024  # bytes/s of a body, beyond the first receive_seconds
UNREADABLE = "this is not a request in HTTP/1.1"
HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%]+\]|[0-9A-Za-z._~-]+)(?::[0-9]*)?")
ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)
FRAMING = (b"content-length", b"transfer-encoding")  # headers that say where a body ends


class Ambiguous(ValueError):
    """A request that another reader may understand in another way."""


def check_head(version: str, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Ambiguous for a head that the parser accepts and HTTP/1.1 does not (RFC 9112, sections 3.2, 6.1 and 6.3)."""
    if version not in ("1.1", "1.0"):
        raise Ambiguous(f"HTTP/{version} is not supported; use HTTP/1.1")
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise Ambiguous("Host: the header is there twice")
            host = value
        elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
            raise Ambiguous("Transfer-Encoding: only chunked is supported, in HTTP/1.1")
    if host is None:
        if version == "1.1":
            raise Ambiguous("Host: the header is missing")
    elif HOST.fullmatch(host) is None:
        raise Ambiguous("Host: the value is not a name or an address, with or without a port")
    if not target.startswith(b"/") or b"#" in target:
        _check_target(method, target, host)


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    """Raise Ambiguous for a target that is neither a path, nor a URL of the request's Host, nor OPTIONS of all."""
    if method == b"CONNECT":
        raise Ambiguous("CONNECT is not supported: this is not a proxy")
    absolute = ABSOLUTE.match(target)
    if b"#" in target or (absolute is None and (method, target) != (b"OPTIONS", b"*")):
        raise Ambiguous("the request's target is neither a path nor a URL")
    if absolute is not None and (host is None or absolute[1].lower() != host.lower()):
        raise Ambiguous("the request's target names another host than the header Host")


class JoinedWrites:
    """A transport whose writes of one turn of the event loop go together; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._waiting = transport, list[bytes]()
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Goes out with what else is written in this turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            if self._transport.is_closing():  # nobody reads it any more
                return
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def close(self) -> None:
        """After what waits."""
        self._flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's, on such a transport, with limits. `limited` makes the class for a service's settings."""

    settings = Settings.model_construct()
    cut: Callable[[str], None] = staticmethod(lambda reason: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport)))
        self.received = 0  # bytes
        self.loose = (
            0  # of them, since a head ended or a piece of a body came: of a head, of trailers, or of nothing at all
        )
        self.last: Any = None  # the request that came last
        # what is waited for, in which request; since when, and from which byte on; what is not written yet, and since when
        self.waited_for: tuple[Any, str] = (None, "head")
        self.since, self.start = self.loop.time(), 0
        self.unsent, self.unsent_since = 0, 0.0
        self.whole = True  # the request that came last has all of its body
        self.resumed = False  # the parser reads the head of a request again, without its wish to upgrade
        self.fault = UNREADABLE  # what is wrong with what cannot be read
        self.doomed = False  # what came last cannot be read: the connection ends after the answers to what came before
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "too_many", f"{self.settings.max_connections} connections are open; try again")

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self.doomed:
            return
        self.received += len(data)
        self.loose += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            over_2 = self.parser.get_method() == b"PRI"  # the connection preface (RFC 9113, 3.4)
            self.send_400_response("HTTP/2 is not supported; use HTTP/1.1" if over_2 else self.fault)
            return
        if self.cycle is not self.last:
            self.last, self.loose = self.cycle, 0
        elif self.loose > MAX_HEAD and not self.transport.is_closing():
            self.refuse(431, "head_too_large", f"the headers are over the limit of {MAX_HEAD} bytes")

    def _parse(self, data: bytes) -> None:
        """Read requests. A request to upgrade is answered as one that does not ask for it, which RFC 9110 (7.8) allows."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
            self._resume()
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as another:
                    rest = rest[another.args[0] :]
                    self._resume()

    def _resume(self) -> None:
        """Go on behind a head that asks for an upgrade, where the parser takes the request for over: read its body."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        framing = [b"%b: %b\r\n" % pair for pair in self.scope["headers"] if pair[0] in FRAMING]
        self.resumed = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))

    def on_headers_complete(self) -> None:
        """Begin to answer a request, or refuse it."""
        if self.resumed:  # it has begun
            self.resumed = False
            return
        version = self.parser.get_http_version()
        try:
            check_head(version, self.parser.get_method(), self.url, self.headers)
        except Ambiguous as error:
            self.fault = str(error)
            raise
        if version == "1.0":  # which knows no interim answers
            self.expect_100_continue = False
        super().on_headers_complete()
        self.whole = False
        self.headers = []  # of the trailers, which are no headers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Answer a request."""
        super()._start_asgi_task(cycle, cast(Any, _unasked(cycle, app)) if cycle.waiting_for_100_continue else app)

    def on_body(self, body: bytes) -> None:
        """A piece of one."""
        super().on_body(body)
        self.loose = 0

    def on_message_complete(self) -> None:
        """The end of a body, unless the parser only believes so, for an upgrade."""
        if not self.parser.should_upgrade():
            self.whole = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The end of an answer."""
        super().on_response_complete()
        if self.doomed and self.cycle.response_complete:
            self.refuse(400, "malformed", self.fault)

    @property
    def awaited(self) -> str:
        """A head, a body, or nothing: a request is worked on, or uvicorn looks after the time between two."""
        if self.cycle is None or self.cycle.response_complete:
            return "head" if self.timeout_keep_alive_task is None else "nothing"
        return "body" if self.cycle.more_body else "nothing"

    def look(self, now: float, every: float) -> None:
        """Ends the connection where its client has had its time. Called every so many seconds."""
        limit, awaited = self.settings.receive_seconds, self.awaited
        if self.waited_for != (self.cycle, awaited):
            self.waited_for, self.since, self.start = (self.cycle, awaited), now, self.received
        if self.transport.is_closing():
            pass  # said already; what is left to write has its time below
        elif self.flow.read_paused:  # it is the service that does not read
            self.since += every
        elif awaited == "head" and now - self.since > limit:
            self.refuse(408, "slow_head", f"no whole request came within {limit:g} s")
        elif awaited == "body" and now - self.since > limit + (self.received - self.start) / SLOWEST:
            self.refuse(408, "slow_body", f"the body comes at less than {SLOWEST} bytes/s")
        waiting = self.transport.get_write_buffer_size()
        if waiting != self.unsent or not waiting:
            self.unsent, self.unsent_since = waiting, now
        elif now - self.unsent_since > self.settings.send_seconds:
            self.cut("slow_reader")
            self.transport.abort()

    def refuse(self, status: int, kind: str, message: str) -> None:
        """Says why, where no answer has begun, and closes."""
        self.cut(kind)
        under_way = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not under_way and not self.pipeline:
            body = cast(bytes, replies.refusal(status, "none", kind, message).body)
            lines = [
                f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", "connection: close", f"content-type: {encoding.JSON}",
                f"content-length: {len(body)}", "", "",
            ]  # fmt: skip
            self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read as HTTP, after the answers to the requests before it."""
        answered = self.cycle is None or self.cycle.response_complete
        if (
            answered and not self.whole
        ):  # in the body of a request that has its answer: another one would be the next one's
            self.cut("malformed")
            self.transport.close()
        elif answered or not self.whole:
            self.refuse(400, "malformed", msg)
        else:
            self.doomed = True


def _unasked(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Close the connection after an answer to a client that still waits to send its body: it may send it, or the next request."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, closing)

    return answer


def limited(settings: Settings, cut: Callable[[str], None]) -> type[Protocol]:
    """The protocol with a service's limits; `cut` hears of each connection that is ended, and why."""
    return type("LimitedProtocol", (Protocol,), {"settings": settings, "cut": staticmethod(cut)})
