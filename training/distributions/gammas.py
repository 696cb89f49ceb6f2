"""Draws of the gamma law from a fixed number of normal and uniform values, and the derivative of a draw by its shape parameter.

**Draws.** Marsaglia and Tsang (2000, "A simple method for generating gamma variables") propose d v with v = (1 + c n)³ for normal n,
d = α - ⅓ and c = 1 / √(9 d), for α ≥ 1. A proposal is accepted if v > 0 and log u < ½ n² + d (1 - v + log v) for uniform u. Here ROUNDS
proposals are computed, and the first accepted one is taken. At α = 1, the worst case, a proposal is accepted with probability 0.95, so
no proposal is accepted in 3e-11 of the draws; these get d, the centre of the proposals. For α < 1 the draw at α + 1 is multiplied by
u^(1/α) for one more uniform. All draws are logarithms, because draws at small α underflow: at α = 0.1, one of 6000 is below the least
float32.

**Derivatives.** The derivative of the accepted proposal by α is not that of the law: a change of α also changes which proposals are
accepted, and the gradient of an expectation would be biased. A draw gets the implicit derivative instead (Figurnov, Mohamed and Mnih,
2018, arXiv 1805.08498): the value z moves with α so that its rank F(z; α) stays the same,

    dz/dα = -(∂F/∂α) / p(z; α).

∂F/∂α is a central difference of torch.special.gammainc, or of gammaincc in the upper half, in float64. Its relative error is below
1e-5; that of the approximations in torch's own gamma sampler reaches 3e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manifold.training.distributions.base import Noise, clipped

ROUNDS = 8
NOISE = (Noise("normal", (ROUNDS,)), Noise("uniform", (ROUNDS + 1,)))  # the last uniform is that of shapes below 1
STEP = 1e-4  # step of the central difference, in units of the smaller one of α and √α
SMALL = -30.0  # log z below which F(z; α) = z^α / Γ(α + 1) holds to float64 precision


def log_draw(concentration: Tensor, normals: Tensor, uniforms: Tensor) -> Tensor:
    """Return log z for draws z of the gamma law with this shape parameter and rate 1, which must be positive.

    The concentration (*batch) and the normals (*sample, *batch, ROUNDS) and uniforms (*sample, *batch, ROUNDS + 1) broadcast; the result is
    (*sample, *batch). It has the implicit derivative by the concentration.
    """
    uniforms = clipped(uniforms)
    with torch.no_grad():
        log_z = _accepted(concentration, normals, uniforms)
    if torch.compiler.is_compiling() or not (concentration.requires_grad and torch.is_grad_enabled()):
        return log_z
    moved = concentration - concentration.detach()  # 0, with the derivative 1
    return log_z + slope(concentration.detach().expand(log_z.shape), log_z) * moved


def _accepted(concentration: Tensor, normals: Tensor, uniforms: Tensor) -> Tensor:
    """Return the log of the first accepted proposal, without a derivative."""
    small = concentration < 1
    d = (torch.where(small, concentration + 1, concentration) - 1 / 3)[..., None]
    tiny = torch.finfo(normals.dtype).tiny
    root = 1 + normals / torch.sqrt(9 * d)
    log_v = 3 * root.clamp(min=tiny).log()
    limit = 0.5 * normals**2 + d * (1 - root.clamp(min=0.0) ** 3 + log_v)
    accepted = (root > 0) & (uniforms[..., :ROUNDS].log() < limit)
    chosen = torch.zeros_like(log_v[..., 0])  # log v of the centre
    for place in reversed(range(ROUNDS)):
        chosen = torch.where(accepted[..., place], log_v[..., place], chosen)
    boost = torch.where(small, uniforms[..., ROUNDS].log() / concentration, 0.0)
    return d[..., 0].log() + chosen + boost


def slope(concentration: Tensor, log_z: Tensor) -> Tensor:
    """Return d log z / dα at a fixed F(z; α), for tensors of one shape. The result has no derivative."""
    a, y = concentration.detach().double(), log_z.detach().double()
    z = y.clamp(min=SMALL).exp()
    step = STEP * torch.minimum(a, a.sqrt())
    lower, upper = (
        (function(a + step, z) - function(a - step, z)) / (2 * step)
        for function in (torch.special.gammainc, torch.special.gammaincc)
    )
    changes = torch.where(torch.special.gammainc(a, z) < 0.5, lower, -upper)
    middle = -changes / torch.exp(a * z.log() - z - torch.lgamma(a))
    small = (torch.special.digamma(a + 1) - y) / a  # the derivative of log z = (log F + log Γ(α + 1)) / α
    return torch.where(y < SMALL, small, middle).to(log_z.dtype)


def value(log_z: Tensor) -> Tensor:
    """Return z for log z, within the positive numbers of its type. Values near 0 would otherwise be 0, at which a density can be infinite."""
    limits = torch.finfo(log_z.dtype)
    return log_z.exp().clamp(min=limits.tiny, max=limits.max)
