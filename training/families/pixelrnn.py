"""PixelRNNs (van den Oord, Kalchbrenner and Kavukcuoglu, 2016, arXiv 1601.06759) on the pixels of grey and colour images: the Row LSTM and the
Diagonal BiLSTM. They are class-conditional if the data has classes.

The networks are in training.networks.recurrent. The distribution of a pixel, the likelihood and the graphs are those of all exact
autoregressive families (training.networks.pixels). Row and pixel are computed step by step in training, too, so that a step of training takes
longer than that of a PixelCNN of the same size.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from manifold.training.data import Data
from manifold.training.exporting.tasks import Exports
from manifold.training.networks import pixels
from manifold.training.networks.pixels import PixelRecipe, Pixels, draw, evaluate, report, resolve
from manifold.training.networks.recurrent import DiagonalBiLSTM, RowLSTM
from manifold.training.phases import Phase, Player

ITEMS = ("images",)

__all__ = ["ITEMS", "PRESETS", "Config", "build", "draw", "evaluate", "exports", "phases", "report", "resolve"]


class Config(PixelRecipe):
    """The options of the family."""

    body: Literal["row", "diagonal"] = "row"  # row: Row LSTM; diagonal: Diagonal BiLSTM, which sees all earlier pixels
    channels: int = Field(32, ge=1)  # channels of an LSTM's state; the maps between layers have twice as many
    layers: int = Field(2, ge=1)  # LSTM layers
    embedding: int = Field(8, ge=1)  # channels to which values are mapped before the first convolution


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "channels": 8, "layers": 1, "head": 16, "test_items": 100},
    "cpu": {"epochs": 8, "lr": 2e-3, "schedule": "cosine", "batch_size": 32},
    "gpu": {"epochs": 60, "lr": 1e-3, "schedule": "cosine", "channels": 16, "layers": 7, "batch_size": 64},
}


class RowPixels(Pixels, RowLSTM):
    """The Row LSTM over the pixels of images (B, C, H, W)."""

    def __init__(self, config: Config, data: Data) -> None:
        parts = pixels.parts_of(config, data, 2 * config.channels, config.embedding)
        RowLSTM.__init__(self, *parts, channels=config.channels, layers=config.layers)
        self.prepare(config, data)


class DiagonalPixels(Pixels, DiagonalBiLSTM):
    """The Diagonal BiLSTM over the pixels of images (B, C, H, W)."""

    def __init__(self, config: Config, data: Data) -> None:
        parts = pixels.parts_of(config, data, 2 * config.channels, config.embedding)
        DiagonalBiLSTM.__init__(self, *parts, channels=config.channels, layers=config.layers)
        self.prepare(config, data)


NETWORKS = {"row": RowPixels, "diagonal": DiagonalPixels}


def build(config: Config, data: Data) -> Pixels:
    """Return a model with initial weights. Raises TrainingError for more levels than the data has."""
    return NETWORKS[config.body](config, data)


def phases(model: Any, config: Config) -> list[Phase]:
    """Return one phase with one player."""
    return [Phase("pixelrnn", (Player("pixelrnn", tuple(model.parameters()), model.loss, config.lr),), config.epochs)]


def exports(model: Pixels, config: Config, data: Data) -> Exports:
    """Return the tasks of the model."""
    name = {"row": "Row LSTM (PixelRNN)", "diagonal": "Diagonal BiLSTM (PixelRNN)"}[config.body]
    return pixels.exports(
        model, config, data, name, f"{config.layers} layer{'s' * (config.layers > 1)} of {config.channels} channels"
    )
