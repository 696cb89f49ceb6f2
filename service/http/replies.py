"""Replies over HTTP: a status, a content type, headers and a body, or the lines of a body; and errors, in their one shape."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from manifold.runtime import errors
from manifold.runtime.errors import ManifoldError
from manifold.service.core import encoding, failures

STATUS: dict[type[ManifoldError], int] = {
    errors.Malformed: 400, errors.Unauthorized: 401, errors.Forbidden: 403, errors.UnknownModel: 404, errors.NotFound: 404, errors.UnsupportedTask: 409,
    errors.TooLarge: 413, errors.UnsupportedMedia: 415, errors.InvalidValue: 422, errors.Busy: 429, errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes."""

    body: bytes | AsyncGenerator[bytes]
    media_type: str = encoding.JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # its type, for whoever counts them


def status_of(error: ManifoldError) -> int:
    """The table, by the nearest class."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def of_error(error: ManifoldError, request_id: str) -> Reply:
    """An error that the client can read; one that is no business of its is logged and kept."""
    status = status_of(error)
    if status == 500:
        failures.log_internal(error, request_id)
        return internal(request_id)
    headers = {"Retry-After": str(math.ceil(getattr(error, "retry_after", 1)))} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="manifold"'
    return refusal(status, request_id, error.type, error.message, field=error.field, valid=error.valid, headers=headers)


def unexpected(error: Exception, request_id: str) -> Reply:
    """A bug: the log has it."""
    failures.log_internal(error, request_id)
    return internal(request_id)


def internal(request_id: str) -> Reply:
    """500, which says nothing of what went wrong."""
    return refusal(500, request_id, "internal", failures.OPAQUE)


def refusal(
    status: int, request_id: str, kind: str, message: str, *, field: str | None = None, valid: list[Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:  # fmt: skip
    """The one shape of an error."""
    body = {"type": kind, "message": message, "field": field, "valid": valid, "request_id": request_id}
    return Reply(encoding.dumps({"error": body}), status=status, headers=headers or {}, error=kind)
