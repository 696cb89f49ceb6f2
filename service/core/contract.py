"""The wire contract: requests, responses, limits and defaults. Its field names are the contract, for REST and gRPC alike.

JSON types are not converted (`STRICT`): a text is not read as a number, true and false are not numbers, and 4.0 is not an integer. An integer
is accepted as a number.

Arrays stay untyped here (`list[Any]`), because a validator takes longer for a million floats than the model. runtime.codecs checks them by the
same rule.
The kinds of data (runtime.kinds) define the fields of items, such as images and rows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manifold.runtime import kinds
from manifold.runtime.sampling import MAX_SEED

STRICT = ConfigDict(
    extra="forbid", populate_by_name=True, strict=True
)  # the configuration of every object in a request
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]

Nested = list[Any]  # nested lists of numbers, all of one shape
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
CONDITION = "Real-valued conditions, or class weights as numbers: [C] for all items or [n][C]. Excludes `class`."
ClassName = str | int
ClassChoice = ClassName | list[ClassName] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


# the fields that the kinds of data define
ITEMS, OPTIONS, SINGLE, MADE = (kinds.fields(part) for part in ("request", "options", "single", "answer"))
NEIGHBOUR, EXPLANATION = kinds.fields("neighbour"), kinds.fields("explanation")


class BaseRequest(BaseModel):
    """The fields that every request may have. Unknown fields are refused, so that a typo is an error."""

    model_config = STRICT

    model: str | None = Field(
        default=None, description="Name of the model. By default, the default model of the service."
    )
    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Version of the model. By default, the highest version that is served."
    )


class Condition(ITEMS):  # type: ignore[misc,valid-type]
    """A condition in its long form: one of class, values, texts, or items of some kind of data."""

    model_config = STRICT

    class_: ClassChoice | None = Field(
        default=None,
        alias="class",
        description='Name or index of a class, a list of n of them, "random", or weights by name.',
    )
    values: Nested | None = Field(
        default=None, description="Real values, or class weights as numbers: [C] for all items or [n][C]."
    )
    texts: list[str] | None = Field(default=None, description="Texts: [n], or one for all items.")


Numbers = dict[str, FiniteNumber | list[FiniteNumber]]
CONDITIONS = "Conditions by name, for models that are conditioned on a text, an image or several things. Excludes `class` and `condition`."
INPUTS = "Numeric inputs of the model by name, such as guidance: one number for all items, or [n]."


class InputsRequest(BaseRequest):
    """The fields of requests that may state conditions and numeric inputs of a model."""

    conditions: dict[str, Condition] | None = Field(default=None, description=CONDITIONS)
    inputs: Numbers | None = Field(default=None, description=INPUTS)


class SolverRequest(BaseRequest):
    """The fields of requests for new items that a model makes step by step."""

    # the model checks the number, so that an error lists those that it offers
    steps: Annotated[int, Field(json_schema_extra={"minimum": 1})] | None = Field(
        default=None,
        description="Number of steps of the sampler, one of those that the model offers: GET /models lists them under `inputs`. "
        "More steps take longer. An error if the model has no such input.",
    )
    guidance: FiniteNumber | list[FiniteNumber] | None = Field(
        default=None,
        description="Strength of the class, one number for all items or [n]: 1 is the model as it was trained, more makes items more "
        "typical of their class, and 0 ignores it. An error if the model has no such input.",
    )


class SeededRequest(BaseRequest):
    """The fields of requests whose response may be random."""

    seed: Seed | None = Field(
        default=None, description="Random seed. The same request with the same seed returns the same items."
    )
    first: Seed = Field(
        default=0,
        description="Index of the first item. Every item depends on seed and index only: first=3, n=1 returns item 3 alone.",
    )


class ItemsRequest(OPTIONS, ITEMS, BaseRequest):  # type: ignore[misc,valid-type]
    """The fields of requests that contain items of one kind: images or rows."""


class ConditionedItemsRequest(InputsRequest, ItemsRequest):
    """The fields of requests that contain items, and optionally their class or condition."""

    class_: ClassChoice | None = Field(
        default=None,
        alias="class",
        description="Class of the items: a name or an index, a list of n of them, or weights by name.",
    )
    condition: Nested | None = Field(default=None, description=CONDITION)


# --- responses ----------------------------------------------------------------------------------------------------------------


class Timing(BaseModel):
    """The time that parts of a request took, in milliseconds."""

    queue: float = Field(description="Time in the queue, ms.")
    compute: float = Field(description="Time of the model's runs, ms.")
    encode: float = Field(description="Time to write the response, ms.")


class Fitted(BaseModel):
    """The steps that fitted an image to the model's size and channels."""

    width: int = Field(description="Width of the image as it was sent, in pixels.")
    height: int = Field(description="Height of the image as it was sent, in pixels.")
    mode: str = Field(description="Colour mode of the image as it was sent, such as L (grey), RGB or RGBA.")
    steps: list[str] = Field(
        description="Steps that fitted the image to the model, in order. Empty if it was not changed."
    )
    warnings: list[str] = Field(default=[], description="Warnings, for example that an image is blank.")


