"""Items whose missing values, or unknown pixels, are filled in."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from manifold.runtime import operations
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    EXAMPLE_ROW,
    ConditionedItemsRequest,
    Fitted,
    OutputsResponse,
    SeededRequest,
    example,
)
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class ImputeRequest(ConditionedItemsRequest, SeededRequest):
    """Rows with values left out or null, or images with masks of what is known, to be filled in from the rest."""

    model_config = example(model="transactions-vae", rows=[{**EXAMPLE_ROW, "amount": None}])

    masks: list[str] | None = Field(
        default=None, description="[n], or one for all: base64 PNG, white where the image is known"
    )
    candidates: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8,
        description="of an image: so many are drawn, and one is chosen by how well the known pixels follow from it",
    )
    temperature: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        allow_inf_nan=False,
        description="of images: divides logits; 1 where left out; refused if nothing uses it",
    )
    encoding: Literal["png", "array"] = Field(
        default="png", description="of images: base64 PNG in `images`, or numbers in `data`"
    )


class ImputeResponse(OutputsResponse):
    """Items made whole: what was given as it came, what was missing filled in."""

    probabilities: list[dict[str, dict[str, float]]] | None = Field(
        default=None, description="of rows, [n]: of each category, by name, for the columns that were missing"
    )
    classes: list[str] | None = Field(
        default=None, description="of images, of a conditional model that was given no class: the chosen candidate's"
    )
    fitted: list[Fitted] | None = None


async def handle(
    handling: Handling, request: ImputeRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Rows with what was missing filled in, or images with what was not known."""
    entry, manifest = await handling.entry(request, "impute")
    answer = UseCaseResult(entry, encoding=request.encoding, work=uploads.work)
    condition = await handling.reader.condition(manifest, uploads, request)
    if "impute" in manifest.tasks:
        return await _completed(handling, answer, request, uploads, condition, deadline_ms)
    spec = manifest.spec
    if request.masks or uploads.masks:
        raise InvalidValue(f"masks: {entry.name} takes {spec.noun}, whose missing values are null", field="masks")
    if chosen := next((name for name in ("candidates", "temperature") if name in request.model_fields_set), None):
        raise operations.no_effect(manifest, chosen, f"takes {spec.noun}, whose missing values are computed")
    items = await handling.reader.items(manifest, request, uploads, missing=True)
    steps = operations.impute(
        manifest, items.data, condition=condition, seed=request.seed, first=request.first, numbers=request.inputs
    )
    whole = await handling.drive(answer, steps, len(items.data), deadline_ms)
    write = partial(spec.fill, getattr(request, spec.wire.many), whole.data, whole.probabilities)
    answer.fields |= await aside(write, ROW * len(items.data))
    answer.numbers = whole.data
    note(answer, (), request)
    return answer


async def _completed(
    handling: Handling,
    answer: UseCaseResult,
    request: ImputeRequest,
    uploads: Uploads,
    condition: Given | None,
    deadline_ms: int | None,
) -> UseCaseResult:
    """Images with what was not known drawn."""
    manifest = answer.manifest
    items, mask = await handling.reader.masked(manifest, request, uploads)
    data = items.data
    each = request.candidates * operations.open_classes(manifest, condition)
    if len(data) * each > handling.settings.max_items:
        raise TooLarge(
            f"candidates: {len(data)} {manifest.spec.noun} by {each} are over the limit of {handling.settings.max_items} a request"
            + (" (every class is tried: say which)" if each > request.candidates else "")
            + "; ask for fewer, or in several",
            field="candidates",
        )
    steps = operations.complete(
        manifest, data, mask, seed=request.seed, first=request.first, condition=condition, candidates=request.candidates,
        temperature=request.temperature, numbers=request.inputs,
    )  # fmt: skip
    completed = await handling.drive(answer, steps, len(data) * each, deadline_ms)
    answer.items, answer.others = completed.data, completed.others
    answer.fields |= {"seed": completed.seed, "first": request.first}
    if completed.classes is not None and manifest.classes is not None:
        answer.fields["classes"] = [manifest.classes[index] for index in completed.classes]
    note(answer, items.fitted)
    return answer


USE_CASE = UseCase("impute", ImputeRequest, ImputeResponse, handle, gives_items=True)
