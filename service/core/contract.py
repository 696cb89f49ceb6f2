"""The wire contract: requests, responses, limits, defaults. Field names here are the contract, for REST and gRPC alike.

JSON types are not converted (`STRICT`): a number is not read from a text, true and false are no numbers, and 4.0 is no integer. A number
may be written as an integer.

Arrays stay untyped here (`list[Any]`): walking a million floats with a validator is slower than the model. runtime.codecs checks them by the
same rule.
The fields of items, such as images and rows, are those of the kinds of data (runtime.kinds).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manifold.runtime import kinds
from manifold.runtime.sampling import MAX_SEED

STRICT = ConfigDict(extra="forbid", populate_by_name=True, strict=True)  # of every object of a request
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# shown by /docs, and tried by a test on the shipped models
EXAMPLE_ROW = {
    "amount": 26.27,
    "hour": 10.67,
    "weekday": "1",
    "night": 0,
    "card_1d_count": 1,
    "card_1d_mean": 53.6,
    "terminal_1d_count": 1,
    "card_7d_count": 9,
    "card_7d_mean": 49.53,
    "terminal_7d_count": 7,
    "card_30d_count": 41,
    "card_30d_mean": 54.01,
    "terminal_30d_count": 28,
    "terminal_30d_mean": 52.74,
    "amount_over_usual": -0.702,
    "hours_since_last": 7.313,
}
EXAMPLE_DIGIT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAALElEQVR4nC3JsQ0AIBADMYsdw5AwZCiezrpD2rDkgCXu4G5DOlM6S5z80sYD3DwOVJqOIjgAAAAASUVORK5CYII="


def example(**fields: Any) -> ConfigDict:
    """Return the configuration of a request with an example for /docs."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


Nested = list[Any]  # of numbers, nested lists of one shape
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
CONDITION = "[C] for all or [n][C]: real-valued conditions, or class weights as numbers; excludes class"
ClassName = str | int
ClassChoice = ClassName | list[ClassName] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


# the fields that the kinds of data bring
ITEMS, OPTIONS, SINGLE, MADE = (kinds.fields(part) for part in ("request", "options", "single", "answer"))
NEIGHBOUR, EXPLANATION = kinds.fields("neighbour"), kinds.fields("explanation")


class BaseRequest(BaseModel):
    """Fields that every request may have. Unknown fields are refused: a typo is an error, not a default."""

    model_config = STRICT

    model: str | None = Field(default=None, description="the settings' default where left out")
    version: Annotated[int, Field(ge=1)] | None = Field(default=None, description="the latest where left out")


class Condition(ITEMS):  # type: ignore[misc,valid-type]
    """A condition in its long form: one of class, values, texts, or items of some kind of data."""

    model_config = STRICT

    class_: ClassChoice | None = Field(
        default=None, alias="class", description='name, index, list of n, "random", or weights by name'
    )
    values: Nested | None = Field(
        default=None, description="[C] for all or [n][C]: real values, or class weights as numbers"
    )
    texts: list[str] | None = Field(default=None, description="[n], or one for all")


Numbers = dict[str, FiniteNumber | list[FiniteNumber]]
CONDITIONS = (
    "by name, of models that are conditioned on a text, an image, or several things; excludes class and condition"
)
INPUTS = "numbers that the model takes by name, such as guidance: one for all items, or [n]"


class InputsRequest(BaseRequest):
    """Requests that state more of a model's inputs than its items."""

    conditions: dict[str, Condition] | None = Field(default=None, description=CONDITIONS)
    inputs: Numbers | None = Field(default=None, description=INPUTS)


class SeededRequest(BaseRequest):
    """Requests whose answer may be drawn."""

    seed: Seed | None = None
    first: Seed = Field(default=0, description="index of the first item: item 3 of seed 7 can be made alone")


class ItemsRequest(OPTIONS, ITEMS, BaseRequest):  # type: ignore[misc,valid-type]
    """Requests about items of one kind: images or rows."""


class ConditionedItemsRequest(InputsRequest, ItemsRequest):
    """Requests about items whose class may be known."""

    class_: ClassChoice | None = Field(default=None, alias="class")
    condition: Nested | None = Field(default=None, description=CONDITION)


# --- answers ------------------------------------------------------------------------------------------------------------------


class Timing(BaseModel):
    """Milliseconds."""

    queue: float
    compute: float
    encode: float


class Fitted(BaseModel):
    """Steps that fitted an image to the model."""

    width: int
    height: int
    mode: str
    steps: list[str]
    warnings: list[str] = Field(default=[], description="such as an image that is blank")


