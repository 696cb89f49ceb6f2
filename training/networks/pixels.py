"""The parts that all exact autoregressive families of images share: options, rounding to levels, loss, figures and graphs.

A family adds its network, which is a subclass of Pixels and of its class of networks (networks.autoregressive), and its description. The
distribution of a pixel is in networks.emissions: a softmax over 2 to 256 levels, a mixture of discretised logistic distributions, or a mixture
density of dequantised values. The graphs are sampling, scoring with a map of nats, imputation of unknown pixels, and the steps of lossless
compression.
"""

from __future__ import annotations

import math
from typing import Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import (
    Classification,
    CodesSpec,
    InputSpec,
    Likelihood,
    Metric,
    Scoring,
    TensorSpec,
    Term,
    figures,
)
from manifold.training.batches import Batch, in_order
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks.autoregressive import Autoregressive
from manifold.training.networks.emissions import Emission, Levels, LogisticMixture, Mixture
from manifold.training.networks.layers import per_item
from manifold.training.networks.sampler import Sampler, condition_inputs, imputing, nothing, sampling
from manifold.training.networks.stepping import predicting
from manifold.training.phases import Losses
from manifold.training.recipes import Recipe


class PixelRecipe(Recipe):
    """The options that these families share."""

    head: int = Field(64, ge=1)  # channels of the output head
    conditional: bool = True  # whether the model is conditioned on the class, if the data has classes
    levels: int = Field(0, ge=0, le=256)  # number of levels to which values are rounded; 0: that of the data
    # with fewer levels than the data: True rounds up or down at random each time in training, False to the nearest level
    dynamic: bool = True
    # softmax over levels; logistic-mixture: PixelCNN++'s mixture of discretised logistics; mixture: a density of dequantised values
    likelihood: Literal["softmax", "logistic-mixture", "mixture"] = "softmax"
    components: int = Field(5, ge=1)  # number of components of the mixtures

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.levels == 1:
            raise TrainingError("levels: 1 is not valid; use 2 to 256, or 0 for the levels of the data", field="levels")
        return self


RecipeType = TypeVar("RecipeType", bound=PixelRecipe)


def resolve(config: RecipeType, data: Data) -> RecipeType:
    """Return the config with the levels of the data, and unconditional if the data has no classes. Raises InvalidValue for data without images."""
    levels = config.levels or ImageSpec.of(data.spec, f"data: {data.name}").levels
    return config.changed(levels=levels, conditional=config.conditional and data.classes is not None)


def parts_of(
    config: PixelRecipe, data: Data, channels: int, embedded: int = 0
) -> tuple[Emission, tuple[int, int], int]:
    """Return what every network over the pixels of `data` begins with: the distribution of a pixel, the grid, and the number of classes (0: none).

    `channels` is the number of channels of the features, and `embedded` that of the embedding (0: the same). Raises TrainingError for more
    levels than the data has.
    """
    spec, levels = ImageSpec.of(data.spec, f"data: {data.name}"), config.levels
    if levels > spec.levels:
        raise TrainingError(
            f"levels: {levels} is more than the {spec.levels} of {data.name}; use fewer, or 0", field="levels"
        )
    sizes = (spec.channels, channels, config.head, embedded)
    emission: Emission
    match config.likelihood:
        case "softmax":
            emission = Levels(levels, *sizes)
        case "logistic-mixture":
            emission = LogisticMixture(config.components, levels, *sizes)
        case "mixture":
            emission = Mixture(config.components, *sizes)
    return emission, (spec.height, spec.width), len(data.classes or ()) if config.conditional else 0


