"""What an artifact is: tasks, tensor specs, data spec, provenance, metrics, calibration.

A manifest is one JSON file that, with the graphs beside it, suffices to run a model: the loader never guesses. This module only
describes and validates; it opens no graph. The JSON schema in docs/manifest.schema.json is made from it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from manifold.runtime.errors import ArtifactError
from manifold.runtime.kinds import DataSpec
from manifold.runtime.records import Record

FILE = "manifest.json"
MAX_BYTES = 16 * 2**20  # of a manifest; the largest that is shipped has 0.5 MB
NUMBERS = re.compile(r"\[\s+-?[\d.][\d.eE+-]*(?:,\s+-?[\d.][\d.eE+-]*)*\s+\]")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Source = Literal["normal", "uniform", "condition", "data", "mask", "latent", "codes", "temperature"]
RANDOM: tuple[Source, ...] = ("normal", "uniform", "latent")  # the inputs that a seed can fill


# --- latents, codes, priors ---------------------------------------------------------------------------------------------------


Components = tuple[tuple[float, ...], NDArray[np.float64], NDArray[np.float64]]


class NormalPrior(Record):
    """Standard normal, N(0, I)."""

    kind: Literal["normal"] = "normal"


class GaussianPrior(Record):
    """N(mean, cholesky choleskyᵀ), fitted to the posterior means after training."""

    kind: Literal["gaussian"] = "gaussian"
    mean: tuple[float, ...]
    cholesky: tuple[tuple[float, ...], ...]

    @cached_property
    def components(self) -> Components:
        """As a mixture of one."""
        return (1.0,), np.asarray([self.mean]), np.asarray([self.cholesky])


class MixturePrior(Record):
    """Σ weights N(means, choleskys choleskysᵀ), fitted to the posterior means after training."""

    kind: Literal["mixture"] = "mixture"
    weights: tuple[float, ...] = Field(min_length=1)
    means: tuple[tuple[float, ...], ...]
    choleskys: tuple[tuple[tuple[float, ...], ...], ...]

    @cached_property
    def components(self) -> Components:
        """Weights, means (K, L) and factors (K, L, L), made into arrays once."""
        return self.weights, np.asarray(self.means), np.asarray(self.choleskys)

    @model_validator(mode="after")
    def _check(self) -> MixturePrior:
        if any(weight < 0 for weight in self.weights) or not math.isclose(sum(self.weights), 1, rel_tol=1e-6):
            raise ValueError("weights must be at least 0 and add up to 1")
        if not len(self.weights) == len(self.means) == len(self.choleskys):
            raise ValueError("weights, means and choleskys need one entry a component")
        return self


Prior = Annotated[NormalPrior | GaussianPrior | MixturePrior, Field(discriminator="kind")]


def _normal() -> dict[str, Prior]:
    return {"normal": NormalPrior()}


class LatentSpec(Record):
    """A vector latent, float32 (B, size)."""

    size: int = Field(ge=1, le=65536)
    priors: dict[str, Prior] = Field(
        default_factory=_normal, description="none where a latent is had from data alone: vectors before a codebook"
    )
    default_prior: str | None = Field(default=None, description="the first of the priors where left out")
    interpolation: Literal["slerp", "lerp"] = "slerp"

    @property
    def prior(self) -> str | None:
        """The prior that is drawn from where none is named; None where there is none."""
        return self.default_prior or next(iter(self.priors), None)

    @model_validator(mode="after")
    def _check(self) -> LatentSpec:
        if self.default_prior is not None and self.default_prior not in self.priors:
            raise ValueError(f"default_prior {self.default_prior!r} is not among the priors {sorted(self.priors)}")
        for name, prior in self.priors.items():
            parts: list[tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]] = []
            if isinstance(prior, GaussianPrior):
                parts = [(prior.mean, prior.cholesky)]
            elif isinstance(prior, MixturePrior):
                parts = list(zip(prior.means, prior.choleskys, strict=True))
            for mean, cholesky in parts:
                if {len(mean), len(cholesky), *map(len, cholesky)} != {self.size}:
                    raise ValueError(f"prior {name!r} does not have the latent's size {self.size}")
        return self


class CodesSpec(Record):
    """A grid of integer codes, int64 (B, *shape), each 0..levels-1."""

    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    levels: int = Field(ge=2)


# --- tasks --------------------------------------------------------------------------------------------------------------------


class TensorSpec(Record):
    """One input or output. `role` is its name in this project, `name` its name in the graph (the same, where left out).

    `shape` leaves out the batch, which is always the first dimension and always free.
    """

    role: str = Field(min_length=1)
    name: str = ""
    dtype: Literal["float32", "int64"] = "float32"
    shape: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @property
    def described(self) -> str:
        """Return the type and the shape of one item."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def graph_name(self) -> str:
        """The tensor's name in the graph."""
        return self.name or self.role


