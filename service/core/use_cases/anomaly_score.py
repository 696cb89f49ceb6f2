"""Anomaly scores of items, and the decisions on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from manifold.runtime.scores import decisions, reasons, scoring
from manifold.service.aside import ROW, aside
from manifold.service.core.answers import UseCaseResult
from manifold.service.core.contract import (
    EXPLANATION,
    FITTED,
    NEIGHBOUR,
    STRICT,
    ConditionedItemsRequest,
    Fitted,
    Response,
)
from manifold.service.core.examples import ROW as EXAMPLE
from manifold.service.core.examples import Example
from manifold.service.core.handling import Handling, note
from manifold.service.core.reading import Uploads
from manifold.service.core.use_cases.base import SCORE, UseCase


class Costs(BaseModel):
    """The costs of errors, all in the same unit, and the share of anomalies."""

    model_config = STRICT

    false_positive: float = Field(gt=0, allow_inf_nan=False, description="Cost of a normal item that is flagged.")
    false_negative: float = Field(gt=0, allow_inf_nan=False, description="Cost of an anomaly that is not flagged.")
    prevalence: float = Field(gt=0, lt=1, allow_inf_nan=False, description="Share of anomalies among the items.")


class ScoreRequest(ConditionedItemsRequest):
    """Score items by how anomalous they are.

    The response contains the score, the p-value and the decision for each item and, with `explain`, the reasons. A file of rows (CSV or
    Parquet) may be the body: the response is then NDJSON, one line for each row.
    """

    false_positive_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="False positive rate of the decision, by default 0.01.",
    )
    budget: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Number of items to flag: the most anomalous ones of the request. Replaces `false_positive_rate`.",
    )
    costs: Costs | None = Field(
        default=None,
        description="Costs of errors. Items are flagged if that can lower the expected cost (Sellke, Bayarri and Berger, 2001).",
    )
    block_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False,
        description="False positive rate of the band `block`. By default a tenth of the rate of the band `review`.",
    )  # fmt: skip
    false_discovery_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False,
        description="Largest expected share of normal items among the flagged items of the request. Replaces `false_positive_rate`.",
    )  # fmt: skip
    explain: bool = Field(default=False, description="Whether the response explains each score.")


PassedValue = str | int | float | bool | None  # the value as the request contains it


class Part(BaseModel):
    """One term of a score."""

    value: float = Field(description="Value of the term.")
    p_value: float | None = Field(description="p-value of the term.")


class Neighbour(NEIGHBOUR):  # type: ignore[misc]
    """One of the nearest normal items of the training data."""

    distance: float = Field(description="Distance from the scored item.")


class Explanation(EXPLANATION):  # type: ignore[misc]
    """The explanation of an item's anomaly score."""

    neighbours: list[Neighbour] | None = Field(
        default=None,
        description="Nearest normal items of the training data, nearest first. Absent if the artifact does not contain them.",
    )


class ScoredItem(BaseModel):
    """The score of one item, and the decision on it."""

    score: float = Field(description="Anomaly score. Higher is more anomalous.")
    p_value: float | None = Field(
        description="Share of normal items with a score at least as high. Small values are anomalous."
    )
    is_anomaly: bool | None = Field(
        description="Decision. null: the model cannot decide, and `warnings` of the response says why."
    )
    band: Literal["allow", "review", "block"] | None = Field(description="Decision in three bands.")
    risk: int | None = Field(description="Risk from 0 to 999, a fixed function of the p-value.")
    state: Literal["ok", "below_resolution", "uncalibrated", "unknown"] = Field(
        description="below_resolution: the p-value is smaller than the calibration sample can resolve. uncalibrated: the model has no "
        "calibration. unknown: the item has unknown categories or missing values."
    )
    warnings: list[str] = Field(description="Warnings about this item.")
    parts: dict[str, Part] = Field(description="Terms of the score by name.")
    explanation: Explanation | None = Field(
        default=None, description="Explanation of the score, if the request has `explain`."
    )
    id: PassedValue = Field(default=None, description="Rows only: value of the id column, if the model has one.")
    passed: dict[str, PassedValue] | None = Field(
        default=None, description="Rows only: columns that the model copies to the response."
    )


