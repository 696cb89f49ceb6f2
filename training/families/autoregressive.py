"""Autoregressive networks over binary pixels in a fixed order (FVSBN, NADE, MADE), or in any order (EoNADE). Their likelihood is exact.

The networks and their papers are in training.networks.masked, the sampler with running pre-activations in training.networks.running. A network
of any order is a different model for each order. Its likelihood here is the average of p(x) over a few orders, which are fixed in the artifact.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import (
    CodesSpec,
    InputSpec,
    Likelihood,
    Metric,
    Scoring,
    TensorSpec,
    Term,
    figures,
)
from manifold.training import likelihoods
from manifold.training.batches import Batch, in_order
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.means import Means, bits_per_dim
from manifold.training.networks import running
from manifold.training.networks.layers import exact, per_item
from manifold.training.networks.masked import BODIES
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Share, Size

ITEMS = ("images",)
ORDERS = 8
HIDDEN: dict[str, tuple[int, ...]] = {"fvsbn": (), "nade": (128,), "made": (800, 800), "eonade": (500, 500)}


class Config(Recipe):
    """The options of the family."""

    body: Literal["fvsbn", "nade", "made", "eonade"] = "made"
    hidden: tuple[
        Size, ...
    ] = ()  # sizes of the hidden layers; none: those that fit the body. fvsbn has none, nade has one
    dropout: Share = 0.0  # on the hidden units, in training
    weight_decay: float = Field(0.0, ge=0)  # decoupled, as in AdamW
    orders: int = Field(ORDERS, ge=1)  # eonade: number of orders over which p(x) is averaged in scores and figures

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.body == "fvsbn" and self.hidden:
            raise TrainingError("hidden: the body fvsbn has no hidden layers; remove the option", field="hidden")
        if self.body == "nade" and len(self.hidden) > 1:
            raise TrainingError("hidden: the body nade has one hidden layer; give one size", field="hidden")
        if self.body == "fvsbn" and self.dropout:
            raise TrainingError("dropout: the body fvsbn has no hidden units; remove the option", field="dropout")
        if self.body != "eonade" and self.orders != ORDERS:
            raise TrainingError(
                f"orders: the body {self.body} has one order; remove the option, or use body=eonade", field="orders"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "test_items": 100, "ema": 0.9},
    "cpu": {"epochs": 60, "batch_size": 100, "schedule": "cosine", "clip_norm": 10.0},
    "gpu": {"epochs": 400, "batch_size": 100, "schedule": "cosine", "clip_norm": 10.0, "stored": "float16"},
}


def resolve(config: Config, data: Data) -> Config:
    """Return the config with the sizes of the hidden layers. Raises InvalidValue for data without images."""
    ImageSpec.of(data.spec, f"data: {data.name}")
    return config.changed(hidden=config.hidden or HIDDEN[config.body])


class Autoregressive(nn.Module):
    """The model: a network over the D pixels of an image in raster order, colour after colour, as 0 and 1."""

    orders: Tensor

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__()
        spec = ImageSpec.of(data.spec, f"data: {data.name}")
        self.config, self.shape = config, spec.shape
        self.spec = spec.model_copy(update={"levels": 2})
        self.by_chance = spec.levels > 2
        dimensions = math.prod(spec.shape)
        self.likelihood = likelihoods.Bernoulli(dimensions)
        self.network = BODIES[config.body](dimensions, config.hidden, config.dropout)
        generator = torch.Generator().manual_seed(config.seed)
        orders = [torch.randperm(dimensions, generator=generator) for _ in range(config.orders)]
        self.register_buffer("orders", torch.stack(orders), persistent=False)  # (K, D)

    def observe(self, batch: Batch) -> Tensor:
        """Return the pixels of a batch as 0 and 1 (B, D), drawn with their grey value as the probability of 1."""
        return self.likelihood.observe(batch.items.flatten(1), batch.generator)

    def nll(self, x: Tensor) -> Tensor:
        """Return the exact -log p(x) in nats of x (B, D), (B,), of a network with a fixed order."""
        return per_item(running.nats(exact(self.network.logits(x)), x))

    def nll_of_orders(self, x: Tensor) -> Tensor:
        """Return the exact -log p(x) in nats of x (B, D) in each of the model's orders, of a network of any order, (B, K)."""
        return per_item(running.nats_of_orders(self.network, x, self.orders).flatten(0, 1)).view(x.shape[0], -1)

    def estimate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return an unbiased estimate of -log p(x), averaged over all orders, from one random set of known values, (B,).

        Given d - 1 known values, the mean of -log p over the D - d + 1 unknown ones counts for each of the D steps (Uria et al., 2014).
        """
        size = x.shape[1]
        known = torch.randint(0, size, (x.shape[0], 1), generator=generator, device=x.device)  # d - 1
        ranks = torch.rand(x.shape, generator=generator, device=x.device).argsort(1).argsort(1)
        mask = (ranks < known).to(x.dtype)
        nats = running.nats(exact(self.network.given(x, mask)), x) * (1 - mask)
        return per_item(nats) * (size / (size - known[:, 0]))

    def loss(self, batch: Batch) -> Losses:
        """Return -log p in nats, averaged over the batch; for a network of any order an estimate of its mean over all orders."""
        return {"loss": _loss(self, batch).mean()}


def _loss(model: Autoregressive, batch: Batch) -> Tensor:
    x = model.observe(batch)
    return model.estimate(x, batch.generator) if model.network.any_order else model.nll(x)


def build(config: Config, data: Data) -> Autoregressive:
    """Return a model with initial weights."""
    return Autoregressive(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    player = Player("network", tuple(model.parameters()), model.loss, config.lr, weight_decay=config.weight_decay)
    return [Phase("autoregressive", (player,), config.epochs)]


def evaluate(model: Autoregressive, batch: Batch) -> dict[str, Tensor]:
    """Return -log p in nats, (B,); for a network of any order an estimate of its mean over all orders."""
    return {"loss": _loss(model, batch)}


@torch.no_grad()
def draw(model: Autoregressive, n: int, generator: torch.Generator) -> Tensor:
    """Return generated images (n, C, H, W) of 0 and 1."""
    device = next(model.parameters()).device
    uniforms = torch.rand((n, running.uniforms_of(model.network)), generator=generator, device=device)
    training = model.training
    sample = running.Sample(running.Loop(model.eval().network), running.ToItems(model.shape, model.shape))
    items: Tensor = sample(uniforms, torch.ones(n, device=device))[1]
    model.train(training)
    return items


@torch.no_grad()
def report(model: Autoregressive, config: Config, data: Data) -> list[Metric]:
    """Return the exact NLL of the test split in nats and bits/dim.

    For a network of any order, p(x) is the mean over the model's orders. The mean NLL in a single order is reported too.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    form = likelihoods.form_of("bernoulli", data.spec, by_chance=True)
    name, means, any_order = figures.name_of("exact", form), Means(), model.network.any_order
    for batch in in_order(data.test, 250, generator):
        x = model.observe(batch)
        if any_order:
            each = model.nll_of_orders(x).double()
            means.add({name: math.log(config.orders) - (-each).logsumexp(1), f"{name}_single_order": each.mean(1)})
        else:
            means.add({name: model.nll(x)})
    protocol = {**data.protocol, "bound": "exact", "observed": likelihoods.SEEN[form], "n": len(data.test), "seed": config.seed}  # fmt: skip
    averaged = {"orders": f"p(x) is the mean over {config.orders} random orders"} if any_order else {}
    protocols = {name: {**protocol, **averaged}}
    if any_order:
        protocols[f"{name}_single_order"] = {
            **protocol,
            "orders": f"mean over {config.orders} random orders of -log p(x | order)",
        }
    return [*means.metrics(protocols), bits_per_dim(means, name, math.prod(model.shape), protocols[name])]


