"""REST: translates HTTP to the handlers and back. The routes, the one table of status codes, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import codecs, errors
from runtime.errors import InvalidValue, ManifoldError
from service import bodies, contract, encoding, uploads
from service.handlers import Answer, Handlers
from service.metrics import Metrics
from service.reading import Uploads
from service.registry import Entry, Registry, data_summary, endpoints
from service.settings import Settings

log = structlog.get_logger()

STATUS: dict[type[ManifoldError], int] = {
    errors.Malformed: 400, errors.UnknownModel: 404, errors.NotFound: 404, errors.UnsupportedTask: 409,
    errors.TooLarge: 413, errors.UnsupportedMedia: 415, errors.InvalidValue: 422, errors.Busy: 429, errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}  # fmt: skip
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
PAGE = Path(__file__).parent / "pages" / "index.html"
Route = Callable[[Any, Uploads, int | None], Awaitable[Answer]]


def create_app(settings: Settings, registry: Registry | None = None) -> FastAPI:
    """The application. Models load in a thread once it starts, so that it answers /health/live at once."""
    registry = registry or Registry(settings)
    handlers, metrics = Handlers(registry, settings), Metrics(registry)

    began = time.perf_counter()

    def loaded(_: object) -> None:
        ready, reason = registry.readiness()
        url = f"http://{settings.host}:{settings.port}/"
        log.info(
            "ready" if ready else "not ready", url=url, seconds=round(time.perf_counter() - began, 2), reason=reason
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.get_running_loop().run_in_executor(None, registry.load)
        loading.add_done_callback(loaded)
        yield
        await loading
        registry.close()

    app = FastAPIOffline(
        title="Manifold",
        version="0.1.0",
        description="Deep generative models over HTTP.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.registry, app.state.metrics = registry, metrics
    app.add_middleware(Observe, metrics=metrics)
    _add_use_cases(app, handlers, metrics, settings)
    _add_models(app, registry)
    _add_operations(app, registry, metrics)
    _add_errors(app)
    _document(app)
    return app


# --- use cases ----------------------------------------------------------------------------------------------------------------

USE_CASES: dict[str, tuple[type[contract.Request], type[contract.Response]]] = {
    "sample": (contract.SampleRequest, contract.SampleResponse),
    "encode": (contract.EncodeRequest, contract.EncodeResponse),
    "reconstruct": (contract.ReconstructRequest, contract.ReconstructResponse),
    "interpolate": (contract.InterpolateRequest, contract.InterpolateResponse),
    "anomaly-score": (contract.ScoreRequest, contract.ScoreResponse),
    "classify": (contract.ClassifyRequest, contract.ClassifyResponse),
    "impute": (contract.ImputeRequest, contract.ImputeResponse),
}

NUMBERS_ONLY = ("encode", "anomaly-score", "classify", "impute")  # the others make items, which may be pictures


def _add_use_cases(app: FastAPI, handlers: Handlers, metrics: Metrics, settings: Settings) -> None:
    methods: dict[str, Route] = {
        "sample": handlers.sample, "encode": handlers.encode, "reconstruct": handlers.reconstruct,
        "interpolate": handlers.interpolate, "anomaly-score": handlers.score,
        "classify": handlers.classify, "impute": handlers.impute,
    }  # fmt: skip
    for name, (shape, _) in USE_CASES.items():
        app.add_api_route(
            f"/{name}",
            _endpoint(name, shape, methods[name], handlers, metrics, settings),
            methods=["POST"],
            name=name,
            response_model=None,
            summary=shape.__doc__,
        )


def _endpoint(
    name: str,
    shape: type[contract.Request],
    method: Route,
    handlers: Handlers,
    metrics: Metrics,
    settings: Settings,
) -> Callable[[Request], Awaitable[Response]]:
    offered = encoding.NUMBERS if name in NUMBERS_ONLY else encoding.PICTURES
    tables = tuple(uploads.MEDIA_TYPES) if name == "anomaly-score" else ()

    async def endpoint(request: Request) -> Response:
        if tables and (kind := uploads.kind_of(request)) is not None:
            return await uploads.respond(request, kind, handlers, metrics, settings)
        media_type = encoding.choose(request.headers.get("accept", "*/*"), offered)
        deadline = _deadline(request)
        fields, files = await bodies.parse(request, shape, settings, tables)
        answer = await method(fields, files, deadline)
        metrics.answered(answer, name)
        write = _writer(answer, media_type, request.state.request_id)
        body = await asyncio.get_running_loop().run_in_executor(None, write) if encoding.large(answer) else write()
        return Response(body, media_type=media_type, headers=_headers(answer))

    return endpoint


def _deadline(request: Request) -> int | None:
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) < 86_400_000:
        raise InvalidValue("X-Deadline-Ms: whole milliseconds above 0 are needed", field="X-Deadline-Ms")
    return int(text)


def _writer(answer: Answer, media_type: str, request_id: str) -> Callable[[], bytes]:
    def write() -> bytes:
        if media_type == codecs.NPY:
            return encoding.to_npy(answer)
        if media_type != encoding.JSON:
            return encoding.to_picture(answer, media_type)
        began = time.perf_counter()
        body = encoding.to_json(answer, request_id)
        spent = 1000 * (time.perf_counter() - began)
        body["timing"] = {
            "queue": round(answer.queue, 3),
            "compute": round(answer.compute, 3),
            "encode": round(spent, 3),
        }
        return encoding.dumps(body)

    return write


def _headers(answer: Answer) -> dict[str, str]:
    """What a picture or an array cannot say itself."""
    headers = {"X-Model": answer.entry.name, "X-Model-Version": str(answer.entry.version)}
    if "seed" in answer.fields:
        headers |= {"X-Seed": str(answer.fields["seed"]), "X-First": str(answer.fields["first"])}
    return headers


# --- models, health, metrics, the page ----------------------------------------------------------------------------------------


def summary(entry: Entry, default: str | None) -> dict[str, Any]:
    """A line of GET /models."""
    manifest, model = entry.manifest, entry.model
    return {
        "name": entry.name, "version": entry.version, "family": manifest.family if manifest else "", "description": manifest.description if manifest else "",
        "tasks": list(manifest.tasks) if manifest else [], "endpoints": endpoints(manifest) if manifest else [], "state": entry.state,
        "reason": entry.reason, "device": model.device if model else None, "note": model.note if model else None,
        "classes": list(manifest.classes) if manifest and manifest.classes else None,
        "conditions": list(manifest.conditions.names) if manifest and manifest.conditions else None, "data": data_summary(manifest) if manifest else None,
        "default": entry.name == default,
    }  # fmt: skip


def _add_models(app: FastAPI, registry: Registry) -> None:
    default = registry.settings.default_model

    @app.get("/models", response_model=contract.ModelList, summary="What there is, and its state.")
    async def models() -> Response:
        return Response(
            encoding.dumps({"models": [summary(entry, default) for entry in registry.shown]}), media_type=encoding.JSON
        )

    @app.get("/models/{name}", response_model=dict[str, Any], summary="One model: its manifest's public part.")
    async def model(name: str, version: int | None = None) -> Response:
        entry = await registry.awake(name, version)
        public = (
            entry.manifest.model_dump(mode="json", exclude_none=True, exclude={"files", "golden"})
            if entry.manifest
            else {}
        )
        return Response(encoding.dumps({**public, **summary(entry, default)}), media_type=encoding.JSON)

    @app.get("/models/{name}/preview.png", response_class=FileResponse, summary="What the model makes, as a picture.")
    async def preview(name: str, version: int | None = None) -> Response:
        path = registry.find(name, version).folder / "preview.png"
        if not path.exists():
            raise errors.NotFound(f"{name} has no preview", field="name")
        return FileResponse(path, media_type="image/png")


def _add_operations(app: FastAPI, registry: Registry, metrics: Metrics) -> None:
    @app.get("/health/live", response_model=contract.Health, summary="The process answers.")
    async def live() -> Response:
        return Response(encoding.dumps({"status": "live"}), media_type=encoding.JSON)

    @app.get(
        "/health/ready",
        response_model=contract.Health,
        responses={503: {"model": contract.Health}},
        summary="Every model that should answer does.",
    )
    async def ready() -> Response:
        is_ready, reason = registry.readiness()
        states = {entry.name: entry.state for entry in registry.shown}
        body = {"status": "ready" if is_ready else "not ready", "reason": reason, "models": states}
        return Response(encoding.dumps(body), 200 if is_ready else 503, media_type=encoding.JSON)

    @app.get("/metrics", response_class=Response, summary="For Prometheus.")
    async def metrics_page() -> Response:
        return Response(metrics.page(), media_type=metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(
            PAGE,
            media_type="text/html",
            headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:"},
        )


# --- errors -------------------------------------------------------------------------------------------------------------------


def status_of(error: ManifoldError) -> int:
    """The table, by the nearest class."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def _error(request: Request, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    request.app.state.metrics.refused.labels(body["type"]).inc()
    body = {**body, "request_id": request.state.request_id}
    return Response(encoding.dumps({"error": body}), status, headers=headers, media_type=encoding.JSON)


