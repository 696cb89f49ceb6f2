"""A path between two items."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from manifold.runtime import operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    CONDITIONS,
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
    example,
)
from manifold.service.core.handling import Handling, latent_fields, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class End(SINGLE):  # type: ignore[misc]
    """One end of an interpolation: an item, latent, seed, class or condition; the last two may stand beside the others."""

    model_config = STRICT

    latent: Nested | None = None
    named_latent: dict[str, Nested] | None = Field(default=None, description="instead, of models with several: by name")
    seed: Seed | None = None
    first: Seed = 0
    class_: ClassName | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, alias="class"
    )
    condition: Nested | None = Field(default=None, description="[C]")
    conditions: dict[str, Condition] | None = Field(default=None, description=CONDITIONS)


class InterpolateRequest(OPTIONS, BaseRequest):  # type: ignore[misc]
    """A path between two items."""

    model_config = example(**{"from": {"seed": 1}, "to": {"seed": 2}, "steps": 8})

    from_: End = Field(alias="from")
    to: End
    steps: Annotated[int, Field(ge=2)] = 8
    method: Literal["slerp", "lerp"] | None = Field(default=None, description="slerp for normal latents, else lerp")
    seed: Seed | None = Field(default=None, description="for what the ends leave open")
    inputs: Numbers | None = Field(default=None, description=INPUTS)
    encoding: Literal["png", "array"] = "png"


class InterpolateResponse(OutputsResponse):
    """The path."""

    latents: Nested | None = None
    named_latents: dict[str, Nested] | None = Field(default=None, description="of models with several")
    fitted: list[Fitted] | None = None


async def handle(
    handling: Handling, request: InterpolateRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """A path between two items."""
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


USE_CASE = UseCase("interpolate", InterpolateRequest, InterpolateResponse, handle, takes_files=False, gives_items=True)
