"""Imputation: missing values of rows, or unknown pixels of images, are filled in."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from manifold.runtime import codecs, inputs, operations
from manifold.runtime.conditions import Given
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    FITTED,
    ConditionedItemsRequest,
    Fitted,
    OutputsResponse,
    SeededRequest,
    SolverRequest,
)
from manifold.service.core.examples import ROW as EXAMPLE
from manifold.service.core.examples import SMALL_DIGIT, UPPER_HALF, Example
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class ImputeRequest(ConditionedItemsRequest, SolverRequest, SeededRequest):
    """Fill in missing values or pixels.

    Rows have missing values that are absent or null. Images have masks that mark the known pixels. With `Accept: image/png`, the response is
    one picture: a grid of the completed images.
    """

    masks: list[codecs.Base64] | None = Field(
        default=None, description="Masks as base64 PNG, white where the image is known: [n], or one for all images."
    )
    candidates: Annotated[int, Field(ge=1, le=operations.MOST_CANDIDATES)] | None = Field(
        default=None,
        description="Images only, of a model that draws pixels in order: number of completions drawn for each image, by default 8. "
        "One is chosen by how well it explains the known pixels.",
    )
    temperature: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        allow_inf_nan=False,
        description="Images only: divides the logits, or scales the noise, by default 1. An error if the model does not use it.",
    )
    encoding: Literal["png", "array"] = Field(
        default="png", description="Form of images in JSON: base64 PNG in `images`, or numbers in `data`."
    )


class ImputeResponse(OutputsResponse):
    """The completed items. Given values are returned unchanged."""

    probabilities: list[dict[str, dict[str, float]]] | None = Field(
        default=None,
        description="Rows only: probabilities of the categories, by name, of each categorical column that was missing. [n]",
    )
    classes: list[str] | None = Field(
        default=None,
        description="Images only: class of the chosen completion, if the model is class-conditional and no class was given.",
    )
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(
    handling: Handling, request: ImputeRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Fill in the missing values of rows, or the unknown pixels of images."""
    entry, manifest = await handling.entry(request, "impute")
    answer = UseCaseResult(entry, encoding=request.encoding, work=uploads.work)
    condition = await handling.reader.condition(manifest, uploads, request)
    if "impute" in manifest.tasks:
        return await _completed(handling, answer, request, uploads, condition, deadline_ms)
    spec = manifest.spec
    if request.masks or uploads.masks:
        raise InvalidValue(
            f"masks: {entry.name} takes {spec.noun} without masks; mark missing values with null", field="masks"
        )
    of_images = ("candidates", "temperature", "steps", "guidance")
    if chosen := next((name for name in of_images if getattr(request, name) is not None), None):
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
    """Draw the unknown pixels of images."""
    manifest = answer.manifest
    items, mask = await handling.reader.masked(manifest, request, uploads)
    data = items.data
    candidates = operations.candidates_of(manifest, request.candidates)
    each = candidates * operations.open_classes(manifest, condition)
    if len(data) * each > handling.settings.max_items:
        raise TooLarge(
            f"candidates: {len(data)} {manifest.spec.noun} by {each} are over the limit of {handling.settings.max_items} items in a request"
            + (" (every class is tried; give `class` to try one)" if each > candidates else "")
            + "; lower candidates, or send several requests",
            field="candidates",
        )
    fields = {"steps": request.steps, "guidance": request.guidance}
    numbers = inputs.with_fields(manifest, [manifest.tasks["impute"]], request.inputs, fields, len(data))
    steps = operations.complete(
        manifest, data, mask, seed=request.seed, first=request.first, condition=condition, candidates=request.candidates,
        temperature=request.temperature, numbers=numbers,
    )  # fmt: skip
    completed = await handling.drive(answer, steps, len(data) * each, deadline_ms)
    answer.items, answer.others = completed.data, completed.others
    answer.fields |= {"seed": completed.seed, "first": request.first}
    if completed.classes is not None and manifest.classes is not None:
        answer.fields["classes"] = [manifest.classes[index] for index in completed.classes]
    note(answer, items.fitted)
    return answer


USE_CASE = UseCase(
    "impute", ImputeRequest, ImputeResponse, handle, gives_items=True,
    examples={
        "image": Example(
            "The lower half of a small digit",
            {"model": "digits-pixelcnn", "images": [SMALL_DIGIT], "masks": [UPPER_HALF], "seed": 1},
        ),
        "row": Example(
            "A missing amount (choose application/json)",
            {"model": "transactions-vae", "rows": [{**EXAMPLE, "amount": None}]},
        ),
    },
)  # fmt: skip
