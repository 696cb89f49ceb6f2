"""Laws that are drawn by their inverse distribution function, z = F⁻¹(u) for uniform u.

The formulas keep their relative precision in float32 in both tails: 1 - u is exact for u ≥ ½, and log(1 - u) is log1p(-u).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold.training.distributions.base import Law, Noise, clipped, within

EULER = 0.5772156649015329  # Euler's constant, the mean of the standard Gumbel law


class InverseCDF(Law):
    """A law with a closed form of the quantile function."""

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One uniform value."""
        return (Noise("uniform"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return F⁻¹(u), with u clipped so that it is finite, and at most the largest number of its type."""
        (u,) = noise
        draws = self.quantile(clipped(u))
        return draws.clamp(max=torch.finfo(draws.dtype).max)

    @abc.abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Return F⁻¹(u) for u between 0 and 1, exclusive."""


@dataclass(frozen=True, eq=False)
class Exponential(InverseCDF):
    """The exponential law: density rate · exp(-rate x) for x ≥ 0."""

    rate: Tensor

    POSITIVE = ("rate",)

    def quantile(self, u: Tensor) -> Tensor:
        """Return -log(1 - u) / rate."""
        return -torch.log1p(-u) / self.rate

    def log_density(self, x: Tensor) -> Tensor:
        """Return log rate - rate x."""
        return within(self.rate.log() - self.rate * x, ~(x < 0))

    @property
    def mean(self) -> Tensor:
        """The mean 1 / rate."""
        return 1 / self.rate

    @property
    def variance(self) -> Tensor:
        """The variance 1 / rate²."""
        return self.rate**-2

    def cdf(self, x: Tensor) -> Tensor:
        """Return 1 - exp(-rate x)."""
        return -torch.expm1(-self.rate * x.clamp(min=0.0))


@dataclass(frozen=True, eq=False)
class Cauchy(InverseCDF):
    """The Cauchy law: density 1 / (π scale (1 + ((x - location) / scale)²)). It has neither mean nor variance."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    def quantile(self, u: Tensor) -> Tensor:
        """Return location + scale · tan(π (u - ½)), computed as ±1 / tan(π min(u, 1 - u)), which is precise in the tails."""
        return self.location + self.scale * (torch.sign(u - 0.5) / torch.tan(math.pi * torch.minimum(u, 1 - u)))

    def log_density(self, x: Tensor) -> Tensor:
        """Return -log π - log scale - log(1 + z²) for the standardised value z."""
        z = (x - self.location) / self.scale
        return -math.log(math.pi) - self.scale.log() - torch.log1p(z**2)

    @property
    def mean(self) -> Tensor:
        """NaN, as the integral of the mean does not exist."""
        return torch.full_like(self.location + self.scale, torch.nan)

    @property
    def variance(self) -> Tensor:
        """NaN, as there is no mean."""
        return self.mean

    def cdf(self, x: Tensor) -> Tensor:
        """Return ½ + atan(z) / π."""
        return 0.5 + torch.atan((x - self.location) / self.scale) / math.pi


@dataclass(frozen=True, eq=False)
class Logistic(InverseCDF):
    """The logistic law: distribution function 1 / (1 + exp(-(x - location) / scale))."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    def quantile(self, u: Tensor) -> Tensor:
        """Return location + scale (log u - log(1 - u))."""
        return self.location + self.scale * (u.log() - torch.log1p(-u))

    def log_density(self, x: Tensor) -> Tensor:
        """Return -z - 2 log(1 + exp(-z)) - log scale, which is symmetric in z and computed for |z|."""
        size = ((x - self.location) / self.scale).abs()
        return -size - 2 * torch.log1p(torch.exp(-size)) - self.scale.log()

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.location + 0 * self.scale

    @property
    def variance(self) -> Tensor:
        """The variance π² scale² / 3."""
        return (math.pi * self.scale) ** 2 / 3 + 0 * self.location

    def cdf(self, x: Tensor) -> Tensor:
        """Return 1 / (1 + exp(-z))."""
        return torch.sigmoid((x - self.location) / self.scale)


@dataclass(frozen=True, eq=False)
class Rayleigh(InverseCDF):
    """The Rayleigh law: the length of a normal vector of two dimensions with standard deviation `scale`."""

    scale: Tensor

    POSITIVE = ("scale",)

    def quantile(self, u: Tensor) -> Tensor:
        """Return scale √(-2 log(1 - u))."""
        return self.scale * torch.sqrt(-2 * torch.log1p(-u))

    def log_density(self, x: Tensor) -> Tensor:
        """Return log x - 2 log scale - ½ (x / scale)²."""
        inside = ~(x <= 0)
        safe = torch.where(inside, x, 1.0)
        return within(safe.log() - 2 * self.scale.log() - 0.5 * (safe / self.scale) ** 2, inside)

    @property
    def mean(self) -> Tensor:
        """The mean scale √(π / 2)."""
        return self.scale * math.sqrt(math.pi / 2)

    @property
    def variance(self) -> Tensor:
        """The variance (2 - π / 2) scale²."""
        return self.scale**2 * (2 - math.pi / 2)

    def cdf(self, x: Tensor) -> Tensor:
        """Return 1 - exp(-½ (x / scale)²)."""
        return -torch.expm1(-0.5 * (x.clamp(min=0.0) / self.scale) ** 2)


@dataclass(frozen=True, eq=False)
class Pareto(InverseCDF):
    """The Pareto law: P(X > x) = (least / x)^shape for x ≥ least."""

    least: Tensor
    shape: Tensor

    POSITIVE = ("least", "shape")

    def quantile(self, u: Tensor) -> Tensor:
        """Return least (1 - u)^(-1 / shape)."""
        return self.least * torch.exp(-torch.log1p(-u) / self.shape)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log shape + shape log least - (shape + 1) log x."""
        inside = ~(x < self.least)
        above = torch.where(inside, x / self.least, 1.0).log()
        return within(self.shape.log() - self.least.log() - (self.shape + 1) * above, inside)

    @property
    def mean(self) -> Tensor:
        """The mean shape · least / (shape - 1), or inf for a shape of at most 1."""
        mean = self.shape * self.least / (self.shape - 1)
        return torch.where(self.shape > 1, mean, torch.inf)

    @property
    def variance(self) -> Tensor:
        """The variance least² shape / ((shape - 1)² (shape - 2)), or inf for a shape of at most 2."""
        variance = self.least**2 * self.shape / ((self.shape - 1) ** 2 * (self.shape - 2))
        return torch.where(self.shape > 2, variance, torch.inf)

    def cdf(self, x: Tensor) -> Tensor:
        """Return 1 - (least / x)^shape."""
        return -torch.expm1(-self.shape * torch.maximum(x, self.least).div(self.least).log())


@dataclass(frozen=True, eq=False)
class Gumbel(InverseCDF):
    """The Gumbel law of maxima: distribution function exp(-exp(-(x - location) / scale))."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    def quantile(self, u: Tensor) -> Tensor:
        """Return location - scale log(-log u)."""
        return self.location - self.scale * torch.log(-u.log())

    def log_density(self, x: Tensor) -> Tensor:
        """Return -z - exp(-z) - log scale."""
        z = (x - self.location) / self.scale
        return -z - torch.exp(-z) - self.scale.log()

    @property
    def mean(self) -> Tensor:
        """The mean location + scale · 0.5772, with Euler's constant."""
        return self.location + EULER * self.scale

    @property
    def variance(self) -> Tensor:
        """The variance π² scale² / 6."""
        return (math.pi * self.scale) ** 2 / 6 + 0 * self.location

    def cdf(self, x: Tensor) -> Tensor:
        """Return exp(-exp(-z))."""
        return torch.exp(-torch.exp(-(x - self.location) / self.scale))
