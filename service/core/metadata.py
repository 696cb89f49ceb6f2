"""The metadata of a request (headers over HTTP): names that may occur only once, request ids, and signs of proxies and web pages."""

from __future__ import annotations

import itertools
import re
import secrets

# headers that may occur only once: of two values, another program might read the other one
SINGLE = frozenset({
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"inference-header-content-length", b"origin",
    b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"transfer-encoding", b"x-deadline-ms", b"x-request-id",
})  # fmt: skip
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # the ids of clients that are kept
# headers that proxies add, and browsers for a web page: the request then comes from another client than the connection
FORWARDED = frozenset({
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via", "origin", "sec-fetch-site",
})  # fmt: skip
NO_ADMIN = (
    "Authorization: without API keys, admin routes are off; use a key with the scope admin, or set MANIFOLD_TRUST_LOOPBACK=true "
    "if every user of this machine may use them (docs/explanation/security.md)"
)

_PREFIX, _COUNT = secrets.token_hex(8), itertools.count(secrets.randbelow(2**40))


def new_id() -> str:
    """Return a new request id: a random prefix of this process, and a count."""
    return f"{_PREFIX}{next(_COUNT):016x}"
