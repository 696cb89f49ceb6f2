"""HTTP connections: one write for each response, and time limits for idle clients.

uvicorn writes the head and the body of a response separately: two system calls and two packets. Here the head waits until the next turn of the
event loop, when the body of an ordinary response is ready too.

uvicorn has no time limit for a head that never ends, a body that never arrives, or a response that is never read. Here each of these has a
limit, which is checked once a second for all connections, so that requests have no extra cost.
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

MAX_HEAD = 64 * 1024  # bytes of a request line, headers and trailers together
SLOWEST = 1024  # lowest rate of a body after the first receive_seconds, bytes/s
UNREADABLE = "this is not an HTTP/1.1 request; check the client"
HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%]+\]|[0-9A-Za-z._~-]+)(?::[0-9]*)?")
ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)
FRAMING = (b"content-length", b"transfer-encoding")  # headers that state where a body ends


class Ambiguous(ValueError):
    """A request that another HTTP parser may read differently."""


def check_head(version: str, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Ambiguous for a head that the parser accepts but HTTP/1.1 forbids (RFC 9112, sections 3.2, 6.1 and 6.3)."""
    if version not in ("1.1", "1.0"):
        raise Ambiguous(f"HTTP/{version} is not supported; use HTTP/1.1")
    host: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise Ambiguous("Host: the header occurs twice; send it once")
            host = value
        elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
            raise Ambiguous("Transfer-Encoding: not supported; use chunked, in HTTP/1.1")
    if host is None:
        if version == "1.1":
            raise Ambiguous("Host: the header is missing; send it")
    elif HOST.fullmatch(host) is None:
        raise Ambiguous("Host: the value is not valid; send a name or an address, with or without a port")
    if not target.startswith(b"/") or b"#" in target:
        _check_target(method, target, host)


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    """Raise Ambiguous for a target that is neither a path, nor a URL of the request's Host, nor `OPTIONS *`."""
    if method == b"CONNECT":
        raise Ambiguous("CONNECT is not supported: this is not a proxy")
    absolute = ABSOLUTE.match(target)
    if b"#" in target or (absolute is None and (method, target) != (b"OPTIONS", b"*")):
        raise Ambiguous("the target of the request is not valid; send a path or a URL")
    if absolute is not None and (host is None or absolute[1].lower() != host.lower()):
        raise Ambiguous("the target of the request names another host than the header Host; send the same host in both")


