"""The endpoints of the use cases over HTTP: for each path, a function from a request to its reply."""

from __future__ import annotations

import functools
import time

from manifold.runtime import codecs
from manifold.service.aside import LARGE, aside, later
from manifold.service.core import encoding, use_cases
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.handling import Handling
from manifold.service.core.use_cases.base import UseCase
from manifold.service.http import bodies, streams, uploads
from manifold.service.http.front import Endpoint
from manifold.service.http.incoming import Incoming
from manifold.service.http.replies import Reply
from manifold.service.settings import Settings
from manifold.service.telemetry import tracing
from manifold.service.telemetry.metrics import Metrics


def of_use_cases(handling: Handling, metrics: Metrics, settings: Settings) -> dict[str, Endpoint]:
    """Return the function that answers each path."""
    return {case.path: _endpoint(case, handling, metrics, settings) for case in use_cases.every.values()}


def _endpoint(case: UseCase, handling: Handling, metrics: Metrics, settings: Settings) -> Endpoint:
    offered = encoding.PICTURES if case.gives_items else encoding.NUMBERS
    offered = (*offered, *(streams.MEDIA_TYPES if case.stream is not None else ()))
    tables = tuple(uploads.MEDIA_TYPES) if case.takes_row_files else ()

    async def endpoint(request: Incoming) -> Reply:
        handling.registry.check_open()
        if tables and (kind := uploads.kind_of(request)) is not None:
            return await uploads.respond(request, kind, handling, metrics, settings)
        media_type = encoding.choose(request.header(b"accept") or "*/*", offered)
        deadline = request.deadline()
        fields, files = await bodies.parse(request, case.request, settings, tables)
        if case.stream is not None and media_type in streams.MEDIA_TYPES:
            parts = await case.stream(handling, fields, files, deadline)
            return streams.respond(parts, case, fields, media_type, request.request_id, metrics)
        try:
            answer = await case.handle(handling, fields, files, deadline)
        finally:
            if files.work >= LARGE:  # freeing millions of numbers takes as long as reading them
                later(vars(fields).clear)
        write = functools.partial(_written, answer, media_type, request.request_id)
        body, spent = await aside(write, encoding.work(answer))
        now = time.monotonic()
        tracing.spent("encode", now - spent / 1000, now)
        metrics.answered(answer, case.name, spent)
        return Reply(body, media_type, headers=_headers(answer))

    return endpoint


def _written(answer: UseCaseResult, media_type: str, request_id: str) -> tuple[bytes, float]:
    """Return the bytes of the response, and the milliseconds that it took to write them."""
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


def _headers(answer: UseCaseResult) -> dict[str, str]:
    """Return the headers of a response. A picture or an array has no other place for these fields."""
    headers = {"X-Model": answer.entry.name, "X-Model-Version": str(answer.entry.version)}
    if "seed" in answer.fields:
        headers |= {"X-Seed": str(answer.fields["seed"]), "X-First": str(answer.fields["first"])}
    if "reproducible" in answer.fields:
        headers["X-Reproducible"] = "false"
    return headers
