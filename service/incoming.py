"""A request to a use case over HTTP: the few things that are needed of it, without a framework's objects."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from runtime.errors import TooLarge


class Incoming:
    """One request. `read` is true once its body has been."""

    __slots__ = ("_headers", "_receive", "read", "request_id", "scope")

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.scope, self._receive, self.request_id, self.read = scope, receive, request_id, False
        self._headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> str | None:
        """By its name in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def content_type(self) -> str | None:
        """Without its parameters, in lower case."""
        value = self.header(b"content-type")
        return None if value is None else value.partition(";")[0].strip().lower()

    def check_length(self, limit: int) -> None:
        """Raises TooLarge where the request says that its body is."""
        declared = self.header(b"content-length")
        if declared is not None and declared.isdecimal() and int(declared) > limit:
            raise TooLarge(f"body: {declared} bytes are over the limit of {limit}", field="body")

    async def body(self, limit: int) -> bytes:
        """All of it, refused as soon as it is known to be too large."""
        self.check_length(limit)
        chunks, size = [], 0
        while not self.read:
            chunk = await self._chunk()
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"body: over the limit of {limit} bytes", field="body")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """It as it comes."""
        while not self.read:
            yield await self._chunk()

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.read = not message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content

    async def gone(self) -> bool:
        """After the body: waits for the end of the connection, or of the answer."""
        return bool((await self._receive())["type"] == "http.disconnect")

    def of_starlette(self, body: bytes) -> Request:
        """As the framework has it, for its parsers of queries and forms."""

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return Request(self.scope, again)
