"""Classification of items."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from manifold.runtime import operations
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import FITTED, INPUTS, Fitted, ItemsRequest, Numbers, Response
from manifold.service.core.examples import SMALL_DIGIT, Example
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import SCORE, UseCase


class ClassifyRequest(ItemsRequest):
    """Classify items.

    The response contains calibrated probabilities of the classes of each item.
    """

    inputs: Numbers | None = Field(default=None, description=INPUTS)


class ClassifiedItem(BaseModel):
    """The classes of one item."""

    class_: str = Field(alias="class", description="The most probable class.")
    probabilities: dict[str, float] = Field(description="Probabilities by the name of the class. They sum to 1.")


class ClassificationInfo(BaseModel):
    """The rule by which the probabilities were computed."""

    by: str = Field(description="logits, or the likelihood bound of each class to which Bayes' rule was applied.")
    class_prior: dict[str, float] = Field(description="Prior probabilities of the classes, by name.")
    temperature: float = Field(
        description="Temperature of the probabilities, fitted on items that were not used in training."
    )
    calibration_error: float | None = Field(
        description="Expected calibration error on the test split, with this temperature."
    )


class ClassifyResponse(Response):
    """The classes of the items."""

    items: list[ClassifiedItem] = Field(
        description="The classes, one entry for each item, in the order of the request."
    )
    classification: ClassificationInfo = Field(description="Rule by which the probabilities were computed.")
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(
    handling: Handling, request: ClassifyRequest, uploads: Uploads, deadline_ms: int | None
) -> UseCaseResult:
    """Classify items."""
    entry, manifest = await handling.entry(request, "classify")
    items = await handling.reader.items(manifest, request, uploads)
    answer = UseCaseResult(entry, work=uploads.work)
    probabilities = await handling.drive(
        answer, operations.classify(manifest, items.data, numbers=request.inputs), len(items.data), deadline_ms
    )
    classification, names = manifest.classification, manifest.classes
    assert classification is not None and names is not None

    def classified() -> list[dict[str, Any]]:
        return [
            {"class": names[int(row.argmax())], "probabilities": dict(zip(names, row.tolist(), strict=True))}
            for row in probabilities
        ]

    answer.fields["items"] = await aside(classified, ROW * len(probabilities))
    error = next((metric.value for metric in manifest.metrics if metric.name == "calibration_error"), None)
    answer.fields["classification"] = {
        "by": classification.term or "logits", "class_prior": dict(zip(names, manifest.class_weights, strict=True)),
        "temperature": classification.temperature, "calibration_error": error,
    }  # fmt: skip
    answer.numbers = probabilities
    note(answer, items.fitted)
    return answer


USE_CASE = UseCase(
    "classify", ClassifyRequest, ClassifyResponse, handle, tag=SCORE,
    examples={"image": Example("A small digit", {"model": "digits-pixelcnn", "images": [SMALL_DIGIT]})},
)  # fmt: skip
