"""Interpolation between two items."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from manifold.runtime import operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    CONDITIONS,
    FITTED,
    INPUTS,
    OPTIONS,
    SINGLE,
    STRICT,
    BaseRequest,
    ClassName,
    Condition,
    Fitted,
    Nested,
    Numbers,
    OutputsResponse,
    Seed,
)
from manifold.service.core.examples import Example
from manifold.service.core.handling import Handling, latent_fields, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class End(SINGLE):  # type: ignore[misc]
    """One end of an interpolation: an item, latent, seed, class or condition. Class and condition may be combined with the others."""

    model_config = STRICT

    latent: Nested | None = Field(default=None, description="Latent: [L].")
    named_latent: dict[str, Nested] | None = Field(
        default=None, description="Latents by name, for models with several latents. Replaces `latent`."
    )
    seed: Seed | None = Field(default=None, description="Seed from which the latent of this end is drawn.")
    first: Seed = Field(default=0, description="Index of the item that is drawn from the seed.")
    class_: ClassName | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, alias="class", description="Class of this end: a name, an index, or weights by name."
    )
    condition: Nested | None = Field(default=None, description="Real values, or class weights as numbers: [C].")
    conditions: dict[str, Condition] | None = Field(default=None, description=CONDITIONS)


class InterpolateRequest(OPTIONS, BaseRequest):  # type: ignore[misc]
    """Interpolate between two items.

    The response contains the items on a path in latent space, both ends included. With `Accept: image/png`, the response is one picture: a
    grid of the items.
    """

    from_: End = Field(alias="from", description="Start of the path.")
    to: End = Field(description="End of the path.")
    steps: Annotated[int, Field(ge=2)] = Field(
        default=8, description="Number of items on the path, both ends included."
    )
    method: Literal["slerp", "lerp"] | None = Field(
        default=None,
        description="Spherical (slerp) or linear (lerp). By default slerp for normal latents, otherwise lerp.",
    )
    seed: Seed | None = Field(default=None, description="Seed of the random numbers that the ends do not determine.")
    inputs: Numbers | None = Field(default=None, description=INPUTS)
    encoding: Literal["png", "array"] = Field(
        default="png", description="Form of images in JSON: base64 PNG in `images`, or numbers in `data`."
    )


class InterpolateResponse(OutputsResponse):
    """The items on the path."""

    latents: Nested | None = Field(default=None, description="Latents of the items: [n][L].")
    named_latents: dict[str, Nested] | None = Field(
        default=None, description="Latents by name, for models with several latents."
    )
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(
    handling: Handling, request: InterpolateRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Interpolate between two items."""
    entry, manifest = await handling.entry(request, "interpolate")
    handling.reader.limit(request.steps, "steps")
    start, stop, fitted = await handling.reader.ends(manifest, request, uploads)
    answer = UseCaseResult(entry, encoding=request.encoding, work=uploads.work)
    steps = operations.interpolate(
        manifest, start, stop, steps=request.steps, method=request.method, seed=request.seed, numbers=request.inputs
    )
    path = await handling.drive(answer, steps, request.steps, deadline_ms)
    answer.items, answer.others = path.data, path.others
    answer.fields |= latent_fields(path.latents)
    if path.seed is not None:
        answer.fields |= {"seed": path.seed, "first": 0}
    note(answer, fitted)
    return answer


USE_CASE = UseCase(
    "interpolate", InterpolateRequest, InterpolateResponse, handle, takes_files=False, gives_items=True,
    examples={"seeds": Example("Between two seeds", {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 8})},
)  # fmt: skip
