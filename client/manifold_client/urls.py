"""The address of the service: checks before the first request, and errors that say why it does not answer."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from manifold_client.errors import InvalidType, InvalidValue, NotReady, short, shown

EXAMPLE = "http://127.0.0.1:8000"
# paths of the service: an address that ends with one is the address of an endpoint
ROUTES = (
    "sample", "encode", "reconstruct", "interpolate", "anomaly-score", "classify", "impute", "models", "health", "metrics", "docs",
    "openapi.json",
)  # fmt: skip
# the reasons that OpenSSL states for an answer that is not TLS, such as plain HTTP; older versions of Python give a text for the last one
NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "record layer failure",
)
OPEN_INFERENCE = re.compile(r"/v2/(models|health|repository)(/|$)")
# the scheme of an address whose colon or slashes are missing or too many; a colon before a number is that of a port
SCHEME = re.compile(r"(https?)(?::/*|/{1,3})(?!\d*(?:/|$))(?=[^/])(.*)", re.IGNORECASE | re.DOTALL)
HOST = re.compile(
    r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE
)  # as sent, so that other alphabets are in Punycode
LONGEST_HOST = 253  # characters
FOLDERS = ("", ".", "..", "~", "models", "runs")  # the first folder of a path that is no address
# the scheme, a user and a password, and the host; the group of the user is greedy, as a password may contain slashes
USER = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*:/{1,2}|)(.*)@(.*)", re.DOTALL)


def checked_url(url: object) -> str:
    """Return the address of the service. Raises InvalidValue if it is not one, with the address that was probably meant."""
    if isinstance(url, os.PathLike):
        raise InvalidType(_folder_given(url), field="url")
    if not isinstance(url, str | httpx.URL):
        raise InvalidType(f"url: {shown(url)} is not a string; write {EXAMPLE}", field="url")
    text = str(url).strip()
    if not text:
        raise InvalidValue(f"url: it is empty; write the address of the service, such as {EXAMPLE}", field="url")
    said = public(text)
    scheme, separator, rest = said.partition("://")
    if scheme.lower() == "file" or (not separator and _is_path(text)):
        raise InvalidValue(_folder_given(said.removeprefix("file://") if separator else text), field="url")
    if found := SCHEME.fullmatch(said if not separator or rest.startswith("/") else ""):
        meant = f"{found[1].lower()}://{found[2].lstrip('/')}"
        raise InvalidValue(
            f"url: {shown(said)} does not begin with {found[1].lower()}:// and a host; write {meant}", field="url"
        )
    if not separator:
        raise InvalidValue(f"url: {shown(said)} has no scheme; write {_with_scheme(said)}", field="url")
    if scheme.lower() not in ("http", "https"):
        raise InvalidValue(
            f"url: {shown(said)} has the scheme {shown(scheme)}; write http://{rest} or https://{rest}", field="url"
        )
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        raise InvalidValue(
            f"url: {shown(said)} contains a blank or a control character; remove it, or write it as %20", field="url"
        )
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 # raises ValueError for a port that is not a number
        host = httpx.URL(text).raw_host.decode("ascii", "replace")
    except (ValueError, httpx.InvalidURL) as error:
        why = "" if said != text else f": {error}"  # the error could repeat a password
        raise InvalidValue(
            f"url: {shown(said)} is not valid{why}; write {_bracketed(scheme, rest)}", field="url"
        ) from None
    if not parts.hostname:
        raise InvalidValue(f"url: {shown(said)} has no host; write {EXAMPLE}", field="url")
    if ":" not in host and (not HOST.fullmatch(host) or len(host) > LONGEST_HOST):
        raise InvalidValue(
            f"url: {shown(said)} has the host {shown(parts.hostname)}, which is no name of a host; write one such as {EXAMPLE}",
            field="url",
        )
    root = public(f"{parts.scheme}://{parts.netloc}")
    if parts.query or parts.fragment:
        raise InvalidValue(f"url: {shown(said)} has a query; write the address alone: {root}", field="url")
    path = parts.path.rstrip("/")
    before, _, last = path.rpartition("/")
    inside = OPEN_INFERENCE.search(path)
    if last in ROUTES or inside:
        prefix = path[: inside.start()] if inside else before
        raise InvalidValue(
            f"url: {shown(said)} is the address of an endpoint; write the address of the service: {root}{prefix}",
            field="url",
        )
    return text


def public(url: object) -> str:
    """Return an address for messages: `***` stands for a user and a password."""
    text = str(url)
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.netloc and "@" not in parts.netloc and (parts.port is None or parts.port):
            return text  # an @ in the path is not a secret
    found = USER.fullmatch(text)
    return f"{found[1]}***@{found[3]}" if found else text


def _with_scheme(text: str) -> str:
    """Return the address that was probably meant by one without `://`."""
    with contextlib.suppress(ValueError):
        ipaddress.IPv6Address(text)
        return f"http://[{text}]"
    if text.partition(":")[0].lower() in ("http", "https") or len(text) > LONGEST_HOST:
        return EXAMPLE  # the host is missing, or the text is no address
    return f"http://{text.lstrip('/:')}"


def _is_path(text: str) -> bool:
    """Return whether a text without a scheme is the path of a file or folder, such as that of a model."""
    first, separator, _ = text.replace(os.sep, "/").partition("/")
    with contextlib.suppress(OSError, ValueError):  # such as a name that is too long
        return bool(separator) and (first in FOLDERS or Path(text).exists())
    return False


def _folder_given(path: str | os.PathLike[str]) -> str:
    """Return the message for a path instead of an address."""
    text = shown(os.fspath(path))
    return (
        f"url: {text} is a path; write the address of a running service, such as {EXAMPLE}, "
        f"or use the model without a service: manifold.load({text})"
    )


def _bracketed(scheme: str, rest: str) -> str:
    """Return the address with an IPv6 host in brackets, as it must be written; an example for other hosts."""
    host = rest.partition("/")[0]
    with contextlib.suppress(ValueError):
        ipaddress.IPv6Address(host)
        return f"{scheme}://[{host}]"
    return EXAMPLE


def unreachable(url: object, error: httpx.TransportError, timeout: object = None) -> NotReady:
    """Return the error for a service that does not answer: why, and what to do."""
    address = public(url).rstrip("/")
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
        if any(reason in text for reason in NOT_TLS):
            return f"the port does not speak TLS; write {address.replace('https://', 'http://', 1)} ({short(error)})"
        return (
            f"the TLS handshake failed ({short(error)}); check the versions of TLS and the certificates of both sides"
        )
    if isinstance(error, httpx.TimeoutException):
        within = f"{timeout} s" if isinstance(timeout, int | float) else "the timeout"
        return f"no answer within {within}; give a longer timeout, such as Client(url, timeout=120)"
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
