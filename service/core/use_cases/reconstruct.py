"""Reconstruction of items: encode, then decode."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from manifold.runtime import kinds, operations
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    FITTED,
    ClassChoice,
    Condition,
    ConditionedItemsRequest,
    Fitted,
    Nested,
    OutputsResponse,
    SeededRequest,
)
from manifold.service.core.examples import DIGIT, ROW, Example
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class ReconstructRequest(ConditionedItemsRequest, SeededRequest):
    """Encode and decode items.

    The response contains the reconstruction and the error of each item. A target class or condition changes the items. With
    `Accept: image/png`, the response is one picture: a grid of the reconstructions.
    """

    target_class: ClassChoice | None = Field(
        default=None, description="Class to decode as, instead of `class`: the style stays, the class changes."
    )
    target_condition: Nested | None = Field(
        default=None, description="Real-valued condition to decode with, instead of `condition`."
    )
    target_conditions: dict[str, Condition] | None = Field(
        default=None,
        description="Conditions to decode with, by name. A condition that is not given stays as in `conditions`.",
    )
    encoding: Literal["png", "array"] = Field(
        default="png", description="Form of images in JSON: base64 PNG in `images`, or numbers in `data`."
    )


class ReconstructResponse(OutputsResponse):
    """The reconstructed items, and their errors."""

    errors: list[float] = Field(
        description=f"Mean squared error of each item: {', or '.join(kind.error_unit for kind in kinds.every)}."
    )
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(
    handling: Handling, request: ReconstructRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Encode and decode items."""
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


USE_CASE = UseCase(
    "reconstruct", ReconstructRequest, ReconstructResponse, handle, gives_items=True,
    examples={
        "image": Example("One image", {"model": "mnist-vae", "images": [DIGIT]}),
        "row": Example("One row of a table (choose application/json)", {"model": "transactions-vae", "rows": [ROW]}),
    },
)  # fmt: skip
