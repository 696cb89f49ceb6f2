"""The ports of the service, taken before anything is loaded: a port that cannot be had is one line and the end of the process."""

from __future__ import annotations

import contextlib
import errno
import socket

from manifold.service.settings import Settings, SettingsError

BACKLOG = 2048  # connections that wait to be taken
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # of an address that this machine lacks


def bound(settings: Settings) -> list[socket.socket]:
    """Return the sockets of HTTP, one an address of the host, listening. Raises SettingsError if the port cannot be had."""
    return _bind(settings.host, settings.port, "port")


def check_rpc(settings: Settings) -> None:
    """Raises SettingsError if gRPC's port cannot be had."""
    if settings.rpc_port:
        _close(_bind(settings.host, settings.rpc_port, "grpc_port"))


def reserved(settings: Settings) -> list[socket.socket]:
    """Return sockets that keep gRPC's port for workers, which share it; none if there is no gRPC.

    Raises SettingsError if the port cannot be had. It may not be shared with another service, which would be sent some of the calls.
    """
    if not settings.rpc_port:
        return []
    check_rpc(settings)
    return _bind(settings.host, settings.rpc_port, "grpc_port", shared=True)


def check_host(settings: Settings) -> None:
    """Raises SettingsError if the host is none of this machine's addresses."""
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
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"host: {host!r} is no address or name that this machine knows: {error}", field="host"
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
            made.listen(BACKLOG)  # now: two that only bind do not notice each other
    except BaseException:
        made.close()
        raise
    return made


def _refusal(host: str, port: int, field: str, error: OSError | None) -> SettingsError:
    where = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
    reasons = {
        errno.EADDRINUSE: "another process has it; stop that one or choose another port",
        errno.EACCES: "this user may not have it; choose a port from 1024 on",
        errno.EADDRNOTAVAIL: "it is no address of this machine",
    }
    number = error.errno if error is not None else None
    reason = reasons.get(number) if number is not None else None
    return SettingsError(f"{field}: {where} cannot be had: {reason or (error and error.strerror)}", field=field)
