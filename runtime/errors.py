"""The errors of this project, a small tree of classes. Status codes are not defined here: each transport has its own table.

ManifoldError
├── ArtifactError        the artifact is damaged: manifest, checksum, golden vectors
│   └── GraphError       a graph does not match the manifest, or fails while it runs
├── Unavailable          the artifact is valid, but something that it needs is missing: an extra, a device, or it is still loading
├── Busy                 too much work is queued, or one key sent too many requests; retry later
├── DeadlineExceeded     the deadline of the request passed before the work was done
└── RequestError         the client can correct it
    ├── Malformed        the request cannot be read: invalid JSON, a damaged image, an empty body
    ├── InvalidValue     the request can be read, but a value is invalid
    ├── UnknownModel     the model or version does not exist
    ├── UnsupportedTask  the model does not support the task
    ├── TooLarge         a documented limit is exceeded
    ├── UnsupportedMedia the content type is not supported
    ├── NotFound         the model does not have the file
    ├── Unauthorized     the API key is missing or unknown
    └── Forbidden        the API key does not have the permission
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import shlex
from collections.abc import Iterable, Sequence

ECHOED = 80  # longest text of a value in a message, in characters
REASON = 400  # longest text of a library's message in a message, in characters
LISTED = 20  # most values that a message lists
FIELD = 200  # longest text of an error's field, in characters
VALID = 2000  # longest text of all values in an error's list of valid ones, in characters
SHOWN_VALID = 300  # longest text of the valid values in a traceback, in characters


class ManifoldError(Exception):
    """The base class of all errors of this project.

    `message` says what is wrong and what to do, `field` is the path of the invalid part of the request (or manifest), and `valid` lists the
    values that would be accepted, if they can be listed.
    """

    longest = 2000  # limit for the message, in characters; messages of libraries are cut too

    def __init__(self, message: str, *, field: str | None = None, valid: Sequence[object] | None = None) -> None:
        self.message = cut(message, self.longest)
        super().__init__(self.message)
        self.field = None if field is None else cut(field, FIELD)
        self.valid = None if valid is None else _listed(valid)

    def __str__(self) -> str:
        """Return the message, and the valid values if it does not list them: the text of a traceback."""
        if not self.valid or all(str(value) in self.message for value in self.valid):
            return self.message
        return f"{self.message} (valid: {cut(', '.join(map(str, self.valid)), SHOWN_VALID)})"

    @property
    def type(self) -> str:
        """The name of the error in responses: the class name in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class ArtifactError(ManifoldError):
    """The error of an artifact that must not be served."""

    longest = 8000  # its message lists all problems


class GraphError(ArtifactError):
    """The error of a graph that does not match the manifest, or that fails while it runs.

    The backends raise it instead of any exception of ONNX Runtime or torch. `graph` is the file, `tensor` the name in the graph of the
    input or output that caused it, and `expected` the description of that tensor in the manifest.
    """

    def __init__(
        self, message: str, *, graph: str | None = None, tensor: str | None = None, expected: str | None = None
    ) -> None:
        super().__init__(message)
        self.graph, self.tensor, self.expected = graph, tensor, expected