class InputSpec(TensorSpec):
    """An input. `source` says who fills it: a seed (normal, uniform, latent) or the request."""

    source: Source
    missing: bool = Field(default=False, description="NaN is a value that is missing; of rows alone")


class TaskSpec(Record):
    """One graph and what goes in and out."""

    graph: str = Field(description="file in the artifact's folder")
    method: str | None = Field(
        default=None, description="TorchScript only: the method of the module, forward where left out"
    )
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    min_rows: int = Field(
        default=1, ge=1, le=64, description="rows are padded to a multiple, for graphs whose bits depend on the batch"
    )
    max_rows: int = Field(default=1024, ge=1, description="more rows are run in pieces")
    reproducible: bool | None = Field(
        default=None, description="false if the graph draws random numbers itself; the loader finds out"
    )
    extra: tuple[str, ...] | None = Field(
        default=None, description="roles of outputs that no use case returns, only /v2 and the library"
    )

    def input(self, source: Source) -> InputSpec | None:
        """The first input with that source."""
        return self._first.get(source)

    @property
    def is_sampler(self) -> bool:
        """Whether it takes uniforms, one a step: an autoregressive sampler, with loops."""
        return self.input("uniform") is not None

    @cached_property
    def _first(self) -> dict[str, InputSpec]:
        return {spec.source: spec for spec in reversed(self.inputs)}

    @property
    def roles(self) -> list[str]:
        """Roles of the outputs."""
        return [spec.role for spec in self.outputs]

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        for tensors in (self.inputs, self.outputs):
            roles = [tensor.role for tensor in tensors]
            if len(set(roles)) != len(roles):
                raise ValueError("roles must differ within the inputs and within the outputs")
        if self.max_rows % self.min_rows:
            raise ValueError("max_rows must be a multiple of min_rows")
        return self


TASKS = (
    "decode",
    "decode_codes",
    "encode",
    "sample",
    "score",
    "score_codes",
    "translate",
    "features",
    "neighbours",
    "impute",
)

# Outputs whose values may be any of several that are equally good, so that no two runtimes need agree: which of two items that lie equally
# near comes first. Their distances are what is compared.
TIED = ("nearest", "known")

# What each task must give and take: without these the use cases of runtime.operations could not be made of tasks.
REQUIRED_OUTPUTS: dict[str, tuple[tuple[str, ...], ...]] = {  # any one of the alternatives
    "decode": (("data",),),
    "decode_codes": (("data",),),
    "sample": (("data",),),
    "impute": (("data",),),
    "encode": (("mean",), ("codes",)),
    "features": (("features",),),
    "neighbours": (("nearest", "distance"),),
}
REQUIRED_SOURCES: dict[str, Source] = {
    "decode": "latent", "decode_codes": "codes", "score_codes": "codes", "encode": "data", "score": "data", "features": "data", "neighbours": "data",
    "impute": "mask",
}  # fmt: skip

