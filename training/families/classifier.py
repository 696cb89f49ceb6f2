"""An image classifier for the evaluator: its penultimate features give the Fréchet distance, and its logits give the Inception Score.

The recipe: 3x3 convolutions with batch normalisation (Ioffe and Szegedy, 2015), a max-pool and a residual block (He et al., 2015) at each
stage, a global average, one linear layer. Items are augmented by shifts, flips and cutout (DeVries and Taylor, 2017, arXiv 1708.04552).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest import Classification, InputSpec, TensorSpec
from manifold.training.batches import Batch
from manifold.training.data import Data, Part
from manifold.training.data.parts import Arrays, count, scattered
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.networks.layers import exact
from manifold.training.phases import Losses, Phase, Player
from manifold.training.recipes import Recipe, Size

ITEMS = ("images",)
NEEDS_CLASSES = True


class Config(Recipe):
    """The options of the family."""

    # channels of the stem and of each stage; the last is the number of features
    widths: tuple[Size, ...] = Field((32, 64, 128, 192), min_length=2)
    shift: int = Field(2, ge=0)  # largest shift in each direction, in pixels
    flip: bool = False  # whether to flip half of the items left to right
    cutout: int = Field(0, ge=0)  # side of the erased square, in pixels; 0 is off
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)  # decoupled (Loshchilov and Hutter, 2017)


PIXELS = 2**28  # largest number of values for the mean and deviation of the input: 1 GiB as float32
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 4, "widths": (8, 16), "shift": 0, "test_items": 200, "ema": 0.9},
    "cpu": {"epochs": 12, "schedule": "cosine", "weight_decay": 0.01},
    "gpu": {"epochs": 60, "schedule": "cosine", "weight_decay": 0.05, "widths": (64, 128, 256, 256), "batch_size": 512},
}


def convolution(before: int, after: int) -> nn.Sequential:
    """Return a 3x3 convolution that keeps the size, with batch normalisation and ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class NormalisedResidual(nn.Module):
    """A residual block x + f(x), where f is two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Classifier(nn.Module):
    """The classifier: images (B, C, H, W) in [0, 1] to logits (B, classes) and features (B, widths[-1])."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, data: Data) -> None:
        super().__init__()
        self.config = config
        spec = ImageSpec.of(data.spec, f"data: {data.name}")
        if data.classes is None:
            raise TrainingError(
                f"data: {data.name} has no classes, but a classifier needs them; choose other data", field="data"
            )
        stages = len(config.widths) - 1
        if min(spec.height, spec.width) < 2**stages:
            raise TrainingError(
                f"widths: {stages} stages are too many to halve {spec.height}x{spec.width}; use fewer", field="widths"
            )
        pixels = _pixels(data.train)
        self.register_buffer("mean", torch.tensor(pixels.mean(axis=(0, 2, 3)))[:, None, None])
        self.register_buffer("deviation", torch.tensor(pixels.std(axis=(0, 2, 3)))[:, None, None])
        layers: list[nn.Module] = [convolution(spec.channels, config.widths[0])]
        for before, after in pairwise(config.widths):
            layers += [convolution(before, after), nn.MaxPool2d(2), NormalisedResidual(after)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(config.widths[-1], len(data.classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body((x - self.mean) / self.deviation).mean(dim=(2, 3))
        return self.head(features), features

    def loss(self, batch: Batch) -> Losses:
        """Return the cross-entropy on augmented items, in nats, averaged over the batch."""
        x = augment(batch.items, self.config, self.mean, batch.generator)
        logits, _ = self(x)
        loss = F.cross_entropy(exact(logits), batch.labels, label_smoothing=self.config.label_smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(1) == batch.labels).float().mean()}


def _pixels(part: Part) -> NDArray[np.float32]:
    """Return the items of a split in [0, 1], float32 (N, C, H, W), or of some of them, drawn at random, if they have more than PIXELS values."""
    pixels = Arrays.of(scattered(part, count(part, len(part), PIXELS))).items.astype(np.float32)
    return pixels / np.float32(255)


def augment(x: Tensor, config: Config, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Augment items (B, C, H, W) at random: shift (the border is repeated), flip, and cut out a square (filled with `fill`, (C, 1, 1))."""
    batch, _, height, width = x.shape

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (batch,), generator=generator, device=x.device)

    rows = torch.arange(height, device=x.device).expand(batch, height)
    columns = torch.arange(width, device=x.device).expand(batch, width)
    if config.shift:
        rows = (rows + draw(-config.shift, config.shift + 1)[:, None]).clamp(0, height - 1)
        columns = (columns + draw(-config.shift, config.shift + 1)[:, None]).clamp(0, width - 1)
    if config.flip:
        columns = torch.where(draw(0, 2)[:, None] == 1, columns.flip(1), columns)
    item = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    x = x[item, channel, rows[:, None, :, None], columns[:, None, None, :]]
    if config.cutout:
        top, left = draw(1 - config.cutout, height), draw(1 - config.cutout, width)
        inside = (
            _within(top, config.cutout, height)[:, None, :, None] & _within(left, config.cutout, width)[:, None, None]
        )
        x = torch.where(inside, fill, x)
    return x


def _within(start: Tensor, length: int, size: int) -> Tensor:
    """Return whether each position is in start .. start + length - 1, (B, size)."""
    place = torch.arange(size, device=start.device)
    return (place >= start[:, None]) & (place < start[:, None] + length)


def build(config: Config, data: Data) -> Classifier:
    """Return a model with initial weights, in the memory format for fast convolutions."""
    return Classifier(config, data).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    player = Player("classifier", tuple(model.parameters()), model.loss, config.lr, weight_decay=config.weight_decay)
    return [Phase("classifier", (player,), config.epochs)]


def evaluate(model: Classifier, batch: Batch) -> dict[str, Tensor]:
    """Return the cross-entropy in nats, and whether the predicted class is correct, (B,) each."""
    logits, _ = model(batch.items)
    right = (logits.argmax(1) == batch.labels).float()
    return {"loss": F.cross_entropy(logits, batch.labels, reduction="none"), "accuracy": right}


class Features(nn.Module):
    """The task `features`: data (B, C, H, W) to logits (B, classes) and penultimate features (B, D)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.model(data)
        return logits, features


def exports(model: Classifier, config: Config, data: Data) -> Exports:
    """Return the task `features`."""
    items = InputSpec(role="data", source="data", shape=data.spec.shape)
    outputs = [
        TensorSpec(role="logits", shape=(len(data.classes or ()),)),
        TensorSpec(role="features", shape=(config.widths[-1],)),
    ]
    sizes = "-".join(map(str, config.widths))
    parameters = sum(math.prod(weight.shape) for weight in model.parameters())
    return Exports(
        {"features": Task(Features(model), [items], outputs, max_rows=256)},
        classes=True,
        classification=Classification(),
        description=f"Residual classifier on {data.name}: {sizes} channels, {parameters / 1e6:.2f} million weights. For evaluation.",
    )
