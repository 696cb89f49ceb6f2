"""The rules for hosts and origins, for a service without API keys.

A browser sends requests for every page that it shows, also to loopback addresses. Two headers identify such requests. Host is the name in the
address of the page: a page whose name resolves to this machine (DNS rebinding) sends its own name, never localhost or an address of this
machine. Origin, or Sec-Fetch-Site if a browser omits Origin, names the page that sends the request.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from manifold.runtime.errors import Forbidden, Malformed, shown
from manifold.service.http.incoming import Incoming
from manifold.service.settings import Settings, is_loopback

ANY = "*"
KEPT = 256  # number of accepted values of Host that are remembered
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?")
FOREIGN = (b"cross-site", b"same-site")  # values of Sec-Fetch-Site for pages of other origins
SET_HOSTS = "add it to MANIFOLD_HOSTS, or use API keys (docs/explanation/security.md)"
SET_ORIGINS = "add the origin to MANIFOLD_CORS_ORIGINS, or use API keys (docs/explanation/security.md)"


class Origins:
    """The host names of the service, and the origins whose pages may send requests."""

    def __init__(self, settings: Settings) -> None:
        own = (*settings.hosts, settings.host, settings.published or settings.host)
        self.names = frozenset(name.lower().rstrip(".") for name in own)
        self.any_host = ANY in settings.hosts
        self.pages = frozenset(origin.lower().encode() for origin in settings.cors_origins)
        self.any_page = ANY in settings.cors_origins
        self._known: set[bytes] = set()

    def check(self, request: Incoming) -> None:
        """Raise Forbidden for a request to another host or from a page of another origin, and Malformed without a Host."""
        headers = request.headers
        host = headers.get(b"host")
        if host is None:
            raise Malformed("Host: is missing; send the header with the host of the request", field="Host")
        if host not in self._known and not self._is_known(host, request):
            raise Forbidden(f"Host: {_written(host)} is not a name of this service; {SET_HOSTS}", field="Host")
        if (origin := headers.get(b"origin")) is not None:
            self._check_origin(origin, host, request.scope["scheme"])
        elif headers.get(b"sec-fetch-site") in FOREIGN and not _is_a_visit(request):
            raise Forbidden(
                f"Sec-Fetch-Site: requests from pages of other origins are refused; {SET_ORIGINS}", field="Origin"
            )

    def _is_known(self, host: bytes, request: Incoming) -> bool:
        """Return whether a Host is a loopback name, a name in the settings, or the address to which the client connected."""
        if self.any_host:
            return True
        match = HOST.fullmatch(host.decode("latin-1").lower())
        if match is None:
            return False
        name = match[1].removesuffix(".")
        if name in self.names or is_loopback(name):
            if len(self._known) < KEPT:
                self._known.add(host)
            return True
        server = request.scope.get("server")
        return server is not None and (address := _address(name)) is not None and address == _address(server[0])

    def _check_origin(self, origin: bytes, host: bytes, scheme: str) -> None:
        """Raise Forbidden unless the page belongs to this service or to an origin in the settings."""
        origin = origin.lower()
        of_page, _, authority = origin.partition(b"://")
        own = of_page == b"https" or (
            of_page == b"http" and scheme == "http"
        )  # a proxy may end TLS before a service over http
        if (own and authority == host.lower()) or origin in self.pages or self.any_page:
            return
        raise Forbidden(f"Origin: requests from pages of {_written(origin)} are refused; {SET_ORIGINS}", field="Origin")


def _is_a_visit(request: Incoming) -> bool:
    """Return whether a person follows a link to this service. No page can read such a response."""
    headers = request.headers
    visits = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return visits and request.scope["method"] in ("GET", "HEAD")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address (IPv4 if it is mapped into IPv6), or None for a name."""
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _written(value: bytes) -> str:
    return shown(value.decode("latin-1"))