class Response(BaseModel):
    """The fields that every response has."""

    model: str = Field(description="Name of the model that answered.")
    version: int = Field(description="Version of the model that answered.")
    request_id: str = Field(description="Id of the request, which the log of the service contains too.")
    timing: Timing = Field(description="Time that parts of the request took.")
    seed: int | None = Field(default=None, description="Seed of the random numbers, if any were used.")
    first: int | None = Field(default=None, description="Index of the first item, if random numbers were used.")
    reproducible: bool | None = Field(
        default=None,
        description="false if a graph draws random numbers itself, so that the same request returns another result. Otherwise absent.",
    )


class ItemsResponse(MADE, Response):  # type: ignore[misc,valid-type]
    """The fields of responses with items: images, data or rows."""


FITTED = "Images only: how each image was fitted to the size and channels of the model."


class MadeItems(MADE):  # type: ignore[misc,valid-type]
    """The items of one of a model's outputs."""


class OutputsResponse(ItemsResponse):
    """The fields of responses with the items of a model that may have several outputs."""

    items: dict[str, MadeItems] | None = Field(
        default=None,
        description="Items by the name of the output, for models with several outputs. Replaces images, data and rows.",
    )


class ErrorBody(BaseModel):
    """The error of a request."""

    type: str = Field(description="Type of the error, such as invalid_value. docs/reference/errors.md lists all types.")
    message: str = Field(description="The problem, and the remedy.")
    field: str | None = Field(default=None, description="Part of the request that is wrong, such as from.latent.")
    request_id: str = Field(description="Id of the request, which the log of the service contains too.")
    valid: list[Any] | None = Field(default=None, description="Valid values, if there is a list.")


class ErrorResponse(BaseModel):
    """The form of every error response."""

    error: ErrorBody = Field(description="The error.")


class ConditionSummary(BaseModel):
    """A condition of a model, which a request states under its name."""

    kind: str = Field(description="Kind of the condition: classes, values, text, or item.")
    names: list[str] | None = Field(default=None, description="Names of the classes, or of the real values.")
    optional: bool | None = Field(
        default=None,
        description="Classes only: true if the class `none` makes items without a class. Otherwise absent.",
    )
    data: dict[str, Any] | None = Field(
        default=None, description="Description of the items, if the condition is an item."
    )


class NumberInput(BaseModel):
    """A numeric input of one task, which a request may state under `inputs`."""

    name: str = Field(description="Name of the input.")
    task: str = Field(description="Task that reads the input.")
    kind: Literal["number", "integer"] = Field(description="Whether the input takes any number, or integers only.")
    default: int | float | None = Field(
        default=None, description="Default value. null: every request that runs the task must state a value."
    )
    minimum: int | float | None = Field(default=None, description="Smallest valid value. null: no limit.")
    maximum: int | float | None = Field(default=None, description="Largest valid value. null: no limit.")
    choices: list[int | float] | None = Field(
        default=None, description="Valid values, if only some are. Otherwise absent."
    )


