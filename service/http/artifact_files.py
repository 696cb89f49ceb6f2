"""The routes of a model's files for pages: its preview, sheet, samples by epoch, training curves, and latents of test items.

Browsers may keep a picture or a table for a year if the request states the checksum that GET /models lists, because the address of a changed file
then has another checksum. Without it, and for JSON, they must ask each time whether the file has changed: every response has an `ETag`, and one
that the client has already is not sent again.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from manifold.service.aside import aside
from manifold.service.core import contract
from manifold.service.http.statuses import also
from manifold.service.http.tags import MODELS
from manifold.service.models import page_data
from manifold.service.models.registry import Registry

Responses = dict[int | str, dict[str, Any]]

KEPT = "private, max-age=31536000, immutable"  # private, as the route may need a key
ASKED = "private, no-cache"
PICTURE: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
TABLE: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
NOT_MODIFIED: Responses = {304: {"description": "The client has the file: `If-None-Match` contains its ETag."}}


def add(app: FastAPI, registry: Registry) -> None:
    """Add the routes. All accept the same parameters."""
    _add(
        app, registry, "preview", "/models/{name}/preview.png", "Show the preview of a model", PICTURE,
        "A picture of items that the model generates, made when the model was exported.", "The picture.",
    )  # fmt: skip
    _add(
        app, registry, "points", "/models/{name}/points", "Return latents of test items", contract.Points,
        "Latents of test items, which the model encoded when it was exported, with their classes and principal components.", "The latents.",
    )  # fmt: skip
    _add(
        app, registry, "curves", "/models/{name}/curves", "Return the curves of the training", contract.Curves,
        "Losses of the training by step, for each phase.", "The curves.",
    )  # fmt: skip
    _add(
        app, registry, "sheet", "/models/{name}/sheet", "Show test items and their reconstructions", PICTURE | TABLE,
        "Test items, each followed by its reconstruction, or samples if the model has no encoder: a picture, or a CSV file for a model of rows.",
        "The picture or the rows.",
    )  # fmt: skip
    _add(
        app, registry, "epochs", "/models/{name}/epochs", "Show samples by epoch of the training", PICTURE,
        "Samples of the same seeds after several epochs of the training, one row for each epoch. `epochs` in GET /models/{name}/curves lists "
        "the epochs.", "The picture.",
    )  # fmt: skip


def _add(
    app: FastAPI, registry: Registry, subject: str, path: str, summary: str, content: dict[str, Any] | type, description: str, returned: str
) -> None:  # fmt: skip
    """Add the route of a subject of models/page_files.py. `content` is the schema of its JSON, or its media types with their schemas."""
    is_json = isinstance(content, type)
    responses: Responses = NOT_MODIFIED if is_json else {200: {"content": content}, **NOT_MODIFIED}

    @app.get(
        path, name=subject, response_model=content if is_json else None, response_class=JSONResponse if is_json else Response, tags=[MODELS],
        summary=summary, description=description, response_description=returned, responses=responses, openapi_extra=also(404, 422),
    )  # fmt: skip
    async def send(request: Request, name: str, version: int | None = None, checksum: str | None = None) -> Response:
        # the manifest states the shape of the latents; the other subjects do not need it
        entry = await registry.described(name, version) if subject == "points" else registry.find(name, version)
        read = functools.partial(page_data.content, entry.folder, entry.manifest, subject, "name")
        body, media_type, sha256 = await aside(read, pool="disk")
        if (
            is_json
        ):  # the response is computed from the file, so that another version of the service may answer differently
            return _answer(request, body, media_type, hashlib.sha256(body).hexdigest(), ASKED)
        return _answer(request, body, media_type, sha256, KEPT if checksum == sha256 else ASKED)


def _answer(request: Request, body: bytes, media_type: str, sha256: str, caching: str) -> Response:
    """Return the response, or 304 if the client has it. The ETag is a checksum: of the file, or of JSON that is computed from it."""
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": caching}
    if has_tag(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def has_tag(stated: str, etag: str) -> bool:
    """Return whether a header If-None-Match contains a tag. Weak tags match too (RFC 9110, section 13.1.2)."""
    tags = [each.strip().removeprefix("W/") for each in stated.split(",")]
    return etag in tags or tags == ["*"]
