"""Reading of request bodies over HTTP: JSON, a multipart form, or a raw image or npy body with the other fields in the query."""

from __future__ import annotations

import functools
from collections.abc import Collection, Coroutine, Sequence
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from manifold.runtime import codecs, imaging, texts
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge, UnsupportedMedia, cut, shown
from manifold.service.aside import JSON as JSON_WORK
from manifold.service.aside import aside
from manifold.service.core import contract, use_cases
from manifold.service.core.encoding import JSON, dumps
from manifold.service.core.reading import Uploads
from manifold.service.core.validation import validate
from manifold.service.http.incoming import Incoming
from manifold.service.settings import Settings

R = TypeVar("R", bound=contract.BaseRequest)
T = TypeVar("T")
MULTIPART = "multipart/form-data"
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 64  # fields of a query or a form
MOVED = 200  # characters of a query that an error repeats as JSON


def _takes_text(annotation: Any) -> bool:
    """Return whether a field may hold any text."""
    return annotation is str or (get_origin(annotation) in (Union, UnionType) and str in get_args(annotation))


# fields of a query or form that are texts even if they look like numbers
NAMES = {
    info.alias or name
    for case in use_cases.every.values()
    for name, info in case.request.model_fields.items()
    if _takes_text(info.annotation)
}
ACCEPTED = (JSON, MULTIPART, *imaging.MEDIA_TYPES, codecs.NPY)


async def parse(request: Incoming, shape: type[R], settings: Settings, also: Sequence[str] = ()) -> tuple[R, Uploads]:
    """Return the validated fields of a request, and its files or array. Raise RequestError.

    `also` lists further content types that the route supports, for the error message.
    """
    if encoding := request.header(b"content-encoding"):
        raise UnsupportedMedia(
            f"Content-Encoding: {cut(encoding)} is not supported; send the body uncompressed", field="Content-Encoding"
        )
    content_type = request.content_type or JSON
    body = await request.body(settings.max_body_bytes)
    is_array = content_type in (*imaging.MEDIA_TYPES, codecs.NPY)
    work = len(body) if is_array else JSON_WORK * len(body)
    return await aside(functools.partial(_read, request, content_type, body, work, shape, settings, also), work)


def _read(
    request: Incoming, content_type: str, body: bytes, work: float, shape: type[R], settings: Settings, also: Sequence[str]
) -> tuple[R, Uploads]:  # fmt: skip
    """Read a body of a content type. `work` is the cost of reading it, in bytes (service.aside)."""
    if content_type == JSON or content_type.endswith("+json"):
        if not body.strip() and request.scope["query_string"]:
            return validate(shape, query(request)), Uploads()
        refuse_query(request)
        return validate(shape, _object(body)), Uploads(work=work)
    if content_type == MULTIPART:
        names = ("file", "mask") if "masks" in shape.model_fields else ("file",)
        fields, files = _at_once(_multipart(request.of_starlette(body), settings, names))
        uploads = Uploads(files=tuple(files["file"]), masks=tuple(files.get("mask", ())), work=work)
        beside = query(request)
        for key in fields:
            _once(key, beside)
        return validate(shape, {**beside, **fields}), uploads
    if content_type in imaging.MEDIA_TYPES:
        return validate(shape, query(request)), Uploads(files=(_not_empty(body),))
    if content_type == codecs.NPY:
        array = codecs.from_npy(_not_empty(body), "body")
        return validate(shape, query(request)), Uploads(array=np.asarray(array), work=work)
    advice = "use one of the valid types"
    if content_type == FORM:  # curl sends it by default
        is_rows = also and not body.lstrip().startswith((b"{", b"["))
        advice = f"state the type of the body; for curl, add -H 'Content-Type: {also[0] if is_rows else JSON}'"
    raise UnsupportedMedia(
        f"Content-Type: {cut(content_type)} is not supported; {advice}",
        field="Content-Type",
        valid=(*ACCEPTED, *also),
    )


def _not_empty(body: bytes) -> bytes:
    if not body:
        raise Malformed("body: empty; send an image or an array", field="body")
    return body


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise Malformed("body: empty; send a JSON object, {} at least, or the fields in the query", field="body")
    return json_object(body)


