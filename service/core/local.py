"""Requests that are answered in this process, without a server: the same use cases, checks and responses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from manifold.runtime.errors import NotFound, near, shown
from manifold.service.core import encoding, use_cases
from manifold.service.core.handling import Handling
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase
from manifold.service.core.validation import validate
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings, read

REQUEST_ID = "local"


def answer(endpoint: str, fields: dict[str, Any], models: Path, device: str = "auto") -> bytes:
    """Return the JSON of the service's response to a request. Raise the errors of the use case, and NotFound for an unknown endpoint."""
    case = use_cases.every.get(endpoint.removeprefix("/"))
    if case is None:
        raise NotFound(
            f"endpoint: there is no {shown(endpoint)}{near(endpoint, use_cases.every)}; choose one of the valid endpoints",
            field="endpoint",
            valid=list(use_cases.every),
        )
    settings = read(models_dir=models, device=device, lazy=True, watch_seconds=0)
    return asyncio.run(_answer(case, validate(case.request, fields), settings))


async def _answer(case: UseCase, request: Any, settings: Settings) -> bytes:
    registry = Registry(settings)
    for entry in registry.entries.values():
        # only the requested model is loaded
        entry.state = "idle" if entry.state == "loading" else entry.state
    loading = asyncio.get_running_loop().create_future()
    loading.set_result(None)
    try:
        made = await case.handle(Handling(registry, settings), request, Uploads(), None)
        began = time.perf_counter()
        body = encoding.to_fields(made, REQUEST_ID)
        spent = 1000 * (time.perf_counter() - began)
        body["timing"] = {"queue": made.queue, "compute": made.compute, "encode": spent}
        return encoding.dumps(body)
    finally:
        registry.close()
        await registry.drain(loading)
