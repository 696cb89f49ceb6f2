"""The errors that clients may read, and the opaque text in place of all others, which are logged. Status codes are left to the transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import structlog

from manifold.runtime import errors
from manifold.runtime.errors import ManifoldError

log = structlog.get_logger()


@dataclass(frozen=True)
class Meaning:
    """The meaning of a type of error, and what its reader can do."""

    means: str
    remedy: str


PUBLIC: dict[type[ManifoldError], Meaning] = {
    errors.Malformed: Meaning(
        "The request cannot be read: broken JSON, a corrupt image, an empty body, or a header that occurs twice.",
        "Correct the body or the header that `field` names.",
    ),
    errors.Unauthorized: Meaning(
        "The API key is absent or unknown.",
        "Send the header `Authorization: Bearer KEY`. `manifold key NAME` makes a key.",
    ),
    errors.Forbidden: Meaning(
        "The API key lacks the needed scope. Without keys: the host, the origin or the admin route is not allowed.",
        "Use a key with a scope of `valid`, or change the setting that the message names.",
    ),
    errors.UnknownModel: Meaning(
        "There is no such model or version.", "Choose one of `valid`, or list the models with `GET /models`."
    ),
    errors.NotFound: Meaning("There is no such route or file.", "Choose one of `valid`."),
    errors.UnsupportedTask: Meaning(
        "The model does not support this request.", "Choose one of the endpoints in `valid`, or another model."
    ),
    errors.TooLarge: Meaning(
        "The body, a file, an image or the number of items is over a limit.",
        "Send less, or several requests. The message names the limit.",
    ),
    errors.UnsupportedMedia: Meaning(
        "The Content-Type cannot be read, or no format in Accept can be written.", "Choose one of `valid`."
    ),
    errors.InvalidValue: Meaning(
        "The request can be read, but a value is wrong.",
        "Correct the value of `field`. `valid` lists the valid values, if there is a list.",
    ),
    errors.Busy: Meaning(
        "A limit of the service or of the key's request rate is reached.",
        "Retry after the seconds in the header Retry-After.",
    ),
    errors.Unavailable: Meaning(
        "The model is still loading or cannot be loaded, or the service is stopping.",
        "Retry after a moment. `GET /models` lists the state and the reason of every model.",
    ),
    errors.DeadlineExceeded: Meaning(
        "The deadline passed before the work was done.",
        "Request less, or allow more time: the header X-Deadline-Ms, or the setting MANIFOLD_DEADLINE_MS.",
    ),
}
_PUBLIC = tuple(PUBLIC)
INTERNAL = Meaning(
    "An unexpected error of the service or of a model. The response contains no details.",
    "Search the service's log for the request id. Report a bug if the traceback is in Manifold.",
)
OPAQUE = "the service failed to answer; the request is not the cause. Search the service's log for the request id"


def is_public(error: Exception) -> TypeGuard[ManifoldError]:
    """Return whether a client may read the error. All others are bugs or broken artifacts."""
    return isinstance(error, _PUBLIC)


def log_internal(error: Exception, request_id: str | None) -> None:
    """Log an internal error: in one line if the error explains itself, such as a graph that fails, otherwise with the traceback of a bug."""
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
