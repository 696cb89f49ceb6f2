"""Exceptions for what the service refuses.

ManifoldClientError
├── RequestRefused   the request is wrong: see field and valid
├── Busy             429, still after all retries
└── NotReady         503, still after all retries; or no connection
"""

from __future__ import annotations

from typing import Any


class ManifoldClientError(Exception):
    """Base. `status` is HTTP's, None where there was no answer."""

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
    """The request is wrong, or the model cannot do it."""


class Busy(ManifoldClientError):
    """The service has too much to do."""


class NotReady(ManifoldClientError):
    """The service or the model is not ready, or does not answer."""
