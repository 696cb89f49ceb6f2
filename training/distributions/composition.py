"""Laws that are functions of other draws: log-normal, gamma, beta, Dirichlet, chi-squared, F, and the root of a positive law.

The random inputs of all but the log-normal law are those of gamma draws (`gammas`), whose docstring explains their derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold.training.distributions import gammas
from manifold.training.distributions.base import Law, Noise, common, within

LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class LogNormal(Law):
    """The log-normal law: log x is normal with mean `location` and standard deviation `scale`."""

    location: Tensor
    scale: Tensor

    POSITIVE = ("scale",)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """One normal value."""
        return (Noise("normal"),)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return exp(location + scale · ε)."""
        (normal,) = noise
        return torch.exp(self.location + self.scale * normal)

    def log_density(self, x: Tensor) -> Tensor:
        """Return -½ z² - log(scale x √(2π)) for z = (log x - location) / scale."""
        inside = ~(x <= 0)
        log_x = torch.where(inside, x, 1.0).log()
        z = (log_x - self.location) / self.scale
        return within(-0.5 * z**2 - log_x - self.scale.log() - 0.5 * LOG_TWO_PI, inside)

    @property
    def mean(self) -> Tensor:
        """The mean exp(location + scale² / 2)."""
        return torch.exp(self.location + 0.5 * self.scale**2)

    @property
    def variance(self) -> Tensor:
        """The variance (exp(scale²) - 1) · mean²."""
        return torch.expm1(self.scale**2) * self.mean**2

    def cdf(self, x: Tensor) -> Tensor:
        """Return Φ(z)."""
        inside = ~(x <= 0)
        z = (torch.where(inside, x, 1.0).log() - self.location) / self.scale
        return torch.where(inside, torch.special.ndtr(z), 0.0)


