"""The priors that the codes of an adversarial autoencoder are trained towards. They have draws, densities and a form in the manifest.

`gaussian` is N(0, I). `mixture` has ten Gaussians of equal weight, as in Makhzani et al., 2015 (arXiv 1511.05644). Their means lie on a circle
in the plane of the first two dimensions, and each is long along the radius and narrow across it, like the petals of a flower. All further
dimensions are N(0, 1) and independent of the plane.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from manifold.runtime.manifest import MixturePrior, NormalPrior

COMPONENTS = 10
RADIUS = 3.0  # distance of the means from the origin
LONG, NARROW = 0.7, 0.25  # standard deviations along the radius and across it; neighbouring means are 7 NARROW apart


class Normal(nn.Module):
    """N(0, I) over vectors of `size` values."""

    name = "normal"  # in the manifest
    description = "N(0, I)"
    interpolation: Literal["slerp", "lerp"] = "slerp"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws (n, size), on the generator's device."""
        return torch.randn((n, self.size), generator=generator, device=generator.device)

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log density in nats of z (B, size), as (B,)."""
        return -0.5 * (z**2).sum(1) - 0.5 * self.size * math.log(2 * math.pi)

    def stated(self) -> NormalPrior | MixturePrior:
        """Return the prior for the manifest."""
        return NormalPrior()


class Mixture(Normal):
    """The mixture of COMPONENTS Gaussians with equal weights over vectors of `size` values, at least 2."""

    name = "trained"
    description = f"{COMPONENTS} Gaussians on a circle"
    interpolation: Literal["slerp", "lerp"] = "lerp"

    means: Tensor  # (K, L)
    factors: Tensor  # (K, L, L), lower triangular

    def __init__(self, size: int) -> None:
        super().__init__(size)
        angles = 2 * math.pi * torch.arange(COMPONENTS, dtype=torch.float64) / COMPONENTS
        axes = torch.stack(
            [torch.stack([angles.cos(), angles.sin()], 1), torch.stack([-angles.sin(), angles.cos()], 1)], 2
        )
        spread = axes * torch.tensor(
            [LONG, NARROW], dtype=torch.float64
        )  # (K, 2, 2): columns along and across the radius
        means = torch.zeros(COMPONENTS, size, dtype=torch.float64)
        means[:, :2] = RADIUS * axes[:, :, 0]
        factors = torch.eye(size, dtype=torch.float64).repeat(COMPONENTS, 1, 1)
        factors[:, :2, :2] = torch.linalg.cholesky(spread @ spread.transpose(1, 2))
        self.register_buffer("means", means.float(), persistent=False)
        self.register_buffer("factors", factors.float(), persistent=False)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(COMPONENTS, (n,), generator=generator, device=generator.device)
        noise = super().draw(n, generator)
        drawn: Tensor = self.means[which] + (self.factors[which] @ noise[:, :, None])[:, :, 0]
        return drawn

    def log_density(self, z: Tensor) -> Tensor:
        apart = (z[:, None] - self.means)[..., None]  # (B, K, L, 1)
        standard = torch.linalg.solve_triangular(self.factors, apart, upper=False)[..., 0]
        determinants = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
        found: Tensor = (-0.5 * standard.square().sum(2) - determinants).logsumexp(1)
        return found - math.log(COMPONENTS) - 0.5 * self.size * math.log(2 * math.pi)

    def stated(self) -> NormalPrior | MixturePrior:
        return MixturePrior(
            weights=(1 / COMPONENTS,) * COMPONENTS,
            means=tuple(map(tuple, self.means.tolist())),
            choleskys=tuple(tuple(map(tuple, factor)) for factor in self.factors.tolist()),
        )


def code_prior(kind: str, size: int) -> Normal:
    """Return the prior of this kind, gaussian or mixture, over vectors of `size` values."""
    return Mixture(size) if kind == "mixture" else Normal(size)


def largest_gap(first: Tensor, second: Tensor) -> float:
    """Return the largest two-sample Kolmogorov-Smirnov statistic over the dimensions of two samples (N, L) and (M, L)."""
    gaps = []
    for one, other in zip(first.T.contiguous().sort(1).values, second.T.contiguous().sort(1).values, strict=True):
        both = torch.cat([one, other])
        counts = [torch.searchsorted(each, both, right=True).double() / len(each) for each in (one, other)]
        gaps.append((counts[0] - counts[1]).abs().max())
    return float(torch.stack(gaps).max())
