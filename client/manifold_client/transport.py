"""The parts of both clients that neither wait nor await: rules for retries, headers, and the reading of answers."""

from __future__ import annotations

import json
import math
import os
import random
import ssl
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from manifold_client.errors import (
    Busy,
    ClientClosed,
    InvalidType,
    InvalidValue,
    ManifoldClientError,
    NotReady,
    RequestRefused,
    shown,
)
from manifold_client.results import Sample

RETRIED = (429, 502, 503)  # a load balancer answers 502 if its replica has gone away
# no answer came: the request can be repeated, as no request changes anything on the service
LOST = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
MOST_STATED = 3600.0  # seconds; a Retry-After above it, such as that of a misconfigured proxy, is cut to it
STREAM = {"accept": "application/x-ndjson"}


@dataclass(frozen=True)
class Retry:
    """The rule for retries: exponential back-off with jitter of at most `longest` seconds, or the service's Retry-After if that is longer."""

    attempts: int = 5  # the first one included
    base: float = 0.2  # seconds
    longest: float = 10.0  # seconds; limits the back-off, not the time that the service states

    def __post_init__(self) -> None:
        """Raise InvalidValue for fewer attempts than one, and for times that are not numbers of seconds."""
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidValue(
                f"attempts: {shown(self.attempts)} is not allowed; give an integer of 1 or more, 1 for no repetition",
                field="attempts",
            )
        for name in ("base", "longest"):
            checked_seconds(getattr(self, name), name, least=0.0)

    def wait(self, attempt: int, response: httpx.Response | None) -> float:
        """Return the seconds to wait after an attempt, the first of which is 0."""
        stated = response.headers.get("retry-after", "") if response is not None else ""
        backoff = min(self.longest, random.uniform(0.5, 1.0) * self.base * 2.0 ** min(attempt, 1000))
        return max(backoff, min(MOST_STATED, float(stated)) if stated.isdecimal() else 0.0)


def read(response: httpx.Response) -> Any:
    """Return the JSON of an answer. Raises the error that the service states."""
    try:
        content = response.json()
        if response.is_success:
            return content
        error = content["error"]
    except (ValueError, KeyError, TypeError):
        said = " ".join(response.text.split())[:200]
        raise _kind(response)(
            f"HTTP {response.status_code}: the answer is not from a Manifold service: {said or 'an empty answer'}; check host and port of the address",
            status=response.status_code,
        ) from None
    raise _kind(response)(
        error["message"],
        status=response.status_code,
        type=error["type"],
        field=error.get("field"),
        valid=error.get("valid"),
        request_id=error.get("request_id", ""),
    )


def _kind(response: httpx.Response) -> type[ManifoldClientError]:
    return {429: Busy, 502: NotReady, 503: NotReady}.get(response.status_code, RequestRefused)


def streamed(line: str, response: httpx.Response) -> Sample | None:
    """Return an item of a stream, or None at its end. Raises the error that ended the stream."""
    content = json.loads(line)
    if "error" in content:
        error = content["error"]
        raise RequestRefused(
            error["message"],
            status=response.status_code,
            type=error["type"],
            field=error.get("field"),
            valid=None,
            request_id=error.get("request_id", ""),
        )
    return Sample.parse(content) if "item" in content else None


def checked_seconds(value: object, field: str, *, least: float | None = None) -> None:
    """Raise InvalidValue for a time that is not a finite number of seconds: above 0, or of `least` or more."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or (value <= 0 if least is None else value < least):  # type: ignore[arg-type, operator]
        wanted = "above 0" if least is None else f"of {least:g} or more"
        raise InvalidValue(f"{field}: {shown(value)} is not allowed; give a number of seconds {wanted}", field=field)


def checked_timeout(value: object) -> None:
    """Raise InvalidValue for a time limit that is not a number of seconds. None and an httpx.Timeout are allowed as httpx reads them."""
    if value is not None and not isinstance(value, httpx.Timeout):
        checked_seconds(value, "timeout")


def check_options(timeout: object, verify: object, retry: object, transport: object, needed: type) -> None:
    """Raise InvalidType or InvalidValue for wrong options of a client. `needed` is the class of its transports."""
    checked_timeout(timeout)
    if isinstance(verify, str):
        raise InvalidType(
            f"verify: {shown(verify)} is a string; give ssl.create_default_context(cafile={shown(verify)})",
            field="verify",
        )
    if not isinstance(verify, bool | ssl.SSLContext):
        raise InvalidType(f"verify: {shown(verify)} is not an SSL context; give one, or True or False", field="verify")
    if retry is not None and not isinstance(retry, Retry):
        number = isinstance(retry, int) and not isinstance(retry, bool) and retry > 0
        raise InvalidType(
            f"retry: {shown(retry)} is not a Retry; give Retry(attempts={retry if number else 3})", field="retry"
        )
    if transport is not None and not isinstance(transport, needed):
        raise InvalidType(
            f"transport: {shown(transport)} is not an httpx.{needed.__name__}; give one, or remove the argument",
            field="transport",
        )


def check_open(http: httpx.Client | httpx.AsyncClient) -> None:
    """Raise ClientClosed if a client was closed."""
    if http.is_closed:
        raise ClientClosed(
            "the client is closed; create a new one, or send requests within its `with` block and before close()"
        )


def headers(key: object) -> dict[str, str]:
    """Return the headers of every request: the key, by default that of the environment variable MANIFOLD_KEY."""
    if key is not None and not isinstance(key, str):
        raise InvalidType(
            f"key: a value of type {type(key).__name__} is not a string; give the key as a string", field="key"
        )
    source = "key" if key else "MANIFOLD_KEY"
    key = key or os.environ.get("MANIFOLD_KEY")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidValue(
            f"{source}: the key may only have visible ASCII characters, without blanks and line ends; give it as the service's operator wrote it",
            field="key",
        )
    return {"authorization": f"Bearer {key}"} if key else {}
