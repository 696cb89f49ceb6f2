"""The networks of a hierarchical variational autoencoder: features from the bottom up, latents from the top down.

Level 1 is next to the data, and level K is the top. With h_K a vector of parameters and d_k the features of the data at level k,

    z_k = μ_p(h_k) + σ_p(h_k) ε_k,     h_k' = block(h_k + W z_k),     h_{k-1} = move(h_k'),     p(x | z) from h_1'

All latents are in units of their prior: the network works with ε_k, for which the prior is N(0, I) at every level, whatever z_1 .. z_K are. A
posterior N(μ_q, σ_q²) of z_k is N(m, s²) of ε_k with m = (μ_q - μ_p) / σ_p and s = σ_q / σ_p. The KL of a level is the same in both units.

    residual   μ_q - μ_p and s from [h_k, d_k]                Vahdat and Kautz, 2020 (NVAE), arXiv 2007.03898, section 3.2
    ladder     the posterior is the product of the prior and of a Gaussian that is computed from d_k alone, normalised
                                                              Sønderby et al., 2016, arXiv 1602.02282, section 2
    free       μ_q and σ_q from [h_k, d_k]                    Child, 2021 (VD-VAE), arXiv 2011.10650

For ladder inference, the posterior of the top level is a product with its prior N(0, I), too, so that all levels have the same form.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.layers import exact

MOMENTUM = 0.05  # share of a batch in the moving statistics of batch normalisation
LOG_SCALES = (-5.0, 3.0)  # limits of log σ_p, and of the log σ that a network computes
BOTTLENECK = 2  # a convolutional block has this many times fewer channels inside
GAIN = 1.7  # standard deviation of a layer's weights after SiLU, times the root of its inputs, so that variances stay about equal
QUIET = 0.3  # the same of a prior's last layer, so that all priors start near N(0, I)


def limited(log_scale: Tensor) -> Tensor:
    """Return log scales within LOG_SCALES. Their gradient is 0 outside."""
    return log_scale.clamp(*LOG_SCALES)


def scaled(layer: Any, gain: float = 1.0) -> nn.Module:
    """Return a linear or convolutional layer with initial weights of standard deviation gain / √inputs, and without biases.

    With the smaller weights that torch starts from, the signal of the data vanishes in a deep stack of levels, and most latents are never used.
    """
    nn.init.normal_(layer.weight, std=gain * layer.weight[0].numel() ** -0.5)
    nn.init.zeros_(layer.bias)
    made: nn.Module = layer
    return made


class Dense:
    """The layers of an MLP, with batch normalisation, which keeps all levels in use (Sønderby et al., 2016)."""

    POSTERIOR = (
        1.0  # gain of a posterior's last layer; without normalisation the posteriors would start far from the priors
    )

    @staticmethod
    def layer(before: int, after: int, gain: float = 1.0) -> nn.Module:
        """Return a linear layer."""
        return scaled(nn.Linear(before, after), gain)

    @staticmethod
    def active(width: int) -> list[nn.Module]:
        """Return the activation, after a normalisation."""
        return [nn.BatchNorm1d(width, momentum=MOMENTUM), nn.SiLU()]

    @staticmethod
    def inside(width: int) -> list[nn.Module]:
        """Return the layers of a residual block between its first and its last activation, and the last one."""
        return [scaled(nn.Linear(width, width), GAIN), *Dense.active(width), scaled(nn.Linear(width, width), GAIN)]

    @staticmethod
    def resized(before: int, after: int) -> nn.Module:
        """Return the identity, as an MLP has no resolution."""
        return nn.Identity()


class Grid:
    """The layers of a convolutional network, without normalisation. One of the sides of two neighbouring grids divides the other."""

    POSTERIOR = QUIET

    @staticmethod
    def layer(before: int, after: int, gain: float = 1.0) -> nn.Module:
        return scaled(nn.Conv2d(before, after, 1), gain)

    @staticmethod
    def active(width: int) -> list[nn.Module]:
        return [nn.SiLU()]

    @staticmethod
    def inside(width: int) -> list[nn.Module]:
        inner = max(1, width // BOTTLENECK)
        first, middle, last = (
            nn.Conv2d(width, inner, 1),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.Conv2d(inner, width, 1),
        )
        return [scaled(first, GAIN), nn.SiLU(), scaled(middle, GAIN), nn.SiLU(), scaled(last, GAIN)]

    @staticmethod
    def resized(before: int, after: int) -> nn.Module:
        if before == after:
            return nn.Identity()
        return nn.AvgPool2d(before // after) if before > after else nn.Upsample(scale_factor=after // before)


class Block(nn.Module):
    """A residual block, scaled by 1 / √depth at the start, so that the variance of its output does not depend on the number of blocks."""

    def __init__(self, layers: type[Dense | Grid], width: int, depth: int) -> None:
        super().__init__()
        inside = layers.inside(width)
        last: Any = inside[-1]
        with torch.no_grad():
            last.weight.mul_(depth**-0.5)
        self.change = nn.Sequential(*layers.active(width), *inside)

    def forward(self, h: Tensor) -> Tensor:
        changed: Tensor = h + self.change(h)
        return changed


class Level(nn.Module):
    """One level: the prior of z given h, the posterior given h and d, and the change of h by z."""

    def __init__(
        self, layers: type[Dense | Grid], width: int, size: int, inference: str, top: bool, depth: int
    ) -> None:
        super().__init__()
        self.size, self.inference, self.top = size, inference, top
        self.prior = None if top else nn.Sequential(*layers.active(width), layers.layer(width, 2 * size, QUIET))
        inputs = width if inference == "ladder" else 2 * width
        self.posterior = nn.Sequential(
            *layers.active(inputs),
            layers.layer(inputs, width, GAIN),
            *layers.active(width),
            layers.layer(width, 2 * size, layers.POSTERIOR),
        )
        self.enter, self.block = layers.layer(size, width), Block(layers, width, depth)

    def prior_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ_p and log σ_p given h. At the top they are 0."""
        if self.prior is None:
            zeros = torch.zeros_like(h[:, : self.size])
            return zeros, zeros
        mean, log_scale = exact(self.prior(h)).chunk(2, 1)
        return mean, limited(log_scale)

    def posterior_of(self, h: Tensor, d: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return m and log s of ε, given h, the features d and the prior's parameters."""
        if self.inference == "ladder":
            own_mean, own_scale = exact(self.posterior(d)).chunk(2, 1)
            log_precision = 2 * (log_scale - limited(own_scale))  # in units of the prior
            total = F.softplus(log_precision)  # log (1 + precision), the precision of the posterior
            # the weight of the data as an exponential, as ONNX Runtime's sigmoid is not accurate for values near 0
            return (own_mean - mean) * (log_precision - total - log_scale).exp(), -0.5 * total
        first, second = exact(self.posterior(torch.cat([h, d], 1))).chunk(2, 1)
        if self.inference == "residual":
            return first * (-log_scale).exp(), limited(second)
        return (first - mean) * (-log_scale).exp(), limited(second) - log_scale

    def entered(self, h: Tensor, noise: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return h after the latent ε of this level."""
        changed: Tensor = self.block(h + self.enter(mean + log_scale.exp() * noise))
        return changed


class Up(nn.Module):
    """The features of the data at every level, from the bottom up: (B, D) to a list with level 1 first."""

    def __init__(
        self, layers: type[Dense | Grid], first: nn.Module, widths: tuple[int, ...], sides: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.first = first
        self.moves: Any = nn.ModuleList(
            nn.Sequential(layers.resized(sides[k], sides[k + 1]), layers.layer(widths[k], widths[k + 1]))
            for k in range(len(widths) - 1)
        )
        self.blocks: Any = nn.ModuleList(Block(layers, width, len(widths)) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        d = self.blocks[0](self.first(x))
        found = [d]
        for move, block in zip(self.moves, self.blocks[1:], strict=True):
            d = block(move(d))
            found.append(d)
        return found


class Down(nn.Module):
    """The levels from the top down. Latents ε are in one vector (B, L), with the top level first."""

    def __init__(
        self,
        layers: type[Dense | Grid],
        widths: tuple[int, ...],
        sizes: tuple[int, ...],
        sides: tuple[int, ...],
        inference: str,
    ) -> None:
        super().__init__()
        grids = [(side, side) if layers is Grid else () for side in sides]
        count = len(sizes)
        shapes = [(size, *grid) for size, grid in zip(sizes, grids, strict=True)]
        self.shapes = shapes[::-1]  # shapes of ε, the top level first
        self.sizes = [int(torch.Size(shape).numel()) for shape in self.shapes]
        self.start = nn.Parameter(torch.zeros(1, widths[-1], *grids[-1]))
        self.levels: Any = nn.ModuleList(
            Level(layers, widths[k], sizes[k], inference, k == count - 1, count) for k in reversed(range(count))
        )
        self.moves: Any = nn.ModuleList(
            nn.Sequential(layers.layer(above, below), layers.resized(side, next_side))
            for (above, below), (side, next_side) in zip(pairwise(widths[::-1]), pairwise(sides[::-1]), strict=True)
        )

    def _parts(self, noise: Tensor) -> list[Tensor]:
        parts = torch.split(noise, self.sizes, 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def generated(self, latent: Tensor) -> Tensor:
        """Map latents ε (B, L) to the last state h, from which the distribution of x is computed."""
        h = self.start.expand(latent.shape[0], *self.start.shape[1:])
        for k, (level, noise) in enumerate(zip(self.levels, self._parts(latent), strict=True)):
            h = self.moves[k - 1](h) if k else h
            h = level.entered(h, noise, *level.prior_of(h))
        return h

    def inferred(self, features: list[Tensor], noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the last state h and ε, m and log s (N, L) of the posterior, for features of level 1 .. K and normals (N, L).

        The parameters of a level are those given the draws of the levels above it.
        """
        h = self.start.expand(noise.shape[0], *self.start.shape[1:])
        drawn, means, log_scales = [], [], []
        for k, (level, normal) in enumerate(zip(self.levels, self._parts(noise), strict=True)):
            h = self.moves[k - 1](h) if k else h
            prior = level.prior_of(h)
            m, log_s = level.posterior_of(h, features[len(self.levels) - 1 - k], *prior)
            latent = m + log_s.exp() * normal
            h = level.entered(h, latent, *prior)
            drawn.append(latent.flatten(1))
            means.append(m.flatten(1))
            log_scales.append(log_s.flatten(1))
        return h, torch.cat(drawn, 1), torch.cat(means, 1), torch.cat(log_scales, 1)