class Pixels(Autoregressive):
    """A network over the pixels of images (B, C, H, W). A subclass calls `prepare` after its own initialisation."""

    def prepare(self, config: PixelRecipe, data: Data) -> None:
        """Set the attributes that depend on the options."""
        spec, levels = ImageSpec.of(data.spec, f"data: {data.name}"), config.levels
        self.levels, self.spec = levels, spec.model_copy(update={"levels": levels})
        self.rounds = levels < spec.levels
        self.by_chance = config.dynamic and self.rounds
        self.nearest = Settle(levels, self.emission.integers)
        self.gives_logits = config.likelihood == "softmax"  # whether the score task returns the logits of all levels

    def settle(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to items without random numbers: the nearest level, or the middle of its interval in [0, 1]."""
        items: Tensor = self.nearest(images)
        return items

    def observe(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the items for training and figures: rounded, at random if there are fewer levels (dynamic binarisation), and dequantised by
        uniform noise for a density."""
        steps = images * (self.levels - 1)
        rounded = torch.floor(steps + self._noise(steps, generator)) if self.by_chance else torch.round(steps)
        if self.emission.integers:
            return rounded.clamp(max=self.levels - 1).long()
        return (rounded.clamp(max=self.levels - 1) + self._noise(steps, generator)) / self.levels

    @staticmethod
    def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(like.shape, generator=generator, device=like.device)

    def loss(self, batch: Batch) -> Losses:
        """Return -log p in nats, averaged over the batch."""
        items = self.observe(batch.items, batch.generator)
        return {"loss": per_item(self.nll(items, self.to_condition(batch.labels))).mean()}


def evaluate(model: Pixels, batch: Batch) -> dict[str, Tensor]:
    """Return -log p given the true class, in nats, (B,)."""
    items = model.observe(batch.items, batch.generator)
    return {"loss": per_item(model.nll(items, model.to_condition(batch.labels)))}


@torch.no_grad()
def draw(model: Pixels, n: int, generator: torch.Generator) -> Tensor:
    """Return generated images (n, C, H, W) in [0, 1], with the classes in turn."""
    device = next(model.parameters()).device
    uniforms = torch.rand((n, model.uniforms), generator=generator, device=device)
    condition = model.to_condition(torch.arange(n, device=device) % max(1, model.classes))
    training = model.training
    items: Tensor = Sampler(model.eval(), AssembleImages(model))(uniforms, condition, torch.ones(n, device=device))[1]
    model.train(training)
    return items


@torch.no_grad()
def report(model: Pixels, config: PixelRecipe, data: Data) -> list[Metric]:
    """Return the exact NLL of the test split, given the true class and marginalised over classes, in nats and bits/dim."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    name, means = figures.name_of("exact", _form(model, by_chance=model.by_chance)), Means()
    for batch in in_order(data.test, 500, generator):
        items = model.observe(batch.items, generator)
        if model.classes:
            every = torch.stack([
                per_item(model.nll(items, model.to_condition(torch.full_like(batch.labels, y)))) for y in range(model.classes)
            ], 1).double()  # fmt: skip
            means.add({f"{name}_given_class": every.gather(1, batch.labels[:, None])[:, 0]})
            means.add({name: math.log(model.classes) - (-every).logsumexp(1)})
        else:
            means.add({name: per_item(model.nll(items, model.to_condition(batch.labels)))})
    protocol = {
        **data.protocol,
        "bound": "exact",
        "levels": model.levels,
        "observed": _observed(model),
        "n": len(data.test),
        "seed": config.seed,
    }
    metrics = list(means.metrics({key: protocol for key in (f"{name}_given_class", name) if key in means}))
    more = 0.0 if model.emission.integers else math.log2(model.levels)
    return [*metrics, bits_per_dim(means, name, model.parts * model.height * model.width, protocol, more)]


def _form(model: Pixels, *, by_chance: bool) -> figures.Form:
    """Return the form of x in the names of figures. `by_chance`: whether values are rounded at random, or to the nearest level as in graphs."""
    if not model.emission.integers:
        return "density"
    if model.levels > 2:
        return "levels"
    return "static" if not model.rounds else "dynamic" if by_chance else "threshold"


def _observed(model: Pixels) -> str:
    """Return the description of x in log p(x), for training and figures."""
    rounding = "rounded by chance, one draw an item" if model.by_chance else "rounded to the nearest"
    levels = f"pixels at {model.levels} levels" + (f", {rounding}" if model.rounds else "")
    return levels if model.emission.integers else f"{levels}, dequantised by uniform noise: a density on [0, 1]"


# --- sampling ----------------------------------------------------------------------------------------------------------------


class AssembleImages(nn.Module):
    """The last step of the sampler: values (H, B, W, S) of the loops to codes (B, H, W), or (B, S, H, W), and images in [0, 1]."""

    def __init__(self, model: Pixels) -> None:
        super().__init__()
        self.levels, self.parts, self.integers = model.levels, model.parts, model.emission.integers

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        values = rows.permute(1, 3, 0, 2).contiguous()  # (B, S, H, W)
        if self.integers:
            return values if self.parts > 1 else values[:, 0], values.to(torch.float32) / float(self.levels - 1)
        level = torch.floor(values * float(self.levels)).clamp(max=float(self.levels - 1))
        return values, level / float(self.levels - 1)


class Settle(nn.Module):
    """The conversion of images to the network's items (B, S, H, W), without random numbers."""

    def __init__(self, levels: int, integers: bool) -> None:
        super().__init__()
        self.levels, self.integers = levels, integers

    def forward(self, data: Tensor) -> Tensor:
        rounded = torch.round(data * float(self.levels - 1))
        return rounded.to(torch.int64) if self.integers else (rounded + 0.5) / float(self.levels)


# --- exports ------------------------------------------------------------------------------------------------------------------


class Score(nn.Module):
    """The task `score`: data (B, C, H, W) and condition to NLL (B,), nats by value (B, C, H, W), and for a softmax the logits of the parallel pass."""

    def __init__(self, model: Pixels) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        condition = nothing(data) if condition is None else condition
        items = model.settle(data)
        parameters = model.parameters_of(items, condition)  # (B, H, W, S, K)
        surprise = model.emission.nll(parameters, model.values(items)).permute(0, 3, 1, 2)
        if not model.gives_logits:
            return per_item(surprise), surprise
        logits = parameters.permute(0, 4, 3, 1, 2)
        return per_item(surprise), surprise, logits if model.parts > 1 else logits[:, :, 0]


def exports(model: Pixels, config: PixelRecipe, data: Data, name: str, body: str) -> Exports:
    """Return the tasks `sample` and `impute`, which are loops, `score`, and the steps of compression. `body` begins the model's description."""
    integers, shape = model.emission.integers, data.spec.shape
    grid = shape if model.parts > 1 else shape[1:]
    items = TensorSpec(role="data", shape=shape)
    settled = f"pixels at {model.levels} levels" + (", the nearest" if model.rounds else "")
    nll = Term(
        name="nll",
        kind="nll",
        description="exact -log p(x) in nats, marginalised over classes unless one is given",
        likelihood=Likelihood(
            bound="exact",
            form=_form(model, by_chance=False),
            observed=settled if integers else f"{settled}, in the middle of their intervals: a density on [0, 1]",
            discrete=integers,
        ),
    )
    codes = (
        TensorSpec(role="codes", dtype="int64", shape=grid)
        if integers
        else TensorSpec(role="values", name="codes", shape=shape)
    )
    scores = [TensorSpec(role="nll"), TensorSpec(role="surprise", shape=shape)]
    if model.gives_logits:
        scores.append(TensorSpec(role="logits", shape=(model.levels, *grid)))
    given = InputSpec(role="data", source="data", shape=shape)
    sampler = Sampler(model, AssembleImages(model))
    return Exports(
        {
            "sample": sampling(model, sampler, [codes, items], max_rows=256),
            "impute": imputing(model, sampler, model.nearest, [codes, items], max_rows=256),
            "score": Task(Score(model), [given, *condition_inputs(model)], scores, max_rows=256),
            **(predicting(model, model.levels) if integers else {}),
        },
        codes=CodesSpec(shape=grid, levels=model.levels) if integers else None,
        scoring=Scoring(score="nll", terms=(nll,), surprise="surprise"),
        classes=bool(model.classes),
        classification=Classification(term="nll") if model.classes else None,
        sampler="logits" if model.gives_logits else None,
        autoregressive=True,
        spec=model.spec,
        description=_describe(model, config, data, name, body),
    )


def _describe(model: Pixels, config: PixelRecipe, data: Data, name: str, body: str) -> str:
    of = {
        "softmax": f"{model.levels} levels",
        "logistic-mixture": f"{model.levels} levels, a mixture of {config.components} discretised logistic distributions",
        "mixture": f"a mixture of {config.components} logistic distributions over dequantised values",
    }[config.likelihood]
    parts = [
        f"{name} on {data.name}: {of}",
        *(["colours in the order R, G, B"] if model.parts > 1 else []),
        body,
        *(["class-conditional"] if model.classes else []),
    ]
    return ", ".join(parts) + "."
