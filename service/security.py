"""Access control: API keys with their scopes and rates, and the TLS certificate.

A key is a random token of 256 bits, which only its owner stores. The service stores its SHA-256 hash, which is safe because the token cannot be
guessed (a password would need a slow hash). Keys have names, so that each can be removed. They come from the environment and from a file, which
`Security.reload` reads again. A rate is a token bucket with the requests of one second.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime.errors import Busy, Forbidden, Unauthorized, shown
from manifold.service.aside import aside
from manifold.service.settings import Settings, SettingsError

SCOPES = ("infer", "admin")
NAME = "[A-Za-z0-9._-]{1,64}"
ENTRY = re.compile(rf"(?P<name>{NAME}):(?P<scopes>[a-z+]+):(?P<digest>[0-9a-f]{{64}})(:(?P<rate>\d+(\.\d+)?))?")
SHAPE = "NAME:SCOPES:SHA256[:RATE], as `manifold key NAME` prints it"
HOW = "send the header Authorization: Bearer KEY; `manifold key NAME` makes one"


@dataclass(frozen=True)
class Key:
    """An API key, without its token."""

    name: str
    scopes: frozenset[str]
    digest: bytes  # SHA-256 of the token
    rate: float  # requests/s; 0: no limit

    @property
    def id(self) -> str:
        """The first eight digits of the hash: the label of the key in /metrics, which reveals no name."""
        return self.digest.hex()[:8]

    def __str__(self) -> str:
        """Return the entry of the key in a file of keys."""
        scopes = "+".join(scope for scope in SCOPES if scope in self.scopes)
        return f"{self.name}:{scopes}:{self.digest.hex()}" + (f":{self.rate:g}" if self.rate else "")


def create(name: str, scopes: Iterable[str], rate: float = 0) -> tuple[str, Key]:
    """Return a new token, which is not stored, and its key. Raise SettingsError for an invalid name or scope."""
    if not re.fullmatch(NAME, name):
        raise SettingsError(
            f"name: {shown(name)} is not valid; use at most 64 letters, digits, dots, dashes and underscores",
            field="name",
        )
    token = f"mf_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{'+'.join(scopes)}:{_digest(token).hex()}" + (f":{rate:g}" if rate else "")
    return token, parse(entry)[0]


def parse(text: str, where: str = "keys", rate: float = 0) -> list[Key]:
    """Return the keys in a text: entries separated by spaces or line breaks. Lines that start with # are comments. `rate` is the default rate."""
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    return [_entry(word, f"{where}, entry {number}", rate) for number, word in enumerate(words, start=1)]


def _entry(word: str, where: str, rate: float) -> Key:
    match = ENTRY.fullmatch(word)
    if match is None:  # the entry is not repeated: it may be a token, by mistake
        raise SettingsError(f"{where}: is not a valid entry; write {SHAPE}", field="keys")
    scopes = match["scopes"].split("+")
    if unknown := set(scopes) - set(SCOPES):
        raise SettingsError(f"{where}: unknown scope {shown(min(unknown))}; use {' or '.join(SCOPES)}", field="keys")
    return Key(match["name"], frozenset(scopes), bytes.fromhex(match["digest"]), float(match["rate"] or rate))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def read(settings: Settings) -> dict[str, Key]:
    """Return the keys by name. Raise SettingsError for a wrong entry, a repeated name or token, or no keys if keys are required."""
    entries = parse(settings.keys, "MANIFOLD_KEYS", settings.rate)
    if settings.keys_file is not None:
        try:
            text = settings.keys_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"keys_file: {settings.keys_file} cannot be read: {getattr(error, 'strerror', None) or 'it is not a text in UTF-8'}; correct "
                "MANIFOLD_KEYS_FILE, or write the file with `manifold key NAME --file FILE`",
                field="keys_file",
            ) from None
        entries += parse(text, str(settings.keys_file), settings.rate)
    keys: dict[str, Key] = {}
    for key in entries:
        if key.name in keys:
            raise SettingsError(f"keys: two keys have the name {key.name!r}; rename or remove one", field="keys")
        keys[key.name] = key
    if len({key.digest for key in entries}) < len(entries):
        raise SettingsError(
            "keys: two names have the same token; make a token for each with `manifold key NAME`", field="keys"
        )
    if settings.authenticated and not keys:
        where = settings.published or settings.host
        why = "auth=on requires them" if settings.auth == "on" else f"other machines can reach {where}"
        raise SettingsError(
            f"keys: there are no API keys, but {why}; make one with `manifold key NAME` and set MANIFOLD_KEYS or MANIFOLD_KEYS_FILE, "
            "or set MANIFOLD_AUTH=off if every client that can reach the port may send requests",
            field="keys",
        )
    return keys


