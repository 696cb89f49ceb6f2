"""The interface of exact autoregressive networks over a grid: p(item) = Π p(position | earlier positions) in raster order.

A network computes the features of all positions in one pass (`features`), and has the same computation for one row and for one pixel at a time
(`row_stack` and `pixel_stack`), with caches between them. The sampler (networks.sampler) and the steps of lossless compression
(networks.stepping) need nothing else. The gated PixelCNN is in networks.gated, the PixelRNNs in networks.recurrent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.emissions import Emission


@dataclass(frozen=True)
class Caches:
    """The sizes of the caches of a network. All caches are zero at the start."""

    row: int  # channels of the row cache (W, B, row), which goes from row to row
    vertical: tuple[
        int, int
    ]  # layers and channels of the vertical cache (layers, W, B, channels), which goes from row to row
    links: int  # channels of the links of a position
    column: int  # channels of the column cache (B, column), which goes from pixel to pixel within a row
    horizontal: tuple[
        int, int
    ]  # layers and channels of the horizontal cache (B, layers channels), which goes from pixel to pixel


class Autoregressive(nn.Module):
    """The network that computes p of each position of a grid given the earlier ones, in one pass. The emission defines a position's values.

    Items are (B, H, W), or (B, S, H, W) for S parts: int64 levels or float32 values. The condition is float (B, classes).
    """

    caches: Caches

    def __init__(self, emission: Emission, grid: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.emission, self.parts = emission, emission.parts
        (self.height, self.width), self.classes = grid, classes

    def features(self, values: Tensor, condition: Tensor) -> Tensor:
        """Map values (B, H, W, S) to features (B, C, H, W). A feature depends only on earlier positions."""
        raise NotImplementedError

    def class_weights(self) -> Sequence[nn.Module]:
        """Return the modules that map the condition (B, classes) to the class terms (modules, B, K) of `row_stack`."""
        raise NotImplementedError

    def row_stack(self) -> nn.Module:
        """Return the module that computes the links of row r, which are the inputs of `pixel_stack` that depend on the rows above.

        It maps the row cache, the embeddings of row r - 1 (W, B, E), the vertical cache, the class terms and 1 (0 at the first row, which has no
        row above; float32, () or (B, 1)) to the links (W, B, L), the next row cache and the next vertical cache.
        """
        raise NotImplementedError

    def pixel_stack(self) -> nn.Module:
        """Return the module that computes the features of a pixel.

        It maps the column cache, the embedding of the pixel to the left (B, E), which is zero at the first column, the horizontal cache and the
        links of the pixel (B, L) to features (B, C), the next column cache and the next horizontal cache.
        """
        raise NotImplementedError

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

    def to_condition(self, labels: Tensor) -> Tensor:
        """Map labels (B,) to one-hot weights, or to zeros (B, 1) for an unconditional model."""
        return (
            F.one_hot(labels, self.classes).float()
            if self.classes
            else torch.zeros_like(labels, dtype=torch.float32)[:, None]
        )


class Rows(nn.Module):
    """A convolution of as many rows (W, B, C) as its kernel has, with zero padding left and right, as one matrix product: (W, B, output channels)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution, self.columns = convolution, convolution.kernel_size[1]

    def forward(self, rows: list[Tensor]) -> Tensor:
        parts, width, margin = [], rows[0].shape[0], self.columns // 2
        for row in rows:
            padded = F.pad(row, (0, 0, 0, 0, margin, margin))
            for column in range(self.columns):
                parts.append(padded[column : column + width])
        weight = self.convolution.weight.permute(0, 2, 3, 1).flatten(1)  # ordered by row, column, channel
        return F.linear(torch.cat(parts, 2), weight, self.convolution.bias)
