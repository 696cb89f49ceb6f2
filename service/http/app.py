"""REST: translates HTTP to the handlers and back. The routes and their documentation, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gc
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, HTMLResponse, Response

from manifold.runtime import codecs, imaging
from manifold.runtime.errors import ManifoldError, cut
from manifold.service.aside import LARGE, ROW, aside, later
from manifold.service.core import contract, encoding, uploads
from manifold.service.core.handlers import Answer, Handlers
from manifold.service.core.reading import Uploads
from manifold.service.http import admin, bodies, replies, streams
from manifold.service.http.front import GONE, OPEN, Endpoint, Front
from manifold.service.http.incoming import Incoming
from manifold.service.http.replies import STATUS, Reply
from manifold.service.inference.core import Core
from manifold.service.inference.http import Routes
from manifold.service.models import describe
from manifold.service.models.registry import Registry
from manifold.service.security import Security
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics

log = structlog.get_logger()

# objects and generations after which Python looks for garbage: requests leave none in cycles
COLLECT = (20_000, 10, 10)
PAGE = Path(__file__).parent / "pages" / "index.html"
Route = Callable[[Any, Uploads, int | None], Awaitable[Answer]]


def create_app(settings: Settings, registry: Registry | None = None) -> Front:
    """The application. Models load in a thread once it starts, so that it answers /health/live at once."""
    security, traced = Security(settings), tracing.open_tracing(settings)
    registry = registry or Registry(settings)
    handlers, metrics = Handlers(registry, settings), Metrics(registry)

    began = time.perf_counter()

    def loaded(_: object) -> None:
        gc.set_threshold(*COLLECT)
        gc.freeze()  # what is here stays: looking through it again and again would stop the service for tens of milliseconds
        ready, reason = registry.readiness()
        url = f"http://{settings.host}:{settings.port}/"
        log.info(
            "ready" if ready else "not ready", url=url, seconds=round(time.perf_counter() - began, 2), reason=reason
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(aside(registry.load, pool="models"))
        loading.add_done_callback(loaded)
        following = asyncio.create_task(registry.follow()) if settings.watch_seconds else None
        yield
        if following is not None:
            following.cancel()
        registry.close()
        await registry.drain(loading)
        if traced is not None:
            await aside(traced.close, pool="models")

    app = FastAPIOffline(
        title="Manifold",
        version="0.1.0",
        description="Deep generative models over HTTP.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to whatever Host the request names
    )
    app.state.registry, app.state.metrics, app.state.security = registry, metrics, security
    app.state.tracing = traced
    app.state.handlers, app.state.inference = handlers, Core(registry, settings, metrics)
    _add_models(app, registry)
    _add_operations(app, registry, metrics)
    _add_pages(app)
    admin.add(app, registry, security)
    _add_errors(app)
    _document(app)
    tensors = Routes(app.state.inference)
    return Front(app, _use_cases(handlers, metrics, settings), tensors, registry, metrics, security)


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

NUMBERS_ONLY = ("encode", "anomaly-score", "classify")  # the others make items, which may be pictures


def _use_cases(handlers: Handlers, metrics: Metrics, settings: Settings) -> dict[str, Endpoint]:
    """What answers each path."""
    methods: dict[str, Route] = {
        "sample": handlers.sample, "encode": handlers.encode, "reconstruct": handlers.reconstruct,
        "interpolate": handlers.interpolate, "anomaly-score": handlers.score,
        "classify": handlers.classify, "impute": handlers.impute,
    }  # fmt: skip
    return {
        f"/{name}": _endpoint(name, shape, methods[name], handlers, metrics, settings)
        for name, (shape, _) in USE_CASES.items()
    }


def _endpoint(
    name: str, shape: type[contract.Request], method: Route, handlers: Handlers, metrics: Metrics, settings: Settings
) -> Endpoint:
    offered = encoding.NUMBERS if name in NUMBERS_ONLY else encoding.PICTURES
    offered = (*offered, *(streams.MEDIA_TYPES if name == "sample" else ()))
    tables = tuple(uploads.MEDIA_TYPES) if name == "anomaly-score" else ()

    async def endpoint(request: Incoming) -> Reply:
        handlers.registry.check_open()
        if tables and (kind := uploads.kind_of(request)) is not None:
            return await uploads.respond(request, kind, handlers, metrics, settings)
        media_type = encoding.choose(request.header(b"accept") or "*/*", offered)
        deadline = request.deadline()
        fields, files = await bodies.parse(request, shape, settings, tables)
        if media_type in streams.MEDIA_TYPES:
            assert isinstance(fields, contract.SampleRequest)
            return await streams.respond(fields, files, deadline, media_type, request.request_id, handlers, metrics)
        try:
            answer = await method(fields, files, deadline)
        finally:
            if files.work >= LARGE:  # to free millions of numbers takes as long as to read them
                later(vars(fields).clear)
        write = functools.partial(_written, answer, media_type, request.request_id)
        body, spent = await aside(write, encoding.work(answer))
        now = time.monotonic()
        tracing.spent("encode", now - spent / 1000, now)
        metrics.answered(answer, name, spent)
        return Reply(body, media_type, headers=_headers(answer))

    return endpoint


def _written(answer: Answer, media_type: str, request_id: str) -> tuple[bytes, float]:
    """The answer's bytes, and the milliseconds they took."""
    began = time.perf_counter()

    def spent() -> float:
        return 1000 * (time.perf_counter() - began)

    if media_type == codecs.NPY:
        return encoding.to_npy(answer), spent()
    if media_type != encoding.JSON:
        return encoding.to_picture(answer, media_type), spent()
    body = encoding.to_fields(answer, request_id)
    times = {"queue": answer.queue, "compute": answer.compute, "encode": spent()}
    body["timing"] = {name: round(milliseconds, 3) for name, milliseconds in times.items()}
    return encoding.dumps(body), spent()


