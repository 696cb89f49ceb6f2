"""The errors of the routes that are not use cases, in the same form."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from manifold.runtime import problems
from manifold.runtime.errors import ManifoldError, cut
from manifold.service.core import use_cases
from manifold.service.http import replies
from manifold.service.http.front import GONE
from manifold.service.http.replies import Reply
from manifold.service.settings import nearest

TYPES = {404: "not_found", 405: "method_not_allowed"}


def add(app: FastAPI) -> None:
    """Add the handlers of all exceptions."""

    @app.exception_handler(ManifoldError)
    async def ours(request: Request, error: ManifoldError) -> Response:
        return _respond(request, replies.of_error(error, request.state.request_id))

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        return _respond(request, _unrouted(app, request, error))

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> Response:
        """Answer a request whose path or query parameter is invalid."""
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        message = f"{cut(name)}: {problems.sentence(problem)}"
        return _respond(request, replies.refusal(422, request.state.request_id, "invalid_value", message, field=name))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        """Answer a client that disconnected while it sent a body. This is not an error of the service."""
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return _respond(request, replies.unexpected(error, request.state.request_id))


def _respond(request: Request, reply: Reply) -> Response:
    request.app.state.metrics.errors.labels(reply.error).inc()
    return Response(reply.body, reply.status, headers=reply.headers, media_type=reply.media_type)


def _is_public(path: str) -> bool:
    """Return whether an error may propose a path: users do not need files of /docs, and most may not use the routes of administrators."""
    return path.startswith("/") and not path.startswith(("/admin/", "/static", "/v2/repository/"))


def _unrouted(app: FastAPI, request: Request, error: HTTPException) -> Reply:
    """Return the reply for an unknown path or method, or for another error of the framework."""
    path, status = request.url.path, error.status_code
    posted = {case.path for case in use_cases.every.values()}
    headers = dict(error.headers or {})
    if path in posted:
        status, headers = 405, {"Allow": "POST"}
    elif status == 405 and "GET" in (allowed := headers.get("Allow", "")) and "HEAD" not in allowed:
        headers = {"Allow": allowed.replace("GET", "GET, HEAD")}
    if status == 405:
        valid = headers.get("Allow", "").split(", ")
        message = f"{cut(path)} does not support {cut(request.method)}; use one of the valid methods"
    else:
        valid = sorted(
            path for path in posted | {getattr(route, "path", "") for route in app.routes} if _is_public(path)
        )
        message = f"there is no {cut(path)}{nearest(cut(path), valid) or '; choose one of the valid paths'}"
        if status != 404:
            message = cut(str(error.detail), 200)
    kind = TYPES.get(status, "malformed")
    return replies.refusal(status, request.state.request_id, kind, message, valid=valid, headers=headers)
