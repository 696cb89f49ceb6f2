"""The protocol over HTTP: paths under /v2, JSON that binary tensors may follow, and errors in the form of the protocol."""

from __future__ import annotations

import functools
import gzip
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from manifold.runtime import errors, problems, texts
from manifold.runtime.errors import (
    InvalidValue,
    Malformed,
    ManifoldError,
    NotFound,
    TooLarge,
    UnsupportedMedia,
    cut,
    shown,
)
from manifold.service.aside import JSON as JSON_WORK
from manifold.service.aside import LARGE, aside
from manifold.service.core import failures
from manifold.service.core.encoding import JSON
from manifold.service.http import replies
from manifold.service.http.bodies import json_object, refuse_query
from manifold.service.http.incoming import Incoming
from manifold.service.http.replies import Reply
from manifold.service.inference import tensors
from manifold.service.inference.core import (
    EXTENSIONS,
    Asked,
    Core,
    Inferred,
    check_id,
    flag,
    of_one_line,
    refuse,
    server,
)

Array = NDArray[Any]

PREFIX = "/v2"
OCTETS = "application/octet-stream"
HEAD = "Inference-Header-Content-Length"
STATUS = {
    errors.RequestError: 400, errors.Unauthorized: 401, errors.Forbidden: 403, errors.UnknownModel: 404, errors.NotFound: 404,
    errors.TooLarge: 413, errors.UnsupportedMedia: 415, errors.Busy: 503, errors.Unavailable: 503, errors.DeadlineExceeded: 503,
}  # fmt: skip
SMALL = 1400  # bytes: smaller responses are not compressed, because they fit into one packet
OPTIONS = orjson.OPT_SERIALIZE_NUMPY

# the fields of a request; some clients repeat the name and the version of the model, which are in the path
FIELDS = ("id", "parameters", "inputs", "outputs", "model_name", "model_version")

NEVER = re.compile(r";\s*q=0(\.0*)?\s*$")

Answering = Callable[..., Awaitable[Reply]]