class Figure(BaseModel):
    """A figure of a model, such as the quality of its samples."""

    text: str = Field(description="Name, value and unit of the figure, such as Fréchet distance 0.221.")
    better: Literal["lower", "higher"] | None = Field(
        description="Direction in which the figure is better. null: neither; the text says which value is best."
    )


class PageFiles(BaseModel):
    """The checksums (SHA-256) of a model's files for pages. A file that the model does not have is absent."""

    preview: str | None = Field(default=None, description="Checksum of the file of GET /models/{name}/preview.png.")
    points: str | None = Field(default=None, description="Checksum of the file of GET /models/{name}/points.")
    curves: str | None = Field(default=None, description="Checksum of the file of GET /models/{name}/curves.")
    sheet: str | None = Field(default=None, description="Checksum of the file of GET /models/{name}/sheet.")
    epochs: str | None = Field(default=None, description="Checksum of the file of GET /models/{name}/epochs.")


class ModelSummary(BaseModel):
    """The summary of a model."""

    name: str = Field(description="Name of the model.")
    version: int = Field(description="Version of the model.")
    family: str = Field(description="Family of the model, such as vae or gan. Empty if the manifest cannot be read.")
    description: str = Field(description="Description of the model in its manifest.")
    tasks: list[str] = Field(description="Tasks of the model: the graphs that can be run over /v2.")
    endpoints: list[str] = Field(description="Endpoints that the model supports, such as sample.")
    state: Literal["idle", "loading", "ready", "unavailable"] = Field(
        description="idle: the model loads at its first request. unavailable: `reason` says why."
    )
    reason: str | None = Field(
        description="Why the model is unavailable, such as an optional extra that is not installed."
    )
    device: str | None = Field(description="Device that runs the model: cpu or cuda.")
    note: str | None = Field(
        description="Why the model runs on the CPU although a GPU was allowed and its library supports GPUs."
    )
    classes: list[str] | None = Field(description="Names of the classes. null: the model has no classes.")
    conditions: list[str] | None = Field(description="Names of the real values that the model is conditioned on.")
    data: dict[str, Any] | None = Field(
        description="Description of the items. `field` is their name in requests and responses. `media_types` are the formats of a response as one file."
    )
    items: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="Descriptions of the items by output, for models with several outputs. The first output is that of `data`.",
    )
    conditioned: dict[str, ConditionSummary] | None = Field(
        default=None, description="Conditions that a request may state, by name."
    )
    inputs: list[NumberInput] | None = Field(
        default=None, description="Numeric inputs that a request may state under `inputs`."
    )
    default: bool = Field(description="Whether requests that name no model use this one.")
    reproducible: bool | None = Field(
        description="false if graphs draw random numbers themselves. null: not known before the model is loaded."
    )
    dataset: str | None = Field(
        description="Name of the data set that the model was trained on. null: its manifest does not name one."
    )
    figures: list[Figure] = Field(description="Figures of the model from its manifest, the most important ones first.")
    featured: int | None = Field(
        description="Place of the model, from 1, in the list featured.json of the folder of models. null: it is not listed."
    )
    versions: list[int] = Field(description="Versions that can be requested, ascending.")
    files: PageFiles = Field(description="Checksums of the model's files for pages.")
    temperature: bool = Field(description="Whether /sample accepts a temperature.")


class Projection(BaseModel):
    """The first two principal components of latents. The coordinates of a latent z are components · (z - mean)."""

    mean: list[float] = Field(description="Mean of the latents: [L].")
    components: list[list[float]] = Field(
        description="Directions of unit length: [2][L], or [1][L] if a latent has one value."
    )
    explained: list[float] = Field(description="Share of the variance along each component.")


class Points(BaseModel):
    """The response of GET /models/{name}/points: latents of test items, which the model encoded when it was exported."""

    means: list[list[float]] = Field(description="Latents of N test items: [N][L].")
    labels: list[int] = Field(description="Class of each item as an index: [N]. -1: the item has no class.")
    shape: list[int] = Field(description="Shape of one latent, which has L values.")
    spread: list[float] = Field(description="Standard deviation of each value over the items: [L].")
    active: list[int] = Field(description="Indices of the values, that with the largest spread first: [L].")
    projection: Projection = Field(description="Principal components of the latents.")


