"""Request handling that all use cases share: find the model, read the request, and run the use case."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from manifold.runtime import operations
from manifold.runtime.errors import UnsupportedTask
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations import Run
from manifold.service.core import contract
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.reading import OPTIONS, Reader, default_model
from manifold.service.models.entries import Entry
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings

Array = NDArray[Any]
T = TypeVar("T")


class Handling:
    """The registry, the settings and the reader of requests, which every use case needs."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry, self.settings, self.reader = registry, settings, Reader(settings, registry)

    async def entry(self, request: contract.BaseRequest, endpoint: str) -> tuple[Entry, Manifest]:
        """Return the requested model, ready. Raise UnsupportedTask if it does not support the endpoint."""
        entry = await self.registry.get(request.model, request.version)
        assert entry.manifest is not None
        if endpoint not in entry.endpoints:
            can, why = entry.endpoints, operations.why_not(entry.manifest, endpoint)
            names = self.registry.names_of(lambda other: endpoint in other.endpoints) if request.model is None else []
            if names:
                raise default_model(entry.name, f"does not support /{endpoint}{why}", names, UnsupportedTask)
            raise UnsupportedTask(
                f"{entry.name} does not support /{endpoint}{why}; {operations.abilities(entry.manifest)}",
                field="model",
                valid=can,
            )
        _check_effect(entry.manifest, request)
        return entry, entry.manifest

    async def drive(
        self, answer: UseCaseResult, steps: Generator[Run, dict[str, Array], T], n: int, deadline_ms: int | None
    ) -> T:
        """Run a use case of n items to its end, and record its times in the response."""
        assert answer.entry.batcher is not None
        if answer.manifest.drawing:
            steps = operations.watched(steps, partial(_note_chance, answer))
        milliseconds = deadline_ms or answer.entry.settings.deadline_ms or self.settings.deadline_ms
        deadline = time.monotonic() + milliseconds / 1000
        result, timing = await answer.entry.batcher.drive(steps, n, deadline, answer.work)
        answer.queue, answer.compute = timing.queue, timing.compute
        return result


def _check_effect(manifest: Manifest, request: contract.BaseRequest) -> None:
    """Raise InvalidValue for an option about images if the model neither takes nor generates images."""
    if "encoding" in request.model_fields_set and not any(kind.pictures for kind in manifest.items.values()):
        raise operations.no_effect(manifest, "encoding", f"generates {manifest.spec.noun}, which have one form")
    for option in OPTIONS:
        if option in request.model_fields_set and option not in manifest.spec.wire.options.model_fields:
            raise operations.no_effect(manifest, option, f"takes {manifest.spec.noun}")


def note(
    answer: UseCaseResult, fitted: Sequence[dict[str, Any]], request: contract.SeededRequest | None = None
) -> None:
    """Add to the response the steps that fitted the items to the model, and the seed if one was given."""
    if fitted:
        answer.fields["fitted"] = list(fitted)
    if request is not None and request.seed is not None:
        answer.fields |= {"seed": request.seed, "first": request.first}


def _note_chance(answer: UseCaseResult, task: str) -> None:
    """Mark the response as not reproducible if the graph of a task that was run draws random numbers itself."""
    if task in answer.manifest.drawing:
        answer.fields["reproducible"] = False


def first_latent(latents: operations.Latents) -> Array:
    """Return the latents. If they have names, return those of the first name."""
    first: Array = next(iter(latents.values())) if isinstance(latents, dict) else latents
    return first


def latent_fields(latents: operations.Latents | None) -> dict[str, Any]:
    """Return the response fields of latents: by name if the model names its latents."""
    if latents is None:
        return {}
    return {"named_latents" if isinstance(latents, dict) else "latents": latents}
