"""Elliptical laws: location-scale laws of vectors, whose density depends on the Mahalanobis distance alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold.training.distributions.base import Law, Noise, common
from manifold.training.distributions.composition import ChiSquared, F, Root


@dataclass(frozen=True, eq=False)
class Elliptical(Law):
    """The law of location + L (R s): s is uniform on the unit sphere of K dimensions, and R ≥ 0 is drawn from the law `radius`.

    `location` is (*batch, K). `factor` is L, (*batch, K, K), lower triangular with a positive diagonal: only its lower triangle is used.
    R is the Mahalanobis distance |L⁻¹ (x - location)|. The radius has the shape `batch`, or one that broadcasts to it. The lengths of
    normal vectors give the normal law (`gaussian`), and those of Student vectors give Student's law (`student`).
    """

    location: Tensor
    factor: Tensor
    radius: Law

    def check(self) -> None:
        """Raise TrainingError unless the diagonal of the factor is positive."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) > 0
        self.require("factor", diagonal, "a matrix with a positive diagonal")

    @classmethod
    def gaussian(cls, location: Tensor, factor: Tensor) -> Elliptical:
        """Return the normal law with this mean and the covariance L Lᵀ. Its radius is the root of a chi-squared value."""
        one = torch.ones_like(location[..., 0])
        return cls(location, factor, Root(ChiSquared(location.shape[-1] * one), one))

    @classmethod
    def student(cls, location: Tensor, factor: Tensor, df: Tensor) -> Elliptical:
        """Return the law of Student with `df` (*batch) degrees of freedom. R² / K follows the F law with K and df degrees of freedom."""
        size = location.shape[-1] * torch.ones_like(df)
        return cls(location, factor, Root(F(size, df), size))

    @property
    def event(self) -> tuple[int, ...]:
        """The shape (K,)."""
        return (self.location.shape[-1],)

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape to which the parameters broadcast, without the dimensions of vectors and matrices."""
        return common(tuple(self.location.shape[:-1]), tuple(self.factor.shape[:-2]), self.radius.batch)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """The K normal values of the direction, and the noise of the radius."""
        return (Noise("normal", self.event), *self.radius.noise)

    def draw(self, *noise: Tensor) -> Tensor:
        """Return location + L (R n / |n|) for normal n."""
        n = noise[0]
        length = n.square().sum(-1, keepdim=True).sqrt().clamp(min=torch.finfo(n.dtype).tiny)
        standard: Tensor = self.radius.draw(*noise[1:])[..., None] * (n / length)
        moved: Tensor = (self.factor.tril() @ standard[..., None])[..., 0]
        return self.location + moved

    def distance(self, x: Tensor) -> Tensor:
        """Return the Mahalanobis distances of x (*sample, *batch, K), as (*sample, *batch).

        They are at least 1e-19 in float32 and 1e-154 in float64, so that their squares and derivatives are finite at the location.
        """
        difference = (x - self.location)[..., None]
        factor = self.factor.expand(*difference.shape[:-2], *self.factor.shape[-2:])
        standard: Tensor = torch.linalg.solve_triangular(factor, difference, upper=False)[..., 0]
        squares = standard.square().sum(-1)
        return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p_R(r) - (K - 1) log r - log(2 π^(K/2) / Γ(K/2)) - log det L at the distance r."""
        size, r = self.event[0], self.distance(x)
        sphere = math.log(2) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)
        determinant = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.radius.log_density(r) - (size - 1) * r.log() - sphere - determinant
