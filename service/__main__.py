"""`python -m service`: reads the settings once and runs the server."""

from __future__ import annotations

import logging
import sys

import structlog
import uvicorn

from runtime.errors import ManifoldError
from service import settings as settings_module
from service.rest import create_app
from service.settings import Settings


def run(settings: Settings) -> None:
    """Serves until told to stop; requests in flight get `drain_seconds` to end."""
    configure_log(settings.log_format)
    app = create_app(settings)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )  # fmt: skip


def configure_log(style: str) -> None:
    """Structured lines on stderr, as JSON or for people."""
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


def main() -> int:
    """The entry point: a wrong setting is one clear line and exit status 2."""
    try:
        run(settings_module.read())
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
