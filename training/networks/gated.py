"""The gated PixelCNN over a grid of codes. The family `pixelcnn` and the priors over codes use it; its cached sampler is in networks.sampler.

van den Oord et al., 2016, arXiv 1606.05328: p(codes) = Π p(code_i | earlier codes) in raster order. The two stacks need shifts, but no
masks, and have no blind spot. The vertical stack at row r sees the rows above r. The horizontal stack sees the codes to the left in the same
row, and receives the vertical stack's output through `link`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.autoregressive import Autoregressive, Caches, Rows
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


class GatedNetwork(Autoregressive):
    """The gated PixelCNN over a grid."""

    def __init__(
        self, emission: Emission, grid: tuple[int, int], classes: int, *, channels: int, layers: int, dropout: float
    ) -> None:
        super().__init__(emission, grid, classes)
        self.channels = channels
        self.caches = Caches(channels, (layers, channels), 2 * layers * channels, channels, (layers, channels))
        self.first_vertical = nn.Conv2d(channels, channels, (2, 3))
        self.first_horizontal = nn.Linear(2 * channels, channels)
        self.stack = nn.ModuleList(Layer(channels, max(1, classes)) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    @property
    def layers(self) -> list[Layer]:
        """Return the gated layers, in order."""
        return cast(list[Layer], list(self.stack))

    def class_weights(self) -> Sequence[nn.Module]:
        return [layer.classes for layer in self.layers]

    def row_stack(self) -> nn.Module:
        return RowStack(self)

    def pixel_stack(self) -> nn.Module:
        return PixelStack(self)

    def features(self, values: Tensor, condition: Tensor) -> Tensor:
        """Map values (B, H, W, S) to features (B, C, H, W).

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


class Pointwise(nn.Module):
    """A 1x1 convolution of a row (W, B, C)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, row: Tensor) -> Tensor:
        return F.linear(row, self.convolution.weight.flatten(1), self.convolution.bias)


class RowStack(nn.Module):
    """The vertical stack for one row, from the embeddings of the two rows above it. It caches one row per layer.

    The axes are columns, batch, channels, so that the values for one turn of the loop over columns are adjacent in memory.
    """

    def __init__(self, model: GatedNetwork) -> None:
        super().__init__()
        self.first = Rows(model.first_vertical)
        self.vertical = nn.ModuleList(Rows(layer.vertical) for layer in model.layers)
        self.link = nn.ModuleList(Pointwise(layer.link) for layer in model.layers)
        self.channels = model.channels

    def forward(
        self, row_cache: Tensor, above: Tensor, v_cache: Tensor, classes: Tensor, below_top: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map the embeddings of rows r - 2 and r - 1 (W, B, C), v_cache (layers, W, B, C) and class terms (layers, B, 4C) to links and the next caches.

        The links (W, B, layers 2C) are inputs of the horizontal stack and include its class terms.
        """
        v = self.first([row_cache, above])
        links, cache = [], []
        for i, (vertical, link) in enumerate(zip(self.vertical, self.link)):  # noqa: B905 - TorchScript has no `strict`
            p = vertical([v_cache[i], v]) + classes[i][:, : 2 * self.channels]  # (W, B, 2C)
            links.append(link(p) + classes[i][:, 2 * self.channels :])
            cache.append(v)
            a, b = p.chunk(2, 2)
            v = torch.tanh(a) * torch.sigmoid(b)
        return torch.cat(links, 2), above, torch.stack(cache)


class PixelStack(nn.Module):
    """The horizontal stack for one pixel, from the embeddings of the two pixels to the left. It caches one column per layer."""

    def __init__(self, model: GatedNetwork) -> None:
        super().__init__()
        self.first = model.first_horizontal
        self.horizontal = nn.ModuleList(layer.horizontal for layer in model.layers)
        self.out = nn.ModuleList(layer.out for layer in model.layers)

    def forward(
        self, column_cache: Tensor, before: Tensor, h_cache: Tensor, links: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map the embeddings of columns c - 2 and c - 1 (B, C), h_cache (B, layers C) and links (B, layers 2C) to features (B, C) and the next caches."""
        h = self.first(torch.cat([column_cache, before], 1))
        link = links.chunk(len(self.horizontal), 1)  # (B, 2C) each
        left = h_cache.chunk(len(self.horizontal), 1)  # (B, C) each
        skip, cache = torch.zeros_like(h), []
        for i, (horizontal, out) in enumerate(zip(self.horizontal, self.out)):  # noqa: B905
            cache.append(h)
            residual, more = out(gate(horizontal(torch.cat([left[i], h], 1)) + link[i])).chunk(2, 1)
            h, skip = h + residual, skip + more
        return skip, before, torch.cat(cache, 1)
