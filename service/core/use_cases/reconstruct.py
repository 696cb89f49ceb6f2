"""Items through the latent and back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from manifold.runtime import kinds, operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    EXAMPLE_ROW,
    ClassChoice,
    Condition,
    ConditionedItemsRequest,
    Fitted,
    Nested,
    OutputsResponse,
    SeededRequest,
    example,
)
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class ReconstructRequest(ConditionedItemsRequest, SeededRequest):
    """Items through the latent and back."""

    model_config = example(model="transactions-vae", rows=[EXAMPLE_ROW])

    target_class: ClassChoice | None = Field(
        default=None, description="decoded as this class instead of `class`: the style stays, the class changes"
    )
    target_condition: Nested | None = Field(default=None, description="the same for real-valued conditions")
    target_conditions: dict[str, Condition] | None = Field(
        default=None, description="the same by name; a condition that is left out stays as in `conditions`"
    )
    encoding: Literal["png", "array"] = "png"


class ReconstructResponse(OutputsResponse):
    """Items after encode and decode."""

    errors: list[float] = Field(
        description=f"mean squared error: {', or '.join(kind.error_unit for kind in kinds.every)}"
    )
    fitted: list[Fitted] | None = None


async def handle(
    handling: Handling, request: ReconstructRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Items through the latent and back."""
    entry, manifest = await handling.entry(request, "reconstruct")
    items = await handling.reader.items(manifest, request, uploads)
    answer = UseCaseResult(entry, encoding=request.encoding, work=uploads.work)
    condition = await handling.reader.condition(manifest, uploads, request)
    target = await handling.reader.target(manifest, uploads, request, condition)
    steps = operations.reconstruct(
        manifest,
        items.data,
        seed=request.seed,
        first=request.first,
        condition=condition,
        target=target,
        numbers=request.inputs,
    )
    back = await handling.drive(answer, steps, len(items.data), deadline_ms)
    answer.items, answer.others = back.data, back.others
    answer.fields["errors"] = back.errors
    note(answer, items.fitted, request)
    return answer


USE_CASE = UseCase("reconstruct", ReconstructRequest, ReconstructResponse, handle, gives_items=True)
