"""The manifest of an artifact: `models/NAME/VERSION/manifest.json`.

The short forms describe one item (`data`), one latent (`latent`) and one condition (`classes` with `class_prior`, or `conditions`). The long
forms describe several, each with a name. Code reads both forms through `items`, `latents` and `conditioned`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from manifold.runtime.kinds import DataSpec, Kind
from manifold.runtime.manifest import figures, problems
from manifold.runtime.manifest.conditions import Classes, Condition, Item, Several, Text, Values
from manifold.runtime.manifest.latents import CodesSpec, LatentSpec, PathSpec
from manifold.runtime.manifest.rules import INTERNAL
from manifold.runtime.manifest.scoring import Classification, Scoring
from manifold.runtime.manifest.tensors import InputSpec, TaskSpec, TensorSpec
from manifold.runtime.records import Record

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ROLE = r"^[A-Za-z0-9_-]{1,64}$"
DATA, TARGET, LATENT, CONDITION = "data", "target", "latent", "condition"  # roles in the short forms


class Metric(Record):
    """One number of an evaluation, with the protocol that makes it comparable."""

    name: str
    value: float
    se: float | None = Field(
        default=None, ge=0, description="standard error of the value over items and random draws, if it is known"
    )
    unit: str = ""
    protocol: dict[str, Any] = Field(default_factory=dict)


class FileRecord(Record):
    """The checksum and size of a file of the artifact."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Golden(Record):
    """Inputs and the outputs of the training framework for them: npz keys `TASK.in.ROLE` and `TASK.out.ROLE`.

    `sampler` is the name of an output with the logits (B, K, *codes.shape) of one parallel pass. It belongs to the task score_codes if the
    artifact has it, else to score. The loader then checks that inverse-CDF picks from those logits give the codes that `sample` made.
    """

    file: str = "golden.npz"
    tolerance: dict[str, float] = Field(
        default_factory=lambda: {"cpu": 1e-4, "cuda": 2e-3},
        min_length=1,
        description="largest absolute difference allowed, by device",
    )
    sampler: str | None = None


class Conditions(Record):
    """Real values that a model is conditioned on, one per column of its condition."""

    names: tuple[str, ...] = Field(min_length=1)
    examples: tuple[tuple[float, ...], ...] = Field(
        min_length=1, description="rows of the training split; if a request gives no values, one of them is drawn"
    )

    @model_validator(mode="after")
    def _check(self) -> Conditions:
        Values(names=self.names, examples=self.examples)
        return self


ONE, NAMED = "one", "named"  # the forms of a field: a single record, or a mapping from names to records


def _form_of_data(value: Any) -> str:
    if not isinstance(value, dict) or not value or not all(map(_is_object, value.values())):
        return ONE  # also for a spec without its `kind`
    return NAMED


def _form_of_latent(value: Any) -> str:
    if not isinstance(value, dict) or not value or not all(map(_is_object, value.values())):
        return ONE
    return NAMED if value.keys() - LatentSpec.model_fields.keys() else ONE  # also for a latent without its size


def _is_object(value: Any) -> bool:
    return isinstance(value, dict | Record)


Role = Annotated[str, Field(pattern=ROLE)]
Data = Annotated[
    Annotated[DataSpec, Tag(ONE)] | Annotated[dict[Role, DataSpec], Tag(NAMED), Field(min_length=1)],
    Discriminator(_form_of_data),
]
Latent = Annotated[
    Annotated[LatentSpec, Tag(ONE)] | Annotated[dict[Role, LatentSpec], Tag(NAMED), Field(min_length=1)],
    Discriminator(_form_of_latent),
]


