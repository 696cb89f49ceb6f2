"""The ports of the service. They are opened before anything is loaded: if a port is not available, the process ends with one line."""

from __future__ import annotations

import contextlib
import errno
import socket

from manifold.runtime.errors import shown
from manifold.service.settings import PREFIX, Settings, SettingsError

BACKLOG = 2048  # connections that wait to be accepted
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # error numbers for an address that this machine does not have


def bound(settings: Settings) -> list[socket.socket]:
    """Return listening sockets for HTTP, one for each address of the host. Raise SettingsError if the port is not available."""
    check_different(settings)
    return _bind(settings.host, settings.port, "port")


def check_rpc(settings: Settings) -> None:
    """Raise SettingsError if the gRPC port is not available."""
    if settings.rpc_port:
        _close(_bind(settings.host, settings.rpc_port, "grpc_port"))


def reserved(settings: Settings) -> list[socket.socket]:
    """Return sockets that reserve the gRPC port for the workers, which share it; none if gRPC is off.

    Raise SettingsError if the port is not available. It must not be shared with another service, which would receive some of the calls.
    """
    if not settings.rpc_port:
        return []
    check_rpc(settings)
    return _bind(settings.host, settings.rpc_port, "grpc_port", shared=True)


def check_host(settings: Settings) -> None:
    """Raise SettingsError if the host is not an address of this machine."""
    _close(_bind(settings.host, 0, "host"))


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _bind(host: str, port: int, field: str, *, shared: bool = False) -> list[socket.socket]:
    """Return a socket for each address of the host. `shared` ones do not listen."""
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    with contextlib.ExitStack() as undo:
        undo.callback(_close, sockets)
        for family, address in _addresses(host, port, field):
            try:
                sockets.append(_socket(family, address, shared))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise _refusal(host, port, field, error) from None
                absent = error
        if not sockets:
            raise _refusal(host, port, field, absent)
        undo.pop_all()
    return sockets


def _addresses(host: str, port: int, field: str) -> list[tuple[int, tuple[object, ...]]]:
    name = host.strip("[]")
    try:
        infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingsError(
            f"host: {shown(host)} is not a known address or name; use an address of this machine, such as 127.0.0.1",
            field="host",
        ) from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in infos))


def _socket(family: int, address: tuple[object, ...], shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        if not shared:
            made.listen(BACKLOG)  # listen now: two sockets that are only bound do not notice each other
    except BaseException:
        made.close()
        raise
    return made


def _refusal(host: str, port: int, field: str, error: OSError | None) -> SettingsError:
    where = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
    reasons = {
        errno.EADDRINUSE: f"another process uses it; stop that process, or choose another port ({_ways(field)})",
        errno.EACCES: f"this user may not use it; choose a port of 1024 or higher ({_ways(field)})",
    }
    number = error.errno if error is not None else None
    if number in ABSENT:
        text = f"{shown(host)} is not an address of this machine; choose another host ({_ways('host')})"
        return SettingsError(f"host: {text}", field="host")
    reason = reasons.get(number) if number is not None else None
    return SettingsError(f"{field}: {where} is not available: {reason or (error and error.strerror)}", field=field)


def _ways(field: str) -> str:
    """Return the ways to set a port or the host: the option, the variable, and the variable of make."""
    option, name = field.replace("_", "-"), field.upper()
    return f"--{option}, {PREFIX}{name}, or make serve {name}=..."


def check_different(settings: Settings) -> None:
    """Raise SettingsError if HTTP and gRPC have the same port."""
    if settings.port and settings.rpc_port == settings.port:
        raise SettingsError(
            f"grpc_port: {settings.port} is also the port of HTTP; choose another port for gRPC ({_ways('grpc_port')})",
            field="grpc_port",
        )
