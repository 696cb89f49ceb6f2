"""Replies over HTTP: a status, a content type, headers and a body, or the lines of a body; and errors, in their one shape."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from manifold.runtime import errors
from manifold.runtime.errors import ManifoldError
from manifold.service.core import encoding, failures
from manifold.service.core.failures import Meaning

STATUS: dict[type[ManifoldError], int] = {
    errors.Malformed: 400, errors.Unauthorized: 401, errors.Forbidden: 403, errors.UnknownModel: 404, errors.NotFound: 404, errors.UnsupportedTask: 409,
    errors.TooLarge: 413, errors.UnsupportedMedia: 415, errors.InvalidValue: 422, errors.Busy: 429, errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}  # fmt: skip
# errors of HTTP itself, by their type: the status, and what it means
UNROUTED: dict[str, tuple[int, Meaning]] = {
    "method_not_allowed": (405, Meaning("The route does not have this method.", "Use one of the methods in `valid`.")),
    "slow_head": (408, Meaning("The head of the request did not arrive in time.", "Send it within MANIFOLD_RECEIVE_SECONDS.")),
    "slow_body": (408, Meaning("The body arrives too slowly.", "Send it faster, or in smaller requests.")),
    "head_too_large": (431, Meaning("The headers are too large.", "Send fewer or shorter headers.")),
    "internal": (500, failures.INTERNAL),
    "too_many": (503, Meaning("Too many connections are open.", "Retry after a moment, or close idle connections.")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as bytes: its status, headers and body."""

    body: bytes | AsyncGenerator[bytes]
    media_type: str = encoding.JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # the type of the error, for metrics


def status_of(error: ManifoldError) -> int:
    """Return the status of the nearest class in the table; 500 if none is there."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def of_error(error: ManifoldError, request_id: str) -> Reply:
    """Return the reply for an error. An error that the client may not read is logged and becomes an opaque 500."""
    status = status_of(error)
    if status == 500:
        failures.log_internal(error, request_id)
        return internal(request_id)
    headers = {"Retry-After": str(math.ceil(getattr(error, "retry_after", 1)))} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="manifold"'
    return refusal(status, request_id, error.type, error.message, field=error.field, valid=error.valid, headers=headers)


def unexpected(error: Exception, request_id: str) -> Reply:
    """Log a bug, and return the opaque reply for it."""
    failures.log_internal(error, request_id)
    return internal(request_id)


def internal(request_id: str) -> Reply:
    """Return the reply 500, which contains no details."""
    return refusal(500, request_id, "internal", failures.OPAQUE)


def refusal(
    status: int, request_id: str, kind: str, message: str, *, field: str | None = None, valid: list[Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:  # fmt: skip
    """Return the reply for an error, in the form that all errors have."""
    body = {"type": kind, "message": message, "field": field, "valid": valid, "request_id": request_id}
    return Reply(encoding.dumps({"error": body}), status=status, headers=headers or {}, error=kind)