# --- exports ------------------------------------------------------------------------------------------------------------------


class Score(nn.Module):
    """The task `score` in a fixed order: data (B, C, H, W) to NLL (B,), nats by pixel (B, C, H, W), and the logits of both levels (B, 2, *grid)."""

    def __init__(self, model: Autoregressive, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shape, self.grid = model.network, model.shape, grid

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = running.binary(data)
        logits = self.network.logits(x)
        nats = running.nats(logits, x)
        levels = torch.stack([torch.zeros_like(logits), logits], 1)
        return per_item(nats), nats.view(-1, *self.shape), levels.view(-1, 2, *self.grid)


def exports(model: Autoregressive, config: Config, data: Data) -> Exports:
    """Return the tasks `sample`, `impute` and `score`."""
    shape, any_order = model.shape, model.network.any_order
    grid = shape if shape[0] > 1 else shape[1:]
    tasks = running.tasks(model.network, shape, grid, model.orders)
    if not any_order:
        scores = [
            TensorSpec(role="nll"),
            TensorSpec(role="surprise", shape=shape),
            TensorSpec(role="logits", shape=(2, *grid)),
        ]
        tasks["score"] = Task(
            Score(model, grid), [InputSpec(role="data", source="data", shape=shape)], scores, max_rows=256
        )
    over = f", averaged over {config.orders} orders" if any_order else ""
    form = likelihoods.form_of("bernoulli", data.spec, by_chance=False)
    nll = Term(
        name="nll",
        kind="nll",
        description=f"exact -log p(x) in nats{over}",
        likelihood=Likelihood(bound="exact", form=form, observed=likelihoods.SEEN[form], discrete=True),
    )
    return Exports(
        tasks,
        codes=CodesSpec(shape=grid, levels=2),
        scoring=Scoring(score="nll", terms=(nll,), surprise="surprise"),
        sampler=None if any_order else "logits",
        autoregressive=True,
        spec=model.spec,
        description=_describe(config, data),
    )


def _describe(config: Config, data: Data) -> str:
    name = {"fvsbn": "FVSBN", "nade": "NADE", "made": "MADE", "eonade": "EoNADE"}[config.body]
    sizes = f", hidden layers of {'-'.join(map(str, config.hidden))} units" if config.hidden else ""
    order = "any order" if config.body == "eonade" else "raster order"
    rule = (
        "" if data.spec.likelihoods and getattr(data.spec, "levels", 2) == 2 else " Grey pixels are binarised at 1/2."
    )
    return f"{name} on {data.name}{sizes}, pixels in {order}.{rule}"
