"""The first steps of a service process, taken before the imports, which take a second.

Signals are received by a thread from here on, so that they have an effect in every state: while modules are imported, while models load, and
while the main thread is busy. A child process is started with these signals blocked and runs this module first, so that none is lost in
between. Only the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType

STOPPING = tuple(number for name in ("SIGTERM", "SIGINT") if (number := getattr(signal, name, None)) is not None)
RELOADING = tuple(number for name in ("SIGHUP",) if (number := getattr(signal, name, None)) is not None)
FORMAT = "MANIFOLD_LOG_FORMAT"  # says how an error is written before the settings have been read

Handler = Callable[[int], None]

_received: queue.SimpleQueue[int] = queue.SimpleQueue()  # signals that came before there was a handler
_handler: Handler | None = None
_prepared = False


def prepare() -> None:
    """Prepare this process: its signals, its standard streams and what is written for an uncaught error. Further calls do nothing."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    _open_streams()
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # gRPC's core writes lines of its own format; Python raises its errors too
    sys.excepthook = _written
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, *RELOADING))  # of this thread and of all that it starts
        threading.Thread(target=_receive, name="signals", daemon=True).start()


def prepared() -> bool:
    """Return whether the signals of this process are received here."""
    return _prepared and hasattr(signal, "pthread_sigmask")


def heed(handler: Handler) -> None:
    """Call `handler` for each signal from now on, in a thread, and for the reloads that came before."""
    global _handler
    _handler = handler
    with contextlib.suppress(queue.Empty):
        while True:
            handler(_received.get_nowait())


def _receive() -> None:
    while True:
        number = signal.sigwait((*STOPPING, *RELOADING))
        if _handler is not None:
            _handler(number)
        elif number in STOPPING:  # nothing is served yet
            os._exit(0 if "--check" not in sys.argv else 128 + number)
        else:
            _received.put(number)


def _open_streams() -> None:
    """Open the standard streams that are closed: a socket would take their numbers, and what is written to them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _written(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write an uncaught error in the format of the log."""
    if os.environ.get(FORMAT, "").lower() != "json":
        sys.__excepthook__(kind, error, trace)
        return
    record = {
        "event": "uncaught error", "level": "critical", "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "exception": "".join(traceback.format_exception(kind, error, trace)).rstrip(),
    }  # fmt: skip
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{json.dumps(record)}\n")
        sys.stderr.flush()
