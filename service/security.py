"""Access control: API keys with their scopes and rates, and the certificate.

A key is a random token of 256 bits that its owner holds; here only its SHA-256 is kept, which is enough for what nobody can guess (a
password would need a slow hash). Keys are named, so that one can be taken away, and come from the environment and from a file, which is
read again when the service is told to (`Security.reload`). A rate is a token bucket that holds one second's requests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime.errors import Busy, Forbidden, Unauthorized
from manifold.service.aside import aside
from manifold.service.settings import Settings, SettingsError

SCOPES = ("infer", "admin")
NAME = "[A-Za-z0-9._-]{1,64}"
ENTRY = re.compile(rf"(?P<name>{NAME}):(?P<scopes>[a-z+]+):(?P<digest>[0-9a-f]{{64}})(:(?P<rate>\d+(\.\d+)?))?")
SHAPE = "NAME:SCOPES:SHA256[:RATE], as `manifold key NAME` prints it"
HOW = "send the header Authorization: Bearer KEY; `manifold key NAME` makes one"


@dataclass(frozen=True)
class Key:
    """Record of an API key."""

    name: str
    scopes: frozenset[str]
    digest: bytes  # SHA-256 of the token
    rate: float  # requests/s; 0: no limit

    @property
    def id(self) -> str:
        """The first eight digits of the hash, by which /metrics counts: it tells keys apart and names nobody."""
        return self.digest.hex()[:8]

    def __str__(self) -> str:
        """Its entry in a file of keys."""
        scopes = "+".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.name}:{scopes}:{self.digest.hex()}" + (f":{self.rate:g}" if self.rate else "")


def create(name: str, scopes: Iterable[str], rate: float = 0) -> tuple[str, Key]:
    """A new token, which is nowhere kept, and its key. Raises SettingsError for a name or scope that cannot be."""
    if not re.fullmatch(NAME, name):
        raise SettingsError(f"name: {name!r} is to be letters, digits, dots and dashes, 64 at most", field="name")
    token = f"mf_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{'+'.join(scopes)}:{_digest(token).hex()}" + (f":{rate:g}" if rate else "")
    return token, parse(entry)[0]


def parse(text: str, where: str = "keys", rate: float = 0) -> list[Key]:
    """Keys as they are written down: one a word; lines that begin with # are comments. `rate` is for those that state none."""
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    return [_entry(word, f"{where}, entry {number}", rate) for number, word in enumerate(words, start=1)]


def _entry(word: str, where: str, rate: float) -> Key:
    match = ENTRY.fullmatch(word)
    if match is None:  # what it holds stays unsaid: it may be a token, put there by mistake
        raise SettingsError(f"{where}: cannot be read; it is to be {SHAPE}", field="keys")
    scopes = match["scopes"].split("+")
    if unknown := set(scopes) - set(SCOPES):
        raise SettingsError(f"{where}: unknown scope {min(unknown)!r}; valid are {', '.join(SCOPES)}", field="keys")
    return Key(match["name"], frozenset(scopes), bytes.fromhex(match["digest"]), float(match["rate"] or rate))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def read(settings: Settings) -> dict[str, Key]:
    """The keys by name. Raises SettingsError for an entry that is wrong, a name or a token that is there twice, or none where keys are needed."""
    entries = parse(settings.keys, "MANIFOLD_KEYS", settings.rate)
    if settings.keys_file is not None:
        try:
            text = settings.keys_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"keys_file: {settings.keys_file} cannot be read: {error}", field="keys_file") from None
        entries += parse(text, str(settings.keys_file), settings.rate)
    keys: dict[str, Key] = {}
    for key in entries:
        if key.name in keys:
            raise SettingsError(f"keys: there are two keys called {key.name!r}", field="keys")
        keys[key.name] = key
    if len({key.digest for key in entries}) < len(entries):
        raise SettingsError("keys: one token stands under two names; make one for each", field="keys")
    if settings.authenticated and not keys:
        where = settings.published or settings.host
        why = "auth=on asks for them" if settings.auth == "on" else f"{where} is reached from beyond this machine"
        raise SettingsError(
            f"keys: there are none, and {why}: make one with `manifold key NAME` and set MANIFOLD_KEYS or MANIFOLD_KEYS_FILE; "
            "or set MANIFOLD_AUTH=off, where everybody who can reach the port may ask",
            field="keys",
        )
    return keys


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain, and its key: PEM files, read anew for whoever asks."""

    path: Path
    key: Path

    def check(self) -> None:
        """Raises SettingsError where a server could not use it."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.path, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"tls_certificate: {self.path} with {self.key} cannot be used: {error.strerror or error}",
                field="tls_certificate",
            ) from None

    def pair(self) -> tuple[bytes, bytes]:
        """The key and the certificate, as gRPC takes them."""
        return self.key.read_bytes(), self.path.read_bytes()


