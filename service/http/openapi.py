"""The OpenAPI document. FastAPI writes the routes that it parses; use cases parse their own bodies and are written here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from manifold.runtime import codecs, imaging, kinds
from manifold.service.aside import aside
from manifold.service.core import contract, encoding, use_cases
from manifold.service.core.use_cases.base import UseCase
from manifold.service.http import bodies, streams, uploads
from manifold.service.http.front import OPEN
from manifold.service.http.replies import STATUS

Schema = dict[str, Any]

BINARY: Schema = {"schema": {"type": "string", "format": "binary"}}
TEXT: Schema = {"schema": {"type": "string"}}
KEY: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "where the service asks for keys; /admin needs the scope admin",
}


def add(app: FastAPI) -> None:
    """Add the document, which is made when it is first asked for."""

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
    """Return FastAPI's document with the use cases first, errors and keys."""
    schema: Schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas())
    components["securitySchemes"] = {"key": KEY}
    schema["paths"] = {case.path: {"post": _operation(case)} for case in use_cases.every.values()} | schema["paths"]
    refused = {"description": "Error", "content": {encoding.JSON: _json(contract.ErrorResponse)}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path not in OPEN:
                operation["security"] = [{"key": []}]
                operation["responses"] |= {str(status): refused for status in sorted({*STATUS.values(), 500})}
    return schema


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
    return schemas


def _operation(case: UseCase) -> Schema:
    """Return the operation of a use case."""
    content = {encoding.JSON: _json(case.response), **_pictures_out(case), codecs.NPY: BINARY}
    return {
        "summary": case.summary,
        "operationId": case.name,
        "tags": ["use cases"],
        "requestBody": {"required": True, "content": _bodies(case)},
        "responses": {"200": {"description": "OK", "content": content}},
    }


def _bodies(case: UseCase) -> Schema:
    """Return the bodies that a use case reads, by content type."""
    pictures = _pictures_in(case.request) if case.takes_files else {}
    tables = dict.fromkeys(uploads.MEDIA_TYPES, BINARY) if case.takes_row_files else {}
    return {encoding.JSON: _json(case.request), **pictures, codecs.NPY: BINARY, **tables}


def _pictures_in(request: type[contract.BaseRequest]) -> Schema:
    files = {"type": "array", "items": BINARY["schema"]}
    masks = {"mask": files} if "masks" in request.model_fields else {}
    form = {"type": "object", "properties": {"file": files, **masks}, "required": ["file"]}
    return {bodies.MULTIPART: {"schema": form}, **dict.fromkeys(imaging.MEDIA_TYPES, BINARY)}


def _pictures_out(case: UseCase) -> Schema:
    pictures = dict.fromkeys(kinds.media_types(), BINARY) if case.gives_items else {}
    streamed = {} if case.stream is None else dict.fromkeys(streams.MEDIA_TYPES, TEXT)
    return {**pictures, **streamed}


def _json(shape: type[Any]) -> Schema:
    return {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}