class Unavailable(ManifoldError):
    """The error of a model that is still loading, or that needs something that is missing on this machine.

    `expected` is true if this follows from the installation (an extra is not installed, a requested device does not exist). Then the other
    models are served and the service reports ready.
    """

    def __init__(self, message: str, *, expected: bool = False, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.expected = expected


class Busy(ManifoldError):
    """The error of a request above a limit of load. `reason` names the limit (rows, bytes, wait, rate, bodies). `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str = "rows") -> None:
        super().__init__(message)
        self.retry_after, self.reason = retry_after, reason


class DeadlineExceeded(ManifoldError):
    """The error of a request whose deadline passed; its work was dropped."""


class RequestError(ManifoldError):
    """The error of a request that the client can correct."""

    longest = 1000


class Malformed(RequestError):
    """The error of a request that cannot be read."""


class InvalidValue(RequestError):
    """The error of a request with an invalid value."""


class UnknownModel(RequestError):
    """The error of a model or version that does not exist."""


class UnsupportedTask(RequestError):
    """The error of a task that the model does not support."""


class TooLarge(RequestError):
    """The error of a request above a documented size limit."""


class UnsupportedMedia(RequestError):
    """The error of a content type that is not supported."""


class NotFound(RequestError):
    """The error of a file that the model does not have."""


class Unauthorized(RequestError):
    """The error of a missing or unknown API key."""


class Forbidden(RequestError):
    """The error of an API key without the required permission."""


class _Short(reprlib.Repr):
    """The shortening repr of the standard library, with the limits of this project."""

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits of a number, or its size if it is too large to be written out."""
        return super().repr_int(x, level) if x.bit_length() < 4 * ECHOED else f"<a number of {x.bit_length()} bits>"


class _Json(_Short):
    """The shortening repr of values from JSON: with null, true, false and double quotes."""

    def repr_NoneType(self, x: None, level: int) -> str:  # noqa: N802
        """Return null."""
        return "null"

    def repr_bool(self, x: bool, level: int) -> str:
        """Return true or false."""
        return str(x).lower()

    def repr_str(self, x: str, level: int) -> str:
        """Return a text in double quotes, cut in the middle if it is long."""
        short = x if len(x) <= self.maxstring else f"{x[: self.maxstring // 2]}…{x[-self.maxstring // 2 :]}"
        return json.dumps(short, ensure_ascii=False)


def _limited(short: _Short) -> _Short:
    short.maxstring = short.maxlong = short.maxother = ECHOED
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 2, 4, 4, 4
    return short


_short, _json = _limited(_Short()), _limited(_Json())


def reason(error: BaseException) -> str:
    """Return the message of a library's error on one line, cut to `REASON` characters."""
    text = str(error)
    if "Traceback of TorchScript" in text:  # it contains the source of the script; the last line is the error
        text = text.strip().splitlines()[-1]
    return cut(" ".join(text.split()) or type(error).__name__, REASON)


def shown(value: object) -> str:
    """Return the repr of a value from a client, cut to `ECHOED` characters, for error messages."""
    return _ended(_short.repr(str(value[: ECHOED + 1]) if isinstance(value, str) else value))


def as_json(value: object) -> str:
    """Return a value as JSON writes it, cut to `ECHOED` characters, for error messages about JSON."""
    return _ended(_json.repr(value))


def _ended(text: str) -> str:
    return text if len(text) <= ECHOED + 2 else f"{text[: ECHOED - 1]}…"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are near to a name, at most three, the nearest first."""
    return difflib.get_close_matches(cut(name), list(known), 3, 0.6)


def near(name: str, names: Iterable[str]) -> str:
    """Return the most similar of the valid names as a part of a message, " (did you mean 'NAME'?)", or an empty text if none is similar.

    A number has no similar names: 12 is not a misspelt 1.
    """
    if name.isdecimal():
        return ""
    folded = {each.casefold(): each for each in names}
    found = difflib.get_close_matches(cut(name).casefold(), list(folded), 1, 0.6)
    return f" (did you mean {shown(folded[found[0]])}?)" if found else ""


def cut(text: str, limit: int = ECHOED) -> str:
    """Return a text unquoted, cut to `limit` characters: for messages of libraries, and for names."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def either(shapes: Iterable[Sequence[object]]) -> str:
    """Return the shapes that an array may have as a part of a message, such as [28, 28] or [n, 28, 28]."""
    *first, last = [f"[{', '.join(map(str, shape))}]" for shape in shapes]
    return f"{', '.join(first)} or {last}" if first else last


def command(*words: object) -> str:
    """Return a command of `manifold` for a message, quoted for the shell."""
    return shlex.join(["manifold", *map(str, words)])


def cannot_run(graph: str, library: str, error: BaseException) -> GraphError:
    """Return the error of a failed run, with the message of the library."""
    return GraphError(f"{graph}: {library} cannot run it: {reason(error)}", graph=graph)


def _listed(valid: Sequence[object]) -> list[object]:
    """Return the list of valid values for an error. Texts are cut, and a list that is too long ends with …."""
    listed: list[object] = []
    left = VALID
    for value in valid:
        short = cut(value) if isinstance(value, str) else value
        left -= len(str(short)) + 4
        if left < 0:
            return [*listed, "…"]
        listed.append(short)
    return listed