@dataclass(frozen=True)
class Certificate:
    """A TLS certificate with its chain, and its key: PEM files, which are read again on every use."""

    path: Path
    key: Path

    def check(self) -> None:
        """Raise SettingsError if a server could not use it."""
        for name, path in (("tls_certificate", self.path), ("tls_key", self.key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise SettingsError(
                    f"{name}: {path} cannot be read: {error.strerror}; check the path and its permissions", field=name
                ) from None
        try:
            # the password, which is wrong, is there because OpenSSL asks on the terminal otherwise
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.path, self.key, password="")
        except OSError as error:  # ssl.SSLError is one
            mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
            why = (
                "the key is not that of the certificate"
                if mismatch
                else "one of them is not a valid PEM file, or the key has a password"
            )
            raise SettingsError(
                f"tls_certificate: {self.path} with the key {self.key} cannot be used: {why}; give a certificate and its key without password, "
                "as PEM files",
                field="tls_certificate",
            ) from None

    def pair(self) -> tuple[bytes, bytes]:
        """Return the key and the certificate as bytes, for gRPC."""
        return self.key.read_bytes(), self.path.read_bytes()


class TokenBucket:
    """A token bucket: the number of requests that a rate still allows."""

    __slots__ = ("at", "left")

    def __init__(self, rate: float, now: float) -> None:
        self.left, self.at = max(1.0, rate), now

    def take(self, rate: float, now: float) -> float:
        """Take one request and return 0, or return the seconds until the next request is allowed."""
        self.left = min(max(1.0, rate), self.left + (now - self.at) * rate)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) / rate


class Security:
    """The API keys and the certificate of a service."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.needed = settings, settings.authenticated
        self.keys: Mapping[str, Key] = read(settings)
        self._buckets: dict[str, TokenBucket] = {}
        self.certificate: Certificate | None = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certificate = Certificate(settings.tls_certificate, settings.tls_key)
            self.certificate.check()
        self.reloaded: list[Callable[[], None]] = []  # called after a reload, such as to use a new certificate

    def reload(self) -> None:
        """Read the file of keys and the certificate again. If one is wrong, raise SettingsError and keep the previous ones."""
        self._use(self._read())

    async def reload_aside(self) -> None:
        """Do the same as `reload`, but read the files off the event loop, because their disk may be slow."""
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
        """Return the key of an Authorization header. Raise Unauthorized, Forbidden, or Busy if its rate is used up."""
        kind, _, token = (authorization or "").partition(" ")
        if not authorization:
            raise Unauthorized(f"Authorization: an API key is needed; {HOW}", field="Authorization")
        if kind.lower() != "bearer" or not token.strip():
            raise Unauthorized(f"Authorization: the header is not a Bearer token; {HOW}", field="Authorization")
        digest, matched = _digest(token.strip()), None
        for key in self.keys.values():  # compare with all keys even after a match, so that the time reveals nothing
            if hmac.compare_digest(key.digest, digest):
                matched = key
        if matched is None:
            raise Unauthorized(f"Authorization: the API key is unknown; {HOW}", field="Authorization")
        if scope not in matched.scopes:
            raise Forbidden(
                f"Authorization: the key {matched.name} has no scope {scope}, which this route needs; use a key that has it",
                field="Authorization", valid=[scope],
            )  # fmt: skip
        self._spend(matched)
        return matched

    def _spend(self, key: Key) -> None:
        rate = key.rate / self.settings.workers  # each worker receives its share of the requests
        if not rate:
            return
        now = time.monotonic()
        if key.name not in self._buckets:
            self._buckets[key.name] = TokenBucket(rate, now)
        wait = self._buckets[key.name].take(rate, now)
        if wait:
            raise Busy(
                f"rate: the key {key.name} may send {key.rate:g} requests/s. Retry after {math.ceil(wait)} s.",
                retry_after=wait,
                reason="rate",
            )