class MeasuredRate(BaseModel):
    """A false positive rate that was measured on test items that are known to be normal."""

    requested: float = Field(description="The requested rate, the one nearest to that of the threshold.")
    measured: float = Field(description="The share of the test items that was flagged.")
    n: int = Field(description="Number of test items.")
    interval: list[float] = Field(
        description="95% interval of the measured rate if test items and calibration items are exchangeable."
    )


class ThresholdInfo(BaseModel):
    """The threshold of the decision."""

    score: float | None = Field(description="Anomaly score at the threshold.")
    p_value: float | None = Field(description="p-value at the threshold.")
    false_positive_rate: float | None = Field(description="False positive rate at this threshold.")
    interval: list[float] | None = Field(
        default=None,
        description="95% interval of the realised false positive rate, for items that are exchangeable with the calibration items.",
    )
    block_p_value: float | None = Field(default=None, description="p-values up to this value are in the band `block`.")
    measured: MeasuredRate | None = Field(
        default=None,
        description="False positive rate that was measured with this calibration. null: none is recorded, or the threshold has no rate.",
    )
    shift: str | None = Field(
        default=None,
        description="Why test items and calibration items are not exchangeable, so that `measured` may differ from the requested rate. null: no reason "
        "is known.",
    )


class CalibrationInfo(BaseModel):
    """The calibration sample that the p-values refer to."""

    id: str = Field(description="Id of the calibration.")
    n: int = Field(description="Number of items in the sample.")
    created: str = Field(description="Time at which the calibration was made.")


class ScoreResponse(Response):
    """The anomaly scores of the items, and the decisions on them."""

    items: list[ScoredItem] = Field(description="The scores, one entry for each item, in the order of the request.")
    threshold: ThresholdInfo = Field(description="Threshold of the decisions.")
    calibration: CalibrationInfo | None = Field(
        description="Calibration sample of the p-values. null: the model is not calibrated."
    )
    warnings: list[str] | None = Field(
        default=None, description="Why items are not decided. Absent if all items are decided."
    )
    fitted: list[Fitted] | None = Field(default=None, description=FITTED)


async def handle(handling: Handling, request: ScoreRequest, uploads: Uploads, deadline_ms: int | None) -> UseCaseResult:
    """Score items and decide on them."""
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
        for item, fields in zip(answer.fields["items"], carried, strict=False):  # items in files have no fields to copy
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
    """Return items, threshold and calibration of an /anomaly-score response."""
    items = [{**judgement.item(i), "warnings": warnings[i], "explanation": None} for i in range(len(judgement.score))]
    return {"items": items, **threshold_of(calibrated, judgement)}


def threshold_of(calibrated: scoring.Calibrated, judgement: decisions.Judged) -> dict[str, Any]:
    """Return the threshold, the calibration sample, and the reasons why items are not decided."""
    line, source = judgement.threshold, calibrated.calibration
    return {
        "threshold": {
            "score": line.score, "p_value": line.p_value, "false_positive_rate": line.false_positive_rate,
            "interval": None if line.interval is None else list(line.interval), "block_p_value": judgement.block_p_value,
            "measured": None if line.measured is None else dataclasses.asdict(line.measured), "shift": line.shift,
        },
        "calibration": None if source is None else {"id": source.id, "n": source.n, "created": source.created},
        **({"warnings": list(judgement.notes)} if judgement.notes else {}),
    }  # fmt: skip


def rule_of(request: ScoreRequest) -> decisions.Rule:
    """Return the rule of the decision. Raise InvalidValue if the request states more than one."""
    costs = None if request.costs is None else decisions.Costs(**request.costs.model_dump())
    return decisions.Rule(
        request.false_positive_rate, request.budget, costs, request.block_rate, request.false_discovery_rate
    )


USE_CASE = UseCase(
    "anomaly-score", ScoreRequest, ScoreResponse, handle, takes_row_files=True, tag=SCORE,
    examples={
        "rows": Example(
            "Two payments, with reasons",
            {"model": "transactions-vae", "rows": [EXAMPLE, {**EXAMPLE, "amount": 900}], "explain": True},
        ),
    },
)  # fmt: skip
