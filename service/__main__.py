"""`python -m service`: reads the settings once and runs the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import sys
import threading
import time
from socket import socket
from types import FrameType

import structlog
import uvicorn

from runtime import backends, repository
from runtime.errors import ManifoldError
from service import rpc, workers
from service import settings as settings_module
from service.asgi import Front
from service.cluster import Cluster
from service.connections import Protocol, limited
from service.inference import rpc as inference
from service.registry import Registry, check_sections
from service.rest import create_app
from service.security import Security
from service.settings import Settings, SettingsError, nearest

log = structlog.get_logger()

KEEP_ALIVE = (
    75  # seconds: longer than load balancers keep a connection that is idle, which must not be closed under them
)
BACKLOG = 2048  # connections that wait to be taken
SWITCH = 0.001  # seconds: how long a worker whose run has ended waits for the interpreter's lock at most


class Server(uvicorn.Server):
    """Told to stop, it is first not ready, then, `notice_seconds` later, takes no more, and ends when what it has is answered."""

    def __init__(self, app: Front, settings: Settings) -> None:
        registry, metrics, security = app.state.registry, app.state.metrics, app.state.security
        self.registry: Registry = registry
        self.security: Security = security
        self.settings, self.stop_at = settings, math.inf
        self.cluster: Cluster | None = None
        config = uvicorn.Config(
            app, host=settings.host, port=settings.port, log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none",
            http=limited(settings, lambda reason: metrics.cut.labels(reason).inc()), timeout_keep_alive=KEEP_ALIVE, backlog=BACKLOG,
            timeout_graceful_shutdown=round(settings.drain_seconds), ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
        )  # fmt: skip
        super().__init__(config)
        metrics.connections.set_function(lambda: len(self.server_state.connections))
        tracing = app.state.tracing
        use_cases = rpc.Servicer(app.state.handlers, registry, metrics, settings, tracing)
        self.rpc = rpc.Server(use_cases, inference.Servicer(app.state.inference, metrics, tracing), settings, security)
        security.reloaded.append(self._renew)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """HTTP, then gRPC. Ends the process where a port cannot be had."""
        await super().startup(sockets)
        if self.cluster is not None:
            self.cluster.open()
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.started and self.settings.rpc_port:
            try:
                await self.rpc.start(self.settings.rpc_port)
            except RuntimeError as error:
                log.error("gRPC cannot listen", port=self.settings.rpc_port, reason=str(error))
                self.started, self.should_exit = False, True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Takes nothing more, ends what gRPC has, then what HTTP has, then the models."""
        for server in self.servers:
            server.close()
        await self.rpc.stop(self.settings.drain_seconds)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end; another one cuts the notice short, and a third one does not wait for requests."""
        if self.registry.leaving:
            super().handle_exit(sig, frame)
            return
        self.registry.leaving = True
        self.stop_at = time.monotonic() + self.settings.notice_seconds

    def serve_on(self, listening: socket | None = None) -> None:
        """Serves, on a socket that is given or on its own. Ends the process where it cannot."""
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            self.run(None if listening is None else [listening])
        if not self.started:
            sys.exit(3)  # uvicorn has said why, a port in use for instance

    def _reload(self) -> None:
        """SIGHUP: keys and certificate are read again."""
        try:
            self.security.reload()
        except ManifoldError as error:
            log.error("not reloaded, what there was is kept", reason=error.message)
        else:
            log.info("reloaded", keys=list(self.security.keys))

    def _renew(self) -> None:
        """A new certificate, for connections from now on."""
        if self.config.ssl is not None and self.security.certificate is not None:
            self.config.ssl.load_cert_chain(self.security.certificate.path, self.security.certificate.key)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop. Once a second: which connections only wait."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.look(now, 1.0)
        stopping = await super().on_tick(counter) or time.monotonic() >= self.stop_at
        self.registry.stopped = self.registry.stopped or stopping
        return stopping


def run(settings: Settings) -> None:
    """Serves until told to stop; requests in flight get `drain_seconds` to end."""
    configure_log(settings.log_format)
    count = workers.allowed(settings)
    if count > 1:
        from service.worker import work

        check(settings)  # what every worker would stumble over
        sys.exit(workers.Keeper(settings, work).run())
    alone = settings.model_copy(update={"workers": 1})
    Server(build(alone), alone).serve_on()


def build(settings: Settings) -> Front:
    """The application, and this process made ready for it."""
    sys.setswitchinterval(SWITCH)
    _allow_files()
    app = create_app(settings)
    backends.import_ahead(entry.folder for entry in app.state.registry.entries.values())
    return app


def _allow_files() -> None:
    """As many connections as the system lets a process have: many have a low limit that may be raised."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def configure_log(style: str) -> None:
    """Structured lines on stderr, as JSON or for people."""
    logging.getLogger("python_multipart").setLevel(
        logging.CRITICAL
    )  # it says what clients do wrong; so does the answer
    plain = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )  # never with local variables: they hold what clients sent
    rendered = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()] if style == "json" else [plain]
    )
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def check(settings: Settings) -> str:
    """What would be served, and to whom. Raises ManifoldError where the service would not start, or would have nothing to serve."""
    security = Security(settings)
    there = repository.survey(settings.models_dir)
    check_sections(settings, there)
    names = sorted(there.versions)
    if not names:
        raise SettingsError(
            f"{settings.models_dir}: holds no models; MANIFOLD_MODELS_DIR (MODELS of docker-compose.yml) names the folder of models"
        )
    if "default_model" in settings.model_fields_set and settings.default_model not in {
        *names,
        *there.unreadable,
    }:  # the default's default may be missing
        near = nearest(settings.default_model or "", names)
        raise SettingsError(
            f"default_model: there is no {settings.default_model!r} in {settings.models_dir}{near}", valid=names
        )
    keys = f"keys: {', '.join(security.keys)}" if security.needed else "no keys asked for"
    aside = "".join(f"; {name} cannot be served: {reason}" for name, reason in there.unreadable.items())
    return f"{len(names)} models: {', '.join(names)}{aside}; {keys}; {'TLS' if security.certificate else 'no TLS'}"


def main() -> int:
    """The entry point: a wrong setting is one clear line and exit status 2. With --check, nothing is served."""
    try:
        settings = settings_module.read()
        if sys.argv[1:] == ["--check"]:
            print(check(settings))
        else:
            run(settings)
    except ManifoldError as error:
        print(
            error.message,
            *([f"valid: {', '.join(map(str, error.valid))}"] if error.valid else []),
            sep="\n",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