def _opaque(request: Request) -> Response:
    message = "something went wrong here, not in your request; the log has the request id"
    return _error(request, 500, {"type": "internal", "message": message, "field": None, "valid": None})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ManifoldError)
    async def ours(request: Request, error: ManifoldError) -> Response:
        status = status_of(error)
        if status == 500:
            log.error("internal", request_id=request.state.request_id, type=error.type, message=error.message)
            return _opaque(request)
        headers = {"Retry-After": str(math.ceil(getattr(error, "retry_after", 1)))} if status in (429, 503) else None
        return _error(
            request,
            status,
            {"type": error.type, "message": error.message, "field": error.field, "valid": error.valid},
            headers,
        )

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        """Unknown paths and methods; the framework's own."""
        paths = sorted({route.path for route in app.routes if hasattr(route, "path")})
        valid = (error.headers or {}).get("Allow", "").split(", ") if error.status_code == 405 else paths
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "malformed")
        message = {
            404: f"there is no {request.url.path}",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail))
        return _error(
            request,
            error.status_code,
            {"type": kind, "message": message, "field": None, "valid": valid},
            dict(error.headers or {}),
        )

    from fastapi.exceptions import RequestValidationError

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> Response:
        """Path and query parameters of the GET routes."""
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        return _error(
            request,
            422,
            {"type": "invalid_value", "message": f"{name}: {problem['msg']}", "field": name, "valid": None},
        )

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        log.error("internal", request_id=request.state.request_id, exc_info=error)
        return _opaque(request)


