"""The errors that clients may read, and the opaque text in place of all others, which are logged. Status codes are left to the transports."""

from __future__ import annotations

from typing import Any, TypeGuard

import structlog

from manifold.runtime import errors
from manifold.runtime.errors import ManifoldError

log = structlog.get_logger()

PUBLIC = (
    errors.Malformed, errors.Unauthorized, errors.Forbidden, errors.UnknownModel, errors.NotFound, errors.UnsupportedTask, errors.TooLarge,
    errors.UnsupportedMedia, errors.InvalidValue, errors.Busy, errors.Unavailable, errors.DeadlineExceeded,
)  # fmt: skip
OPAQUE = "something went wrong here, not in your request; the log has the request id"


def is_public(error: Exception) -> TypeGuard[ManifoldError]:
    """Return whether a client may read the error. The others are bugs and broken artifacts."""
    return isinstance(error, PUBLIC)


def log_internal(error: Exception, request_id: str | None) -> None:
    """Log an internal error: in one line if it says what is wrong, such as a graph that fails, else with the traceback of a bug."""
    if isinstance(error, ManifoldError):
        log.error("internal", request_id=request_id, type=error.type, message=error.message)
    else:
        log.error("internal", request_id=request_id, exc_info=error)


def in_stream(error: Exception, request_id: str | None = None) -> dict[str, Any]:
    """Return the error for the last line of a stream that has begun. An internal error is logged, and its text is opaque."""
    if is_public(error):
        return {"type": error.type, "message": error.message, "field": error.field}
    log_internal(error, request_id)
    return {"type": "internal", "message": OPAQUE, "field": None}
