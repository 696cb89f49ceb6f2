"""The latents or codes of items."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from manifold.runtime import operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    EXAMPLE_ROW,
    ConditionedItemsRequest,
    Fitted,
    Nested,
    Response,
    SeededRequest,
    example,
)
from manifold.service.core.handling import Handling, first_latent, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class Posterior(BaseModel):
    """The posterior of one of several latents."""

    mean: Nested | None = None
    log_variance: Nested | None = None
    latents: Nested | None = None


class EncodeRequest(ConditionedItemsRequest, SeededRequest):
    """Items to be placed in latent space."""

    model_config = example(model="transactions-vae", rows=[EXAMPLE_ROW])


class EncodeResponse(Response):
    """Posterior, or codes."""

    mean: Nested | None = None
    log_variance: Nested | None = None
    latents: Nested | None = None
    codes: Nested | None = None
    posteriors: dict[str, Posterior] | None = Field(default=None, description="by latent, of models with several")
    fitted: list[Fitted] | None = None


async def handle(
    handling: Handling, request: EncodeRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Encode items: their posteriors, or their codes."""
    entry, manifest = await handling.entry(request, "encode")
    items = await handling.reader.items(manifest, request, uploads)
    answer = UseCaseResult(entry, work=uploads.work)
    condition = await handling.reader.condition(manifest, uploads, request)
    steps = operations.encode(
        manifest, items.data, seed=request.seed, first=request.first, condition=condition, numbers=request.inputs
    )
    encoded = await handling.drive(answer, steps, len(items.data), deadline_ms)
    answer.fields |= _posterior(encoded)
    answer.numbers = encoded.codes if encoded.mean is None else first_latent(encoded.latent)
    note(answer, items.fitted, request)
    return answer


def _posterior(encoded: operations.Encoded) -> dict[str, Any]:
    """Return the posterior and the codes; the posterior of several latents by name."""
    parts = {name: getattr(encoded, name) for name in ("mean", "log_variance", "latents")}
    parts = {name: value for name, value in parts.items() if value is not None}
    codes = {} if encoded.codes is None else {"codes": encoded.codes}
    if not isinstance(encoded.mean, dict):
        return {**parts, **codes}
    named = {role: {name: value[role] for name, value in parts.items() if role in value} for role in encoded.mean}
    return {"posteriors": named, **codes}


USE_CASE = UseCase("encode", EncodeRequest, EncodeResponse, handle)
