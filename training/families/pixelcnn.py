"""A gated PixelCNN (van den Oord et al., 2016, arXiv 1606.05328) on the pixels of grey and colour images. It is class-conditional if the data has
classes.

The network is in training.networks.gated, its cached sampler in networks.sampler. The distribution of a pixel is in networks.emissions: a
softmax over 2 to 256 levels, a mixture of discretised logistic distributions, or a mixture density of dequantised values. This file contains
the likelihood, the rounding to fewer levels, and the graphs: sampling, scoring with a map of nats, and imputation of unknown pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

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
from manifold.training.networks.emissions import Emission, Levels, LogisticMixture, Mixture
from manifold.training.networks.gated import GatedNetwork
from manifold.training.networks.layers import per_item
from manifold.training.networks.sampler import Sampler, condition_inputs, imputing, nothing, sampling
from manifold.training.networks.stepping import predicting
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share

ITEMS = ("images",)


class Config(Recipe):
    """The options of the family."""

    channels: int = Field(32, ge=1)  # channels of each stack
    layers: int = Field(5, ge=1)  # gated layers; the receptive field is layers + 2 pixels up and left
    head: int = Field(64, ge=1)  # channels of the output head
    dropout: Share = 0.1  # on the gated activations, in training
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


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "channels": 8, "layers": 1, "head": 16, "test_items": 100},
    "cpu": {"epochs": 24, "lr": 2e-3, "schedule": "cosine", "batch_size": 64, "dropout": 0.2},
    "gpu": {"epochs": 60, "lr": 1e-3, "schedule": "cosine", "channels": 64, "layers": 10, "head": 128},
}


def resolve(config: Config, data: Data) -> Config:
    """Return the config with the levels of the data, and unconditional if the data has no classes. Raises InvalidValue for data without images."""
    levels = config.levels or ImageSpec.of(data.spec, f"data: {data.name}").levels
    return config.changed(levels=levels, conditional=config.conditional and data.classes is not None)


class GatedPixelCNN(GatedNetwork):
    """The network over the pixels of images (B, C, H, W)."""

    def __init__(self, config: Config, data: Data) -> None:
        spec, levels = ImageSpec.of(data.spec, f"data: {data.name}"), config.levels
        if levels > spec.levels:
            raise TrainingError(
                f"levels: {levels} is more than the {spec.levels} of {data.name}; use fewer, or 0", field="levels"
            )
        classes = len(data.classes or ()) if config.conditional else 0
        emission = _emission(config, spec)
        super().__init__(
            emission, (spec.height, spec.width), classes, channels=config.channels, layers=config.layers, dropout=config.dropout
        )  # fmt: skip
        self.config, self.levels = config, levels
        self.spec = spec.model_copy(update={"levels": levels})
        self.rounds = levels < spec.levels
        self.by_chance = config.dynamic and self.rounds
        self.nearest = Settle(levels, emission.integers)
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


def _emission(config: Config, spec: ImageSpec) -> Emission:
    """Return the distribution of a pixel."""
    match config.likelihood:
        case "softmax":
            return Levels(config.levels, spec.channels, config.channels, config.head)
        case "logistic-mixture":
            return LogisticMixture(config.components, config.levels, spec.channels, config.channels, config.head)
    return Mixture(config.components, spec.channels, config.channels, config.head)


def build(config: Config, data: Data) -> GatedPixelCNN:
    """Return a model with initial weights."""
    return GatedPixelCNN(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    return [Phase("pixelcnn", (Player("pixelcnn", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def evaluate(model: GatedPixelCNN, batch: Batch) -> dict[str, Tensor]:
    """Return -log p given the true class, in nats, (B,)."""
    items = model.observe(batch.items, batch.generator)
    return {"loss": per_item(model.nll(items, model.to_condition(batch.labels)))}


@torch.no_grad()
def draw(model: GatedPixelCNN, n: int, generator: torch.Generator) -> Tensor:
    """Return generated images (n, C, H, W) in [0, 1], with the classes in turn."""
    device = next(model.parameters()).device
    uniforms = torch.rand((n, model.uniforms), generator=generator, device=device)
    condition = model.to_condition(torch.arange(n, device=device) % max(1, model.classes))
    training = model.training
    items: Tensor = Sampler(model.eval(), AssembleImages(model))(uniforms, condition, torch.ones(n, device=device))[1]
    model.train(training)
    return items


@torch.no_grad()
def report(model: GatedPixelCNN, config: Config, data: Data) -> list[Metric]:
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


def _form(model: GatedPixelCNN, *, by_chance: bool) -> figures.Form:
    """Return the form of x in the names of figures. `by_chance`: whether values are rounded at random, or to the nearest level as in graphs."""
    if not model.emission.integers:
        return "density"
    if model.levels > 2:
        return "levels"
    return "static" if not model.rounds else "dynamic" if by_chance else "threshold"


def _observed(model: GatedPixelCNN) -> str:
    """Return the description of x in log p(x), for training and figures."""
    rounding = "rounded by chance, one draw an item" if model.by_chance else "rounded to the nearest"
    levels = f"pixels at {model.levels} levels" + (f", {rounding}" if model.rounds else "")
    return levels if model.emission.integers else f"{levels}, dequantised by uniform noise: a density on [0, 1]"


# --- sampling ----------------------------------------------------------------------------------------------------------------


class AssembleImages(nn.Module):
    """The last step of the sampler: values (H, B, W, S) of the loops to codes (B, H, W), or (B, S, H, W), and images in [0, 1]."""

    def __init__(self, model: GatedPixelCNN) -> None:
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

    def __init__(self, model: GatedPixelCNN) -> None:
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


def exports(model: GatedPixelCNN, config: Config, data: Data) -> Exports:
    """Return the tasks `sample` and `impute`, which are loops, and `score`."""
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
        description=_describe(model, config, data),
    )


def _describe(model: GatedPixelCNN, config: Config, data: Data) -> str:
    of = {
        "softmax": f"{model.levels} levels",
        "logistic-mixture": f"{model.levels} levels, a mixture of {config.components} discretised logistic distributions",
        "mixture": f"a mixture of {config.components} logistic distributions over dequantised values",
    }[config.likelihood]
    parts = [
        f"Gated PixelCNN on {data.name}: {of}",
        *(["colours in the order R, G, B"] if model.parts > 1 else []),
        f"{config.layers} layers of {config.channels} channels",
        *(["class-conditional"] if model.classes else []),
    ]
    return ", ".join(parts) + "."
