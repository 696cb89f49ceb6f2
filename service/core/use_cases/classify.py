"""The classes of items."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from manifold.runtime import operations
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import EXAMPLE_DIGIT, INPUTS, Fitted, ItemsRequest, Numbers, Response, example
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class ClassifyRequest(ItemsRequest):
    """Classify items."""

    model_config = example(model="digits-pixelcnn", images=[EXAMPLE_DIGIT])

    inputs: Numbers | None = Field(default=None, description=INPUTS)


class ClassifiedItem(BaseModel):
    """One item's classes."""

    class_: str = Field(alias="class", description="the most probable one")
    probabilities: dict[str, float] = Field(description="by name; they sum to 1")


class ClassificationInfo(BaseModel):
    """Rule behind the probabilities."""

    by: str = Field(description="logits, or the likelihood bound that Bayes' rule was given for each class")
    class_prior: dict[str, float]
    temperature: float = Field(description="fitted on items that training never saw")
    calibration_error: float | None = Field(description="expected, on the test part, after the temperature")


class ClassifyResponse(Response):
    """Classify items."""

    items: list[ClassifiedItem]
    classification: ClassificationInfo
    fitted: list[Fitted] | None = None


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


USE_CASE = UseCase("classify", ClassifyRequest, ClassifyResponse, handle)
