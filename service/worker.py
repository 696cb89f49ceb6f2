"""One of several processes that serve as one: the service as it is alone, on a socket that it is given, with a line to its keeper."""

from __future__ import annotations

import os
import socket
from multiprocessing.connection import Connection

from runtime.errors import InvalidValue
from service.__main__ import Server, build, configure_log
from service.cluster import Cluster
from service.settings import Settings, SettingsError


def work(settings: Settings, listening: socket.socket, line: Connection, unloaded: tuple[str, ...]) -> None:
    """A worker's whole life. What the terminal says to the keeper's group, the keeper passes on."""
    os.setpgrp()
    configure_log(settings.log_format)
    app = build(settings)
    registry, security, metrics = app.state.registry, app.state.security, app.state.metrics
    registry.unload_first(unloaded)
    server = Server(app, settings)

    async def load(name: str) -> None:
        await registry.refresh(name)

    async def reload(_: str) -> None:
        try:
            await security.reload_aside()
        except SettingsError as error:  # by a name that the others know
            raise InvalidValue(f"{error.message}; what there was is kept") from None

    async def page(_: str) -> str:
        return str((await metrics.page_aside()).decode())

    def lost() -> None:
        server.should_exit = True  # who would keep it?

    deeds = {"load": load, "unload": registry.unload, "keys": reload, "metrics": page}
    registry.cluster = server.cluster = Cluster(line, deeds, lost)
    server.serve_on(listening)
