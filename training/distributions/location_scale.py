"""Laws that are drawn as location + scale · ε for a standard ε: Gaussian, Laplace, Student, uniform and triangular.

`Logistic` and `Cauchy` in `inverse_cdf` are location-scale laws too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold.training.distributions import gammas
from manifold.training.distributions.base import Law, Noise, clipped, within


@dataclass(frozen=True, eq=False)
class Gaussian(Law):
    """The normal law with mean `location` and standard deviation `scale`."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One normal value."""
        return (Noise("normal"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return location + scale · ε."""
        (normal,) = noise
        return self.location + self.scale * normal

    def log_density(self, x: Tensor) -> Tensor:
        """Return -½ z² - log(scale √(2π)) for z = (x - location) / scale."""
        z = (x - self.location) / self.scale
        return -0.5 * z**2 - self.scale.log() - 0.5 * math.log(2 * math.pi)

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.location + 0 * self.scale

    @property
    def variance(self) -> Tensor:
        """The variance scale²."""
        return self.scale**2 + 0 * self.location

    def cdf(self, x: Tensor) -> Tensor:
        """Return Φ(z)."""
        below: Tensor = torch.special.ndtr((x - self.location) / self.scale)
        return below


@dataclass(frozen=True, eq=False)
class Laplace(Law):
    """The Laplace law: density exp(-|x - location| / scale) / (2 scale)."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One uniform value."""
        return (Noise("uniform"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return location + scale · ε with ε = ∓log(2 min(u, 1 - u))."""
        u = clipped(noise[0])
        return self.location - self.scale * (torch.sign(u - 0.5) * torch.log(2 * torch.minimum(u, 1 - u)))

    def log_density(self, x: Tensor) -> Tensor:
        """Return -|x - location| / scale - log(2 scale)."""
        return -(x - self.location).abs() / self.scale - (2 * self.scale).log()

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.location + 0 * self.scale

    @property
    def variance(self) -> Tensor:
        """The variance 2 scale²."""
        return 2 * self.scale**2 + 0 * self.location

    def cdf(self, x: Tensor) -> Tensor:
        """Return ½ exp(z) for z ≤ 0 and 1 - ½ exp(-z) above."""
        z = (x - self.location) / self.scale
        tail = 0.5 * torch.exp(-z.abs())
        return torch.where(z < 0, tail, 1 - tail)


@dataclass(frozen=True, eq=False)
class Student(Law):
    """Student's law with `df` degrees of freedom, which need not be whole: location + scale · n / √(χ² / df) for normal n and χ² with df."""

    df: Tensor
    location: Tensor
    scale: Tensor

    POSITIVE = ("df", "scale")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One normal value, and the noise of one gamma draw."""
        return (Noise("normal"), *gammas.NOISE)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return location + scale · n √(½df / g) for a gamma draw g with the concentration ½df."""
        half = 0.5 * (self.df + 0 * (self.location + self.scale))
        log_g = gammas.log_draw(half, *noise[1:])
        return self.location + self.scale * (noise[0] * torch.exp(0.5 * (half.log() - log_g)))

    def log_density(self, x: Tensor) -> Tensor:
        """Return log Γ(½(df + 1)) - log Γ(½df) - ½ log(π df) - log scale - ½(df + 1) log(1 + z² / df)."""
        z = (x - self.location) / self.scale
        constant = torch.lgamma(0.5 * (self.df + 1)) - torch.lgamma(0.5 * self.df) - 0.5 * (math.pi * self.df).log()
        return constant - self.scale.log() - 0.5 * (self.df + 1) * torch.log1p(z**2 / self.df)

    @property
    def mean(self) -> Tensor:
        """The location, or NaN for df of at most 1."""
        return torch.where(self.df > 1, self.location + 0 * self.scale, torch.nan)

    @property
    def variance(self) -> Tensor:
        """The variance scale² df / (df - 2); inf for df of at most 2, and NaN for df of at most 1."""
        variance = self.scale**2 * self.df / (self.df - 2) + 0 * self.location
        return torch.where(self.df > 1, torch.where(self.df > 2, variance, torch.inf), torch.nan)


@dataclass(frozen=True, eq=False)
class Uniform(Law):
    """The uniform law from `low` to `high`."""

    low: Tensor
    high: Tensor

    def check(self) -> None:
        """Raise TrainingError unless low < high."""
        self.require("high", self.high > self.low, "greater than low")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One uniform value."""
        return (Noise("uniform"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return low + (high - low) u."""
        return self.low + (self.high - self.low) * clipped(noise[0])

    def log_density(self, x: Tensor) -> Tensor:
        """Return -log(high - low)."""
        return within(-(self.high - self.low).log() + 0 * x, ~((x < self.low) | (x > self.high)))

    @property
    def mean(self) -> Tensor:
        """The mean (low + high) / 2."""
        return 0.5 * (self.low + self.high)

    @property
    def variance(self) -> Tensor:
        """The variance (high - low)² / 12."""
        return (self.high - self.low) ** 2 / 12

    def cdf(self, x: Tensor) -> Tensor:
        """Return (x - low) / (high - low), between 0 and 1."""
        return ((x - self.low) / (self.high - self.low)).clamp(min=0.0, max=1.0)


@dataclass(frozen=True, eq=False)
class Triangular(Law):
    """The triangular law: its density rises from `low` to `mode` and falls to `high`, each linearly. low < mode < high."""

    low: Tensor
    mode: Tensor
    high: Tensor

    def check(self) -> None:
        """Raise TrainingError unless low < mode < high."""
        self.require("mode", self.mode > self.low, "greater than low")
        self.require("high", self.high > self.mode, "greater than mode")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One uniform value."""
        return (Noise("uniform"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return low + √(u w (mode - low)) for u below (mode - low) / w, and high - √((1 - u) w (high - mode)) above, with w = high - low."""
        u, width = clipped(noise[0]), self.high - self.low
        rising = self.low + torch.sqrt(u * width * (self.mode - self.low))
        falling = self.high - torch.sqrt((1 - u) * width * (self.high - self.mode))
        return torch.where(u * width < self.mode - self.low, rising, falling)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log(2 (x - low) / (w (mode - low))) below the mode and log(2 (high - x) / (w (high - mode))) above."""
        share = torch.where(
            x < self.mode, (x - self.low) / (self.mode - self.low), (self.high - x) / (self.high - self.mode)
        )
        inside = ~(share <= 0)
        return within(torch.where(inside, 2 * share, 1.0).log() - (self.high - self.low).log(), inside)

    @property
    def mean(self) -> Tensor:
        """The mean (low + mode + high) / 3."""
        return (self.low + self.mode + self.high) / 3

    @property
    def variance(self) -> Tensor:
        """The variance (low² + mode² + high² - low mode - low high - mode high) / 18."""
        left, right = self.mode - self.low, self.high - self.mode
        return (left**2 + right**2 + left * right) / 18

    def cdf(self, x: Tensor) -> Tensor:
        """Return the area under the triangle up to x."""
        width = self.high - self.low
        x = torch.minimum(torch.maximum(x, self.low), self.high)
        rising = (x - self.low) ** 2 / (width * (self.mode - self.low))
        falling = 1 - (self.high - x) ** 2 / (width * (self.high - self.mode))
        return torch.where(x < self.mode, rising, falling)
