"""The servers of a process: checks before the start, ports, HTTP and gRPC on one event loop, and the end of the service."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import threading
import time
from socket import socket
from types import FrameType

import structlog
import uvicorn

from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, ManifoldError, shown
from manifold.runtime.graphs import backends
from manifold.service.http.app import create_app
from manifold.service.http.connections import Protocol, limited
from manifold.service.http.front import Front
from manifold.service.inference.rpc import InferenceServicer
from manifold.service.models.registry import Registry, check_sections
from manifold.service.processes import early, ports
from manifold.service.processes import keeper as workers
from manifold.service.processes.cluster import Cluster
from manifold.service.rpc.server import RpcServer
from manifold.service.rpc.servicer import Servicer
from manifold.service.security import Security
from manifold.service.settings import Settings, SettingsError, nearest
from manifold.service.telemetry import logs

log = structlog.get_logger()

KEEP_ALIVE = 75  # seconds: longer than load balancers keep idle connections, so that they close them first
GRACE = 2.0  # seconds beyond notice and drain, after which a process is ended
FILES = 40  # number of open files that a process needs beside its connections
LAST = 0.2  # shortest time for HTTP to end after gRPC, seconds
WRONG, NOT_STARTED = 2, 3  # exit statuses
SWITCH = 0.001  # longest time that a thread waits for the interpreter's lock after a run, seconds


class Server(uvicorn.Server):
    """The servers of HTTP and gRPC, on one event loop.

    After a signal to stop, the server reports not-ready immediately and accepts requests for `notice_seconds` more. Then the requests in flight
    get `drain_seconds` to end. A process that is still running `GRACE` seconds later is ended.
    """

    def __init__(self, app: Front, settings: Settings) -> None:
        registry, metrics, security = app.state.registry, app.state.metrics, app.state.security
        self.registry: Registry = registry
        self.security: Security = security
        self.settings, self.stop_at = settings, math.inf
        self.stops = 0  # signals to stop that were received
        self.stopping_since: float | None = None  # when the log reported the stop, on the monotonic clock
        self.reload_first = False  # SIGHUP came before the event loop
        self.own_process = False  # the process ends with the server, even if other threads run
        self.cluster: Cluster | None = None
        self._reloading: asyncio.Task[None] | None = None  # the event loop keeps only weak references to tasks
        self.loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            app, host=settings.host, port=settings.port, log_config=None, log_level="error", access_log=False, server_header=False, proxy_headers=False,
            ws="none", http=limited(settings, lambda reason: metrics.cut.labels(reason).inc()), timeout_keep_alive=KEEP_ALIVE, backlog=ports.BACKLOG,
            timeout_graceful_shutdown=round(settings.drain_seconds), ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
        )  # fmt: skip
        super().__init__(config)
        metrics.connections.set_function(lambda: len(self.server_state.connections))
        tracing = app.state.tracing
        use_cases = Servicer(app.state.handling, registry, metrics, settings, tracing)
        self.rpc = RpcServer(
            use_cases, InferenceServicer(app.state.inference, metrics, tracing), settings, security, app.intake
        )
        security.reloaded.append(self._renew)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Open the port of gRPC, serve HTTP, start to load models, then serve gRPC. The server does not start if a port is in use."""
        self.loop = asyncio.get_running_loop()
        if self.settings.rpc_port:
            try:
                self.rpc.open(self.settings.rpc_port)
            except RuntimeError as error:
                log.error("the gRPC port cannot be opened", port=self.settings.rpc_port, reason=str(error))
                self.should_exit = True
                return
        if self.cluster is not None:
            self.cluster.open()
        await super().startup(sockets)
        if self.reload_first:
            self._reload()
        if self.started and self.settings.rpc_port:
            await self.rpc.start()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept no more connections. End the calls of gRPC, then the requests of HTTP, then the models, all within `drain_seconds`."""
        began = time.monotonic()
        for server in self.servers:
            server.close()
        await self.rpc.stop(self.settings.drain_seconds)
        left = self.settings.drain_seconds - (time.monotonic() - began)
        self.config.timeout_graceful_shutdown = max(LAST, left)  # type: ignore[assignment]
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal that the signal thread (processes/early.py) does not receive."""
        self.heed(sig)

    def heed(self, number: int) -> None:
        """Handle a signal, in any thread. The first signal to stop starts the notice, the second ends it, the third ends all requests."""
        if number in early.RELOADING:
            self._reload_soon()
            return
        self.stops += 1
        self.registry.leaving = True
        notice, drain = self.settings.notice_seconds, self.settings.drain_seconds
        wait = notice if self.stops == 1 else 0.0
        self.stop_at = min(self.stop_at, time.monotonic() + wait)
        self.force_exit = self.stops > 2
        if self.own_process:
            _end_within(GRACE + (wait + drain if self.stops <= 2 else 0.0))

    def lose(self) -> None:
        """Stop without notice. The parent process has ended, and no process would restart this one."""
        self.stops = max(self.stops, 1)
        self.heed(early.STOPPING[0])

    def serve_on(self, listening: list[socket] | None = None) -> None:
        """Serve on the given sockets or on new ones, in the main thread. End the process if the server does not start."""
        self.own_process = early.prepared()
        if self.own_process:
            early.heed(self.heed)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again at its end
            self.run(listening)
        if self.stopping_since is not None and self.cluster is None:
            log.info("stopped", seconds=round(time.monotonic() - self.stopping_since, 1))
        if not self.started:
            sys.exit(WRONG if self.should_exit and not self.stops else NOT_STARTED)
        if not self.registry.drained:  # otherwise Python would wait for threads that do not end
            logs.drain()
            os._exit(0)

    def _reload_soon(self) -> None:
        """Ask the event loop to read keys and certificate again, now or once it runs."""
        if self.loop is None:
            self.reload_first = True
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._reload)

    def _reload(self) -> None:
        """Read keys and certificate again, after SIGHUP."""
        self._reloading = asyncio.get_running_loop().create_task(self._reload_now())

    async def _reload_now(self) -> None:
        try:
            await self.security.reload_aside()
        except ManifoldError as error:
            log.error("reload failed; the previous keys and certificate stay in force", reason=error.message)
        else:
            log.info("reloaded", keys=list(self.security.keys))

    def _renew(self) -> None:
        """Use the new certificate for connections from now on."""
        if self.config.ssl is not None and self.security.certificate is not None:
            self.config.ssl.load_cert_chain(self.security.certificate.path, self.security.certificate.key)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop. uvicorn calls this ten times a second. Once a second, connections and calls over a time limit are ended."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.look(now, 1.0)
            self.rpc.limits.look()
        if self.stops and self.stopping_since is None:  # here, because a signal handler must not wait for the log
            self.stopping_since = time.monotonic()
            if self.cluster is None:  # otherwise the parent process reports it
                log.info(
                    "stopping", notice_seconds=self.settings.notice_seconds, drain_seconds=self.settings.drain_seconds
                )
        stopping = await super().on_tick(counter) or time.monotonic() >= self.stop_at
        self.registry.stopped = self.registry.stopped or stopping
        return stopping