class CurvePhase(BaseModel):
    """The losses of one phase of a training."""

    phase: str = Field(description="Name of the phase, such as vae.")
    steps: list[int] = Field(description="Numbers of optimizer steps at which losses were recorded.")
    losses: dict[str, list[float | None]] = Field(
        description="Losses at these steps by name, such as train/loss. null: the loss was not recorded, or it was not finite."
    )


class Curves(BaseModel):
    """The response of GET /models/{name}/curves."""

    phases: list[CurvePhase] = Field(description="Phases of the training, in their order.")
    epochs: list[int] | None = Field(
        default=None,
        description="Epochs of the rows of the picture GET /models/{name}/epochs. Absent if the model has no such picture.",
    )


class ModelList(BaseModel):
    """The response of GET /models."""

    models: list[ModelSummary] = Field(
        description="The models: the latest version of each, and other versions that were requested."
    )


class TaskStats(BaseModel):
    """The totals of the runs of a task since the model was loaded."""

    runs: int = Field(description="Number of runs.")
    rows: int = Field(description="Number of items in all runs.")
    requests: int = Field(description="Number of requests in all runs. A request may be in several runs.")
    failed: int = Field(description="Number of runs that failed.")
    seconds: float = Field(description="Time of all runs, s.")
    rows_a_run: float = Field(description="Mean batch size.")


class Stats(BaseModel):
    """The response of GET /models/{name}/stats."""

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version of the model.")
    state: str = Field(description="State of the model, as in GET /models.")
    device: str = Field(description="Device that runs the model: cpu or cuda.")
    queued_rows: int = Field(description="Number of items that are queued or running.")
    queued_bytes: int = Field(description="Size of their inputs, bytes.")
    expected_wait_ms: float = Field(description="Estimated time until all queued items have started to run, ms.")
    tasks: dict[str, TaskStats] = Field(description="Totals of the runs by task.")


class KeySummary(BaseModel):
    """An API key without its secret."""

    name: str = Field(description="Name of the key.")
    id: str = Field(
        description="First eight digits of the key's SHA-256 hash: the label `key` of the metric manifold_key_requests."
    )
    scopes: list[Literal["infer", "admin"]] = Field(
        description="Scopes of the key: infer for requests, admin for administration."
    )
    rate: float = Field(description="Request rate allowed, requests/s. 0: no limit.")


class Reloaded(BaseModel):
    """The response of POST /admin/reload."""

    keys: list[KeySummary] = Field(description="The keys that are in force.")
    needed: bool = Field(description="Whether requests need a key.")
    tls: bool = Field(description="Whether the service uses TLS.")


class CalibrateRequest(BaseModel):
    """The query parameters of POST /admin/models/{name}/calibrate."""

    model_config = STRICT

    truth: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None,
        description="Known anomalies of the file, which are not used: a column, or an expression such as label!=normal. By default, as in `manifold fit`.",
    )
    strict: bool = Field(
        default=False, description="Whether nothing is published if the rows differ from the previous calibration."
    )


class Recalibrated(BaseModel):
    """The response of POST /admin/models/{name}/calibrate."""

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version of the newly calibrated model.")
    done: str = Field(description="Summary of the calibration.")
    known_anomalies: int = Field(
        description="Number of rows that were not used because `truth` marks them as anomalies."
    )
    warnings: list[str] = Field(
        description="Warnings, if the rows differ from the previous calibration or may contain unlabelled anomalies."
    )


class Health(BaseModel):
    """The response of GET /health/live and /health/ready."""

    status: Literal["live", "ready", "not ready"] = Field(description="live: the process runs.")
    reason: str | None = Field(default=None, description="Why the service is not ready.")
    models: dict[str, str] | None = Field(default=None, description="State of each model, by name.")
