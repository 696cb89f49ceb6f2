"""The way of a request: an id kept or made, counted, timed, and, for the use cases, straight to their handlers.

Pure ASGI. A use case needs nothing of a web framework's routing, validation and serialisation, which take longer than a small model; so
POST requests to one go from here to its handler and back. Everything else goes on to the application behind.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from runtime.errors import ManifoldError
from service import replies
from service.incoming import Incoming
from service.metrics import Metrics
from service.registry import Registry
from service.replies import Reply

log = structlog.get_logger()

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
LOOK = 0.05  # seconds: requests older than that are watched for clients that have gone
GONE = 499  # status under which they are counted: nobody gets it

_PREFIX, _COUNT = secrets.token_hex(8), itertools.count(secrets.randbelow(2**40))

Endpoint = Callable[[Incoming], Awaitable[Reply]]


def new_id() -> str:
    """A request id: of this process, and of this request in it."""
    return f"{_PREFIX}{next(_COUNT):016x}"


@dataclass(eq=False, slots=True)
class Flight:
    """A use case that is being answered."""

    task: asyncio.Task[Any]
    request: Incoming
    began: float
    watcher: asyncio.Task[None] | None = None
    over: bool = False
    gone: bool = False

    async def watch(self) -> None:
        """Cancels the work of a client that has gone away. The body has been read: what comes now is the end."""
        if await self.request.gone() and not self.over:
            self.gone = True
            self.task.cancel()


class Flights:
    """Use cases that are being answered. Those that take long get a watcher; short ones cost nothing."""

    def __init__(self) -> None:
        self._all: set[Flight] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: Incoming) -> Flight:
        """From now on."""
        task = asyncio.current_task()
        assert task is not None
        flight = Flight(task, request, time.monotonic())
        self._all.add(flight)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        return flight

    def end(self, flight: Flight) -> None:
        """The answer is out, or nobody waits for it."""
        flight.over = True
        self._all.discard(flight)
        if flight.watcher is not None:
            flight.watcher.cancel()

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for flight in self._all:
            if flight.watcher is None and flight.request.read and now - flight.began > LOOK:
                flight.watcher = flight.task.get_loop().create_task(flight.watch())
        if self._all:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)


class Front:
    """The application: use cases are answered here, the rest goes on with a request id and is counted."""

    def __init__(self, app: FastAPI, endpoints: Mapping[str, Endpoint], registry: Registry, metrics: Metrics) -> None:
        self.app, self.endpoints, self.registry, self.metrics = app, endpoints, registry, metrics
        self.flights = Flights()
        self.log_requests = registry.settings.log_requests
        self.state = app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        given = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"x-request-id"), "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        path, status = scope["path"], 500
        endpoint = self.endpoints.get(path) if scope["method"] == "POST" else None
        try:
            if endpoint is not None:
                status = await self._answer(endpoint, Incoming(scope, receive, request_id), send, request_id)
            else:
                status = await self._pass(scope, receive, send, request_id)
                path = getattr(scope.get("route"), "path", "other")
        finally:
            self._note(scope, path, status, time.perf_counter() - began, request_id)

    async def _answer(self, endpoint: Endpoint, request: Incoming, send: Send, request_id: str) -> int:
        flight = self.flights.begin(request)
        try:
            try:
                self.registry.check_open()
                reply = await endpoint(request)
            except ManifoldError as error:
                self.metrics.erred(error)
                reply = replies.of_error(error, request_id)
            except ClientDisconnect:
                return GONE
            except Exception as error:
                self.metrics.errors.labels("internal").inc()
                reply = replies.unexpected(error, request_id)
            await _send(reply, send, request_id)
            return reply.status
        except asyncio.CancelledError:
            if not flight.gone:
                raise
            return GONE
        finally:
            self.flights.end(flight)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        await self.app(scope, receive, send_with_id)
        return status

    def _note(self, scope: Scope, route: str, status: int, seconds: float, request_id: str) -> None:
        self.metrics.requested(route, status, seconds)
        if self.log_requests:
            log.info(
                "request", request_id=request_id, method=scope["method"], path=scope["path"], status=status,
                milliseconds=round(1000 * seconds, 2),
            )  # fmt: skip


async def _send(reply: Reply, send: Send, request_id: str) -> None:
    headers = [
        (b"content-type", reply.media_type.encode("latin-1")),
        (b"x-request-id", request_id.encode("latin-1")),
        *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()),
    ]
    body = reply.body
    if isinstance(body, bytes):
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    async with aclosing(body):  # whatever ends it, what it holds is let go now
        async for line in body:
            await send({"type": "http.response.body", "body": line, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
