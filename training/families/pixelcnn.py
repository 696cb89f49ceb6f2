"""A gated PixelCNN (van den Oord et al., 2016, arXiv 1606.05328) on the pixels of grey and colour images. It is class-conditional if the data has
classes.

The network is in training.networks.gated. The distribution of a pixel, the likelihood and the graphs are those of all exact autoregressive
families (training.networks.pixels).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from manifold.training.data import Data
from manifold.training.exporting.tasks import Exports
from manifold.training.networks import pixels
from manifold.training.networks.gated import GatedNetwork
from manifold.training.networks.pixels import PixelRecipe, Pixels, draw, evaluate, report, resolve
from manifold.training.phases import Phase, Player
from manifold.training.recipes import Share

ITEMS = ("images",)

__all__ = ["ITEMS", "PRESETS", "Config", "build", "draw", "evaluate", "exports", "phases", "report", "resolve"]


class Config(PixelRecipe):
    """The options of the family."""

    channels: int = Field(32, ge=1)  # channels of each stack
    layers: int = Field(5, ge=1)  # gated layers; the receptive field is layers + 2 pixels up and left
    dropout: Share = 0.1  # on the gated activations, in training


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "channels": 8, "layers": 1, "head": 16, "test_items": 100},
    "cpu": {"epochs": 24, "lr": 2e-3, "schedule": "cosine", "batch_size": 64, "dropout": 0.2},
    "gpu": {"epochs": 60, "lr": 1e-3, "schedule": "cosine", "channels": 64, "layers": 10, "head": 128},
}


class GatedPixelCNN(Pixels, GatedNetwork):
    """The network over the pixels of images (B, C, H, W)."""

    def __init__(self, config: Config, data: Data) -> None:
        emission, grid, classes = pixels.parts_of(config, data, config.channels)
        GatedNetwork.__init__(
            self, emission, grid, classes, channels=config.channels, layers=config.layers, dropout=config.dropout
        )
        self.prepare(config, data)


def build(config: Config, data: Data) -> GatedPixelCNN:
    """Return a model with initial weights."""
    return GatedPixelCNN(config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    return [Phase("pixelcnn", (Player("pixelcnn", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def exports(model: GatedPixelCNN, config: Config, data: Data) -> Exports:
    """Return the tasks of the model."""
    return pixels.exports(
        model, config, data, "Gated PixelCNN", f"{config.layers} layers of {config.channels} channels"
    )
