"""Gated PixelCNN (van den Oord et al., 2016, arXiv 1606.05328) on the levels of grey images, class-conditional where there are classes.

The network and its cached sampler are in training.gated; here are the pixels: 2 to 256 levels, exact likelihood, and one ONNX graph from
uniforms to images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runtime.manifest import Classification, CodesSpec, InputSpec, Likelihood, Metric, Scoring, TensorSpec, Term
from runtime.spec import ImageSpec
from training.data import Data
from training.errors import TrainingError
from training.exports import Exports, Task
from training.gated import GatedNetwork, Sampler, nothing, sampling, told
from training.layers import per_item, to_float
from training.phases import Batch, Losses, Phase, Player, Recipe


@dataclass(frozen=True)
class Config(Recipe):
    """Options of the family."""

    channels: int = 32  # of both stacks
    layers: int = 5  # gated layers; the receptive field is layers + 2 pixels up and left
    head: int = 64  # channels of the output head
    dropout: float = 0.1  # on the gated activations, while training
    conditional: bool = True  # where the data has classes

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(channels=1, layers=1, head=1, dropout=0)
        if self.dropout >= 1:
            raise TrainingError(f"dropout: {self.dropout} is not below 1", field="dropout")


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "channels": 8, "layers": 2, "head": 16, "test_items": 100},
    "cpu": {"epochs": 24, "lr": 2e-3, "schedule": "cosine", "batch_size": 64, "dropout": 0.2},
    "gpu": {"epochs": 60, "lr": 1e-3, "schedule": "cosine", "channels": 64, "layers": 10, "head": 128},
}


class GatedPixelCNN(GatedNetwork):
    """The network over the levels of grey images."""

    def __init__(self, config: Config, data: Data) -> None:
        spec = data.spec
        if not isinstance(spec, ImageSpec) or spec.channels != 1:
            raise TrainingError("pixelcnn: needs grey images, of 2 to 256 levels", field="data")
        classes = len(data.classes) if data.classes and config.conditional else 0
        super().__init__(
            spec.levels, (spec.height, spec.width), classes,
            channels=config.channels, layers=config.layers, head=config.head, dropout=config.dropout,
        )  # fmt: skip
        self.config, self.spec = config, spec

    def to_codes(self, items: Tensor) -> Tensor:
        """Images (B, 1, H, W) in [0, 1] to their levels."""
        return torch.round(items[:, 0] * (self.levels - 1)).long()

    def loss(self, batch: Batch) -> Losses:
        """Exact NLL in nats, averaged over the batch."""
        return {"loss": per_item(self.nll(self.to_codes(batch.items), self.to_condition(batch.labels))).mean()}


def build(config: Config, data: Data) -> GatedPixelCNN:
    """A model with fresh weights."""
    return GatedPixelCNN(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """One phase, one player."""
    return [Phase("pixelcnn", (Player("pixelcnn", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def evaluate(model: GatedPixelCNN, batch: Batch) -> dict[str, Tensor]:
    """Exact NLL given the true class, nats (B,)."""
    return {"loss": per_item(model.nll(model.to_codes(batch.items), model.to_condition(batch.labels)))}


def monitor(model: GatedPixelCNN, batch: Batch) -> dict[str, Any]:
    """Nothing beyond the likelihood."""
    return {}


@torch.no_grad()
def draw(model: GatedPixelCNN, n: int, generator: torch.Generator) -> Tensor:
    """Images (n, 1, H, W) in [0, 1], classes in turn."""
    device = next(model.parameters()).device
    uniforms = torch.rand((n, model.height * model.width), generator=generator, device=device)
    condition = model.to_condition(torch.arange(n, device=device) % max(1, model.classes))
    training = model.training
    items: Tensor = Sampler(model.eval(), Finish(model))(uniforms, condition, torch.ones(n, device=device))[1]
    model.train(training)
    return items


@torch.no_grad()
def report(model: GatedPixelCNN, config: Config, data: Data) -> list[Metric]:
    """Exact test NLL given the true class, and with the class marginalised, in nats and bits/dim."""
    device = next(model.parameters()).device
    codes = model.to_codes(to_float(data.test.items, device))
    labels = torch.as_tensor(data.test.labels).to(device)
    protocol = {**data.protocol, "bound": "exact", "levels": model.levels, "n": len(codes)}
    figures = {}
    if model.classes:
        every = torch.stack(
            [-per_item(model.nll(codes, model.to_condition(torch.full_like(labels, y)))) for y in range(model.classes)],
            1,
        )
        figures["nll_given_class"] = -every.gather(1, labels[:, None]).mean()
        figures["nll"] = -(every.logsumexp(1) - math.log(model.classes)).mean()
    else:
        figures["nll"] = per_item(model.nll(codes, model.to_condition(labels))).mean()
    to_bits = 1 / (math.log(2) * codes[0].numel())
    metrics = [
        Metric(name=name, value=round(float(value), 4), unit="nats", protocol=protocol)
        for name, value in figures.items()
    ]
    bits = Metric(
        name="bits_per_dim", value=round(float(figures["nll"]) * to_bits, 4), unit="bits/dim", protocol=protocol
    )
    return [*metrics, bits]


# --- sampling ----------------------------------------------------------------------------------------------------------------


class Finish(nn.Module):
    """Levels (H, B, W) as the loops leave them, to codes (B, H, W) and images (B, 1, H, W) in [0, 1]."""

    def __init__(self, model: GatedPixelCNN) -> None:
        super().__init__()
        self.top = float(model.levels - 1)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        codes = rows.permute(1, 0, 2).contiguous()
        return codes, (codes.to(torch.float32) / self.top)[:, None]


# --- exports ------------------------------------------------------------------------------------------------------------------


class Score(nn.Module):
    """data (B, 1, H, W) and condition to NLL (B,), nats a pixel (B, 1, H, W), and the logits of the parallel pass (B, K, H, W)."""

    def __init__(self, model: GatedPixelCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        condition = nothing(data) if condition is None else condition
        codes = self.model.to_codes(data)
        logits = self.model(codes, condition)
        surprise = -logits.log_softmax(1).gather(1, codes[:, None])
        return per_item(surprise), surprise, logits


def exports(model: GatedPixelCNN, config: Config, data: Data) -> Exports:
    """sample (a loop) and score."""
    grid = (model.height, model.width)
    items = TensorSpec(role="data", shape=data.spec.shape)
    nll = Term(
        name="nll",
        kind="nll",
        description="exact -log p(x) in nats, marginalised over classes unless one is given",
        likelihood=Likelihood(bound="exact", observed=f"pixels at {model.levels} levels"),
    )
    codes = TensorSpec(role="codes", dtype="int64", shape=grid)
    logits = TensorSpec(role="logits", shape=(model.levels, *grid))
    surprise = TensorSpec(role="surprise", shape=data.spec.shape)
    given = InputSpec(role="data", source="data", shape=data.spec.shape)
    sample = sampling(model, Finish(model), [codes, items], max_rows=256)
    score = Task(Score(model), [given, *told(model)], [TensorSpec(role="nll"), surprise, logits], max_rows=256)
    return Exports(
        {"sample": sample, "score": score},
        codes=CodesSpec(shape=grid, levels=model.levels),
        scoring=Scoring(score="nll", terms=(nll,), surprise="surprise"),
        classes=bool(model.classes),
        classification=Classification(term="nll") if model.classes else None,
        sampler="logits",
        description=f"Gated PixelCNN on {data.name}: {model.levels} levels, {config.layers} layers of {config.channels} channels"
        + (", class-conditional." if model.classes else "."),
    )  # fmt: skip