class TokenBucket:
    """Token bucket: the requests that are left of a rate."""

    __slots__ = ("at", "left")

    def __init__(self, rate: float, now: float) -> None:
        self.left, self.at = max(1.0, rate), now

    def take(self, rate: float, now: float) -> float:
        """Takes one and returns 0, or the seconds after which there is one."""
        self.left = min(max(1.0, rate), self.left + (now - self.at) * rate)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) / rate


class Security:
    """The keys of a service."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.needed = settings, settings.authenticated
        self.keys: Mapping[str, Key] = read(settings)
        self._buckets: dict[str, TokenBucket] = {}
        self.certificate: Certificate | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certificate = Certificate(settings.tls_certificate, settings.tls_key)
            self.certificate.check()
        self.reloaded: list[Callable[[], None]] = []  # hear of a new certificate

    def reload(self) -> None:
        """Reads the file of keys and the certificate again. Raises SettingsError where one is wrong, and keeps what there was."""
        self._use(self._read())

    async def reload_aside(self) -> None:
        """Do as `reload` does, but read the files off the event loop: their disk may be slow."""
        self._use(await aside(self._read, pool="disk"))

    def _read(self) -> dict[str, Key]:
        keys = read(self.settings)
        if self.certificate is not None:
            self.certificate.check()
        return keys

    def _use(self, keys: dict[str, Key]) -> None:
        self.keys = keys
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in keys}
        for hear in self.reloaded:
            hear()

    def check(self, authorization: str | None, scope: str) -> Key:
        """The key behind an Authorization header. Raises Unauthorized, Forbidden, or Busy where its rate is used up."""
        kind, _, token = (authorization or "").partition(" ")
        if not authorization:
            raise Unauthorized(f"Authorization: a key is needed; {HOW}", field="Authorization")
        if kind.lower() != "bearer" or not token.strip():
            raise Unauthorized(f"Authorization: not a Bearer token; {HOW}", field="Authorization")
        digest, matched = _digest(token.strip()), None
        for key in self.keys.values():  # all of them, however early one is found: the time says nothing
            if hmac.compare_digest(key.digest, digest):
                matched = key
        if matched is None:
            raise Unauthorized(f"Authorization: there is no such key; {HOW}", field="Authorization")
        if scope not in matched.scopes:
            raise Forbidden(
                f"Authorization: the key {matched.name} has no scope {scope}, which this needs",
                field="Authorization", valid=sorted(matched.scopes),
            )  # fmt: skip
        self._spend(matched)
        return matched

    def _spend(self, key: Key) -> None:
        rate = key.rate / self.settings.workers  # each has its share of the requests
        if not rate:
            return
        now = time.monotonic()
        if key.name not in self._buckets:
            self._buckets[key.name] = TokenBucket(rate, now)
        wait = self._buckets[key.name].take(rate, now)
        if wait:
            raise Busy(f"the key {key.name} may ask {key.rate:g} times a second", retry_after=wait, reason="rate")
