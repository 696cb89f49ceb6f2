"""The prediction of an autoregressive network for one position at a time, from a caller that holds the values and the caches.

The cached sampler (training.networks.sampler) draws inside its loops. A range coder needs the distribution of a position instead, and gives back
the value. So the steps of the sampler are exported as tasks without the draw: `predict_row` for the row stack, `predict_pixel`
for the pixel stack and the logits of its first part, and for images with several parts (colours) `predict_part`, which gives
the logits of the later parts given the earlier ones. All tensors have the batch first. Values are levels 0 .. levels - 1 as float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import InputSpec, TensorSpec
from manifold.training.exporting.tasks import Task
from manifold.training.networks.autoregressive import Autoregressive
from manifold.training.networks.sampler import condition_inputs, nothing


class ToLevels(nn.Module):
    """The conversion of float32 values to int64 levels. Values that are no level become the nearest one, so that every input is valid."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, values: Tensor) -> Tensor:
        return torch.round(values).clamp(0, self.levels - 1).to(torch.int64)


class PredictRow(nn.Module):
    """The row stack of a network, after the row above is complete (see RowStep)."""

    def __init__(self, model: Autoregressive, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels, self.stack = model.emission, ToLevels(levels), model.row_stack()
        self.of_class = nn.ModuleList(model.class_weights())

    def forward(
        self, row: Tensor, previous: Tensor, embedded: Tensor, vertical: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map the row's index (B,), the row above (B, W, S) and both caches to the links (B, W, L) and the next caches.

        `embedded` (B, W, C) is the row cache, and `vertical` (B, layers, W, C) the vertical cache.
        """
        condition = nothing(row[:, None]) if condition is None else condition
        classes = torch.stack([linear(condition) for linear in self.of_class])
        below_top = (row > 0).to(torch.float32)[:, None]  # zero padding above the image
        above = self.emission.embed(self.to_levels(previous).transpose(0, 1)) * below_top  # (W, B, C)
        links, row_cache, v_cache = self.stack(
            embedded.transpose(0, 1), above, vertical.permute(1, 2, 0, 3), classes, below_top
        )
        return links.transpose(0, 1), row_cache.transpose(0, 1), v_cache.permute(2, 0, 1, 3)


class PredictPixel(nn.Module):
    """The pixel stack of a network, and the logits of the first part (see PixelStep)."""

    def __init__(self, model: Autoregressive, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels, self.stack = model.emission, ToLevels(levels), model.pixel_stack()

    def forward(
        self, column: Tensor, previous: Tensor, embedded: Tensor, horizontal: Tensor, links: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map the column's index (B,), the pixel to the left (B, S), both caches and the links of this column (B, L) to logits (B, K),
        features (B, C) and the next caches.

        `embedded` (B, C) is the column cache, and `horizontal` (B, layers, C) the horizontal cache.
        """
        right_of_edge = (column > 0).to(torch.float32)[:, None]
        before = self.emission.embed(self.to_levels(previous)) * right_of_edge
        features, column_cache, h_cache = self.stack(embedded, before, horizontal.flatten(1), links)
        # the logits of the first part do not depend on the pixel's own values
        unknown = torch.zeros_like(self.to_levels(previous))
        logits = self.emission.logits(self.emission.parameters_of(features, unknown))[:, 0]
        return logits, features, column_cache, h_cache.unflatten(1, horizontal.shape[1:])


class PredictPart(nn.Module):
    """The logits of all parts of a pixel. Those of a part depend on the earlier parts only."""

    def __init__(self, model: Autoregressive, levels: int) -> None:
        super().__init__()
        self.emission, self.to_levels = model.emission, ToLevels(levels)

    def forward(self, features: Tensor, values: Tensor) -> Tensor:
        """Map features (B, C) and the pixel's values (B, S) to logits (B, S, K)."""
        parameters = self.emission.parameters_of(features, self.to_levels(values))
        logits: Tensor = self.emission.logits(parameters)
        return logits


def predicting(model: Autoregressive, levels: int) -> dict[str, Task]:
    """Return the tasks that predict one position of a network over integer levels."""
    parts, width, caches, channels = model.parts, model.width, model.caches, model.emission.channels
    v_layers, v_channels = caches.vertical

    def state(role: str, *shape: int) -> InputSpec:
        return InputSpec(role=role, source="state", shape=shape)

    def output(role: str, *shape: int) -> TensorSpec:
        return TensorSpec(role=role, shape=shape)

    tasks = {
        "predict_row": Task(
            PredictRow(model, levels),
            [
                state("row"), state("previous", width, parts), state("embedded", width, caches.row), state("vertical", v_layers, width, v_channels),
                *condition_inputs(model),
            ],
            [output("links", width, caches.links), output("next_embedded", width, caches.row), output("next_vertical", v_layers, width, v_channels)],
        ),
        "predict_pixel": Task(
            PredictPixel(model, levels),
            [
                state("column"), state("previous", parts), state("embedded", caches.column), state("horizontal", *caches.horizontal),
                state("links", caches.links),
            ],
            [
                output("logits", levels), output("features", channels), output("next_embedded", caches.column),
                output("next_horizontal", *caches.horizontal),
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