def _headers(answer: Answer) -> dict[str, str]:
    """What a picture or an array cannot say itself."""
    headers = {"X-Model": answer.entry.name, "X-Model-Version": str(answer.entry.version)}
    if "seed" in answer.fields:
        headers |= {"X-Seed": str(answer.fields["seed"]), "X-First": str(answer.fields["first"])}
    if "reproducible" in answer.fields:
        headers["X-Reproducible"] = "false"
    return headers


# --- models, health, metrics, the page ----------------------------------------------------------------------------------------


def _add_models(app: FastAPI, registry: Registry) -> None:
    default = registry.settings.default_model

    @app.get("/models", response_model=contract.ModelList, summary="What there is, and its state.")
    async def models() -> Response:
        shown = registry.shown
        body = await aside(
            lambda: encoding.dumps({"models": [describe.summary(entry, default) for entry in shown]}), ROW * len(shown)
        )
        return Response(body, media_type=encoding.JSON)

    @app.get("/models/{name}", response_model=dict[str, Any], summary="One model: its manifest's public part.")
    async def model(name: str, version: int | None = None) -> Response:
        entry = await registry.described(name, version)
        body = await aside(lambda: encoding.dumps({**describe.public(entry), **describe.summary(entry, default)}))
        return Response(body, media_type=encoding.JSON)

    @app.get("/models/{name}/stats", response_model=contract.Stats, summary="What one model has done, and what waits.")
    async def stats(name: str, version: int | None = None) -> Response:
        entry = await registry.get(name, version)
        return Response(encoding.dumps(describe.stats(entry)), media_type=encoding.JSON)

    @app.get("/models/{name}/preview.png", response_class=FileResponse, summary="What the model makes, as a picture.")
    async def preview(name: str, version: int | None = None) -> Response:
        path = registry.find(name, version).folder / "preview.png"
        status = await aside(lambda: describe.preview(path, "name"), pool="disk")
        return FileResponse(path, media_type="image/png", stat_result=status)


def _add_operations(app: FastAPI, registry: Registry, metrics: Metrics) -> None:
    @app.get("/health/live", response_model=contract.Health, summary="The process answers.")
    async def live() -> Response:
        return Response(encoding.dumps({"status": "live"}), media_type=encoding.JSON)

    @app.get(
        "/health/ready",
        response_model=contract.Health,
        responses={503: {"model": contract.Health}},
        summary="Whether the service is ready, with the reason if it is not.",
    )
    async def ready(request: Request) -> Response:
        is_ready, reason = registry.readiness()
        body: dict[str, Any] = {"status": "ready" if is_ready else "not ready"}
        if not getattr(request.state, "bare", False):
            states = {name: registry.entries[name, version].state for name, version in registry.latest.items()}
            body |= {"reason": reason, "models": states}
        return Response(encoding.dumps(body), 200 if is_ready else 503, media_type=encoding.JSON)

    @app.get("/metrics", response_class=Response, summary="For Prometheus.")
    async def metrics_page() -> Response:
        cluster = registry.cluster
        page = await metrics.page_aside() if cluster is None else await cluster.metrics()
        return Response(page, media_type=metrics.content_type)


def _add_pages(app: FastAPI) -> None:
    """The page, and the API's documentation. Each may run the scripts that it holds now, and no others."""

    def document(text: str, more: str) -> Callable[[], Awaitable[Response]]:
        policy = f"default-src 'none'; {more}; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

        async def page() -> Response:
            return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})

        return page

    text = PAGE.read_text()
    app.get("/", include_in_schema=False)(
        document(text, f"script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}")
    )
    below = "/static-offline-docs"
    docs = bytes(
        get_swagger_ui_html(
            openapi_url="/openapi.json", title="Manifold", swagger_js_url=f"{below}/swagger-ui-bundle.js",
            swagger_css_url=f"{below}/swagger-ui.css", swagger_favicon_url=f"{below}/favicon.png",
        ).body
    ).decode()  # fmt: skip
    # Swagger UI sets styles by script
    app.get("/docs", include_in_schema=False)(
        document(docs, f"script-src 'self' {_hash(docs, 'script')}; style-src 'self' 'unsafe-inline'")
    )