class JoinedWrites:
    """A transport that joins the writes of one turn of the event loop. Everything else is passed to the wrapped transport."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._waiting = transport, list[bytes]()
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write data, together with the other writes of this turn of the event loop."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            if self._transport.is_closing():  # the client no longer reads it
                return
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def close(self) -> None:
        """Close the transport after the waiting data."""
        self._flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with joined writes and time limits. `limited` makes a subclass for the settings of a service."""

    settings = Settings.model_construct()
    cut: Callable[[str], None] = staticmethod(lambda reason: None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Handle a new connection."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport)))
        self.received = 0  # bytes
        self.loose = 0  # bytes since the last head or piece of a body: of a head, of trailers, or of neither
        self.last: Any = None  # the last request
        # the request and the part that the connection waits for, since when, and from which byte; bytes not written yet, and since when
        self.waited_for: tuple[Any, str] = (None, "head")
        self.since, self.start = self.loop.time(), 0
        self.unsent, self.unsent_since = 0, 0.0
        self.whole = True  # the body of the last request is complete
        self.resumed = False  # the parser reads the head of a request again, without the request to upgrade
        self.fault = UNREADABLE  # the reason why the last request cannot be read
        self.doomed = (
            False  # the last request cannot be read: the connection ends after the responses to earlier requests
        )
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "too_many", f"{self.settings.max_connections} connections are open; retry after a moment")

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client."""
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
            self.refuse(
                431,
                "head_too_large",
                f"the headers are over the limit of {MAX_HEAD} bytes; send fewer or shorter headers",
            )

    def _parse(self, data: bytes) -> None:
        """Parse requests. A request to upgrade is answered like an ordinary one, which RFC 9110 (7.8) allows."""
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
        """Continue after a head that requests an upgrade, where the parser assumes that the request has ended: read its body."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        framing = [b"%b: %b\r\n" % pair for pair in self.scope["headers"] if pair[0] in FRAMING]
        self.resumed = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))

    def on_headers_complete(self) -> None:
        """Start to answer a request, or refuse it."""
        if self.resumed:  # the request has started already
            self.resumed = False
            return
        version = self.parser.get_http_version()
        try:
            check_head(version, self.parser.get_method(), self.url, self.headers)
        except Ambiguous as error:
            self.fault = str(error)
            raise
        if version == "1.0":  # which has no interim responses
            self.expect_100_continue = False
        super().on_headers_complete()
        self.whole = False
        self.headers = []  # for the trailers, which are not headers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Answer a request."""
        super()._start_asgi_task(cycle, cast(Any, _unasked(cycle, app)) if cycle.waiting_for_100_continue else app)

    def on_body(self, body: bytes) -> None:
        """Handle a piece of a body."""
        super().on_body(body)
        self.loose = 0

    def on_message_complete(self) -> None:
        """Handle the end of a body, unless the parser only assumes it because of an upgrade."""
        if not self.parser.should_upgrade():
            self.whole = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Handle the end of a response."""
        super().on_response_complete()
        if self.doomed and self.cycle.response_complete:
            self.refuse(400, "malformed", self.fault)

    @property
    def awaited(self) -> str:
        """The part of a request that the connection waits for: head, body or nothing. uvicorn times the pause between two requests."""
        if self.cycle is None or self.cycle.response_complete:
            return "head" if self.timeout_keep_alive_task is None else "nothing"
        return "body" if self.cycle.more_body else "nothing"

    def look(self, now: float, every: float) -> None:
        """End the connection if its client exceeds a time limit. Called once every `every` seconds."""
        limit, awaited = self.settings.receive_seconds, self.awaited
        if self.waited_for != (self.cycle, awaited):
            self.waited_for, self.since, self.start = (self.cycle, awaited), now, self.received
        if self.transport.is_closing():
            pass  # already refused; the rest of the data has its own limit below
        elif self.flow.read_paused:  # the service has paused reading
            self.since += every
        elif awaited == "head" and now - self.since > limit:
            self.refuse(408, "slow_head", f"the request was not complete after {limit:g} s; send it faster")
        elif awaited == "body" and now - self.since > limit + (self.received - self.start) / SLOWEST:
            self.refuse(
                408,
                "slow_body",
                f"the body arrives at less than {SLOWEST} bytes/s; send it faster, or in smaller requests",
            )
        waiting = self.transport.get_write_buffer_size()
        if waiting != self.unsent or not waiting:
            self.unsent, self.unsent_since = waiting, now
        elif now - self.unsent_since > self.settings.send_seconds:
            self.cut("slow_reader")
            self.transport.abort()

    def refuse(self, status: int, kind: str, message: str) -> None:
        """Close the connection. Send the reason first, if no response has started."""
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
        """Refuse data that is not valid HTTP, after the responses to earlier requests."""
        answered = self.cycle is None or self.cycle.response_complete
        # within the body of a request that has its response: another response would belong to the next request
        if answered and not self.whole:
            self.cut("malformed")
            self.transport.close()
        elif answered or not self.whole:
            self.refuse(400, "malformed", msg)
        else:
            self.doomed = True


def _unasked(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Close the connection after a response to a client that still waits to send its body: its next bytes would be ambiguous."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, closing)

    return answer


def limited(settings: Settings, cut: Callable[[str], None]) -> type[Protocol]:
    """Return the protocol with the limits of a service. `cut` is called with the reason whenever the service ends a connection."""
    return type("LimitedProtocol", (Protocol,), {"settings": settings, "cut": staticmethod(cut)})
