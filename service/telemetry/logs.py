"""The log: lines on stderr in one format, from the service and from libraries.

Lines of Python's logging, warnings and uncaught errors have the same format as the service's own lines. A thread writes them, so that a slow
reader of the log never blocks requests. Lines that cannot be written are counted, and a later line reports their number. The writers of gRPC's
core (processes/early.py) and ONNX Runtime are silenced, because their errors are also raised in Python.
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

MOST = 2**20  # largest number of bytes that wait to be written; more lines are dropped
PATIENCE = 1.0  # seconds that an ending process waits for its last lines to be written
SEVERE_ONLY = 4  # severity level of ONNX Runtime's log: fatal errors

log = structlog.get_logger()


class LogWriter:
    """A file whose lines a thread writes to a file descriptor."""

    def __init__(self, number: int, style: str) -> None:
        self._number, self._style = number, style
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, including those that are being written
        self._lost = 0  # number of lost lines that the log has not reported
        self._well = True  # whether the last lines could be written
        self._changed = threading.Condition()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Add one or more whole lines. They are dropped if too many bytes are waiting."""
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
        """Do nothing, because the thread writes lines immediately."""

    def drain(self, seconds: float = PATIENCE) -> None:
        """Wait until everything is written, for at most `seconds`."""
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
        """Write bytes. Return whether they could be written."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:  # another process has made it non-blocking
                select.select([], [self._number], [])
            except OSError:  # a closed pipe, or a full disk
                return False
        return True


class Stderr(io.TextIOBase):
    """A file that turns text written to sys.stderr into lines of the log."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        """Return True, because the file can be written."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor of stderr."""
        return 2

    def write(self, text: str) -> int:
        """Log the whole lines of the text."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            structlog.get_logger().warning(line.rstrip(), logger="stderr")
        return len(text)


def lost_lines(count: int) -> dict[str, Any]:
    """Return the record about lines that could not be written."""
    record: dict[str, Any] = {
        "event": "log lines were lost, because the log was not read or could not be written",
        "lines": count,
    }
    return dict(structlog.processors.TimeStamper(fmt="iso")(None, "", {**record, "level": "warning"}))


def render(style: str, record: dict[str, Any]) -> str:
    """Return a record as a line."""
    for processor in _renderers(style):
        record = processor(None, "", record)
    return str(record)


def _renderers(style: str) -> list[Any]:
    """Return the processors that turn a record into a line: JSON or text."""
    if style == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback  # never with local variables, which contain data of clients
    return [structlog.dev.ConsoleRenderer(colors=os.isatty(2), exception_formatter=plain)]


def configure(style: str, file: TextIO | LogWriter | None = None) -> None:
    """Write the service's own lines to `file`, by default sys.stderr, as JSON or as text."""
    logging.getLogger("python_multipart").setLevel(
        logging.CRITICAL
    )  # it reports errors of clients, which their response reports too
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
    """Start the log of this process: its own lines, those of libraries, warnings, and uncaught errors."""
    global _writer
    if _writer is not None:  # it has started already
        return
    writer = _writer = LogWriter(2, style)
    configure(style, writer)
    _route_logging(style, writer)
    _route_errors()
    if style == "json":
        sys.stderr = Stderr()
    atexit.register(drain)


def drain() -> None:
    """Wait for at most PATIENCE seconds until the last lines are written."""
    if _writer is not None:
        _writer.drain()


def refuse(error: ManifoldError, style: str) -> None:
    """Write the reason why the service does not start: one line of JSON, or the message and the valid values."""
    if style == "json":
        valid = {"valid": [str(each) for each in error.valid]} if error.valid else {}
        record = structlog.processors.TimeStamper(fmt="iso")(
            None, "", {"event": error.message, **valid, "level": "error"}
        )
        text = render(style, dict(record))
    else:
        text = "\n".join([error.message, *([f"valid: {', '.join(map(str, error.valid))}"] if error.valid else [])])
    drain()
    with contextlib.suppress(OSError):  # stderr is closed; the exit status reports the error too
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def silence_engine() -> None:
    """Silence ONNX Runtime's own lines, if it is loaded. Its errors have the same text."""
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
    logging.raiseExceptions = False  # a message that cannot be formatted must not cause a traceback on stderr
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
