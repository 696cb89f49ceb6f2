"""The wire contract: requests, responses, limits, defaults. Field names here are the contract, for REST and gRPC alike.

Arrays stay untyped here (`list[Any]`): walking a million floats with a validator is slower than the model. runtime.codecs checks them.
The fields of items, such as images and rows, are those of the kinds of data (runtime.kinds).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from manifold.runtime import kinds
from manifold.runtime.sampling import MAX_SEED

Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]
# shown by /docs, and tried by a test on the shipped models
_ROW = {
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
_DIGIT = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAALElEQVR4nC3JsQ0AIBADMYsdw5AwZCiezrpD2rDkgCXu4G5DOlM6S5z80sYD3DwOVJqOIjgAAAAASUVORK5CYII="


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


Array = list[Any]  # nested lists of numbers
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
_CONDITION = "[C] for all or [n][C]: real-valued conditions, or class weights as numbers; excludes class"
ClassName = str | Annotated[int, Field(strict=True)]
ClassChoice = ClassName | list[ClassName] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


# the fields that the kinds of data bring
ITEMS, OPTIONS, SINGLE, MADE = (kinds.fields(part) for part in ("request", "options", "single", "answer"))
NEIGHBOUR, EXPLANATION = kinds.fields("neighbour"), kinds.fields("explanation")


class Request(BaseModel):
    """What every request may say. Unknown fields are refused: a typo is an error, not a default."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    model: str | None = Field(default=None, description="the settings' default where left out")
    version: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="the latest where left out"
    )


class Condition(ITEMS):  # type: ignore[misc,valid-type]
    """A condition in its long form: one of class, values, texts, or items of some kind of data."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    class_: ClassChoice | None = Field(
        default=None, alias="class", description='name, index, list of n, "random", or weights by name'
    )
    values: Array | None = Field(
        default=None, description="[C] for all or [n][C]: real values, or class weights as numbers"
    )
    texts: list[str] | None = Field(default=None, description="[n], or one for all")


Numbers = dict[str, FiniteNumber | list[FiniteNumber]]
_CONDITIONS = (
    "by name, of models that are conditioned on a text, an image, or several things; excludes class and condition"
)
_INPUTS = "numbers that the model takes by name, such as guidance: one for all items, or [n]"


class Stated(Request):
    """Requests that state more of a model's inputs than its items."""

    conditions: dict[str, Condition] | None = Field(default=None, description=_CONDITIONS)
    inputs: Numbers | None = Field(default=None, description=_INPUTS)


class Chance(Request):
    """Requests whose answer may be drawn."""

    seed: Seed | None = None
    first: Seed = Field(default=0, description="index of the first item: item 3 of seed 7 can be made alone")


class SampleRequest(Stated, Chance):
    """New items."""

    model_config = _example(seed=7, n=4)

    n: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="1, or as many as there are latents or codes"
    )
    latents: Array | None = Field(default=None, description="[n][L]")
    named_latents: dict[str, Array] | None = Field(default=None, description="instead, of models with several: by name")
    codes: Array | None = Field(default=None, description="[n][h][w]")
    class_: ClassChoice | None = Field(
        default=None, alias="class", description='name, index, list of n, "random", or weights by name'
    )
    condition: Array | None = Field(default=None, description=_CONDITION)
    prior: str | None = None
    temperature: float = Field(
        default=1.0, ge=0.01, le=100, allow_inf_nan=False, description="scales normal latents, divides logits"
    )
    return_latents: StrictBool = False
    encoding: Literal["png", "array"] = Field(
        default="png", description="of images: base64 PNG in `images`, or numbers in `data`"
    )


class Content(OPTIONS, ITEMS, Request):  # type: ignore[misc,valid-type]
    """Requests about items of one kind: images or rows."""


class Items(Stated, Content):
    """Requests about items whose class may be known."""

    class_: ClassChoice | None = Field(default=None, alias="class")
    condition: Array | None = Field(default=None, description=_CONDITION)


class EncodeRequest(Items, Chance):
    """Where items lie in latent space."""

    model_config = _example(model="transactions-vae", rows=[_ROW])


class ReconstructRequest(Items, Chance):
    """Items through the latent and back."""

    model_config = _example(model="transactions-vae", rows=[_ROW])

    target_class: ClassChoice | None = Field(
        default=None, description="decoded as this class instead of `class`: the style stays, the class changes"
    )
    target_condition: Array | None = Field(default=None, description="the same for real-valued conditions")
    target_conditions: dict[str, Condition] | None = Field(
        default=None, description="the same by name; a condition that is left out stays as in `conditions`"
    )
    encoding: Literal["png", "array"] = "png"