# The type of what the service puts into each input.
SENT: dict[Source, str] = {
    "normal": "float32", "uniform": "float32", "condition": "float32", "data": "float32", "mask": "float32", "latent": "float32",
    "codes": "int64", "temperature": "float32",
}  # fmt: skip
# The inputs that use cases fill, each once. Tasks that are not named here take any that a seed or a default fills.
FILLED: dict[str, tuple[Source, ...]] = {
    "encode": ("data", "condition"), "score": ("data", "condition"), "features": ("data",), "neighbours": ("data",),
    "impute": ("data", "mask", "uniform", "temperature", "condition"),
}  # fmt: skip
# The outputs that use cases return. A score task's are the terms of `scoring`, its surprise, and what the golden sampler compares.
# `values` are what a sampler over real values has instead of codes: golden vectors hold them.
RETURNED: dict[str, tuple[str, ...]] = {
    "decode": ("data",), "decode_codes": ("data",), "sample": ("data", "codes", "latent", "values"), "impute": ("data", "codes", "values"),
    "encode": ("mean", "log_variance", "latent", "codes"), "features": ("features", "logits"),
    "neighbours": ("nearest", "distance", "known"), "score_codes": ("nll", "logits"),
}  # fmt: skip


# --- scoring, provenance ------------------------------------------------------------------------------------------------------


class Likelihood(Record):
    """What makes a term in nats a statement about -log p(x): without this, likelihoods of two models do not compare."""

    bound: Literal["exact", "elbo", "iwae"] = Field(description="elbo, iwae: the term is an upper bound of -log p(x)")
    k: int = Field(default=1, ge=1, description="draws from the posterior that the bound averages over")
    observed: str = Field(description="what x is: how grey values were binarised, levels, or a density's units")
    discrete: bool = Field(default=True, description="a probability, so that bits a dimension mean something")


class Term(Record):
    """One term of the anomaly score: an output (B,) of the score graph, higher is stranger."""

    name: str
    kind: Literal["nll", "distance"] = Field(description="nll: in nats, marginalised over classes by log-sum-exp")
    description: str = ""
    likelihood: Likelihood | None = Field(default=None, description="for a term that is -log p(x), or bounds it")


COMBINED = "combined"  # the name of what a combination gives, beside the terms


class Combination(Record):
    """One score of several terms: each becomes its log-survival, -log P(term is at least as high), and these are combined.

    `fisher` adds them (Fisher, 1932), so that terms that are each a little strange add up; `min-p` takes the largest (Tippett, 1931), so that
    one very strange term suffices. Survival is that of the calibration items, with a fitted tail beyond them: see runtime.tails.
    """

    method: Literal["fisher", "min-p"] = "fisher"
    terms: tuple[str, ...] = Field(min_length=1)


class Calibration(Record):
    """Scores of items that training never saw, sorted, in `file` (npz: one float64 array a term, and `combined` for a combination)."""

    id: str
    n: int = Field(ge=1)
    created: str
    source: str = Field(description="which items: split, indices, filter")
    file: str = "calibration.npz"


class Scoring(Record):
    """How the score task's outputs become an anomaly score."""

    score: str = Field(description="the term that ranks, or `combined`")
    terms: tuple[Term, ...] = Field(min_length=1)
    combination: Combination | None = Field(
        default=None, description="needs a calibration, whose items say what is usual"
    )
    calibration: Calibration | None = None
    surprise: str | None = Field(default=None, description="output with nats a pixel or a column, for explanations")
    latent: str | None = Field(
        default=None, description="the term with the nats of the latent, beside those of `surprise`"
    )
    surprise_scale: float | None = Field(
        default=None, gt=0, description="the calibration items' 0.999 quantile of `surprise`"
    )
    surprise_mean: tuple[float, ...] | None = Field(
        default=None, description="mean over the calibration items, by column"
    )

    @model_validator(mode="after")
    def _check(self) -> Scoring:
        names = [term.name for term in self.terms]
        if COMBINED in names or len(set(names)) != len(names):
            raise ValueError(f"terms {names} must differ, and none may be called {COMBINED!r}")
        if self.latent is not None and self.latent not in names:
            raise ValueError(f"latent: {self.latent!r} is not among the terms {names}")
        if self.combination is not None and not set(self.combination.terms) <= set(names):
            raise ValueError(f"combination: {list(self.combination.terms)} must be among the terms {names}")
        if self.score not in names and (self.score != COMBINED or self.combination is None):
            raise ValueError(f"score {self.score!r} is not among the terms {names}, nor is it a combination of them")
        return self

    @property
    def evidence(self) -> str | None:
        """The term that stands for -log p(x | y) in Bayes' rule: the score itself, or the first that is a likelihood or a bound of one."""
        if self.score != COMBINED:
            return self.score
        return next((term.name for term in self.terms if term.likelihood), None)


