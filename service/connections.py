"""HTTP connections: one write a response, and an end to those that hold one and do nothing with it.

uvicorn writes a response's head and its body one after the other, which are two system calls and two packets. Here the head waits until
the event loop's next turn, by when the body of a plain answer is there too.

uvicorn also lets a client take its time: for a head that never ends, for a body that never comes, for an answer that is never read. Here
each of these has a limit, looked after once a second for all connections together, so that a request pays nothing for it.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import encoding, replies
from service.settings import Settings

MAX_HEAD = 64 * 1024  # bytes of a request that are neither its body nor over: its line, its headers, its trailers
SLOWEST = 1024  # bytes/s of a body, beyond the first receive_seconds


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
        self.seen: tuple[Any, str] = (None, "head")
        self.since, self.start = self.loop.time(), 0
        self.unsent, self.unsent_since = 0, 0.0
        if len(self.connections) > self.settings.max_connections:
            self.refuse(503, "too_many", f"{self.settings.max_connections} connections are open; try again")

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self.received += len(data)
        self.loose += len(data)
        super().data_received(data)
        if self.cycle is not self.last:
            self.last, self.loose = self.cycle, 0
        elif self.loose > MAX_HEAD and not self.transport.is_closing():
            self.refuse(431, "head_too_large", f"the headers are over the limit of {MAX_HEAD} bytes")

    def on_body(self, body: bytes) -> None:
        """A piece of one."""
        super().on_body(body)
        self.loose = 0

    @property
    def awaited(self) -> str:
        """A head, a body, or nothing: a request is worked on, or uvicorn looks after the time between two."""
        if self.cycle is None or self.cycle.response_complete:
            return "head" if self.timeout_keep_alive_task is None else "nothing"
        return "body" if self.cycle.more_body else "nothing"

    def look(self, now: float, every: float) -> None:
        """Ends the connection where its client has had its time. Called every so many seconds."""
        limit, awaited = self.settings.receive_seconds, self.awaited
        if self.seen != (self.cycle, awaited):
            self.seen, self.since, self.start = (self.cycle, awaited), now, self.received
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
        """What cannot be read as HTTP."""
        self.refuse(400, "malformed", "this is not a request in HTTP/1.1")


def limited(settings: Settings, cut: Callable[[str], None]) -> type[Protocol]:
    """The protocol with a service's limits; `cut` hears of each connection that is ended, and why."""
    return type("LimitedProtocol", (Protocol,), {"settings": settings, "cut": staticmethod(cut)})
