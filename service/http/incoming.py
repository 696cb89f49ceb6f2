"""A request to a use case over HTTP, without the objects of a framework."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from manifold.runtime import texts
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge, cut, shown
from manifold.service.core.intake import Intake
from manifold.service.core.metadata import SINGLE

LONGEST = 86_400_000  # milliseconds of X-Deadline-Ms: a day


class Incoming:
    """One request. `read` is true after its body has been read."""

    __slots__ = (
        "_entered",
        "_held",
        "_intake",
        "_receive",
        "came",
        "headers",
        "read",
        "repeated",
        "request_id",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, intake: Intake) -> None:
        self.scope, self._receive, self._intake, self._held = scope, receive, intake, 0
        self._entered = False
        self.request_id, self.read, self.came = "", False, time.perf_counter()
        given: list[tuple[bytes, bytes]] = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(given)
        self.repeated = "" if len(self.headers) == len(given) else self._join(given)

    def _join(self, given: list[tuple[bytes, bytes]]) -> str:
        """Join the values of repeated headers. Return the name of a repeated header that must occur only once, or nothing."""
        values: dict[bytes, list[bytes]] = {}
        for name, value in given:
            values.setdefault(name, []).append(value)
        self.headers = {name: b", ".join(several) for name, several in values.items()}
        return next(
            (name.decode("latin-1") for name, several in values.items() if len(several) > 1 and name in SINGLE), ""
        )

    def check_repeated(self) -> None:
        """Raise Malformed for a repeated header that must occur only once."""
        if self.repeated:
            raise Malformed(f"{self.repeated}: the header occurs more than once; send it once", field=self.repeated)

    def header(self, name: bytes) -> str | None:
        """Return a header by its name in lower case, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def content_type(self) -> str | None:
        """The content type in lower case, without parameters; None if absent."""
        value = self.header(b"content-type")
        return None if value is None else value.partition(";")[0].strip().lower()

    def deadline(self) -> int | None:
        """Return the value of X-Deadline-Ms in milliseconds, or None. Raise InvalidValue."""
        text = self.header(b"x-deadline-ms")
        if text is None:
            return None
        milliseconds = texts.whole(text, LONGEST)
        if not milliseconds:
            raise InvalidValue(
                f"X-Deadline-Ms: {shown(text)} is not valid; use whole milliseconds from 1 to {LONGEST}",
                field="X-Deadline-Ms",
            )
        return milliseconds

    def check_length(self, limit: int) -> None:
        """Raise TooLarge if the declared length of the body is over the limit."""
        declared = self.header(b"content-length")
        if declared is not None and declared.isdecimal() and texts.whole(declared, limit) is None:
            raise TooLarge(
                f"body: {cut(declared)} bytes are over the limit of {limit}; send less, or several requests",
                field="body",
            )

    async def body(self, limit: int) -> bytes:
        """Return the whole body. Raise TooLarge as soon as it is over the limit."""
        self.check_length(limit)
        chunks, size = [], 0
        while not self.read:
            chunk = await self._chunk()
            size += len(chunk)
            if size > limit:
                raise TooLarge(
                    f"body: larger than the limit of {limit} bytes; send less, or several requests", field="body"
                )
            if not self.read:
                self._intake.hold(len(chunk))
                self._held += len(chunk)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def enter(self) -> None:
        """Count the request as being processed. Raise Busy if there are too many."""
        self._intake.calls.enter()
        self._entered = True

    def close(self) -> None:
        """End the request: its body no longer counts."""
        self._intake.held -= self._held
        self._held = 0
        if self._entered:
            self._intake.calls.leave()
            self._entered = False

    async def chunks(self, in_memory: int) -> AsyncIterator[bytes]:
        """Yield the body in chunks. At most `in_memory` of its bytes count as held in memory; the rest is spooled to disk."""
        while not self.read:
            chunk = await self._chunk()
            if self._held < in_memory and not self.read:
                self._intake.hold(len(chunk))
                self._held += len(chunk)
            yield chunk

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.read = not message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content

    async def gone(self) -> bool:
        """Wait, after the body, until the connection or the response ends. Return whether the client has disconnected."""
        return bool((await self._receive())["type"] == "http.disconnect")

    def of_starlette(self, body: bytes) -> Request:
        """Return the request as an object of Starlette, for its parsers of queries and forms."""

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return Request(self.scope, again)
