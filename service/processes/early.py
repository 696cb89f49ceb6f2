"""The first steps of a service process, before the imports, which take a second.

From here on, a thread receives signals, so that they take effect in every state: during imports, while models load, and while the main thread is
busy. A child process starts with these signals blocked and runs this module first, so that no signal is lost. This module imports only the
standard library.
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

_received: queue.SimpleQueue[int] = queue.SimpleQueue()  # signals that were received before a handler was set
_handler: Handler | None = None
_prepared = False


def prepare() -> None:
    """Prepare the signals, the standard streams and the hook for uncaught errors of this process. Further calls do nothing."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    _open_streams()
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # gRPC's core writes lines in its own format; its errors are also raised in Python
    sys.excepthook = _written
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(
            signal.SIG_BLOCK, (*STOPPING, *RELOADING)
        )  # for this thread and all threads that it starts
        threading.Thread(target=_receive, name="signals", daemon=True).start()


def prepared() -> bool:
    """Return whether the signal thread of this module runs."""
    return _prepared and hasattr(signal, "pthread_sigmask")


def heed(handler: Handler) -> None:
    """Call `handler` in a thread for each signal from now on, and for reloads that were received before."""
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
        elif number in STOPPING:  # the service has not started yet
            os._exit(0 if "--check" not in sys.argv else 128 + number)
        else:
            _received.put(number)


def _open_streams() -> None:
    """Open the standard streams that are closed. Otherwise a socket would get their numbers, and receive the text written to them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
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