class End(SINGLE):  # type: ignore[misc,valid-type]
    """One end of an interpolation: an item, latent, seed, class or condition; the last two may stand beside the others."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    latent: Array | None = None
    named_latent: dict[str, Array] | None = Field(default=None, description="instead, of models with several: by name")
    seed: Seed | None = None
    first: Seed = 0
    class_: ClassName | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, alias="class"
    )
    condition: Array | None = Field(default=None, description="[C]")
    conditions: dict[str, Condition] | None = Field(default=None, description=_CONDITIONS)


class InterpolateRequest(OPTIONS, Request):  # type: ignore[misc,valid-type]
    """A path between two items."""

    model_config = _example(**{"from": {"seed": 1}, "to": {"seed": 2}, "steps": 8})

    from_: End = Field(alias="from")
    to: End
    steps: Annotated[int, Field(strict=True, ge=2)] = 8
    method: Literal["slerp", "lerp"] | None = Field(default=None, description="slerp for normal latents, else lerp")
    seed: Seed | None = Field(default=None, description="for what the ends leave open")
    inputs: Numbers | None = Field(default=None, description=_INPUTS)
    encoding: Literal["png", "array"] = "png"


class Costs(BaseModel):
    """What errors cost, in any one unit, and how many rows are anomalies."""

    model_config = ConfigDict(extra="forbid")

    false_positive: float = Field(gt=0, allow_inf_nan=False)
    false_negative: float = Field(gt=0, allow_inf_nan=False)
    prevalence: float = Field(gt=0, lt=1, allow_inf_nan=False, description="the share of anomalies among the rows")


class ScoreRequest(Items):
    """How strange items are."""

    model_config = _example(model="transactions-vae", rows=[_ROW, {**_ROW, "amount": 900}], explain=True)

    false_positive_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False, description="0.01 where left out"
    )
    budget: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="instead: the n strangest of the request"
    )
    costs: Costs | None = Field(
        default=None, description="instead: flag where, at best, it pays (Sellke, Bayarri and Berger, 2001)"
    )
    block_rate: float | None = Field(
        default=None, gt=0, lt=1, allow_inf_nan=False,
        description="false positive rate of the band `block`; a tenth of that for review where left out",
    )  # fmt: skip
    explain: StrictBool = False


class ClassifyRequest(Content):
    """Which class items are of."""

    model_config = _example(model="digits-pixelcnn", images=[_DIGIT])

    inputs: Numbers | None = Field(default=None, description=_INPUTS)


class ImputeRequest(Items, Chance):
    """Rows with values left out or null, or images with masks of what is known, to be filled in from the rest."""

    model_config = _example(model="transactions-vae", rows=[{**_ROW, "amount": None}])

    masks: list[str] | None = Field(
        default=None, description="[n], or one for all: base64 PNG, white where the image is known"
    )
    candidates: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=8,
        description="of an image: so many are drawn, and one is chosen by how well the known pixels follow from it",
    )
    temperature: float = Field(
        default=1.0, ge=0.01, le=100, allow_inf_nan=False, description="of images: divides logits"
    )
    encoding: Literal["png", "array"] = Field(
        default="png", description="of images: base64 PNG in `images`, or numbers in `data`"
    )


# --- answers ------------------------------------------------------------------------------------------------------------------


class Timing(BaseModel):
    """Milliseconds."""

    queue: float
    compute: float
    encode: float


class Fitted(BaseModel):
    """What was done to an image to fit it to the model."""

    width: int
    height: int
    mode: str
    steps: list[str]


class Response(BaseModel):
    """What every answer says."""

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


class Made(MADE, Response):  # type: ignore[misc,valid-type]
    """Answers with items: images, or data, or rows."""


class MadeItems(MADE):  # type: ignore[misc,valid-type]
    """Items under the role of one of a model's outputs."""


class Several(Made):
    """Answers with the items of a model that may have several outputs."""

    items: dict[str, MadeItems] | None = Field(
        default=None, description="by output, of models with several: instead of images, data or rows"
    )


class SampleResponse(Several):
    """New items."""

    latents: Array | None = None
    named_latents: dict[str, Array] | None = Field(default=None, description="of models with several")
    codes: Array | None = None
    condition: Array | None = Field(
        default=None, description="[n][C] of each item, for models that are told real values"
    )
    classes: list[Any] | None = Field(
        default=None, description="of each item, for conditional models: a name, or weights by name"
    )
    conditions: dict[str, Condition] | None = Field(
        default=None,
        description="by name, of models that are conditioned on a text or on several things, without given items",
    )


