"""A worker process: one of several that act as one service. It has inherited sockets and a connection to the parent process.

The parent starts `python -m manifold.service.processes.worker LINE SOCKET ...` with the numbers of the inherited sockets, and sends the settings
over the line.
"""

from __future__ import annotations

from manifold.service.processes import early

if __name__ == "__main__":
    early.prepare()  # before the imports, which take a second

import base64
import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Iterable

from manifold.runtime.errors import InvalidValue, ManifoldError
from manifold.service.processes.cluster import Cluster
from manifold.service.processes.line import Line, Message
from manifold.service.server import WRONG, Server, build, within_files
from manifold.service.settings import Settings, SettingsError
from manifold.service.telemetry import logs

PR_SET_PDEATHSIG = 1


def work(
    settings: Settings, listening: list[socket.socket], line: Line, heard: list[Message], unloaded: Iterable[str]
) -> None:
    """Serve until a signal to stop, or until the parent process has ended. `heard` contains messages that arrived with the settings."""
    settings = within_files(settings)
    app = build(settings)
    registry, security, metrics = app.state.registry, app.state.security, app.state.metrics
    registry.unload_first(unloaded)
    server = Server(app, settings)

    async def load(name: str) -> None:
        await registry.refresh(name)

    async def reload(_: str) -> None:
        try:
            await security.reload_aside()
        except SettingsError as error:  # as an error that the other processes can name
            raise InvalidValue(f"{error.message}; the previous keys and certificate stay in force") from None

    async def page(_: str) -> str:
        return str((await metrics.page_aside()).decode())

    deeds = {"load": load, "unload": registry.unload, "keys": reload, "metrics": page}
    registry.cluster = server.cluster = Cluster(line, deeds, server.lose, settings.command_seconds, heard)
    server.serve_on(listening)


def first_messages(line: Line, end: socket.socket) -> list[Message]:
    """Return the parent's first messages. Raise SystemExit if the parent has ended."""
    while not line.closed:
        select.select([end], [], [])
        if messages := line.receive():
            return messages
    raise SystemExit(0)


def follow_parent(parent: int) -> None:
    """Let the system send this process a signal to stop when its parent ends. This works on Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)


def main() -> int:
    """Run a worker. Return the exit status."""
    numbers = [int(each) for each in sys.argv[1:]]
    end, *listening = (socket.socket(fileno=number) for number in numbers)
    line = Line(end)
    (_, parent, pickled, unloaded), *heard = first_messages(line, end)
    follow_parent(parent)
    settings: Settings = pickle.loads(base64.b64decode(pickled))  # sent by the parent process
    logs.start(settings.log_format)
    try:
        work(settings, listening, line, heard, unloaded)
    except ManifoldError as error:
        logs.refuse(error, settings.log_format)
        return WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
