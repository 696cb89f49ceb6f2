"""The service with its sockets, in this process."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from manifold.service.http.app import create_app
from manifold.service.models.batcher import Batcher
from manifold.service.models.registry import Registry
from manifold.service.server import Server
from manifold.service.settings import Settings


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition that another thread or process makes true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def free_port() -> int:
    """Return a port of loopback that is free, and after which another one is free, as the service uses it for gRPC by default.

    Two calls never return the same port, also in two processes of one run of the tests. The ports are below those that systems give to
    outgoing connections (32768 and above on Linux), so that no connection takes one before its server starts.
    """
    return next(port for port in _ports if all(_is_free(each) for each in (port, port + 1)))


def _is_free(port: int) -> bool:
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError:  # a program that is not part of the tests uses it
            return False
        return True


def _own_ports() -> Iterator[int]:
    """Yield every second port of this process, each once, in random order. Every process of one run of the tests has others."""
    place, count = (
        int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]),
        int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
    )
    ports = list(PORTS)[place::count]
    random.SystemRandom().shuffle(ports)
    yield from ports


PORTS = range(20_000, 32_000, 2)
_ports = _own_ports()


def answers(url: str) -> bool:
    """Return whether something answers there with 200."""
    try:
        return httpx.get(url, verify=False).status_code == 200
    except httpx.TransportError:
        return False


class Served:
    """The service `python -m manifold.service` on ports of loopback."""

    def __init__(self, root: Path, *, grpc: bool = False, **options: Any) -> None:
        for _ in range(3):  # another process may have taken gRPC's port meanwhile
            self._start(root, {**options, "grpc_port": free_port() if grpc else 0})
            if self.server.started:
                break
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.target = f"127.0.0.1:{self.server.rpc.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _start(self, root: Path, options: dict[str, Any]) -> None:
        settings = Settings(models_dir=root, device="cpu", **{"port": 0, "drain_seconds": 30, **options})
        app = self.app = create_app(settings)
        self.registry: Registry = app.state.registry
        self.server = Server(app, settings)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until(lambda: not self.thread.is_alive() or (self._listens() and not self._loading()), 240)

    def _listens(self) -> bool:
        """Return whether the service listens on both ports. gRPC's port, if there is one, opens after HTTP's."""
        return self.server.started and bool(self.server.rpc.port or not self.registry.settings.rpc_port)

    def _loading(self) -> bool:
        return "loading" in {entry.state for entry in self.registry.shown}

    @property
    def batcher(self) -> Batcher:
        """The batcher of the model `foreign`."""
        batcher = self.registry.entries["foreign", 1].batcher
        assert batcher is not None
        return batcher

    def post(self, body: dict[str, Any], **headers: str) -> socket.socket:
        """Send a request whose answer is read later, or never."""
        content = json.dumps(body).encode()
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST /sample HTTP/1.1\r\nHost: here\r\nContent-Length: {len(content)}\r\n{''.join(lines)}\r\n"
        connection.sendall(head.encode() + content)
        return connection

    def metric(self, pattern: str) -> float:
        """Return a number of /metrics, or 0 if absent."""
        found = re.search(pattern + r" ([\d.e+-]+)", httpx.get(f"{self.url}/metrics").text)
        return float(found.group(1)) if found else 0.0

    def cuts(self, reason: str) -> float:
        """Return the number of connections and calls that were ended for this reason."""
        return self.metric(rf'manifold_connections_cut_total\{{reason="{reason}"\}}')


@contextmanager
def served(root: Path, **options: Any) -> Iterator[Served]:
    """Yield a service that ends with the block."""
    service = Served(root, **{"default_model": "foreign", **options})
    try:
        yield service
    finally:
        service.client.close()
        service.server.should_exit = True
        service.thread.join(60)
        assert not service.thread.is_alive()
