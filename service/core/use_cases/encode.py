"""Encoding of items: their latents or codes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from manifold.runtime import operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    FITTED,
    ConditionedItemsRequest,
    Fitted,
    Nested,
    Response,
    SeededRequest,
)
from manifold.service.core.examples import DIGIT, ROW, Example
from manifold.service.core.handling import Handling, first_latent, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class Posterior(BaseModel):
    """The posterior of one of several latents."""

    mean: Nested | None = Field(default=None, description="Mean of the posterior of each item: [n][L].")
    log_variance: Nested | None = Field(default=None, description="Log variance of the posterior of each item: [n][L].")
    latents: Nested | None = Field(
        default=None, description="Latents drawn from the posteriors, if a seed is given: [n][L]."
    )


class EncodeRequest(ConditionedItemsRequest, SeededRequest):
    """Encode items.

    The response contains the mean and the log variance of the posterior of each item, or its codes. With a seed, it also contains latents
    drawn from the posterior.
    """


class EncodeResponse(Response):
    """The posteriors, or the codes, of the items."""

    mean: Nested | None = Field(default=None, description="Mean of the posterior of each item: [n][L].")
    log_variance: Nested | None = Field(default=None, description="Log variance of the posterior of each item: [n][L].")
    latents: Nested | None = Field(
        default=None, description="Latents drawn from the posteriors, if a seed is given: [n][L]."
    )
    codes: Nested | None = Field(default=None, description="Codes of each item: [n][h][w].")
    posteriors: dict[str, Posterior] | None = Field(
        default=None, description="Posteriors by the name of the latent, for models with several latents."
    )
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(
    handling: Handling, request: EncodeRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Encode items: compute their posteriors or their codes."""
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
    """Return the fields of the posterior and the codes. Several latents are listed by name."""
    parts = {name: getattr(encoded, name) for name in ("mean", "log_variance", "latents")}
    parts = {name: value for name, value in parts.items() if value is not None}
    codes = {} if encoded.codes is None else {"codes": encoded.codes}
    if not isinstance(encoded.mean, dict):
        return {**parts, **codes}
    named = {role: {name: value[role] for name, value in parts.items() if role in value} for role in encoded.mean}
    return {"posteriors": named, **codes}


USE_CASE = UseCase(
    "encode", EncodeRequest, EncodeResponse, handle,
    examples={
        "row": Example("One row of a table", {"model": "transactions-vae", "rows": [ROW]}),
        "image": Example("One image", {"model": "mnist-vae", "images": [DIGIT]}),
    },
)  # fmt: skip
