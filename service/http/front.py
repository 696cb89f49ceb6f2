"""The entry of every request: its id, its admission, its metrics, and for use cases the way to their handlers.

This is pure ASGI. The routing, validation and serialisation of a web framework take longer than a small model, so POST requests to use cases go
from here directly to their handlers. All other requests go to the application behind. Before that, a request is admitted by its key or, without
keys, by its host and origin. Nothing of its body has been read then.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Protocol
from urllib.parse import quote

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manifold.runtime.errors import Forbidden, ManifoldError, RequestError
from manifold.service.core.intake import Intake
from manifold.service.core.metadata import FORWARDED, NO_ADMIN, REQUEST_ID, new_id
from manifold.service.http import replies
from manifold.service.http.flights import Flights
from manifold.service.http.incoming import Incoming
from manifold.service.http.origins import Origins
from manifold.service.http.replies import Reply
from manifold.service.inference import http as inference
from manifold.service.models.entries import hold_from_now, let_go
from manifold.service.models.registry import Registry
from manifold.service.security import Key, Security
from manifold.service.settings import Settings, is_loopback
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import CARRIED, Trace, Tracing

log = structlog.get_logger()

LOGGED = 200  # characters of a path that a log line or a trace contains
GONE = 499  # the status in metrics and logs of a request whose client has disconnected

# routes without a key: content that is the same in every installation, probes, and metrics
OPEN = frozenset(
    {"/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"}
)
OPEN_BELOW = ("/static-offline-docs/", "/static/")
# routes for probes, which may use any host name; under an unknown name, the response has no details
HEALTH = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
ADMIN = ("/admin/", "/v2/repository/models/")
# headers of responses, which are data: no page may run or frame them or guess their type, and no proxy may store them
DATA = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
# further headers of pages, which have their own policy and cache-control
PAGES = ((b"x-frame-options", b"DENY"), (b"referrer-policy", b"no-referrer"))
STRICT = (b"strict-transport-security", b"max-age=31536000")

Endpoint = Callable[[Incoming], Awaitable[Reply]]


class Errors(Protocol):
    """A writer of errors: in the form of this project or of the Open Inference Protocol."""

    def of_error(self, error: ManifoldError, request_id: str, /) -> Reply:
        """Return the reply for an error that the client can read."""

    def unexpected(self, error: Exception, request_id: str, /) -> Reply:
        """Return the reply for a bug."""


class Front:
    """The ASGI application. It answers use cases, passes all other requests on, and counts both."""

    def __init__(
        self, app: FastAPI, endpoints: Mapping[str, Endpoint], tensors: inference.Routes, registry: Registry, metrics: Metrics, security: Security
    ) -> None:  # fmt: skip
        self.app, self.endpoints, self.tensors = app, endpoints, tensors
        self.registry, self.metrics, self.security = registry, metrics, security
        settings = registry.settings
        self.origins, self.trust_loopback = Origins(settings), settings.trust_loopback
        self.flights, self.intake = Flights(), Intake(settings.max_bodies_bytes, settings.max_calls)
        self.log_requests = settings.log_requests
        self.guards = (*DATA, STRICT) if settings.tls_certificate else DATA
        self.state = app.state
        self.tracing: Tracing | None = app.state.tracing
        self._entered = _cors(self._enter, settings) if settings.cors_origins else self._enter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._entered(scope, receive, send)
        else:
            await self.app(scope, receive, _unless_cancelled(send))

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, held = time.perf_counter(), hold_from_now()
        request = Incoming(scope, receive, self.intake)
        given = request.header(b"x-request-id") or ""  # two values would be joined by a comma and a space
        request_id = request.request_id = given if REQUEST_ID.fullmatch(given) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        path, status, key = scope["path"], 500, None
        if scope["method"] == "HEAD":  # the server behind `send` omits the body
            scope = {**scope, "method": "GET"}
        endpoint, route, errors = self._find(scope["method"], path)
        trace = self._trace(request, path) if self.tracing else None
        try:
            try:
                key = self._admit(path, request)
            except ManifoldError as error:
                self.metrics.erred(error)
                status = await self._send(errors.of_error(error, request_id), send, request_id)
                route = route if endpoint is not None else "refused"
                return
            if endpoint is not None:
                status = await self._answer(endpoint, request, send, errors)
            else:
                route = "other"
                try:
                    status = await self._pass(scope, receive, send, request_id)
                finally:  # after an error too: an unknown path must not become a new label value
                    route = getattr(scope.get("route"), "path", route)
        finally:
            let_go(held)
            if trace is not None:
                answered: dict[str, str | int] = {"http.response.status_code": status, "http.route": route}
                trace.end(f"{request.scope['method']} {route}", failed=status >= 500, **answered)
            self._note(request.scope, route, status, time.perf_counter() - began, request_id, key)

    def _find(self, method: str, path: str) -> tuple[Endpoint | None, str, Errors]:
        """Return the endpoint of a path, its label in metrics, and the writer of its errors."""
        if path.startswith(inference.PREFIX) and path[len(inference.PREFIX) :][:1] in ("", "/"):
            return *self.tensors.find(method, path), inference
        return self.endpoints.get(path) if method == "POST" else None, path, replies

    def _trace(self, request: Incoming, path: str) -> Trace:
        assert self.tracing is not None
        carried = {name: value for name in CARRIED if (value := request.header(name.encode())) is not None}
        method = request.scope["method"]
        attributes = {
            "http.request.method": method,
            "url.path": path[:LOGGED],
            "manifold.request_id": request.request_id,
        }
        return self.tracing.begin(method, carried, **attributes)

    def _admit(self, path: str, request: Incoming) -> Key | None:
        """Return the API key of a request that is admitted. Raise Malformed, Unauthorized, Forbidden or Busy."""
        request.check_repeated()
        admin = path.startswith(ADMIN)
        if self.security.needed:
            if path in OPEN or path.startswith(OPEN_BELOW):
                return None
            return self.security.check(request.header(b"authorization"), "admin" if admin else "infer")
        try:
            self.origins.check(request)
        except RequestError:
            if path not in HEALTH:
                raise
            request.scope["state"]["bare"] = True
        if admin:
            self._admit_admin(request)
        return None

    def _admit_admin(self, request: Incoming) -> None:
        """Raise Forbidden unless loopback is trusted and the request comes from this machine."""
        if not self.trust_loopback:
            raise Forbidden(NO_ADMIN, field="Authorization")
        if not _from_here(request):
            raise Forbidden(
                "Authorization: without API keys, admin routes accept requests from this machine only, not through a proxy and not from a "
                "web page; use a key with the scope admin", field="Authorization",
            )  # fmt: skip

    async def _answer(self, endpoint: Endpoint, request: Incoming, send: Send, errors: Errors) -> int:
        flight, request_id = self.flights.begin(request), request.request_id
        try:
            try:
                if (
                    request.scope["path"] not in HEALTH
                ):  # probes are answered even if too many requests are being processed
                    request.enter()
                reply = await endpoint(request)
            except ManifoldError as error:
                self.metrics.erred(error)
                reply = errors.of_error(error, request_id)
            except ClientDisconnect:
                return GONE
            except Exception as error:
                self.metrics.erred(error)
                reply = errors.unexpected(error, request_id)
            return await self._send(reply, send, request_id)
        except asyncio.CancelledError:
            if not flight.gone:
                raise
            return GONE
        finally:
            self.flights.end(flight)
            request.close()

    async def _pass(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                more = [pair for pair in (*self.guards, *PAGES) if pair[0] not in own]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1")), *more]
            await send(message)

        await self.app(scope, receive, send_with_id)
        return status

    async def _send(self, reply: Reply, send: Send, request_id: str) -> int:
        headers = [
            (b"content-type", reply.media_type.encode("latin-1")),
            (b"x-request-id", request_id.encode("latin-1")),
            *self.guards,
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()),
        ]
        body = reply.body
        if isinstance(body, bytes):
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return reply.status
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async with aclosing(body):  # its resources are released however it ends
            async for line in body:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return reply.status

    def _note(self, scope: Scope, route: str, status: int, seconds: float, request_id: str, key: Key | None) -> None:
        self.metrics.requested(route, status, seconds)
        if key is not None:
            self.metrics.asked(key.id)
        if self.log_requests:
            log.info(
                "request", request_id=request_id, method=scope["method"][:LOGGED], path=quote(scope["path"][:LOGGED]), status=status,
                milliseconds=round(1000 * seconds, 2), key=None if key is None else key.name,
            )  # fmt: skip


def _unless_cancelled(send: Send) -> Send:
    """Wrap `send` so that it drops the report of a cancelled application, which a third signal to stop causes."""

    async def sent(message: Message) -> None:
        if not message.get("message", "").rstrip().endswith("CancelledError"):
            await send(message)

    return sent


def _cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Wrap an application in the CORS headers for the allowed origins. Their pages send keys as a header, never cookies."""
    return CORSMiddleware(
        app, allow_origins=settings.cors_origins, allow_methods=("GET", "POST"), max_age=600,
        allow_headers=("Authorization", "Content-Type", "X-Request-ID", "X-Deadline-Ms", "Inference-Header-Content-Length"),
        expose_headers=("X-Request-ID", "X-Model", "X-Model-Version", "X-Seed", "X-First", "Retry-After", "Inference-Header-Content-Length"),
    )  # fmt: skip


def _from_here(request: Incoming) -> bool:
    """Return whether a request comes from this machine, neither through a proxy nor from a page whose name resolves to this machine."""
    client, host = request.scope.get("client"), request.header(b"host") or ""
    return (
        client is not None
        and is_loopback(client[0])
        and is_loopback(host.rpartition(":")[0] if re.search(r":\d+$", host) else host)
        and not any(name.encode() in request.headers for name in FORWARDED)
    )