def status_of(error: ManifoldError) -> int:
    """Return the status of the nearest class in the table; 500 if none is there."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def of_error(error: ManifoldError, request_id: str) -> Reply:
    """Return the reply for an error in the form of the protocol: one text, which includes the valid values."""
    status = status_of(error)
    reply = replies.of_error(error, request_id)  # it logs errors that the client may not read
    message = failures.OPAQUE if status == 500 else of_one_line(error)
    headers = {name: value for name, value in reply.headers.items() if name != "Retry-After"}
    if status == 503:
        headers["Retry-After"] = reply.headers.get("Retry-After", "1")
    return Reply(
        orjson.dumps({"error": message}),
        status=status,
        headers=headers,
        error="internal" if status == 500 else error.type,
    )


def unexpected(error: Exception, request_id: str) -> Reply:
    """Log a bug, and return the opaque reply for it."""
    replies.unexpected(error, request_id)
    return Reply(orjson.dumps({"error": failures.OPAQUE}), status=500, error="internal")


class Routes:
    """The table of paths and the functions that answer them."""

    def __init__(self, core: Core) -> None:
        self.core, self.settings = core, core.settings
        model = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
        table: tuple[tuple[str, str, str, Answering], ...] = (
            ("POST", f"{model}/infer", "/v2/models/{name}/infer", self._infer),
            ("GET", "/v2/?", "/v2", self._server),
            ("GET", "/v2/health/live", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", "/v2/health/ready", self._ready),
            ("GET", "/v2/models/stats", "/v2/models/stats", self._stats),
            ("GET", model, "/v2/models/{name}", self._metadata),
            ("GET", f"{model}/ready", "/v2/models/{name}/ready", self._model_ready),
            ("GET", f"{model}/config", "/v2/models/{name}/config", self._config),
            ("GET", f"{model}/stats", "/v2/models/{name}/stats", self._stats),
            ("POST", "/v2/repository/index", "/v2/repository/index", self._index),
            ("POST", r"/v2/repository/models/(?P<name>[^/]+)/load", "/v2/repository/models/{name}/load", self._load),
            (
                "POST",
                r"/v2/repository/models/(?P<name>[^/]+)/unload",
                "/v2/repository/models/{name}/unload",
                self._unload,
            ),
        )
        self._table = [(method, re.compile(pattern), label, answer) for method, pattern, label, answer in table]

    def find(self, method: str, path: str) -> tuple[Callable[[Incoming], Awaitable[Reply]], str]:
        """Return the function that answers a path, and its label in metrics."""
        for taken, pattern, label, answer in self._table:
            if match := pattern.fullmatch(path):
                if method == taken:
                    return functools.partial(answer, **match.groupdict(default="")), label
                return functools.partial(self._refuse, allowed="GET, HEAD" if taken == "GET" else taken), label
        return self._nothing, "other"

    # --- server and models ---

    async def _server(self, request: Incoming) -> Reply:
        return _json(server())

    async def _live(self, request: Incoming) -> Reply:
        return _json({"live": True})

    async def _ready(self, request: Incoming) -> Reply:
        ready, reason = self.core.registry.readiness()
        detail = {} if ready or request.scope["state"].get("bare") else {"error": reason}
        return _json({"ready": ready, **detail}, 200 if ready else 503)

    async def _metadata(self, request: Incoming, name: str, version: str) -> Reply:
        return _json(await self.core.metadata(name, version))

    async def _config(self, request: Incoming, name: str, version: str) -> Reply:
        return _json(await self.core.config(name, version))

    async def _model_ready(self, request: Incoming, name: str, version: str) -> Reply:
        ready = await self.core.ready(name, version)
        return _json({"name": name, "ready": ready, **({} if ready else {"error": "not ready"})}, 200 if ready else 503)

    async def _stats(self, request: Incoming, name: str = "", version: str = "") -> Reply:
        return _json({"model_stats": await self.core.stats(name, version)})

    # --- repository ---

    async def _index(self, request: Incoming) -> Reply:
        fields = await self._fields(request)
        return Reply(orjson.dumps(self.core.index(flag(fields, "ready"))))

    async def _load(self, request: Incoming, name: str) -> Reply:
        await self.core.load(name, _mapping(await self._fields(request), "parameters"))
        return _json({})

    async def _unload(self, request: Incoming, name: str) -> Reply:
        await self._fields(request)  # the body has no effect, because no model depends on another
        await self.core.unload(name)
        return _json({})

    async def _fields(self, request: Incoming) -> dict[str, Any]:
        """Return the fields of an optional body."""
        body = await request.body(self.settings.max_body_bytes)
        return await aside(lambda: json_object(body), JSON_WORK * len(body)) if body else {}

    # --- inference ---

    async def _infer(self, request: Incoming, name: str, version: str) -> Reply:
        refuse_query(request)
        body, limit = await request.body(self.settings.max_body_bytes), self.settings.max_body_bytes
        head, coding = request.header(HEAD.lower().encode()), request.header(b"content-encoding")

        def read() -> tuple[Asked, Callable[[str], bool]]:
            return _read(name, version, _inflated(body, coding, limit), head)

        asked, binary = await aside(read, LARGE if coding is not None else JSON_WORK * len(body))
        write = functools.partial(_write, binary=binary, coding=_coding(request.header(b"accept-encoding")))
        return await self.core.infer(asked, request.deadline(), request.came, write)

    # --- errors ---

    async def _refuse(self, request: Incoming, allowed: str) -> Reply:
        body = orjson.dumps({"error": f"{cut(request.scope['path'])} does not support this method; use {allowed}"})
        return Reply(body, status=405, headers={"Allow": allowed}, error="method_not_allowed")

    async def _nothing(self, request: Incoming) -> Reply:
        raise NotFound(
            f"there is no {cut(request.scope['path'])}; the server supports the extensions {', '.join(EXTENSIONS)}", field="path"
        )  # fmt: skip


def _json(content: Mapping[str, Any], status: int = 200) -> Reply:
    return Reply(orjson.dumps(content), status=status)


# --- requests -----------------------------------------------------------------------------------------------------------------


def _read(name: str, version: str, body: bytes, head: str | None) -> tuple[Asked, Callable[[str], bool]]:
    """Return the inference, and a function that tells which outputs are written as bytes."""
    if head == "0":
        return Asked(
            name, version, {}, {}, raw=body
        ), lambda output: True  # the body contains only the rows of one tensor
    size = _head_size(head, len(body))
    fields, tail = json_object(body[:size]), memoryview(body)[size:]
    if unknown := next((key for key in fields if key not in FIELDS), None):
        raise InvalidValue(f"{cut(unknown)}: {problems.unknown(unknown, FIELDS)}", field=unknown, valid=FIELDS)
    parameters = _mapping(fields, "parameters")
    given, start = {}, 0
    for place, tensor in enumerate(_list(fields, "inputs")):
        field = f"inputs[{place}]"
        array, taken = _input(tensor, tail[start:], field)
        start += taken
        key = tensor["name"]
        if key in given:
            raise Malformed(f"{field}: {shown(key)} occurs twice; send it once", field=field)
        given[key] = array
    if start != len(tail):
        raise Malformed(f"body: {len(tail) - start} bytes follow the last binary tensor; remove them", field="inputs")
    wanted, binary = _wanted(fields, flag(parameters, "binary_data_output"))
    return Asked(name, version, parameters, given, wanted, check_id(fields.get("id", ""))), binary


def _head_size(text: str | None, whole: int) -> int:
    """Return the number of bytes of JSON at the start of a body. Raise Malformed."""
    if text is None:
        return whole
    size = texts.whole(text, whole)
    if size is None:
        raise Malformed(
            f"{HEAD}: {shown(text)} is not valid; use the number of bytes of the JSON part, from 0 to {whole}",
            field=HEAD,
        )
    return size


def _mapping(fields: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{where}{name}: an object is needed, not {problems.word(value)}", field=where + name)
    return value or {}


def _list(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of tensors, each an object with a name. Raise Malformed."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in value
    ):
        raise Malformed(f"{name}: not valid; use a list of objects with a name", field=name)
    return value


def _input(tensor: dict[str, Any], tail: memoryview, field: str) -> tuple[Array, int]:
    """Return the array of an input, and the number of bytes of the tail that it uses."""
    parameters = _mapping(tensor, "parameters", f"{field}.")
    refuse(parameters, field)
    shape = tensors.check_shape(tensor.get("shape"), field)
    datatype = tensor.get("datatype", "")
    if (size := parameters.get("binary_data_size")) is None:
        if "data" not in tensor:
            raise Malformed(f"{field}: it has no values; add data or binary_data_size", field=field)
        return tensors.from_values(tensor["data"], datatype, shape, field), 0
    if "data" in tensor:
        raise Malformed(f"{field}: data and binary_data_size are both given; send only one of them", field=field)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail):
        raise Malformed(
            f"{field}: binary_data_size {problems.word(size)}, but the body has {len(tail)} more bytes; correct the size",
            field=field,
        )
    return tensors.from_bytes(tail[:size], datatype, shape, field), size


def _wanted(fields: dict[str, Any], otherwise: bool) -> tuple[tuple[str, ...] | None, Callable[[str], bool]]:
    """Return the requested outputs, and a function that tells which of them are written as bytes."""
    outputs = _list(fields, "outputs")
    by_name = {}
    for output in outputs:
        parameters = _mapping(output, "parameters", "outputs.")
        refuse(parameters, "outputs")
        by_name[output["name"]] = flag(parameters, "binary_data", otherwise, "outputs")
    return tuple(by_name) or None, lambda output: by_name.get(output, otherwise)


def _inflated(body: bytes, given: str | None, limit: int) -> bytes:
    """Return the decompressed body. Raise TooLarge over the limit, and Malformed if it cannot be decompressed."""
    coding = (given or "identity").lower()
    if coding == "identity":
        return body
    if coding not in ("gzip", "deflate"):
        raise UnsupportedMedia(
            f"Content-Encoding: {cut(coding)} is not supported; use one of the valid encodings",
            field="Content-Encoding",
            valid=["gzip", "deflate"],
        )
    inflate = zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    try:
        content = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise Malformed(f"body: it is not valid {coding} ({error}); compress it again", field="body") from None
    if len(content) > limit:
        raise TooLarge(f"body: larger than the limit of {limit} bytes after decompression; send less", field="body")
    if not inflate.eof or inflate.unused_data:
        raise Malformed(
            f"body: the {coding} data is truncated, or followed by more bytes; send exactly one compressed stream",
            field="body",
        )
    return content


# --- responses ----------------------------------------------------------------------------------------------------------------


def _coding(accepted: str | None) -> str | None:
    """Return the compression that the client prefers among those on offer; None for no compression."""
    if not accepted:
        return None
    wanted = {part.partition(";")[0].strip().lower() for part in accepted.split(",") if not NEVER.search(part)}
    return next((name for name in ("gzip", "deflate") if name in wanted), None)


def _write(made: Inferred, binary: Callable[[str], bool], coding: str | None) -> Reply:
    """Return a reply: JSON, followed by the outputs that are written as bytes, in order. It is compressed if the client accepts it and it is large."""
    head: dict[str, Any] = {"model_name": made.target.name, "model_version": str(made.target.entry.version)}
    if made.id:
        head["id"] = made.id
    if made.parameters:
        head["parameters"] = made.parameters
    head["outputs"], tail = [], []
    for name, array in made.outputs.items():
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": tensors.NAMES[array.dtype]}
        if binary(name):
            tail.append(tensors.to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        head["outputs"].append(tensor)
    body = orjson.dumps(head, option=OPTIONS)
    headers = {HEAD: str(len(body))} if tail else {}
    body = b"".join((body, *tail))
    if coding is not None and len(body) > SMALL:
        headers["Content-Encoding"] = coding
        body = gzip.compress(body, 1, mtime=0) if coding == "gzip" else zlib.compress(body, 1)
    return Reply(body, OCTETS if tail else JSON, headers=headers)