def json_object(body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body. Raise Malformed for a body that is not JSON, or not an object."""
    content = texts.json_of(body)
    if not isinstance(content, dict):
        raise Malformed("body: a JSON object is needed, such as {}", field="body")
    return content


def _field(key: str, text: str, names: Collection[str] = NAMES) -> Any:
    """Return a value of a query or form: parsed if it is JSON, otherwise as text. Names stay texts: class=3 is the class called 3.

    Raise Malformed for an array or object that is not JSON, or has too many levels.
    """
    structured = text.startswith(("[", "{"))
    if key in names and not structured:
        return text
    try:
        return texts.json_of(text, key)
    except Malformed:
        if structured:
            raise
        return text


def _once(key: str, fields: Collection[str]) -> None:
    """Raise Malformed for a field that occurs twice in a query or form."""
    if key in fields:
        raise Malformed(f"{shown(key)}: the field occurs more than once; send it once", field=key)


def refuse_query(request: Incoming) -> None:
    """Raise InvalidValue for a query beside a JSON body, because it would have no effect."""
    if request.scope["query_string"]:
        text = cut(request.scope["query_string"].decode("latin-1"))
        raise InvalidValue(
            f"query: ?{text} has no effect beside a JSON body; {_moved(request) or 'send all fields in the body'}",
            field="query",
        )


def _moved(request: Incoming) -> str:
    """Return the end of an error message that writes the fields of a query as JSON, or nothing if they are too long or not readable."""
    try:
        text = dumps(query(request)).decode()
    except Malformed:
        return ""
    return f"add {text} to the body" if len(text) <= MOVED else ""


def query(request: Incoming) -> dict[str, Any]:
    """Return the fields in the query, for bodies that cannot contain fields. Raise Malformed for more than MAX_FIELDS."""
    return fields_of(request.of_starlette(b""))


def fields_of(request: Request, names: Collection[str] = NAMES) -> dict[str, Any]:
    """Return the fields in a query. Fields in `names` are texts even if they look like numbers."""
    if request.scope["query_string"].count(b"&") >= MAX_FIELDS:
        raise Malformed(f"query: more than {MAX_FIELDS} fields; send only fields that the request needs", field="query")
    fields: dict[str, Any] = {}
    for key, text in request.query_params.multi_items():
        _once(key, fields)
        fields[key] = _field(key, text, names)
    return fields


def _at_once(reading: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits, with or without an event loop."""
    try:
        reading.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    reading.close()
    raise RuntimeError("reading a complete body must not wait")


class _Parts(MultiPartParser):
    """Starlette's parser, which also checks that the body is complete: a truncated body would silently lack images."""

    spool_max_size = 0  # no limit: the body is in memory already, so that files on disk would have no use
    ended = False

    def on_end(self) -> None:
        """Record that the closing boundary was found."""
        self.ended = True

    def check_end(self) -> None:
        """Raise MultiPartException if there was no closing boundary."""
        if not self.ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it ends before the closing boundary")


async def _multipart(
    request: Request, settings: Settings, names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """Return the fields, and the files by the names under which they were uploaded."""
    parser = _Parts(request.headers, request.stream(), max_files=settings.max_items * len(names), max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
        parser.check_end()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLarge(
                f"file: more than {settings.max_items} files in a request; send several requests", field="file"
            ) from None
        raise Malformed(f"body: it is not valid {MULTIPART}: {cut(error.message, 200)}", field="body") from None
    except (ValueError, LookupError) as error:  # an invalid boundary or an unknown encoding
        raise Malformed(f"body: it is not valid {MULTIPART}: {cut(str(error), 200)}", field="body") from None
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {name: [] for name in names}
    try:
        texts.check_parts("".join(value for _, value in form.multi_items() if isinstance(value, str)))
        for key, value in form.multi_items():
            if not isinstance(value, UploadFile):
                _once(key, fields)
                fields[key] = _field(key, value)
            elif key in files:
                files[key].append(await value.read())
            else:
                under = " or ".join(f"{name!r}" for name in names)
                raise InvalidValue(
                    f"{cut(key)}: files must be uploaded under the name {under}", field=key, valid=list(names)
                )
    finally:
        await form.close()
    if not files["file"]:
        raise InvalidValue("file: the form contains no file; add at least one", field="file")
    return fields, files
