"""The OpenAPI document. FastAPI describes the routes that it parses. Use cases and the Open Inference Protocol parse their own bodies and are
described here and in inference/described.py.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from manifold.runtime import codecs, imaging, kinds
from manifold.service.aside import aside
from manifold.service.core import contract, encoding, use_cases
from manifold.service.core.use_cases.base import UseCase
from manifold.service.http import answers, bodies, statuses, streams, uploads
from manifold.service.http.front import HEALTH, OPEN
from manifold.service.http.tags import TAGS
from manifold.service.inference import described

Schema = dict[str, Any]

BINARY: Schema = {"schema": {"type": "string", "format": "binary"}}
BYTES: Schema = {}  # OpenAPI 3.1: a response of bytes has no schema; with one, /docs would show the word "string" as its example
TEXT: Schema = {"schema": {"type": "string"}}
KEY: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, if the service requires keys. `manifold key NAME` makes one. Administration needs the scope `admin`.",
}
ABOUT = """Generate, edit and score images, rows and series with deep generative models.

- Press **Try it out** and **Execute** to send a request. The examples work with the shipped models.
- The header `Accept` selects the format of a response: JSON, one picture (`image/png`), or numbers (`application/x-npy`).
- The same seed returns the same items: alone or in a batch, over REST, gRPC or from Python.
- The header `X-Deadline-Ms` sets a deadline in milliseconds. `X-Request-ID` sets the id of a request, which responses and the log repeat.
- Every error has the form `{"error": {"type", "message", "field", "valid", "request_id"}}`. The status 499 occurs in logs and metrics only: the
  client disconnected before the response.
"""
SERVERS = [
    {
        "url": "./",
        "description": "This service: the address, and the path prefix of a proxy, under which you opened this page.",
    }
]
MODEL = "mnist-vae"  # the model in the examples of paths
PARAMETERS: dict[str, Schema] = {
    "name": {"description": "Name of a model, as in GET /models.", "example": MODEL},
    "version": {"description": "Version of the model. By default, the highest version that is served."},
    "checksum": {
        "description": "SHA-256 of the file, from `files` in GET /models. If it is the present one, browsers may keep the response for a year."
    },
}
DRAWN: Schema = {  # headers of a picture or an array, which cannot hold fields
    "X-Model": {"description": "Name of the model.", "schema": {"type": "string"}},
    "X-Model-Version": {"description": "Version of the model.", "schema": {"type": "integer"}},
    "X-Seed": {"description": "Seed of the random numbers, if any were used.", "schema": {"type": "integer"}},
    "X-First": {"description": "Index of the first item, if random numbers were used.", "schema": {"type": "integer"}},
}


def add(app: FastAPI) -> None:
    """Add the document, which is made at its first request."""

    def openapi() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    route = next(route for route in app.router.routes if getattr(route, "path", "") == app.openapi_url)
    app.router.routes.remove(route)  # it would make the document on the event loop, which takes a tenth of a second

    @app.get(str(app.openapi_url), include_in_schema=False)
    async def schema() -> Response:
        return Response(await aside(lambda: encoding.dumps(app.openapi())), media_type=encoding.JSON)


def _document(app: FastAPI) -> Schema:
    """Return FastAPI's document with the use cases first, the Open Inference Protocol last, and errors and keys in each route."""
    schema: Schema = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes, tags=TAGS, servers=SERVERS
    )
    schemas = {name: each for name, each in schema["components"]["schemas"].items() if "ValidationError" not in name}
    schema["components"] = {
        "schemas": {**schemas, **_schemas()},
        "responses": {**statuses.responses(), **described.responses()},
        "securitySchemes": {"key": KEY},
    }
    cases = {case.path: {"post": _operation(case)} for case in use_cases.every.values()}
    schema["paths"] = cases | schema["paths"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            own = {status: each for status, each in operation["responses"].items() if status != "422"}
            errors = statuses.references(_statuses(path, operation.pop(statuses.EXTRA, ())))
            operation["responses"] = dict(sorted({**errors, **own}.items()))
    schema["paths"] |= described.paths()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter |= PARAMETERS.get(parameter["name"], {})
            if path not in OPEN:
                operation["security"] = [{"key": []}]
    answers.add(schema["paths"])
    return schema


def _statuses(path: str, own: tuple[int, ...]) -> set[int]:
    """Return the error statuses of a route, those of all routes included. Probes are answered under every host name."""
    every = {*statuses.ALWAYS, *own}
    if path in HEALTH:
        return every - {403}
    return every if path in OPEN else {*every, *statuses.KEYED}


def _schemas() -> Schema:
    """Return the schemas of errors, and of the requests and responses of the use cases, by name."""
    schemas: Schema = {}
    for shape in (
        contract.ErrorResponse,
        *(shape for case in use_cases.every.values() for shape in (case.request, case.response)),
    ):
        definition = shape.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= definition.pop("$defs", {})
        schemas[shape.__name__] = definition
    for case in use_cases.every.values():
        if case.examples:
            schemas[case.request.__name__]["examples"] = [each.fields for each in case.examples.values()]
    return schemas


def _operation(case: UseCase) -> Schema:
    """Return the operation of a use case. The first content type of the response is the one that /docs selects: a picture if there is one."""
    response = {encoding.JSON: _json(case.response)}
    first = _pictures_out(case)
    ok: Schema = {
        "description": "The result. The header Accept selects its format.",
        "content": {**first, **response, **_streamed(case), codecs.NPY: BYTES},
    }
    return {
        "summary": case.summary.rstrip("."),
        "description": f"{case.description}\n\nWithout a body, the fields are read from the query.".strip(),
        "operationId": case.name,
        "tags": [case.tag],
        "requestBody": {"required": True, "content": _bodies(case)},
        "responses": {"200": {**ok, **({"headers": DRAWN} if first else {})}},
        statuses.EXTRA: (*statuses.BODY, 404, 409, 504),
    }


def _bodies(case: UseCase) -> Schema:
    """Return the bodies that a use case reads, by content type."""
    examples = {name: {"summary": each.summary, "value": each.fields} for name, each in case.examples.items()}
    pictures = _pictures_in(case.request) if case.takes_files else {}
    tables = dict.fromkeys(uploads.MEDIA_TYPES, BINARY) if case.takes_row_files else {}
    json = {**_json(case.request), **({"examples": examples} if examples else {})}
    return {encoding.JSON: json, **pictures, codecs.NPY: BINARY, **tables}


def _pictures_in(request: type[contract.BaseRequest]) -> Schema:
    def files(description: str) -> Schema:
        return {"type": "array", "items": BINARY["schema"], "description": description}

    masks = (
        {"mask": files("Masks as PNG files, white where the image is known: one for each image, or one for all.")}
        if "masks" in request.model_fields
        else {}
    )
    form = {
        "type": "object",
        "properties": {"file": files("Image files: PNG, JPEG or WebP."), **masks},
        "required": ["file"],
    }
    return {bodies.MULTIPART: {"schema": form}, **dict.fromkeys(imaging.MEDIA_TYPES, BINARY)}


def _pictures_out(case: UseCase) -> Schema:
    return dict.fromkeys(kinds.media_types(), BYTES) if case.gives_items else {}


def _streamed(case: UseCase) -> Schema:
    return {} if case.stream is None else dict.fromkeys(streams.MEDIA_TYPES, TEXT)


def _json(shape: type[Any]) -> Schema:
    return {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}
