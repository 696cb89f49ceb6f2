"""The exceptions of this client.

ManifoldClientError
├── RequestRefused   the service refused the request: see field and valid
├── Busy             429, still after all retries
├── NotReady         502 or 503, still after all retries; or no connection
├── InvalidValue     an argument has a wrong value; nothing was sent. Also a ValueError
├── InvalidType      an argument has a wrong type or an unknown name; nothing was sent. Also a TypeError
├── MissingLibrary   a conversion needs a package that is not installed. Also an ImportError
└── ClientClosed     the client was closed; nothing was sent. Also a RuntimeError
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

ECHOED = 80  # characters of a value that an error repeats


class ManifoldClientError(Exception):
    """The base class of all errors. `status` is the HTTP status, None if there was no answer; `field` names the wrong argument."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str = "",
        field: str | None = None,
        valid: list[Any] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message if valid is None else f"{message} (valid: {', '.join(map(str, valid))})")
        self.message, self.status, self.type, self.field, self.valid, self.request_id = (
            message,
            status,
            type,
            field,
            valid,
            request_id,
        )


class RequestRefused(ManifoldClientError):
    """The request is wrong, or the model does not support it."""


class Busy(ManifoldClientError):
    """The service has too many requests in progress."""


class NotReady(ManifoldClientError):
    """The service or the model is not ready, or does not answer."""


class InvalidValue(ManifoldClientError, ValueError):
    """An argument has a wrong value. It was found before anything was sent."""


class InvalidType(ManifoldClientError, TypeError):
    """An argument has a wrong type, or a name that is unknown. It was found before anything was sent."""


class MissingLibrary(ManifoldClientError, ImportError):
    """A conversion needs a package that is not installed."""


class ClientClosed(ManifoldClientError, RuntimeError):
    """The client was closed before the request. Nothing was sent."""


_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = ECHOED
_short.maxlevel = 2


def shown(value: object) -> str:
    """Return the repr of a value on one line, cut to `ECHOED` characters."""
    text = " ".join(_short.repr(value).split())
    return text if len(text) <= ECHOED else f"{text[: ECHOED - 1]}…"


def short(error: BaseException) -> str:
    """Return the message of a library's error on one line, cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def near(name: str, known: Sequence[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that is nearest to a name, None if none is near. `cutoff` is the least similarity, from 0 to 1."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)


def unknown(name: str, known: Sequence[str], what: str) -> str:
    """Return the message for a name that is not known, with the nearest known one if there is one."""
    found = near(name, known)
    hint = f"did you mean {found}?" if found else "give one of the valid names"
    return f"{name}: {what} has no such field; {hint}"
