"""The anomaly scores of items, and the decisions on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from manifold.runtime.scores import decisions, reasons, scoring
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    EXAMPLE_ROW,
    EXPLANATION,
    NEIGHBOUR,
    STRICT,
    ConditionedItemsRequest,
    Fitted,
    Response,
    example,
)
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import UseCase


class Costs(BaseModel):
    """Costs of errors, in any one unit, and the share of anomalies."""

    model_config = STRICT

    false_positive: float = Field(gt=0, allow_inf_nan=False)
    false_negative: float = Field(gt=0, allow_inf_nan=False)
    prevalence: float = Field(gt=0, lt=1, allow_inf_nan=False, description="the share of anomalies among the rows")


class ScoreRequest(ConditionedItemsRequest):
    """Anomaly scores of items."""

    model_config = example(model="transactions-vae", rows=[EXAMPLE_ROW, {**EXAMPLE_ROW, "amount": 900}], explain=True)

    false_positive_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False, description="0.01 where left out"
    )
    budget: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="instead: the n most anomalous of the request"
    )
    costs: Costs | None = Field(
        default=None, description="instead: flag where, at best, it pays (Sellke, Bayarri and Berger, 2001)"
    )
    block_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False,
        description="false positive rate of the band `block`; a tenth of that for review where left out",
    )  # fmt: skip
    explain: bool = False


PassedValue = str | int | float | bool | None  # as the request has it


class Part(BaseModel):
    """One term of a score."""

    value: float
    p_value: float | None


class Neighbour(NEIGHBOUR):  # type: ignore[misc]
    """A normal item of the training data that is among the nearest."""

    distance: float


class Explanation(EXPLANATION):  # type: ignore[misc]
    """Explanation of an item's anomaly score."""

    neighbours: list[Neighbour] | None = Field(default=None, description="nearest first; not every artifact has them")


class ScoredItem(BaseModel):
    """One item's place."""

    score: float = Field(description="continuous, higher is more anomalous")
    p_value: float | None
    is_anomaly: bool | None = Field(description="null if the model cannot decide: `warnings` of the answer says why")
    band: Literal["allow", "review", "block"] | None
    risk: int | None = Field(description="0 to 999, a fixed function of the p-value")
    state: Literal["ok", "below_resolution", "uncalibrated", "unknown"]
    warnings: list[str]
    parts: dict[str, Part]
    explanation: Explanation | None = None
    id: PassedValue = Field(default=None, description="of a row: the value of the id column, if the model records one")
    passed: dict[str, PassedValue] | None = Field(
        default=None, description="of a row: the columns that the model copies to the output"
    )


class ThresholdInfo(BaseModel):
    """Where the line was drawn."""

    score: float | None
    p_value: float | None
    false_positive_rate: float | None
    interval: list[float] | None = Field(default=None, description="95% interval of the realised rate")
    block_p_value: float | None = Field(default=None, description="p-values up to this are in the band `block`")


class CalibrationInfo(BaseModel):
    """Calibration items that the p-values refer to."""

    id: str
    n: int
    created: str


class ScoreResponse(Response):
    """Anomaly scores of items."""

    items: list[ScoredItem]
    threshold: ThresholdInfo
    calibration: CalibrationInfo | None
    warnings: list[str] | None = Field(default=None, description="why items are not decided; left out where all are")
    fitted: list[Fitted] | None = None


async def handle(handling: Handling, request: ScoreRequest, uploads: Uploads, deadline_ms: int | None) -> UseCaseResult:
    """Anomaly scores of items."""
    entry, manifest = await handling.entry(request, "anomaly-score")
    rule = rule_of(request)
    rule.check(manifest)
    if request.explain:
        reasons.check_explains(manifest)
    nullable = any(tensor.missing for tensor in manifest.tasks["score"].inputs)
    items = await handling.reader.items(manifest, request, uploads, unknown=True, missing=nullable)
    warnings = items.warnings
    carried = manifest.spec.carry(getattr(request, manifest.spec.wire.many) or (), manifest.spec.wire.many)
    answer = UseCaseResult(entry, work=uploads.work)
    condition = await handling.reader.condition(manifest, uploads, request)
    assert manifest.scoring is not None and entry.model is not None
    calibrated = entry.model.calibrated
    steps = reasons.scored(
        manifest, items.data, calibrated, explain=request.explain, condition=condition, numbers=request.inputs
    )
    scores, why = await handling.drive(answer, steps, len(items.data), deadline_ms)
    scored_by = manifest.scoring

    def finish() -> None:
        judgement = decisions.judge(scored_by, calibrated, scores.terms, decisions.are_unknown(warnings), rule)
        answer.fields |= judged(calibrated, judgement, warnings)
        for item, fields in zip(answer.fields["items"], carried, strict=False):  # files beside the fields have none
            item |= fields
        if why is not None:
            described = manifest.spec.explain(why, getattr(request, manifest.spec.wire.many) or ())
            for item, reason in zip(answer.fields["items"], described, strict=True):
                item["explanation"] = reason
        answer.numbers, answer.judged = judgement.score, judgement

    await aside(finish, ROW * len(items.data))
    note(answer, items.fitted)
    return answer


def judged(
    calibrated: scoring.Calibrated, judgement: decisions.Judged, warnings: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Items, threshold and calibration of a /anomaly-score answer."""
    items = [{**judgement.item(i), "warnings": warnings[i], "explanation": None} for i in range(len(judgement.score))]
    return {"items": items, **threshold_of(calibrated, judgement)}


def threshold_of(calibrated: scoring.Calibrated, judgement: decisions.Judged) -> dict[str, Any]:
    """Return the threshold, the calibration that it refers to, and why items are not decided."""
    line, source = judgement.threshold, calibrated.calibration
    return {
        "threshold": {
            "score": line.score, "p_value": line.p_value, "false_positive_rate": line.false_positive_rate,
            "interval": None if line.interval is None else list(line.interval), "block_p_value": judgement.block_p_value,
        },
        "calibration": None if source is None else {"id": source.id, "n": source.n, "created": source.created},
        **({"warnings": list(judgement.notes)} if judgement.notes else {}),
    }  # fmt: skip


def rule_of(request: ScoreRequest) -> decisions.Rule:
    """Return the rule of the decision. Raise InvalidValue for more than one way."""
    costs = None if request.costs is None else decisions.Costs(**request.costs.model_dump())
    return decisions.Rule(request.false_positive_rate, request.budget, costs, request.block_rate)


USE_CASE = UseCase("anomaly-score", ScoreRequest, ScoreResponse, handle, takes_row_files=True)