def _hash(page: str, tag: str) -> str:
    """What a content security policy calls the inline scripts, or styles, of a page."""
    inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline)


# --- errors -------------------------------------------------------------------------------------------------------------------


def _respond(request: Request, reply: Reply) -> Response:
    request.app.state.metrics.errors.labels(reply.error).inc()
    return Response(reply.body, reply.status, headers=reply.headers, media_type=reply.media_type)


def _add_errors(app: FastAPI) -> None:
    """Errors of the routes that are not use cases, in the same shape."""

    @app.exception_handler(ManifoldError)
    async def ours(request: Request, error: ManifoldError) -> Response:
        return _respond(request, replies.of_error(error, request.state.request_id))

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        """Unknown paths and methods; the framework's own."""
        path, status = request.url.path, error.status_code
        if path in {f"/{name}" for name in USE_CASES}:
            status, error = 405, HTTPException(405, headers={"Allow": "POST"})
        elif status == 405 and "GET" in (allowed := (error.headers or {}).get("Allow", "")) and "HEAD" not in allowed:
            error = HTTPException(405, headers={"Allow": allowed.replace("GET", "GET, HEAD")})
        paths = sorted(
            {route.path for route in app.routes if hasattr(route, "path")} | {f"/{name}" for name in USE_CASES}
        )
        valid = (error.headers or {}).get("Allow", "").split(", ") if status == 405 else paths
        kind = {404: "not_found", 405: "method_not_allowed"}.get(status, "malformed")
        message = {404: f"there is no {cut(path)}", 405: f"{cut(path)} does not take {cut(request.method)}"}.get(
            status, cut(str(error.detail), 200)
        )
        headers = dict(error.headers or {})
        return _respond(
            request, replies.refusal(status, request.state.request_id, kind, message, valid=valid, headers=headers)
        )

    from fastapi.exceptions import RequestValidationError

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> Response:
        """Path and query parameters of the GET routes."""
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        return _respond(
            request,
            replies.refusal(422, request.state.request_id, "invalid_value", f"{name}: {problem['msg']}", field=name),
        )

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        """The client has left while it sent a body, which is no error of the service."""
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return _respond(request, replies.unexpected(error, request.state.request_id))


# --- documentation ------------------------------------------------------------------------------------------------------------


def _document(app: FastAPI) -> None:
    """OpenAPI for the routes that parse their own bodies."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            others, schema["paths"] = schema["paths"], {}
            for shape in (contract.ErrorResponse, *(shape for pair in USE_CASES.values() for shape in pair)):
                definition = shape.model_json_schema(ref_template="#/components/schemas/{model}")
                parts |= definition.pop("$defs", {})
                parts[shape.__name__] = definition
            refused = {"description": "Error", "content": {encoding.JSON: {"schema": _ref(contract.ErrorResponse)}}}
            for name, (request, response) in USE_CASES.items():
                operation: dict[str, Any] = {"summary": request.__doc__, "operationId": name, "tags": ["use cases"]}
                schema["paths"][f"/{name}"] = {"post": operation}
                binary = {"schema": {"type": "string", "format": "binary"}}
                files = {"type": "array", "items": binary["schema"]}
                masks = {"mask": files} if "masks" in request.model_fields else {}
                pictures_in = (
                    {}
                    if name in ("sample", "interpolate")
                    else {
                        bodies.MULTIPART: {
                            "schema": {
                                "type": "object",
                                "properties": {"file": files, **masks},
                                "required": ["file"],
                            }
                        },
                        **dict.fromkeys(imaging.MEDIA_TYPES, binary),
                    }
                )
                operation["requestBody"] = {
                    "required": True,
                    "content": {encoding.JSON: {"schema": _ref(request)}, **pictures_in, codecs.NPY: binary},
                }
                if name == "anomaly-score":
                    operation["requestBody"]["content"] |= dict.fromkeys(uploads.MEDIA_TYPES, binary)
                pictures = {} if name in NUMBERS_ONLY else {"image/png": binary, "image/webp": binary}
                if name == "sample":
                    pictures |= {kind: {"schema": {"type": "string"}} for kind in streams.MEDIA_TYPES}
                operation["responses"] = {
                    "200": {
                        "description": "OK",
                        "content": {encoding.JSON: {"schema": _ref(response)}, **pictures, codecs.NPY: binary},
                    }
                }
            schema["paths"] |= others
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if path not in OPEN:
                        operation["security"] = [{"key": []}]
                        operation["responses"] |= {str(status): refused for status in sorted({*STATUS.values(), 500})}
            schema["components"]["securitySchemes"] = {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "where the service asks for keys; /admin needs the scope admin",
                }
            }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    route = next(route for route in app.router.routes if getattr(route, "path", "") == app.openapi_url)
    app.router.routes.remove(route)  # it would make the schema on the event loop, which takes a tenth of a second

    @app.get(str(app.openapi_url), include_in_schema=False)
    async def schema() -> Response:
        return Response(await aside(lambda: encoding.dumps(app.openapi())), media_type=encoding.JSON)


def _ref(shape: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}
