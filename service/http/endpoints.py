"""The use cases over HTTP: for each path, a function from a request to its reply. Reading, handling and writing are done elsewhere."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from manifold.runtime import codecs
from manifold.service.aside import LARGE, aside, later
from manifold.service.core import contract, encoding
from manifold.service.core.handlers import Answer, Handlers
from manifold.service.core.reading import Uploads
from manifold.service.http import bodies, streams, uploads
from manifold.service.http.front import Endpoint
from manifold.service.http.incoming import Incoming
from manifold.service.http.replies import Reply
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics

Route = Callable[[Any, Uploads, int | None], Awaitable[Answer]]

USE_CASES: dict[str, tuple[type[contract.Request], type[contract.Response]]] = {
    "sample": (contract.SampleRequest, contract.SampleResponse),
    "encode": (contract.EncodeRequest, contract.EncodeResponse),
    "reconstruct": (contract.ReconstructRequest, contract.ReconstructResponse),
    "interpolate": (contract.InterpolateRequest, contract.InterpolateResponse),
    "anomaly-score": (contract.ScoreRequest, contract.ScoreResponse),
    "classify": (contract.ClassifyRequest, contract.ClassifyResponse),
    "impute": (contract.ImputeRequest, contract.ImputeResponse),
}

NUMBERS_ONLY = ("encode", "anomaly-score", "classify")  # the others answer with items, which may be pictures


def of_use_cases(handlers: Handlers, metrics: Metrics, settings: Settings) -> dict[str, Endpoint]:
    """Return the function that answers each path."""
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
    """Return the answer's bytes, and the milliseconds that it took to write them."""
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
    """Return the headers of an answer, which say what a picture or an array cannot."""
    headers = {"X-Model": answer.entry.name, "X-Model-Version": str(answer.entry.version)}
    if "seed" in answer.fields:
        headers |= {"X-Seed": str(answer.fields["seed"]), "X-First": str(answer.fields["first"])}
    if "reproducible" in answer.fields:
        headers["X-Reproducible"] = "false"
    return headers