def _end_within(seconds: float) -> None:
    """End this process after `seconds`, even if its event loop or its threads are busy."""

    def end() -> None:
        log.warning("the process ended before all work was done")
        logs.drain()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def run(settings: Settings) -> None:
    """Serve until a signal to stop, then end the process. Its status is 2 if a setting or a port is wrong."""
    early.prepare()
    logs.start(settings.log_format)
    try:
        sys.exit(_serve(settings))
    except ManifoldError as error:
        logs.refuse(error, settings.log_format)
        sys.exit(WRONG)


def _serve(settings: Settings) -> int:
    """Open the ports, then serve in this process or in workers. Return the exit status."""
    check(settings)
    count = workers.allowed(settings)
    with contextlib.ExitStack() as held:
        listening = [held.enter_context(each) for each in ports.bound(settings)]
        if count > 1:
            for each in ports.reserved(settings):
                held.enter_context(each)
            return workers.Keeper(settings.model_copy(update={"workers": count}), listening).run()
        ports.check_rpc(settings)
        alone = within_files(settings.model_copy(update={"workers": 1}))
        Server(build(alone), alone).serve_on(listening)
        return 0


def build(settings: Settings) -> Front:
    """Return the application, and set up this process for it."""
    sys.setswitchinterval(SWITCH)
    app = create_app(settings)
    backends.import_ahead(entry.folder for entry in app.state.registry.entries.values())
    logs.silence_engine()
    return app


def within_files(settings: Settings) -> Settings:
    """Return the settings with at most as many connections as this process may open files. The limit is raised first, if permitted."""
    try:
        import resource
    except ImportError:  # not on Windows
        return settings
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    most = max(1, soft - FILES)
    if soft == resource.RLIM_INFINITY or most >= settings.max_connections:
        return settings
    tell = log.warning if most < settings.max_connections // 2 else log.info
    tell(
        "the limit of open files is low: more connections are refused", limit=soft, max_connections=most, requested=settings.max_connections,
        remedy=f"raise `ulimit -n` (LimitNOFILE, ulimits) to {settings.max_connections + FILES}, or lower MANIFOLD_MAX_CONNECTIONS",
    )  # fmt: skip
    return settings.model_copy(update={"max_connections": most})


def check(settings: Settings) -> str:
    """Return a line about the models and keys of the service. Raise ManifoldError if the service would not start or has no models."""
    security = Security(settings)
    workers.allowed(settings)
    ports.check_different(settings)
    ports.check_host(settings)
    listing = repository.survey(settings.models_dir)
    check_sections(settings, listing)
    names = sorted(listing.versions)
    if not names and not settings.watch_seconds:
        raise SettingsError(
            f"{settings.models_dir}: contains no models; set MANIFOLD_MODELS_DIR (MODELS for docker-compose.yml) to the folder of models"
        )
    if "default_model" in settings.model_fields_set and settings.default_model not in {
        *names,
        *listing.unreadable,
    }:  # the built-in default may be missing
        near = nearest(settings.default_model or "", names)
        raise SettingsError(
            f"default_model: there is no model {shown(settings.default_model)} in {settings.models_dir}{near}",
            valid=names,
        )
    keys = f"keys: {', '.join(security.keys)}" if security.needed else "no keys needed"
    return f"{len(names)} models: {', '.join(names)}; {keys}; {'TLS' if security.certificate else 'no TLS'}"


def survey(settings: Settings) -> str:
    """Return a line for each model that cannot be served, with the reason. Raise ArtifactError if none can.

    Manifests are read and checksums are verified. No graph is opened, so a model may still fail to load.
    """
    registry = Registry(settings)
    registry.verify()
    broken = [entry for entry in registry.shown if entry.state == "unavailable"]
    lines = [f"{entry.name} cannot be served: {entry.reason}" for entry in broken]
    if lines and len(broken) == len(registry.shown):
        raise ArtifactError("\n".join(lines))
    return "\n".join(lines)
