"""Errors, as a small tree of classes. Status codes are not here: each transport has a table of its own.

ManifoldError
├── ArtifactError        the artifact is broken: manifest, checksum, golden vectors
│   └── GraphError       a graph does not do what the manifest says, or fails while it runs
├── Unavailable          the artifact is fine, but something it needs is not here: an extra, a device, time to load
├── Busy                 too much work is queued, or asked for by one key; come back later
├── DeadlineExceeded     the caller's deadline passed before the work was done
└── RequestError         the caller can mend it
    ├── Malformed        not readable at all: broken JSON, corrupt image, empty body
    ├── InvalidValue     readable, but a value is wrong
    ├── UnknownModel     no such model or version
    ├── UnsupportedTask  the model cannot do that
    ├── TooLarge         over a stated limit
    ├── UnsupportedMedia a content type that is not understood
    ├── NotFound         the model has no such file
    ├── Unauthorized     no key, or one that is not known
    └── Forbidden        a key that may not do that
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence

ECHOED = 80  # characters of a value that an error repeats
REASON = 400  # characters of a library's own message that an error repeats
LISTED = 20  # values that an error lists in its message
FIELD = 200  # characters of an error's field
VALID = 2000  # characters of all that an error lists as valid


class ManifoldError(Exception):
    """Base of all errors of this project.

    `message` says what to do, `field` names the part of the request (or manifest) at fault, and `valid` lists what would have been
    accepted, where that is a list.
    """

    longest = 2000  # characters of the message, whoever wrote it

    def __init__(self, message: str, *, field: str | None = None, valid: Sequence[object] | None = None) -> None:
        self.message = cut(message, self.longest)
        super().__init__(self.message)
        self.field = None if field is None else cut(field, FIELD)
        self.valid = None if valid is None else _listed(valid)

    @property
    def type(self) -> str:
        """The error's name on the wire: the class name in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class ArtifactError(ManifoldError):
    """An artifact that must not be served as it is."""

    longest = 8000  # it lists everything that is wrong


class GraphError(ArtifactError):
    """A graph that does not do what the manifest says, or that fails while it runs.

    The backends raise it in place of every exception of ONNX Runtime and torch. `graph` is the file, `tensor` the input or output at fault
    by its name in the graph, and `expected` what the manifest says of it.
    """

    def __init__(
        self, message: str, *, graph: str | None = None, tensor: str | None = None, expected: str | None = None
    ) -> None:
        super().__init__(message)
        self.graph, self.tensor, self.expected = graph, tensor, expected


class Unavailable(ManifoldError):
    """Something the artifact needs is missing on this machine, or it is still loading.

    `expected` is true where that is a choice of the installation (an extra left out, a device asked for that is not there), so that
    the rest may be served and the service still calls itself ready.
    """

    def __init__(self, message: str, *, expected: bool = False, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.expected = expected


class Busy(ManifoldError):
    """A limit is reached: `reason` says which (rows, bytes, wait, rate, bodies). `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str = "rows") -> None:
        super().__init__(message)
        self.retry_after, self.reason = retry_after, reason


class DeadlineExceeded(ManifoldError):
    """The caller's deadline passed; the work was dropped."""


class RequestError(ManifoldError):
    """A request that its caller can mend."""

    longest = 1000


class Malformed(RequestError):
    """Not readable at all."""


class InvalidValue(RequestError):
    """Readable, but a value is wrong."""


class UnknownModel(RequestError):
    """No such model or version."""


class UnsupportedTask(RequestError):
    """The model lacks the task."""


class TooLarge(RequestError):
    """Over a stated limit."""


class UnsupportedMedia(RequestError):
    """A content type that is not understood."""


class NotFound(RequestError):
    """The model has no such file."""


class Unauthorized(RequestError):
    """No key, or one that is not known."""


class Forbidden(RequestError):
    """A key that may not do that."""


class _Short(reprlib.Repr):
    """The standard library's abbreviating repr, with the limits of this project."""

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits, or the size of a number that Python refuses to write out."""
        return super().repr_int(x, level) if x.bit_length() < 4 * ECHOED else f"<a number of {x.bit_length()} bits>"


_short = _Short()
_short.maxstring = _short.maxlong = _short.maxother = ECHOED
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict = 2, 4, 4, 4


def reason(error: BaseException) -> str:
    """Return what a library says of an error, on one line and cut to `REASON` characters."""
    text = str(error)
    if "Traceback of TorchScript" in text:  # with the script's source; the last line has the error
        text = text.strip().splitlines()[-1]
    return cut(" ".join(text.split()) or type(error).__name__, REASON)


def shown(value: object) -> str:
    """Return the repr of a value from outside, cut to `ECHOED` characters, as error messages repeat it."""
    text = _short.repr(str(value[: ECHOED + 1]) if isinstance(value, str) else value)
    return text if len(text) <= ECHOED + 2 else f"{text[: ECHOED - 1]}…"


def cut(text: str, limit: int = ECHOED) -> str:
    """Return a text from outside as it is, cut to `limit` characters: for messages of libraries, and for names."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def cannot_run(graph: str, library: str, error: BaseException) -> GraphError:
    """Return the error of a run that a library broke off, with what the library says of it."""
    return GraphError(f"{graph}: {library} cannot run it: {reason(error)}", graph=graph)


def _listed(valid: Sequence[object]) -> list[object]:
    """Return what an error lists as valid: texts cut, and the list ended by … where it is long."""
    listed: list[object] = []
    left = VALID
    for value in valid:
        short = cut(value) if isinstance(value, str) else value
        left -= len(str(short)) + 4
        if left < 0:
            return [*listed, "…"]
        listed.append(short)
    return listed
