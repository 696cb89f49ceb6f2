"""The U-Net of the family `flow`: images, a time and class weights to a prediction of the images' shape.

Residual blocks with group normalisation and SiLU as in Ho et al., 2020 (arXiv 2006.11239), and scales and shifts by time and
class as in Dhariwal and Nichol, 2021 (arXiv 2105.05233). The input is rearranged from space to depth (Shi et al., 2016,
arXiv 1609.05158), so that the first blocks run at half the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # largest number of groups of a normalisation
HEAD = 32  # channels of an attention head
LONGEST = 1000.0  # time 1 is 1000 in the sines of the embedding, as in the networks of 1000 discrete steps
SHORTEST_PERIOD = 10_000.0


def norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation with the largest number of groups, up to eight, that divides the channels."""
    return nn.GroupNorm(math.gcd(channels, GROUPS), channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of a layer to zero, so that its block is the identity at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimeFeatures(nn.Module):
    """Sines and cosines of a time in [0, 1] at several frequencies, (B,) to (B, size)."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        exponents = torch.arange(half, dtype=torch.float64) / half
        self.register_buffer("frequencies", (LONGEST * SHORTEST_PERIOD**-exponents).float(), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


def pointwise(before: int, after: int, *, bias: bool = True) -> nn.Conv2d:
    """Return a linear layer of vectors (B, C, 1, 1).

    It is a convolution because ONNX Runtime computes a matrix product of one row and of several rows in different orders, so that the last
    bits of an item would depend on the batch.
    """
    return nn.Conv2d(before, after, 1, bias=bias)


class Conditioning(nn.Module):
    """The vector (B, E, 1, 1) for a time (B,) in [0, 1] and class weights (B, K), where E is `size`.

    Weights of zero mean "no class". In between, with a sum s of the weights, the share 1 - s counts as "no class".
    """

    def __init__(self, features: int, size: int, classes: int) -> None:
        super().__init__()
        self.features = TimeFeatures(features)
        self.first, self.second = pointwise(features, size), pointwise(size, size)
        self.classes = pointwise(max(1, classes), size, bias=False)
        self.none = nn.Parameter(torch.zeros(size, 1, 1))

    def forward(self, time: Tensor, condition: Tensor) -> Tensor:
        of_time = self.second(F.silu(self.first(self.features(time)[..., None, None])))
        weights = condition[..., None, None]
        of_class = self.classes(weights) + (1 - weights.sum(1, keepdim=True)) * self.none
        out: Tensor = F.silu(of_time + of_class)
        return out


class Block(nn.Module):
    """A residual block. The vector of time and class scales and shifts the channels after the second normalisation."""

    def __init__(self, before: int, after: int, size: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.conv = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.film = pointwise(size, 2 * after)
        self.out_norm, self.out = norm(after), zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip: nn.Module = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv(F.silu(self.norm(x)))
        scale, shift = self.film(vector).chunk(2, 1)
        h = self.out_norm(h) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.out(self.dropout(F.silu(h)))
        return out


class Attention(nn.Module):
    """Self-attention between the positions of a feature map (B, C, H, W), with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        if channels % self.heads:
            self.heads = 1
        self.norm = norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3 * self.heads, c // self.heads, h * w).chunk(3, 1)
        scores = (q.transpose(2, 3) @ k) / math.sqrt(c / self.heads)  # (B, heads, positions, positions)
        mixed = v @ scores.softmax(3).transpose(2, 3)
        out: Tensor = x + self.out(mixed.reshape(b, c, h, w))
        return out


class Level(nn.Module):
    """The blocks at one size, with attention after each of them if it is wanted."""

    def __init__(self, sizes: Sequence[tuple[int, int]], size: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(before, after, size, dropout) for before, after in sizes)
        self.attention = nn.ModuleList(Attention(after) if attention else nn.Identity() for _, after in sizes)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(x, vector))
        return x


class UNet(nn.Module):
    """Images (B, C, H, W), times (B,) in [0, 1] and class weights (B, K) to a prediction (B, C, H, W).

    `multiples` are the channels of each level divided by `channels`; each level has half the size of the one before, rounded up. `patch` is the
    side of the squares that are rearranged into channels; it divides H and W. There is attention at the last level only.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, channels: int, multiples: Sequence[int], blocks: int, patch: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.shape, self.classes, size = patch, shape, classes, 4 * channels
        depth = shape[0] * patch**2
        widths = [channels * multiple for multiple in multiples]
        self.conditioning = Conditioning(2 * channels, size, classes)
        self.first = nn.Conv2d(depth, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for place, width in enumerate(widths):
            pairs = [(before, width), *[(width, width)] * (blocks - 1)]
            self.down.append(Level(pairs, size, dropout, attention=place == last))
            self.shrink.append(nn.Conv2d(width, width, 3, 2, 1) if place < last else nn.Identity())
            before = width
        self.middle = Block(before, before, size, dropout)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for place, width in reversed(list(enumerate(widths))):
            self.grow.append(nn.Conv2d(before, before, 3, padding=1) if place < last else nn.Identity())
            pairs = [(before + width, width), *[(width, width)] * (blocks - 1)]
            self.up.append(Level(pairs, size, dropout, attention=place == last))
            before = width
        self.norm, self.last = norm(before), zeroed(nn.Conv2d(before, depth, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        vector = self.conditioning(time, condition)
        h = self.first(F.pixel_unshuffle(x, self.patch))
        kept: list[Tensor] = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h = level(h, vector)
            kept.append(h)
            h = shrink(h)
        h = self.middle(h, vector)
        for level, grow in zip(self.up, self.grow, strict=True):
            skip = kept.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = F.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = level(torch.cat([grow(h), skip], 1), vector)
        out: Tensor = F.pixel_shuffle(self.last(F.silu(self.norm(h))), self.patch)
        return out

    def __prepare_scriptable__(self) -> Any:
        """Return the traced network, which takes the place of this module in TorchScript. It has no branches that depend on values."""
        jit: Any = torch.jit  # has no types
        example = (torch.zeros(2, *self.shape), torch.zeros(2), torch.zeros(2, max(1, self.classes)))
        return jit.trace(self.eval().requires_grad_(False), example, check_trace=False)