class Manifest(Record):
    """The description of an artifact, stored as `models/NAME/VERSION/manifest.json`."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: int = Field(ge=1)
    family: str = "foreign"
    description: str = ""
    license: str = ""
    backend: Literal["onnx", "torchscript", "fake"] = "onnx"
    data: Data = Field(
        description="description of the items. For a model with several outputs: descriptions by the role of the output. The model takes items of the first one"
    )
    target: DataSpec | None = Field(
        default=None, description="spec of the output `target` of translate, if it differs from the input"
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="class names, in the order of the columns of the condition and of the logits"
    )
    class_prior: tuple[float, ...] | None = Field(
        default=None, description="one weight per class, adding up to 1; uniform by default"
    )
    class_optional: bool | None = Field(
        default=None,
        description="true if the model also makes items without a class: the class `none`, whose weights are all 0",
    )
    conditions: Conditions | None = Field(
        default=None, description="real values that the model is conditioned on, instead of a class"
    )
    condition: Annotated[Condition | Several, Field(discriminator="kind")] | None = Field(
        default=None, description="the condition of the model, for other conditions than classes or real values"
    )
    latent: Latent | None = Field(
        default=None, description="the latent. For a model with several latents: latents by the role of the input"
    )
    codes: CodesSpec | None = None
    path: PathSpec | None = Field(
        default=None, description="the path from noise to data, of a model with the task denoise"
    )
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    scoring: Scoring | None = None
    classification: Classification | None = None
    golden: Golden | None = None
    reproducible: bool | None = Field(
        default=None,
        description="false if a graph draws random numbers itself, so that the same request gives different answers; the loader detects "
        "this, and `manifold check --seal` records it",
    )
    metrics: tuple[Metric, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(
        default_factory=dict, description="checksum and size of every file except the manifest"
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _renamed(cls, metrics: Any) -> Any:
        """Give the figures of earlier manifests their present names."""
        if isinstance(metrics, list | tuple) and all(isinstance(each, dict) for each in metrics):
            return tuple(figures.renamed(metrics))
        return metrics

    # --- items ---

    @cached_property
    def items(self) -> dict[str, Kind]:
        """The specs of the items that the model makes, by the role of their output."""
        return dict(self.data) if isinstance(self.data, dict) else {DATA: self.data}

    @cached_property
    def spec(self) -> Kind:
        """The spec of the items that the model takes. It is the first of the specs that the model makes."""
        return next(iter(self.items.values()))

    @cached_property
    def main(self) -> str:
        """The role of the output with the items of `spec`."""
        return next(iter(self.items))

    def spec_of(self, role: str) -> Kind:
        """Return the spec of the output with a role."""
        if role == TARGET:
            return self.target or self.spec
        return self.items.get(role, self.spec)

    def held_in(self, tensor: TensorSpec) -> Kind | None:
        """Return the spec of the items that a tensor holds; None for other tensors, such as masks and scores."""
        if not isinstance(tensor, InputSpec):
            return self.spec_of(tensor.role) if tensor.role in (DATA, TARGET, *self.items) else None
        if tensor.source == "data":
            return self.spec
        condition = self.condition_of(tensor) if tensor.source == "condition" else None
        return condition.data if isinstance(condition, Item) else None

    # --- latents ---

    @cached_property
    def latents(self) -> dict[str, LatentSpec]:
        """The latents by the role of their input; empty for a model without a latent space."""
        if self.latent is None:
            return {}
        return dict(self.latent) if isinstance(self.latent, dict) else {LATENT: self.latent}

    @cached_property
    def space(self) -> LatentSpec | None:
        """The latent, or the first one of several; None for a model without a latent space."""
        return next(iter(self.latents.values()), None)

    @cached_property
    def has_named_latents(self) -> bool:
        """True if requests and answers name the latents."""
        return isinstance(self.latent, dict)

    def latent_of(self, tensor: TensorSpec) -> LatentSpec | None:
        """Return the latent that fills an input, or that an output such as ROLE.mean belongs to."""
        if not self.has_named_latents:
            return self.space
        return self.latents.get(tensor.role.partition(".")[0])

    # --- conditions ---

    @cached_property
    def conditioned(self) -> dict[str, Classes | Values | Text | Item]:
        """The conditions of the model by name: the names of the parts if there are several, else `condition`."""
        if isinstance(self.condition, Several):
            return dict(self.condition.parts)
        one = self._one_condition()
        return {} if one is None else {CONDITION: one}

    def _one_condition(self) -> Classes | Values | Text | Item | None:
        if self.classes is not None:
            return Classes.model_construct(names=self.classes, prior=self.class_prior, optional=self.class_optional)
        if self.conditions is not None:
            return Values(names=self.conditions.names, examples=self.conditions.examples)
        return None if isinstance(self.condition, Several) else self.condition

    def condition_of(self, tensor: InputSpec) -> Classes | Values | Text | Item | None:
        """Return the condition that fills an input whose source is condition, tokens or token_mask."""
        return self.conditioned.get(self.name_of_condition(tensor))

    def name_of_condition(self, tensor: InputSpec) -> str:
        """Return the name that a request uses for the condition that fills an input."""
        if not isinstance(self.condition, Several):
            return CONDITION
        return tensor.role.removesuffix("_mask") if tensor.source == "token_mask" else tensor.role

    @property
    def class_weights(self) -> list[float]:
        """The normalised class prior; empty for a model without classes."""
        one = self.conditioned.get(CONDITION)
        return one.weights if isinstance(one, Classes) else []

    # --- tasks and provenance ---

    @property
    def data_name(self) -> str | None:
        """The data set that the model was trained on, if the provenance records it."""
        data = self.provenance.get("data")
        name = data.get("data") if isinstance(data, dict) else None
        return name if isinstance(name, str) else None

    def task(self, name: str) -> TaskSpec | None:
        """Return the task with a name, or None if the artifact does not have it."""
        return self.tasks.get(name)

    @cached_property
    def served(self) -> dict[str, TaskSpec]:
        """The tasks that are served: all except the steps of lossless compression."""
        return {name: task for name, task in self.tasks.items() if name not in INTERNAL}

    @cached_property
    def drawing(self) -> frozenset[str]:
        """The tasks whose graphs draw random numbers themselves, according to the manifest."""
        whole = self.reproducible is not False
        return frozenset(
            name for name, task in self.tasks.items() if not (whole if task.reproducible is None else task.reproducible)
        )

    def with_drawing(self, drawing: Collection[str]) -> Manifest:
        """Return the manifest with these tasks marked as not reproducible; the same manifest if there are none."""
        if not drawing:
            return self
        tasks = {
            name: task.model_copy(update={"reproducible": name not in drawing}) for name, task in self.tasks.items()
        }
        return self.model_copy(update={"tasks": tasks, "reproducible": False})

    @model_validator(mode="before")
    @classmethod
    def _shorten(cls, given: Any) -> Any:
        """Convert classes and real values to their short forms."""
        condition = given.get("condition") if isinstance(given, dict) else None
        if not isinstance(condition, dict) or condition.get("kind") not in ("classes", "values"):
            return given
        if given.get("classes") is not None or given.get("conditions") is not None:
            raise ValueError("condition: given twice, also as classes or conditions; keep one of them")
        rest = {name: value for name, value in given.items() if name != "condition"}
        fields = {name: value for name, value in condition.items() if name != "kind"}
        if condition["kind"] == "values":
            return {**rest, "conditions": fields}
        if wrong := (fields.keys() - {"prior", "optional"}) ^ {"names"}:
            raise ValueError(
                f"condition: the field {', '.join(sorted(wrong))} is missing or unknown; classes have `names` and optionally `prior` and `optional`"
            )
        return {
            **rest, "classes": fields["names"], "class_prior": fields.get("prior"), "class_optional": fields.get("optional"),
        }  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if wrong := list(problems.every(self)):
            raise ValueError("\n".join(wrong))
        return self
