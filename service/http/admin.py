"""The routes that need the scope `admin`: reload keys and certificate, load and unload models, and calibrate a model on your own rows.

Without keys these routes are off, unless the setting `trust_loopback` lets requests from this machine use them (http/front.py).
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

import structlog
from fastapi import FastAPI, Request
from starlette.responses import Response

from manifold.runtime.errors import InvalidValue, Unavailable, UnsupportedMedia, UnsupportedTask, cut
from manifold.runtime.scores import bulk, recalibration
from manifold.service.aside import aside, later
from manifold.service.core import contract, encoding, row_files
from manifold.service.core.validation import validate
from manifold.service.http.bodies import FORM, fields_of
from manifold.service.http.statuses import BODY as BODY_STATUSES
from manifold.service.http.statuses import also
from manifold.service.http.tags import ADMINISTRATION
from manifold.service.http.uploads import MEDIA_TYPES
from manifold.service.models import describe
from manifold.service.models.registry import Registry
from manifold.service.security import Security
from manifold.service.settings import SettingsError

log = structlog.get_logger()

T = TypeVar("T")

LOOK = 0.5  # seconds between two checks whether the client is still connected

BODY = {
    "required": True,
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES},
}
QUERY = [
    {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description")}
    for name, schema in contract.CalibrateRequest.model_json_schema()["properties"].items()
]
READ_ONLY = "the service cannot write into the folder of models; run `manifold calibrate` where the folder is writable, and start the service again"


def add(app: FastAPI, registry: Registry, security: Security) -> None:
    """Add the routes."""
    settings = registry.settings
    one_at_a_time = asyncio.Lock()

    @app.post(
        "/admin/reload",
        response_model=contract.Reloaded,
        tags=[ADMINISTRATION],
        summary="Reload API keys and certificate",
        openapi_extra=also(422),
        description="Read the file of keys and the TLS certificate again. If one is wrong, the previous ones stay in force.",
        response_description="The keys that are in force.",
    )
    async def reload() -> Response:
        try:
            if registry.cluster is not None:
                await registry.cluster.everywhere("keys")
            else:
                await security.reload_aside()
        except SettingsError as error:  # the installation is wrong, and only an administrator reads this
            raise InvalidValue(
                f"{error.message}; the previous keys and certificate stay in force", field=error.field
            ) from None
        log.info("reloaded", keys=list(security.keys))
        keys = [
            {"name": key.name, "id": key.id, "scopes": sorted(key.scopes), "rate": key.rate}
            for key in security.keys.values()
        ]
        return Response(
            encoding.dumps({"keys": keys, "needed": security.needed, "tls": security.certificate is not None}),
            media_type=encoding.JSON,
        )

    @app.post(
        "/admin/models/{name}/load", response_model=contract.ModelSummary, tags=[ADMINISTRATION], summary="Load a model from its folder",
        description="Load new and changed versions of a model, and then use them. If one cannot be loaded, the previous version stays in service.",
        response_description="The model.", openapi_extra=also(404),
    )  # fmt: skip
    async def load(name: str) -> Response:
        registry.check_open()
        await registry.change("load", name)
        entry = registry.find(name, None)
        return Response(encoding.dumps(describe.summary(registry, entry)), media_type=encoding.JSON)

    @app.post(
        "/admin/models/{name}/unload", response_model=contract.ModelSummary, tags=[ADMINISTRATION], summary="Take a model out of service",
        description="The model is unavailable until it is loaded again. Its running requests are answered.",
        response_description="The model.", openapi_extra=also(404),
    )  # fmt: skip
    async def unload(name: str) -> Response:
        await registry.change("unload", name)
        entry = registry.find(name, None)
        return Response(encoding.dumps(describe.summary(registry, entry)), media_type=encoding.JSON)

    @app.post(
        "/admin/models/{name}/calibrate", response_model=contract.Recalibrated, tags=[ADMINISTRATION], summary="Calibrate a model on normal rows",
        description="Calibrate a model of rows on a file of normal rows (CSV, Parquet or npy), and publish it as the next version.",
        response_description="The new version.", openapi_extra={"requestBody": BODY, "parameters": QUERY, **also(*BODY_STATUSES, 404, 409)},
    )  # fmt: skip
    async def calibrate(name: str, request: Request) -> Response:
        registry.check_open()
        stated = validate(contract.CalibrateRequest, fields_of(request, ("truth",)))
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        kind = MEDIA_TYPES.get(content_type)
        if kind is None:
            header = f"; for curl, add -H 'Content-Type: {next(iter(MEDIA_TYPES))}'" if content_type == FORM else ""
            raise UnsupportedMedia(
                f"Content-Type: {cut(content_type) or 'an empty value'} is not supported; send a file of normal rows in one of the valid types{header}",
                field="Content-Type", valid=list(MEDIA_TYPES),
            )  # fmt: skip
        entry = await registry.get(name, None)
        model = entry.model
        assert model is not None
        bulk.table_of(model)
        file = await row_files.spool(request.stream(), settings.max_upload_bytes)
        try:
            async with one_at_a_time:
                try:
                    done = await _while_there(
                        request,
                        lambda gone: recalibration.recalibrate(
                            model,
                            file,
                            kind,
                            settings.models_dir,
                            name="an upload",
                            stated=stated.truth,
                            strict=stated.strict,
                            stopped=gone,
                        ),
                    )
                except PermissionError as error:
                    raise UnsupportedTask(READ_ONLY, field="name") from error
                except OSError as error:
                    if error.errno == errno.EROFS:
                        raise UnsupportedTask(READ_ONLY, field="name") from error
                    raise Unavailable(
                        f"the new version cannot be written: {error.strerror}; check the disk of the folder of models"
                    ) from error
        finally:
            later(file.close)
        made = await registry.adopt(name, int(done.folder.name))
        log.info("calibrated", model=name, version=made.version, on=done.text, warnings=list(done.warnings))
        answer = {
            "model": name, "version": made.version, "done": done.text, "known_anomalies": done.known_anomalies,
            "warnings": list(done.warnings),
        }  # fmt: skip
        return Response(encoding.dumps(answer), media_type=encoding.JSON)


async def _while_there(request: Request, work: Callable[[Callable[[], bool]], T]) -> T:
    """Return the result of work in a thread. Pass it a function that returns whether the client has disconnected."""
    gone = threading.Event()
    future = asyncio.ensure_future(aside(lambda: work(gone.is_set), pool="models"))
    try:
        while not (await asyncio.wait({future}, timeout=LOOK))[0]:
            if await request.is_disconnected():
                gone.set()
        return future.result()
    finally:
        gone.set()
