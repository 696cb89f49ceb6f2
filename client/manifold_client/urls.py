"""The address of the service: checks before the first request, and errors that say why it does not answer."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from manifold_client.errors import InvalidType, InvalidValue, NotReady, short, shown

EXAMPLE = "http://127.0.0.1:8000"
# the first part of paths that the service has: an address that ends with one is the address of an endpoint
ROUTES = (
    "sample", "encode", "reconstruct", "interpolate", "anomaly-score", "classify", "impute", "models", "health", "metrics", "docs", "admin", "v2",
    "openapi.json",
)  # fmt: skip


def checked_url(url: object) -> str:
    """Return the address of the service. Raises InvalidValue if it is not one, with the address that was probably meant."""
    if not isinstance(url, str | httpx.URL):
        raise InvalidType(f"url: {shown(url)} is no text; write {EXAMPLE}", field="url")
    text = str(url).strip()
    if not text:
        raise InvalidValue(f"url: it is empty; write the address of the service, such as {EXAMPLE}", field="url")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidValue(f"url: {shown(text)} has no scheme; write http://{text.lstrip('/:')}", field="url")
    if scheme.lower() not in ("http", "https"):
        raise InvalidValue(
            f"url: {shown(text)} has the scheme {shown(scheme)}; write http://{rest} or https://{rest}", field="url"
        )
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 # raises ValueError for a port that is no number
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidValue(f"url: {shown(text)} is not valid: {error}; write {EXAMPLE}", field="url") from None
    if not parts.hostname:
        raise InvalidValue(f"url: {shown(text)} has no host; write {EXAMPLE}", field="url")
    root = f"{parts.scheme}://{parts.netloc}"
    if parts.query or parts.fragment:
        raise InvalidValue(f"url: {shown(text)} has a query; write the address alone: {root}", field="url")
    before, _, last = parts.path.rstrip("/").rpartition("/")
    if last in ROUTES or "/v2/" in parts.path or "/models/" in parts.path:
        raise InvalidValue(
            f"url: {shown(text)} is the address of an endpoint; write the address of the service: {root}{before if last in ROUTES else ''}",
            field="url",
        )
    return text


def unreachable(url: object, error: httpx.TransportError, timeout: object = None) -> NotReady:
    """Return the error for a service that does not answer: why, and what to do."""
    address = str(url).rstrip("/")
    return NotReady(f"{address} does not answer: {_reason(address, error, timeout)}")


def _reason(address: str, error: httpx.TransportError, timeout: object) -> str:
    causes = list(_causes(error))
    text = " ".join(map(str, causes))
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes) or "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate is not trusted; give verify=ssl.create_default_context(cafile=…) with the certificate of its issuer "
            f"({short(error)})"
        )
    if any(isinstance(each, ssl.SSLError) for each in causes) or "[SSL" in text:
        return f"the port does not speak TLS; write {address.replace('https://', 'http://', 1)} ({short(error)})"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout} s; give a longer timeout, such as Client(url, timeout=120)"
    if any(isinstance(each, socket.gaierror) for each in causes) or "Name or service not known" in text:
        return f"the host name is not known; check the address ({short(error)})"
    if isinstance(error, httpx.ConnectError):
        return f"{short(error)}; is the service running? Start it with `make serve` or `manifold serve`, or check host and port"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return f"{short(error)}; check the port: it must be the HTTP port, not that of gRPC, and with TLS the address starts with https://"
    return short(error)


def needs_no_retry(error: httpx.TransportError) -> bool:
    """Return whether another try would fail in the same way: TLS is misconfigured, or the host name is unknown."""
    return any(isinstance(each, ssl.SSLError | socket.gaierror) for each in _causes(error)) or "[SSL" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
