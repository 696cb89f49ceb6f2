"""The application: the routes of models, health and metrics, its start and its end. Use cases, pages and errors have their own files."""

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
from starlette.responses import Response

from manifold.service.aside import aside
from manifold.service.core import contract, encoding
from manifold.service.core.handling import Handling
from manifold.service.http import admin, artifact_files, endpoints, errors, openapi, pages
from manifold.service.http.front import Front
from manifold.service.http.statuses import also
from manifold.service.http.tags import HEALTH, MODELS
from manifold.service.inference.core import Core
from manifold.service.inference.http import Routes
from manifold.service.models import describe
from manifold.service.models.following import Follower
from manifold.service.models.registry import SERVING, Registry
from manifold.service.security import Security
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics
from manifold.service.telemetry.tracing import Tracing

log = structlog.get_logger()

# allocations and generations after which Python collects garbage: requests leave no reference cycles
COLLECT = (20_000, 10, 10)


def create_app(settings: Settings, registry: Registry | None = None) -> Front:
    """Return the application. Models load in a thread after its start, so that it answers /health/live immediately."""
    security, traced = Security(settings), tracing.open_tracing(settings)
    registry = registry or Registry(settings)
    handling, metrics = Handling(registry, settings), Metrics(registry)
    app = FastAPIOffline(
        title="Manifold",
        version="0.1.0",
        lifespan=_lifespan(registry, traced),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to whatever Host the request names
    )
    app.state.registry, app.state.metrics, app.state.security = registry, metrics, security
    app.state.tracing = traced
    app.state.handling, app.state.inference = handling, Core(registry, settings, metrics)
    _add_models(app, registry)
    artifact_files.add(app, registry)
    _add_operations(app, registry, metrics)
    pages.add(app)
    admin.add(app, registry, security)
    errors.add(app)
    openapi.add(app)
    tensors = Routes(app.state.inference)
    return Front(app, endpoints.of_use_cases(handling, metrics, settings), tensors, registry, metrics, security)


def _lifespan(registry: Registry, traced: Tracing | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the start of the application, which loads the models, and its end, which waits for the last runs."""
    settings, began = registry.settings, time.perf_counter()

    def loaded(_: object) -> None:
        gc.set_threshold(*COLLECT)
        gc.freeze()  # these objects stay: to traverse them again would stop the service for tens of milliseconds
        ready, reason = registry.readiness()
        seconds = round(time.perf_counter() - began, 2)
        if not ready:
            log.warning("not ready", url=settings.url, seconds=seconds, reason=reason)
            return
        models = sum(entry.state in SERVING for entry in registry.shown)
        log.info("ready", url=settings.url, seconds=seconds, models=models)
        if settings.log_format == "text" and registry.cluster is None:
            log.info(f"open {settings.url} in a browser; press Ctrl+C to stop")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("loading", models=len(registry.latest), folder=str(settings.models_dir))
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
    @app.get(
        "/models", response_model=contract.ModelList, tags=[MODELS], summary="List the models",
        description="All models of the service, with their states. An unavailable model has a `reason`, such as an extra that is not installed.",
        response_description="The models.",
    )  # fmt: skip
    async def models() -> Response:
        shown = registry.shown
        body = await aside(
            lambda: encoding.dumps({"models": list(describe.summaries(registry, shown))}), describe.work(shown)
        )
        return Response(body, media_type=encoding.JSON)

    @app.get(
        "/models/{name}", response_model=dict[str, Any], tags=[MODELS], summary="Describe a model", openapi_extra=also(404, 422),
        description="The summary of GET /models, and the public part of the manifest: inputs, outputs, metrics and provenance.",
        response_description="The description of the model.",
    )  # fmt: skip
    async def model(name: str, version: int | None = None) -> Response:
        entry = await registry.described(name, version)
        body = await aside(lambda: encoding.dumps({**describe.public(entry), **describe.summary(registry, entry)}))
        return Response(body, media_type=encoding.JSON)

    @app.get(
        "/models/{name}/stats", response_model=contract.Stats, tags=[MODELS], summary="Report the load of a model", openapi_extra=also(404, 422),
        description="The queue of a model, and the totals of its runs by task. The model is loaded if it is idle.",
        response_description="The queue and the totals.",
    )  # fmt: skip
    async def stats(name: str, version: int | None = None) -> Response:
        entry = await registry.get(name, version)
        return Response(encoding.dumps(describe.stats(entry)), media_type=encoding.JSON)


def _add_operations(app: FastAPI, registry: Registry, metrics: Metrics) -> None:
    @app.get(
        "/health/live", response_model=contract.Health, tags=[HEALTH], summary="Report whether the process runs",
        description="A liveness probe: 200 as soon as the process answers requests.", response_description="The process runs.",
    )  # fmt: skip
    async def live() -> Response:
        return Response(encoding.dumps({"status": "live"}), media_type=encoding.JSON)

    @app.get(
        "/health/ready",
        response_model=contract.Health,
        tags=[HEALTH],
        responses={503: {"model": contract.Health, "description": "The service is not ready; `reason` says why."}},
        summary="Report whether the service is ready",
        description="A readiness probe: 200 if the service accepts requests. Models without an optional extra or a GPU do not count.",
        response_description="The service is ready.",
    )
    async def ready(request: Request) -> Response:
        is_ready, reason = registry.readiness()
        body: dict[str, Any] = {"status": "ready" if is_ready else "not ready"}
        if not getattr(request.state, "bare", False):
            states = {name: registry.entries[name, version].state for name, version in registry.latest.items()}
            body |= {"reason": reason, "models": states}
        return Response(encoding.dumps(body), 200 if is_ready else 503, media_type=encoding.JSON)

    @app.get(
        "/metrics", response_class=Response, tags=[HEALTH], summary="Return the metrics for Prometheus", openapi_extra=also(429),
        description="docs/reference/metrics.md explains every metric.", response_description="The metrics, in Prometheus' text format.",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )  # fmt: skip
    async def metrics_page() -> Response:
        cluster = registry.cluster
        page = await metrics.page_aside() if cluster is None else await cluster.metrics()
        return Response(page, media_type=metrics.content_type)