@dataclass(frozen=True, eq=False)
class Gamma(Law):
    """The gamma law: density rate^α x^(α - 1) exp(-rate x) / Γ(α) for x > 0, with the shape parameter α, the `concentration`."""

    concentration: Tensor
    rate: Tensor

    POSITIVE = ("concentration", "rate")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of one gamma draw."""
        return gammas.NOISE

    def draw(self, *noise: Tensor) -> Tensor:
        """Return draws, at least the least positive number of their type."""
        return gammas.value(self.log_draw(*noise))

    def log_draw(self, *noise: Tensor) -> Tensor:
        """Return logarithms of draws. They are precise for small concentrations too, at which draws themselves underflow."""
        return gammas.log_draw(self.concentration + 0 * self.rate, *noise) - self.rate.log()

    def log_density(self, x: Tensor) -> Tensor:
        """Return α log rate + (α - 1) log x - rate x - log Γ(α)."""
        a = self.concentration
        inside = ~(x < 0)
        safe = torch.where(inside, x, 1.0)
        return within(a * self.rate.log() + torch.xlogy(a - 1, safe) - self.rate * safe - torch.lgamma(a), inside)

    @property
    def mean(self) -> Tensor:
        """The mean α / rate."""
        return self.concentration / self.rate

    @property
    def variance(self) -> Tensor:
        """The variance α / rate²."""
        return self.concentration / self.rate**2

    def cdf(self, x: Tensor) -> Tensor:
        """Return the regularised incomplete gamma function at rate · x. It has no derivative by the concentration."""
        below: Tensor = torch.special.gammainc(self.concentration + 0 * x, self.rate * x.clamp(min=0.0))
        return below


@dataclass(frozen=True, eq=False)
class ChiSquared(Law):
    """The chi-squared law: the sum of the squares of `df` standard normal values. `df`, the degrees of freedom, need not be whole."""

    df: Tensor

    POSITIVE = ("df",)

    @property
    def gamma(self) -> Gamma:
        """The same law as a gamma law, with concentration df / 2 and rate ½."""
        return Gamma(0.5 * self.df, torch.full_like(self.df, 0.5), checked=False)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of one gamma draw."""
        return gammas.NOISE

    def draw(self, *noise: Tensor) -> Tensor:
        """Return draws of the gamma law."""
        return self.gamma.draw(*noise)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density of the gamma law."""
        return self.gamma.log_density(x)

    @property
    def mean(self) -> Tensor:
        """The mean df."""
        return self.df

    @property
    def variance(self) -> Tensor:
        """The variance 2 df."""
        return 2 * self.df

    def cdf(self, x: Tensor) -> Tensor:
        """Return the distribution function of the gamma law."""
        return self.gamma.cdf(x)


@dataclass(frozen=True, eq=False)
class Beta(Law):
    """The beta law: density x^(a - 1) (1 - x)^(b - 1) / B(a, b) for x between 0 and 1. A draw is g / (g + h) for gamma draws g and h.

    A draw is between the least positive number and 1 - ε/2 for the ε of its type, 1 - 6e-8 in float32. Draws that are nearer to 1 are
    rounded to this number, which with a small b are many: 0.4% for a = b = 0.3. float64, or 1 - x of the law with a and b exchanged, has them.
    """

    a: Tensor
    b: Tensor

    POSITIVE = ("a", "b")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of two gamma draws."""
        return (*gammas.NOISE, *gammas.NOISE)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return 1 / (1 + exp(log h - log g))."""
        g, h = _two(self.a, self.b, noise)
        limits = torch.finfo(g.dtype)
        return torch.sigmoid(g - h).clamp(min=limits.tiny, max=1 - limits.eps / 2)

    def log_density(self, x: Tensor) -> Tensor:
        """Return (a - 1) log x + (b - 1) log(1 - x) - log B(a, b)."""
        inside = ~((x < 0) | (x > 1))
        safe = torch.where(inside, x, 0.5)
        powers = torch.xlogy(self.a - 1, safe) + torch.special.xlog1py(self.b - 1, -safe)
        return within(powers - _log_beta(self.a, self.b), inside)

    @property
    def mean(self) -> Tensor:
        """The mean a / (a + b)."""
        return self.a / (self.a + self.b)

    @property
    def variance(self) -> Tensor:
        """The variance a b / ((a + b)² (a + b + 1))."""
        total = self.a + self.b
        return self.a * self.b / (total**2 * (total + 1))


@dataclass(frozen=True, eq=False)
class F(Law):
    """The F law: the ratio of two chi-squared values, each divided by its degrees of freedom, `df1` and `df2`."""

    df1: Tensor
    df2: Tensor

    POSITIVE = ("df1", "df2")

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of two gamma draws."""
        return (*gammas.NOISE, *gammas.NOISE)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return (g / df1) / (h / df2) for gamma draws g and h with the concentrations df1 / 2 and df2 / 2."""
        g, h = _two(0.5 * self.df1, 0.5 * self.df2, noise)
        return gammas.value(g - h + self.df2.log() - self.df1.log())

    def log_density(self, x: Tensor) -> Tensor:
        """Return ½df1 log r + (½df1 - 1) log x - ½(df1 + df2) log(1 + r x) - log B(½df1, ½df2) for r = df1 / df2."""
        a, b, ratio = 0.5 * self.df1, 0.5 * self.df2, self.df1 / self.df2
        inside = ~(x < 0)
        safe = torch.where(inside, x, 1.0)
        powers = a * ratio.log() + torch.xlogy(a - 1, safe) - (a + b) * torch.log1p(ratio * safe)
        return within(powers - _log_beta(a, b), inside)

    @property
    def mean(self) -> Tensor:
        """The mean df2 / (df2 - 2), or inf for df2 of at most 2."""
        mean = self.df2 / (self.df2 - 2) + 0 * self.df1
        return torch.where(self.df2 > 2, mean, torch.inf)

    @property
    def variance(self) -> Tensor:
        """The variance 2 df2² (df1 + df2 - 2) / (df1 (df2 - 2)² (df2 - 4)), or inf for df2 of at most 4."""
        variance = 2 * self.df2**2 * (self.df1 + self.df2 - 2) / (self.df1 * (self.df2 - 2) ** 2 * (self.df2 - 4))
        return torch.where(self.df2 > 4, variance, torch.inf)


@dataclass(frozen=True, eq=False)
class Dirichlet(Law):
    """The Dirichlet law of K shares that sum to 1, with the concentration (*batch, K). A draw is a vector of gamma draws, divided by its sum."""

    concentration: Tensor

    POSITIVE = ("concentration",)

    @property
    def event(self) -> tuple[int, ...]:
        """The shape (K,)."""
        return (self.concentration.shape[-1],)

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the concentration without its last dimension."""
        return tuple(self.concentration.shape[:-1])

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of K gamma draws."""
        return tuple(Noise(each.kind, (*self.event, *each.shape)) for each in gammas.NOISE)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return the softmax of the logarithms of gamma draws, at least the least positive number."""
        shares = torch.softmax(gammas.log_draw(self.concentration, *noise), -1)
        return shares.clamp(min=torch.finfo(shares.dtype).tiny)

    def log_density(self, x: Tensor) -> Tensor:
        """Return Σ (α - 1) log x + log Γ(Σ α) - Σ log Γ(α), a density by the first K - 1 shares. The sum of x is not checked."""
        a = self.concentration
        inside = ~(x < 0)
        powers = torch.xlogy(a - 1, torch.where(inside, x, 1.0)).sum(-1)
        return within(powers + torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1), inside.all(-1))

    @property
    def mean(self) -> Tensor:
        """The mean α / Σ α."""
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    @property
    def variance(self) -> Tensor:
        """The variance m (1 - m) / (1 + Σ α) for the mean m."""
        return self.mean * (1 - self.mean) / (1 + self.concentration.sum(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Root(Law):
    """The law of √(scale · S) for a positive law of S, such as the length of a normal vector of K dimensions for ChiSquared(K)."""

    square: Law
    scale: Tensor

    POSITIVE = ("scale",)

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape to which the parameters of both broadcast."""
        return common(self.square.batch, tuple(self.scale.shape))

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The noise of the law of S."""
        return self.square.noise

    def draw(self, *noise: Tensor) -> Tensor:
        """Return √(scale · S)."""
        return torch.sqrt(self.scale * self.square.draw(*noise))

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density of S at x² / scale, plus log(2 x / scale)."""
        inside = ~(x <= 0)
        safe = torch.where(inside, x, 1.0)
        return within(self.square.log_density(safe**2 / self.scale) + (2 * safe / self.scale).log(), inside)

    def cdf(self, x: Tensor) -> Tensor:
        """Return the distribution function of S at x² / scale."""
        return self.square.cdf(x.clamp(min=0.0) ** 2 / self.scale)


def _two(first: Tensor, second: Tensor, noise: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the logarithms of two gamma draws. The concentrations are broadcast, as each must have the shape of its noise."""
    shape = common(tuple(first.shape), tuple(second.shape))
    return gammas.log_draw(first.expand(shape), *noise[:2]), gammas.log_draw(second.expand(shape), *noise[2:])


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Return log B(a, b)."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