class Classification(Record):
    """How p(y | x) is had: by Bayes' rule from a score term given each class, or from the logits of `features`.

    log p(y | x) = (log p(y) - term(x, y)) / temperature + constant, with p(y) the class prior; logits take the term's place where it is
    left out. The temperature was fitted on items that training never saw (Guo et al., 2017, arXiv 1706.04599).
    """

    term: str | None = None
    temperature: float = Field(default=1.0, gt=0)
    source: str = Field(default="", description="which items the temperature was fitted on")


class Metric(Record):
    """One number with the protocol that makes it comparable."""

    name: str
    value: float
    unit: str = ""
    protocol: dict[str, Any] = Field(default_factory=dict)


class FileRecord(Record):
    """Checksum and size of a file of the artifact."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Golden(Record):
    """Inputs and what the training framework gave for them: npz keys `TASK.in.ROLE` and `TASK.out.ROLE`.

    `sampler` holds the name of an output with the logits (B, K, *codes.shape) of one parallel pass, of the task score_codes where there is
    one, else of score: the loader then checks that inverse-CDF picks from those logits give back the codes that `sample` made.
    """

    file: str = "golden.npz"
    tolerance: dict[str, float] = Field(
        default_factory=lambda: {"cpu": 1e-4, "cuda": 2e-3}, min_length=1, description="absolute, by device"
    )
    sampler: str | None = None


class Conditions(Record):
    """Real values that a model is told, as columns of its condition."""

    names: tuple[str, ...] = Field(min_length=1)
    examples: tuple[tuple[float, ...], ...] = Field(
        min_length=1, description="rows of the training part: what is drawn from where a request gives none"
    )

    @model_validator(mode="after")
    def _check(self) -> Conditions:
        if any(len(row) != len(self.names) or not all(map(math.isfinite, row)) for row in self.examples):
            raise ValueError(f"examples: each needs {len(self.names)} finite numbers")
        return self


class Manifest(Record):
    """An artifact. `models/NAME/VERSION/manifest.json`."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: int = Field(ge=1)
    family: str = "foreign"
    description: str = ""
    license: str = ""
    backend: Literal["onnx", "torchscript", "fake"] = "onnx"
    data: DataSpec
    classes: tuple[str, ...] | None = Field(
        default=None, description="names, in the order of the columns of the condition and of the logits"
    )
    class_prior: tuple[float, ...] | None = Field(default=None, description="uniform where left out")
    conditions: Conditions | None = Field(
        default=None, description="of models that take real values instead of a class"
    )
    latent: LatentSpec | None = None
    codes: CodesSpec | None = None
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    scoring: Scoring | None = None
    classification: Classification | None = None
    golden: Golden | None = None
    reproducible: bool | None = Field(
        default=None,
        description="false if a graph draws random numbers itself, so that the same request gives another answer; the loader finds out, "
        "and `manifold check --seal` records it",
    )
    metrics: tuple[Metric, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(
        default_factory=dict, description="every file but the manifest, with its checksum"
    )

    @property
    def data_name(self) -> str | None:
        """The data set that it was trained on, where its provenance says so."""
        about = self.provenance.get("data")
        name = about.get("data") if isinstance(about, dict) else None
        return name if isinstance(name, str) else None

    @property
    def class_weights(self) -> list[float]:
        """The class prior, normalised; empty without classes."""
        if self.classes is None:
            return []
        weights = self.class_prior or (1.0,) * len(self.classes)
        return [weight / sum(weights) for weight in weights]

    def task(self, name: str) -> TaskSpec | None:
        """The task of that name, if the artifact has it."""
        return self.tasks.get(name)

    @property
    def drawing(self) -> frozenset[str]:
        """Return the tasks whose graphs draw random numbers themselves, as far as the manifest says so."""
        whole = self.reproducible is not False
        return frozenset(
            name for name, task in self.tasks.items() if not (whole if task.reproducible is None else task.reproducible)
        )

    def with_drawing(self, drawing: Collection[str]) -> Manifest:
        """Return the manifest with these tasks marked as not reproducible; itself if there are none."""
        if not drawing:
            return self
        tasks = {
            name: task.model_copy(update={"reproducible": name not in drawing}) for name, task in self.tasks.items()
        }
        return self.model_copy(update={"tasks": tasks, "reproducible": False})

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        problems = [
            *self._class_problems(),
            *self._task_problems(),
            *self._scoring_problems(),
            *self._classification_problems(),
            *self._sampler_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _class_problems(self) -> Iterator[str]:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            yield "classes: names must differ"
        if self.conditions is not None and self.classes is not None:
            yield "conditions: a model takes classes or real values, not both"
        if self.class_prior is not None:
            if self.classes is None or len(self.class_prior) != len(self.classes):
                yield "class_prior: needs one weight a class"
            elif any(weight < 0 for weight in self.class_prior) or not math.isclose(
                sum(self.class_prior), 1, rel_tol=1e-6
            ):
                yield "class_prior: weights must be at least 0 and add up to 1"

    def _task_problems(self) -> Iterator[str]:
        for name, task in self.tasks.items():
            if name not in TASKS:
                yield f"tasks.{name}: unknown task, valid are {', '.join(TASKS)}"
                continue
            needed = REQUIRED_SOURCES.get(name)
            if needed and task.input(needed) is None:
                yield f"tasks.{name}: needs an input whose source is {needed!r}"
            if name == "impute" and task.input("data") is None:
                yield f"tasks.{name}: needs an input whose source is 'data', beside the mask"
            if name == "impute" and task.input("uniform") is None:
                yield f"tasks.{name}: needs an input whose source is 'uniform', of which its candidates are drawn"
            if name == "impute" and self.data.mask_shape is None:
                yield f"tasks.{name}: takes a mask, and {self.data.noun} have none; missing values are filled in by encode and decode"
            yield from self._input_problems(name, task)
            outputs = REQUIRED_OUTPUTS.get(name)
            if outputs and not any(set(roles) <= set(task.roles) for roles in outputs):
                yield f"tasks.{name}: needs an output with the role {' or '.join(repr(roles[0]) for roles in outputs)}"
            yield from self._tensor_problems(name, task)
            yield from self._output_problems(name, task)

    def _input_problems(self, name: str, task: TaskSpec) -> Iterator[str]:
        """Yield the inputs that no use case would fill as the task says: every request would fail, and the client could not help it."""
        filled = FILLED.get(name)
        for place, tensor in enumerate(task.inputs):
            where = f"tasks.{name}.{tensor.role}"
            if tensor.dtype != SENT[tensor.source]:
                yield f"{where}: {tensor.dtype}, but the service sends {tensor.source} as {SENT[tensor.source]}; cast it in the graph"
            if tensor.source == "condition" and len(tensor.shape) != 1:
                yield f"{where}: shape {list(tensor.shape)}, but a condition is a vector of weights or values, so its shape is [C]"
            if filled is not None and tensor.source not in filled:
                yield f"{where}: nothing fills the source {tensor.source!r} of {name}, which takes {', '.join(filled)}"
            elif filled is not None and any(other.source == tensor.source for other in task.inputs[:place]):
                yield f"{where}: a second input with the source {tensor.source!r}; {name} fills one"

    def _output_problems(self, name: str, task: TaskSpec) -> Iterator[str]:
        """Yield the outputs that would be dropped without a word, and those whose shape no use case can read."""
        returned = self._returned(name)
        shapes = self._shapes_read(name)
        for role in task.extra or ():
            if role not in task.roles:
                yield f"tasks.{name}.extra: there is no output {role!r}; there are {', '.join(task.roles)}"
        for tensor in task.outputs:
            where = f"tasks.{name}.{tensor.role}"
            if returned is not None and tensor.role not in (*returned, *(task.extra or ())):
                yield (
                    f"{where}: no use case returns this output of {name}, which gives {', '.join(returned) or 'nothing without a scoring section'}; "
                    f"take it out of the manifest (the graph may keep it), or name it in tasks.{name}.extra to have it over /v2 alone"
                )
            wanted = shapes.get(tensor.role)
            if wanted is not None and tensor.shape not in wanted:
                yield f"{where}: shape {list(tensor.shape)}, it must be {' or '.join(str(list(shape)) for shape in wanted)} (without the batch)"

    def _returned(self, name: str) -> list[str] | None:
        """Return the roles of the outputs that the use cases of a task return; None of a task that is there for /v2 alone."""
        if name != "score":
            return list(RETURNED[name]) if name in RETURNED else None
        if self.scoring is None:
            return []
        golden = self.golden.sampler if self.golden else None
        named = [*(term.name for term in self.scoring.terms), self.scoring.surprise, golden]
        return [role for role in named if role]

    def _shapes_read(self, name: str) -> dict[str, list[tuple[int, ...]]]:
        """Return the shapes that the outputs of a task must have for the use cases to read them, by role."""
        if name == "score" and self.scoring is not None:
            shapes: dict[str, list[tuple[int, ...]]] = {term.name: [()] for term in self.scoring.terms}
            if self.scoring.surprise is not None:
                shapes[self.scoring.surprise] = self.data.nats_shapes
            return shapes
        if name == "features" and self.classification is not None and self.classification.term is None:
            return {"logits": [(len(self.classes or ()),)]}
        if name == "neighbours":
            found = {tensor.role: tensor.shape for tensor in self.tasks[name].outputs}
            count = found.get("distance", ())[:1] or (1,)
            return {"distance": [count], "nearest": [(*count, *self.data.shape)], "known": [(*count, *self.data.shape)]}
        return {}

    def _tensor_problems(self, name: str, task: TaskSpec) -> Iterator[str]:
        latent = (self.latent.size,) if self.latent else None
        shapes = {
            "data": self.data.shape,
            "latent": latent,
            "codes": self.codes.shape if self.codes else None,
            "mask": self.data.mask_shape or (1, *self.data.shape[1:]),
            "mean": latent,
            "log_variance": latent,
        }
        for tensor in (*task.inputs, *task.outputs):
            key = tensor.source if isinstance(tensor, InputSpec) else tensor.role
            if key in shapes and shapes[key] is None:
                yield f"tasks.{name}.{tensor.role}: the manifest has no {'codes' if key == 'codes' else 'latent'} section that says its size"
            elif key in shapes and tensor.shape != shapes[key]:
                yield f"tasks.{name}.{tensor.role}: shape {list(tensor.shape)} but the manifest says {list(shapes[key] or ())}"
            if key == "condition" and self.classes is not None and tensor.shape != (len(self.classes),):
                yield f"tasks.{name}.{tensor.role}: shape {list(tensor.shape)} but there are {len(self.classes)} classes"
            if key == "condition" and self.conditions and tensor.shape != (len(self.conditions.names),):
                yield f"tasks.{name}.{tensor.role}: shape {list(tensor.shape)} but the conditions are {', '.join(self.conditions.names)}"
            if key == "temperature" and tensor.shape != ():
                yield f"tasks.{name}.{tensor.role}: a temperature is one number an item, so its shape is []"
            if key == "codes" and tensor.dtype != "int64":
                yield f"tasks.{name}.{tensor.role}: codes are int64"

    def _scoring_problems(self) -> Iterator[str]:
        if self.scoring is None:
            return
        task = self.task("score")
        if task is None:
            yield "scoring: there is no score task"
            return
        for role in [
            *(term.name for term in self.scoring.terms),
            *([self.scoring.surprise] if self.scoring.surprise else []),
        ]:
            if role not in task.roles:
                yield f"scoring: the score task has no output {role!r}, it has {', '.join(task.roles)}"
        if task.input("condition") is not None and self.classes is not None and self.scoring.evidence is None:
            yield "scoring: a score under classes needs a term that is a likelihood, to marginalise them"

    def _sampler_problems(self) -> Iterator[str]:
        """Yield what the check of a sampler's golden vectors would lack (runtime.golden.check_sampler)."""
        sample, role = self.task("sample"), self.golden.sampler if self.golden else None
        if sample is None or role is None:
            return
        if "codes" not in sample.roles or "uniforms" not in {tensor.role for tensor in sample.inputs}:
            yield "golden.sampler: the task sample needs the input 'uniforms' and the output 'codes' to be checked by it"
        judge = self.task("score_codes") or self.task("score")
        if judge is None or role not in judge.roles:
            yield f"golden.sampler: neither score_codes nor score has the output {role!r}"

    def _classification_problems(self) -> Iterator[str]:
        about = self.classification
        if about is None:
            return
        if self.classes is None:
            yield "classification: the manifest names no classes"
        features, score = self.task("features"), self.task("score")
        if about.term is None and (features is None or "logits" not in features.roles):
            yield "classification: without a term it needs the task features with the output logits"
        if about.term is not None:
            if self.scoring is None or about.term not in {term.name for term in self.scoring.terms}:
                yield f"classification.term: {about.term!r} is not a term of the score"
            elif score is None or score.input("condition") is None:
                yield "classification: the score task takes no condition, so that no class can be told from another"


def read(path: Path) -> Manifest:
    """Reads and validates `path`, a manifest or the folder that holds one.

    Raises ArtifactError with one line per field that is wrong.
    """
    try:
        path = path / FILE if path.is_dir() else path
        return Manifest.model_validate_json(_content(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: not found; an artifact is a folder NAME/VERSION with a {FILE} in it") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        problems = error.errors()
        causes = [problem["loc"] for problem in problems]
        lines = [
            f"  {'.'.join(str(part) for part in problem['loc']) or '(whole)'}: {problem['msg']}"
            for problem in problems
            if not (problem["type"] == "too_short" and any(_below(loc, problem["loc"]) for loc in causes))
        ]
        raise ArtifactError("\n".join([f"{path}: {len(lines)} field(s) are wrong:", *lines])) from None


def _below(loc: tuple[int | str, ...], whole: tuple[int | str, ...]) -> bool:
    """Return whether a place lies within another. A list whose only element is wrong counts as too short, which nobody needs to read."""
    return len(loc) > len(whole) and loc[: len(whole)] == whole


def _content(path: Path) -> bytes:
    """Return the bytes of a manifest. Raises ArtifactError for a pipe or a device, which might never end, and for more than MAX_BYTES."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ArtifactError(f"{path}: is not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{path}: is larger than {MAX_BYTES} bytes, which no manifest needs")
    return content


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text, ready to be written; lists of numbers on one line each."""
    text = json.dumps(manifest.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False)
    return NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def schema() -> dict[str, Any]:
    """JSON schema of the manifest."""
    return Manifest.model_json_schema()
