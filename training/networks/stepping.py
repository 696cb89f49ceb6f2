"""The prediction of a gated PixelCNN for one position at a time, from a caller that holds the values and the caches.

The cached sampler (training.networks.sampler) draws inside its loops. A range coder needs the distribution of a position instead, and gives back
the value. So the steps of the sampler are exported as tasks without the draw: `predict_row` for the vertical stack of a row, `predict_pixel`
for the horizontal stack at a pixel and the logits of its first part, and for images with several parts (colours) `predict_part`, which gives
the logits of the later parts given the earlier ones. All tensors have the batch first. Values are levels 0 .. levels - 1 as float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting.tasks import Task
from manifold.training.networks.gated import GatedNetwork
from manifold.training.networks.sampler import PixelStack, RowStack, condition_inputs, nothing


class ToLevels(nn.Module):
    """The conversion of float32 values to int64 levels. Values that are no level become the nearest one, so that every input is valid."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, values: Tensor) -> Tensor:
        return torch.round(values).clamp(0, self.levels - 1).to(torch.int64)


class PredictRow(nn.Module):
    """The vertical stack for a row, after the row above is complete (see RowStep)."""

    def __init__(self, model: GatedNetwork, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels, self.stack = model.emission, ToLevels(levels), RowStack(model)
        self.of_class = nn.ModuleList(layer.classes for layer in model.layers)

    def forward(
        self, row: Tensor, previous: Tensor, embedded: Tensor, vertical: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map the row's index (B,), the row above (B, W, S) and both caches to the links (B, W, layers 2C) and the next caches.

        `embedded` (B, W, C) is the embedding of row r - 2; `vertical` (B, layers, W, C) is the row above in each layer.
        """
        condition = nothing(row[:, None]) if condition is None else condition
        classes = torch.stack([linear(condition) for linear in self.of_class])
        below_top = (row > 0).to(torch.float32)[:, None]  # zero padding above the image
        above = self.emission.embed(self.to_levels(previous).transpose(0, 1)) * below_top  # (W, B, C)
        links, cache = self.stack(embedded.transpose(0, 1), above, vertical.permute(1, 2, 0, 3), classes)
        return links.transpose(0, 1), above.transpose(0, 1), cache.permute(2, 0, 1, 3)


class PredictPixel(nn.Module):
    """The horizontal stack at a pixel, and the logits of the first part (see PixelStep)."""

    def __init__(self, model: GatedNetwork, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels, self.stack = model.emission, ToLevels(levels), PixelStack(model)

    def forward(
        self, column: Tensor, previous: Tensor, embedded: Tensor, horizontal: Tensor, links: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map the column's index (B,), the pixel to the left (B, S), both caches and the links of this column (B, layers 2C) to logits (B, K),
        features (B, C) and the next caches.

        `embedded` (B, C) is the embedding of column c - 2; `horizontal` (B, layers, C) is the column to the left in each layer.
        """
        right_of_edge = (column > 0).to(torch.float32)[:, None]
        before = self.emission.embed(self.to_levels(previous)) * right_of_edge
        features, cache = self.stack(embedded, before, horizontal.flatten(1), links)
        # the logits of the first part do not depend on the pixel's own values
        unknown = torch.zeros_like(self.to_levels(previous))
        logits = self.emission.logits(self.emission.parameters_of(features, unknown))[:, 0]
        return logits, features, before, cache.unflatten(1, horizontal.shape[1:])


class PredictPart(nn.Module):
    """The logits of all parts of a pixel. Those of a part depend on the earlier parts only."""

    def __init__(self, model: GatedNetwork, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels = model.emission, ToLevels(levels)

    def forward(self, features: Tensor, values: Tensor) -> Tensor:
        """Map features (B, C) and the pixel's values (B, S) to logits (B, S, K)."""
        parameters = self.emission.parameters_of(features, self.to_levels(values))
        logits: Tensor = self.emission.logits(parameters)
        return logits


def predicting(model: GatedNetwork, levels: int) -> dict[str, Task]:
    """Return the tasks that predict one position of a network over integer levels."""
    parts, width, channels, layers = model.parts, model.width, model.channels, len(model.layers)

    def state(role: str, *shape: int) -> InputSpec:
        return InputSpec(role=role, source="state", shape=shape)

    def output(role: str, *shape: int) -> TensorSpec:
        return TensorSpec(role=role, shape=shape)

    links = 2 * channels * layers
    tasks = {
        "predict_row": Task(
            PredictRow(model, levels),
            [
                state("row"), state("previous", width, parts), state("embedded", width, channels), state("vertical", layers, width, channels),
                *condition_inputs(model),
            ],
            [output("links", width, links), output("next_embedded", width, channels), output("next_vertical", layers, width, channels)],
        ),
        "predict_pixel": Task(
            PredictPixel(model, levels),
            [
                state("column"), state("previous", parts), state("embedded", channels), state("horizontal", layers, channels), state("links", links),
            ],
            [
                output("logits", levels), output("features", channels), output("next_embedded", channels),
                output("next_horizontal", layers, channels),
            ],
        ),
    }  # fmt: skip
    if parts > 1:
        tasks["predict_part"] = Task(
            PredictPart(model, levels),
            [state("features", channels), state("values", parts)],
            [output("logits", parts, levels)],
        )
    return tasks