class Observe:
    """Pure ASGI middleware: a request id kept or made, the metrics, one line of log."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"x-request-id"), "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode("latin-1"))]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            spent = time.perf_counter() - began
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(spent)
            log.debug(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                milliseconds=round(1000 * spent, 2),
            )


# --- documentation ------------------------------------------------------------------------------------------------------------


def _document(app: FastAPI) -> None:
    """OpenAPI for the routes that parse their own bodies."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            for shape in (contract.ErrorResponse, *(shape for pair in USE_CASES.values() for shape in pair)):
                definition = shape.model_json_schema(ref_template="#/components/schemas/{model}")
                parts |= definition.pop("$defs", {})
                parts[shape.__name__] = definition
            refused = {"description": "Error", "content": {encoding.JSON: {"schema": _ref(contract.ErrorResponse)}}}
            for name, (request, response) in USE_CASES.items():
                operation = schema["paths"][f"/{name}"]["post"]
                binary = {"schema": {"type": "string", "format": "binary"}}
                pictures_in = (
                    {}
                    if name in ("sample", "interpolate", "impute")
                    else {
                        bodies.MULTIPART: {
                            "schema": {
                                "type": "object",
                                "properties": {"file": {"type": "array", "items": binary["schema"]}},
                                "required": ["file"],
                            }
                        },
                        **dict.fromkeys(codecs.MEDIA_TYPES, binary),
                    }
                )
                operation["requestBody"] = {
                    "required": True,
                    "content": {encoding.JSON: {"schema": _ref(request)}, **pictures_in, codecs.NPY: binary},
                }
                if name == "anomaly-score":
                    operation["requestBody"]["content"] |= dict.fromkeys(uploads.MEDIA_TYPES, binary)
                pictures = {} if name in NUMBERS_ONLY else {"image/png": binary, "image/webp": binary}
                operation["responses"] = {
                    "200": {
                        "description": "OK",
                        "content": {encoding.JSON: {"schema": _ref(response)}, **pictures, codecs.NPY: binary},
                    },
                    **{str(status): refused for status in sorted({*STATUS.values(), 500})},
                }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _ref(shape: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}