class Response(BaseModel):
    """Fields that every answer has."""

    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int | None = Field(default=None, description="where chance was involved")
    first: int | None = None
    reproducible: bool | None = Field(
        default=None,
        description="false if a graph drew random numbers itself, so that the same request gives another answer; else left out",
    )


class ItemsResponse(MADE, Response):  # type: ignore[misc,valid-type]
    """Answers with items: images, or data, or rows."""


class MadeItems(MADE):  # type: ignore[misc,valid-type]
    """Items under the role of one of a model's outputs."""


class OutputsResponse(ItemsResponse):
    """Answers with the items of a model that may have several outputs."""

    items: dict[str, MadeItems] | None = Field(
        default=None, description="by output, of models with several: instead of images, data or rows"
    )


class ErrorBody(BaseModel):
    """Every error, on every route."""

    type: str
    message: str = Field(description="says what to do")
    field: str | None = None
    request_id: str
    valid: list[Any] | None = None


class ErrorResponse(BaseModel):
    """Every error, on every route."""

    error: ErrorBody


class ConditionSummary(BaseModel):
    """A condition that a request may state under its name."""

    kind: str
    names: list[str] | None = Field(default=None, description="of classes, or of the real values")
    data: dict[str, Any] | None = Field(default=None, description="the items that it takes, if it is an item")


class NumberInput(BaseModel):
    """A number that a request may state under `inputs`, as one task takes it."""

    name: str
    task: str
    kind: Literal["number", "integer"]
    default: float | None = Field(default=None, description="null if every request that runs the task must state it")
    minimum: float | None = None
    maximum: float | None = None


class ModelSummary(BaseModel):
    """A line of GET /models."""

    name: str
    version: int
    family: str
    description: str
    tasks: list[str]
    endpoints: list[str]
    state: Literal["idle", "loading", "ready", "unavailable"]
    reason: str | None
    device: str | None
    note: str | None
    classes: list[str] | None
    conditions: list[str] | None = Field(description="names of the real values that the model is told")
    data: dict[str, Any] | None = Field(
        description="the items; `field` is their name in requests and answers, `media_types` are those of answers as one file"
    )
    items: dict[str, dict[str, Any]] | None = Field(
        default=None, description="by output, of models with several, the first of which are those of `data`"
    )
    conditioned: dict[str, ConditionSummary] | None = Field(
        default=None, description="what a request may state under `conditions`, by name"
    )
    inputs: list[NumberInput] | None = None
    default: bool
    reproducible: bool | None = Field(
        description="false if graphs draw random numbers themselves; null before that is known, which takes loading the model"
    )


class ModelList(BaseModel):
    """GET /models."""

    models: list[ModelSummary]


class TaskStats(BaseModel):
    """Totals of the runs of a task since the model was loaded."""

    runs: int
    rows: int
    requests: int = Field(description="whose rows were in a run; one may be in several")
    failed: int
    seconds: float
    rows_a_run: float


class Stats(BaseModel):
    """GET /models/{name}/stats."""

    model: str
    version: int
    state: str
    device: str
    queued_rows: int = Field(description="accepted and not yet answered")
    queued_bytes: int
    expected_wait_ms: float = Field(description="until what is queued now will have gone to the engine")
    tasks: dict[str, TaskStats]


class KeySummary(BaseModel):
    """A key, without what is secret of it."""

    name: str
    id: str = Field(description="the label `key` of manifold_key_requests: the first eight digits of the key's SHA-256")
    scopes: list[Literal["infer", "admin"]]
    rate: float = Field(description="requests/s; 0: no limit")


class Reloaded(BaseModel):
    """POST /admin/reload."""

    keys: list[KeySummary]
    needed: bool = Field(description="whether requests need one")
    tls: bool


class CalibrateRequest(BaseModel):
    """The query of POST /admin/models/{name}/calibrate."""

    model_config = STRICT

    truth: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None,
        description="known anomalies of the file, which are left out: a column, or an expression such as label!=normal; by default what `fit` was given",
    )
    strict: bool = Field(
        default=False, description="publish nothing if the rows look unlike the old calibration: true or false"
    )


class Recalibrated(BaseModel):
    """POST /admin/models/{name}/calibrate."""

    model: str
    version: int
    done: str
    known_anomalies: int = Field(description="rows that were left out, as the truth calls them anomalies")
    warnings: list[str] = Field(
        description="if the rows look unlike the old calibration, or may hold anomalies without a label"
    )


class Health(BaseModel):
    """GET /health/live and /health/ready."""

    status: Literal["live", "ready", "not ready"]
    reason: str | None = None
    models: dict[str, str] | None = None
