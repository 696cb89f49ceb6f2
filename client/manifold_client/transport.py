"""The parts of both clients that neither wait nor await: rules for retries, headers, and the reading of answers."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from typing import Any

import httpx

from manifold_client.errors import Busy, ManifoldClientError, NotReady, RequestRefused
from manifold_client.results import Sample

RETRIED = (429, 502, 503)  # a load balancer answers 502 if its replica has gone away
# no answer came: the request can be repeated, as no request changes anything on the service
LOST = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
STREAM = {"accept": "application/x-ndjson"}


@dataclass(frozen=True)
class Retry:
    """The rule for retries: exponential back-off with jitter, or the service's Retry-After if that is longer."""

    attempts: int = 5
    base: float = 0.2  # seconds
    longest: float = 10.0

    def wait(self, attempt: int, response: httpx.Response | None) -> float:
        """Return the seconds to wait after an attempt, the first of which is 0."""
        stated = response.headers.get("retry-after", "") if response is not None else ""
        backoff = random.uniform(0.5, 1.0) * self.base * 2.0**attempt
        return min(self.longest, max(backoff, float(stated) if stated.isdecimal() else 0.0))


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


def headers(key: str | None) -> dict[str, str]:
    """Return the headers of every request: the key, by default that of the environment variable MANIFOLD_KEY."""
    key = key or os.environ.get("MANIFOLD_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}