class Posterior(BaseModel):
    """The posterior of one of several latents."""

    mean: Array | None = None
    log_variance: Array | None = None
    latents: Array | None = None


class EncodeResponse(Response):
    """Posterior, or codes."""

    mean: Array | None = None
    log_variance: Array | None = None
    latents: Array | None = None
    codes: Array | None = None
    posteriors: dict[str, Posterior] | None = Field(default=None, description="by latent, of models with several")
    fitted: list[Fitted] | None = None


class ReconstructResponse(Several):
    """Items after encode and decode."""

    errors: list[float] = Field(description="mean squared error: of pixels in [0, 1], or of scaled columns")
    fitted: list[Fitted] | None = None


class InterpolateResponse(Several):
    """The path."""

    latents: Array | None = None
    named_latents: dict[str, Array] | None = Field(default=None, description="of models with several")
    fitted: list[Fitted] | None = None


class Part(BaseModel):
    """One term of a score."""

    value: float
    p_value: float | None


class Neighbour(NEIGHBOUR):  # type: ignore[misc,valid-type]
    """A normal item of the training data that is among the nearest."""

    distance: float


class Explanation(EXPLANATION):  # type: ignore[misc,valid-type]
    """Why an item is as strange as it is."""

    neighbours: list[Neighbour] | None = Field(default=None, description="nearest first; not every artifact has them")


class ScoredItem(BaseModel):
    """One item's place."""

    score: float = Field(description="continuous, higher is stranger")
    p_value: float | None
    is_anomaly: bool
    band: Literal["allow", "review", "block"] | None
    risk: int | None = Field(description="0 to 999, a fixed function of the p-value")
    state: Literal["ok", "below_resolution", "uncalibrated", "unknown"]
    warnings: list[str]
    parts: dict[str, Part]
    explanation: Explanation | None = None


class ThresholdInfo(BaseModel):
    """Where the line was drawn."""

    score: float | None
    p_value: float | None
    false_positive_rate: float | None
    interval: list[float] | None = Field(default=None, description="95% interval of the realised rate")
    block_p_value: float | None = Field(default=None, description="p-values up to this are in the band `block`")


class CalibrationInfo(BaseModel):
    """Which items the p-values refer to."""

    id: str
    n: int
    created: str


class ScoreResponse(Response):
    """How strange items are."""

    items: list[ScoredItem]
    threshold: ThresholdInfo
    calibration: CalibrationInfo | None
    fitted: list[Fitted] | None = None


class ClassifiedItem(BaseModel):
    """One item's classes."""

    class_: str = Field(alias="class", description="the most probable one")
    probabilities: dict[str, float] = Field(description="by name; they sum to 1")


class ClassificationInfo(BaseModel):
    """How the probabilities were had."""

    by: str = Field(description="logits, or the likelihood bound that Bayes' rule was given for each class")
    class_prior: dict[str, float]
    temperature: float = Field(description="fitted on items that training never saw")
    calibration_error: float | None = Field(description="expected, on the test part, after the temperature")


class ClassifyResponse(Response):
    """Which class items are of."""

    items: list[ClassifiedItem]
    classification: ClassificationInfo
    fitted: list[Fitted] | None = None


class ImputeResponse(Made):
    """Items made whole: what was given as it came, what was missing filled in."""

    probabilities: list[dict[str, dict[str, float]]] | None = Field(
        default=None, description="of rows, [n]: of each category, by name, for the columns that were missing"
    )
    classes: list[str] | None = Field(
        default=None, description="of images, where no class was told and the model has some: the chosen candidate's"
    )
    fitted: list[Fitted] | None = None


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
    data: dict[str, Any] | None
    default: bool
    reproducible: bool | None = Field(
        description="false if graphs draw random numbers themselves; null before that is known, which takes loading the model"
    )


class ModelList(BaseModel):
    """GET /models."""

    models: list[ModelSummary]


class TaskStats(BaseModel):
    """What the runs of a task add up to since the model was loaded."""

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


class Recalibrated(BaseModel):
    """POST /admin/models/{name}/calibrate."""

    model: str
    version: int
    done: str


class Health(BaseModel):
    """GET /health/live and /health/ready."""

    status: Literal["live", "ready", "not ready"]
    reason: str | None = None
    models: dict[str, str] | None = None
