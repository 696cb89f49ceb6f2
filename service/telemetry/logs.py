"""The log: lines on stderr in one format, whoever writes them.

Lines of Python's logging, warnings and uncaught errors take the same way as the service's own. A thread writes them, so that nobody waits
for a reader of the log that does not read. Lines that cannot be written are counted, and the log says so once it can be written again.
gRPC's core (processes/early.py) and ONNX Runtime have their own writers: these are silenced, as their errors are raised in Python too.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import select
import sys
import threading
from collections import deque
from types import TracebackType
from typing import Any, TextIO

import structlog

from manifold.runtime.errors import ManifoldError

MOST = 2**20  # bytes that wait to be written; lines beyond it are dropped
PATIENCE = 1.0  # seconds that a process that ends waits for its last lines to be written
SEVERE_ONLY = 4  # severity of ONNX Runtime's log: fatal errors

log = structlog.get_logger()


class LogWriter:
    """A file whose lines are written to a file descriptor by a thread."""

    def __init__(self, number: int, style: str) -> None:
        self._number, self._style = number, style
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, those that are being written included
        self._lost = 0  # lines, since the log last said so
        self._well = True  # the last lines could be written
        self._changed = threading.Condition()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Add text, a whole line or several. It is dropped if too much is waiting."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._waiting + len(line) > MOST:
                self._lost += 1
            else:
                self._lines.append(line)
                self._waiting += len(line)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes lines as they come."""

    def drain(self, seconds: float = PATIENCE) -> None:
        """Wait until everything is written, or for so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not (self._lost and self._well), seconds)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or (self._lost and self._well))
                taken, lost = list(self._lines), self._lost
                self._lines.clear()
            if lost:
                taken.insert(0, f"{render(self._style, lost_lines(lost))}\n".encode())
            written = self._put(b"".join(taken))
            with self._changed:
                self._lost += -lost if written else len(taken) - bool(lost)
                self._well = written
                self._waiting = sum(map(len, self._lines))
                self._changed.notify_all()

    def _put(self, content: bytes) -> bool:
        """Return whether it could be written."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:  # somebody else has made it non-blocking
                select.select([], [self._number], [])
            except OSError:  # a pipe that nobody reads any more, or a full disk
                return False
        return True


class Stderr(io.TextIOBase):
    """File that turns what Python writes to sys.stderr into lines of the log."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        """Return that it can be written."""
        return True

    def fileno(self) -> int:
        """Return the number of the stream itself."""
        return 2

    def write(self, text: str) -> int:
        """Log the whole lines of the text."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            structlog.get_logger().warning(line.rstrip(), logger="stderr")
        return len(text)


def lost_lines(count: int) -> dict[str, Any]:
    """Return the record of lines that could not be written."""
    record: dict[str, Any] = {
        "event": "lines of the log were lost: it was not read, or could not be written",
        "lines": count,
    }
    return dict(structlog.processors.TimeStamper(fmt="iso")(None, "", {**record, "level": "warning"}))


def render(style: str, record: dict[str, Any]) -> str:
    """Return a record as a line."""
    for processor in _renderers(style):
        record = processor(None, "", record)
    return str(record)


def _renderers(style: str) -> list[Any]:
    """Return what makes a line of a record: JSON, or text for people."""
    if style == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback  # never with local variables: they hold what clients sent
    return [structlog.dev.ConsoleRenderer(colors=os.isatty(2), exception_formatter=plain)]


def configure(style: str, file: TextIO | LogWriter | None = None) -> None:
    """Write the service's own lines to `file`, by default sys.stderr, as JSON or as text for people."""
    logging.getLogger("python_multipart").setLevel(
        logging.CRITICAL
    )  # it says what clients do wrong; so does the answer
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *_renderers(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file or sys.stderr),  # type: ignore[arg-type]
    )


_writer: LogWriter | None = None


def start(style: str) -> None:
    """Make the log of this process: its own lines, those of libraries, warnings, and errors that nobody caught."""
    global _writer
    if _writer is not None:  # once a process
        return
    writer = _writer = LogWriter(2, style)
    configure(style, writer)
    _route_logging(style, writer)
    _route_errors()
    if style == "json":
        sys.stderr = Stderr()
    atexit.register(drain)


def drain() -> None:
    """Wait until the last lines are written, but not long."""
    if _writer is not None:
        _writer.drain()


def refuse(error: ManifoldError, style: str) -> None:
    """Say why the service does not start: one line of JSON, or the message and the valid values."""
    if style == "json":
        valid = {"valid": [str(each) for each in error.valid]} if error.valid else {}
        record = structlog.processors.TimeStamper(fmt="iso")(
            None, "", {"event": error.message, **valid, "level": "error"}
        )
        text = render(style, dict(record))
    else:
        text = "\n".join([error.message, *([f"valid: {', '.join(map(str, error.valid))}"] if error.valid else [])])
    drain()
    with contextlib.suppress(OSError):  # nobody reads it; the exit status says it too
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def silence_engine() -> None:
    """Silence ONNX Runtime's own lines, if it is loaded: what it raises has the same text."""
    if (engine := sys.modules.get("onnxruntime")) is not None:
        engine.set_default_logger_severity(SEVERE_ONLY)


def _route_logging(style: str, writer: LogWriter) -> None:
    stamp = structlog.processors.TimeStamper(fmt="iso")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.processors.add_log_level, stamp],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(style)],
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(formatter)
    logging.raiseExceptions = False  # a message that cannot be formatted is not a traceback on stderr
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    logging.captureWarnings(True)


def _route_errors() -> None:
    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("uncaught error", exc_info=(kind, error, trace))
        drain()

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit and args.exc_value is not None:
            name = args.thread.name if args.thread else None
            log.error(
                "uncaught error in a thread", thread=name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
            )

    def unraisable(args: Any) -> None:
        text = args.err_msg or "an error that could not be raised"
        log.error(text, object=repr(args.object)[:200], exc_info=(args.exc_type, args.exc_value, args.exc_traceback))

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable
