"""The gated PixelCNN over a grid of codes. The family `pixelcnn` and the priors over codes use it; its cached sampler is in networks.sampler.

van den Oord et al., 2016, arXiv 1606.05328: p(codes) = Π p(code_i | earlier codes) in raster order. The two stacks need shifts, but no
masks, and have no blind spot. The vertical stack at row r sees the rows above r. The horizontal stack sees the codes to the left in the same
row, and receives the vertical stack's output through `link`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.emissions import Emission


def gate(x: Tensor) -> Tensor:
    """Return tanh of the first half of the channels times sigmoid of the second half (eq. 2)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class Layer(nn.Module):
    """The weights of one gated layer. GatedNetwork (all positions), RowStack (one row) and PixelStack (one pixel) use them."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        # a 1x2 convolution: it takes the columns c - 1 and c, concatenated
        self.horizontal = nn.Linear(2 * channels, 2 * channels)
        self.out = nn.Linear(channels, 2 * channels)  # residual and skip, fused
        self.classes = nn.Linear(classes, 4 * channels, bias=False)  # for both stacks


class GatedNetwork(nn.Module):
    """The network that computes p of each position of a grid given the earlier ones, in one pass. The emission defines a position's values.

    Items are (B, H, W), or (B, S, H, W) for S parts: int64 levels or float32 values. The condition is float (B, classes).
    """

    def __init__(
        self, emission: Emission, grid: tuple[int, int], classes: int, *, channels: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.emission, self.parts = emission, emission.parts
        (self.height, self.width), self.classes, self.channels = grid, classes, channels
        self.first_vertical = nn.Conv2d(channels, channels, (2, 3))
        self.first_horizontal = nn.Linear(2 * channels, channels)
        self.stack = nn.ModuleList(Layer(channels, max(1, classes)) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    @property
    def layers(self) -> list[Layer]:
        """Return the gated layers, in order."""
        return cast(list[Layer], list(self.stack))

    @property
    def uniforms(self) -> int:
        """Return the number of uniforms for one item. Those of one part are adjacent for all positions."""
        return self.emission.draws * self.parts * self.height * self.width

    def values(self, items: Tensor) -> Tensor:
        """Return the items with the parts as the last axis, (B, H, W, S)."""
        return items.permute(0, 2, 3, 1) if items.dim() == 4 else items[..., None]

    def forward(self, items: Tensor, condition: Tensor) -> Tensor:
        """Return the emission's parameters: (B, K, H, W), or (B, K, S, H, W) if the items have parts."""
        parameters = self.parameters_of(items, condition)  # (B, H, W, S, K)
        return parameters.permute(0, 4, 3, 1, 2) if items.dim() == 4 else parameters[..., 0, :].permute(0, 3, 1, 2)

    def parameters_of(self, items: Tensor, condition: Tensor) -> Tensor:
        """Return the emission's parameters, (B, H, W, S, K)."""
        values = self.values(items)
        return self.emission.parameters_of(self.features(values, condition).permute(0, 2, 3, 1), values)

    def nll(self, items: Tensor, condition: Tensor) -> Tensor:
        """Return -log p of each position given the earlier ones, in nats, in the items' shape."""
        nats = self.emission.nll(self.parameters_of(items, condition), self.values(items))
        return nats.permute(0, 3, 1, 2) if items.dim() == 4 else nats[..., 0]

    def features(self, values: Tensor, condition: Tensor) -> Tensor:
        """Map values (B, H, W, S) to features (B, C, H, W). A feature depends only on earlier positions.

        Shifts replace masks: the first layer excludes the position itself (mask A of van den Oord et al.), later layers do not (mask B).
        """
        e = self.emission.embed(values).permute(0, 3, 1, 2)  # (B, C, H, W)
        v = self.first_vertical(F.pad(e, (1, 1, 2, 0)))[:, :, :-1]  # row r sees rows r - 2 and r - 1
        left = F.pad(e, (2, 0))  # column c sees columns c - 2 and c - 1
        h = self._linear(self.first_horizontal, torch.cat([left[..., :-2], left[..., 1:-1]], 1))
        skip = torch.zeros_like(h)
        for layer in self.layers:
            of_class_v, of_class_h = layer.classes(condition)[..., None, None].chunk(2, 1)
            p = layer.vertical(F.pad(v, (1, 1, 1, 0))) + of_class_v
            v = gate(p)
            before = F.pad(h, (1, 0))[..., :-1]
            q = self._linear(layer.horizontal, torch.cat([before, h], 1)) + layer.link(p) + of_class_h
            residual, more = self._linear(layer.out, self.dropout(gate(q))).chunk(2, 1)
            h, skip = h + residual, skip + more
        return skip

    @staticmethod
    def _linear(layer: nn.Module, x: Tensor) -> Tensor:
        """Apply a linear layer to the channels of x (B, C, H, W), as a 1x1 convolution."""
        out: Tensor = layer(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)

    def to_condition(self, labels: Tensor) -> Tensor:
        """Map labels (B,) to one-hot weights, or to zeros (B, 1) for an unconditional model."""
        return (
            F.one_hot(labels, self.classes).float()
            if self.classes
            else torch.zeros_like(labels, dtype=torch.float32)[:, None]
        )
