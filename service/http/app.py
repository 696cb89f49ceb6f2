"""The application: the routes of models, health and metrics, its start and its end. Use cases, pages and errors have files of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.responses import FileResponse, Response

from manifold.service.aside import ROW, aside
from manifold.service.core import contract, encoding
from manifold.service.core.handling import Handling
from manifold.service.http import admin, endpoints, errors, openapi, pages
from manifold.service.http.front import Front
from manifold.service.inference.core import Core
from manifold.service.inference.http import Routes
from manifold.service.models import describe
from manifold.service.models.following import Follower
from manifold.service.models.registry import Registry
from manifold.service.security import Security
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing

log = structlog.get_logger()

# allocations and generations after which Python collects garbage: requests leave no cycles
COLLECT = (20_000, 10, 10)


def create_app(settings: Settings, registry: Registry | None = None) -> Front:
    """Return the application. Models load in a thread once it has started, so that it answers /health/live at once."""
    security, traced = Security(settings), tracing.open_tracing(settings)
    registry = registry or Registry(settings)
    handling, metrics = Handling(registry, settings), Metrics(registry)
    app = FastAPIOffline(
        title="Manifold",
        version="0.1.0",
        description="Deep generative models over HTTP.",
        lifespan=_lifespan(registry, traced),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to whatever Host the request names
    )
    app.state.registry, app.state.metrics, app.state.security = registry, metrics, security
    app.state.tracing = traced
    app.state.handling, app.state.inference = handling, Core(registry, settings, metrics)
    _add_models(app, registry)
    _add_operations(app, registry, metrics)
    pages.add(app)
    admin.add(app, registry, security)
    errors.add(app)
    openapi.add(app)
    tensors = Routes(app.state.inference)
    return Front(app, endpoints.of_use_cases(handling, metrics, settings), tensors, registry, metrics, security)


def _lifespan(registry: Registry, traced: Tracing | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the start of the application, which loads the models, and its end, which waits for what still runs."""
    settings, began = registry.settings, time.perf_counter()

    def loaded(_: object) -> None:
        gc.set_threshold(*COLLECT)
        gc.freeze()  # what is here stays: to traverse it again would stop the service for tens of milliseconds
        ready, reason = registry.readiness()
        url = f"http://{settings.host}:{settings.port}/"
        log.info(
            "ready" if ready else "not ready", url=url, seconds=round(time.perf_counter() - began, 2), reason=reason
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(aside(registry.load, pool="models"))
        loading.add_done_callback(loaded)
        following = asyncio.create_task(Follower(registry).run()) if settings.watch_seconds else None
        yield
        if following is not None:
            following.cancel()
        registry.close()
        await registry.drain(loading)
        if traced is not None:
            await aside(traced.close, pool="models")

    return lifespan


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
