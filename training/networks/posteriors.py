"""The approximate posteriors q(z | x) of a variational autoencoder. An encoder computes their parameters.

    gaussian    N(mean, diag σ²)                                     Kingma and Welling, 2013, arXiv 1312.6114
    full        N(mean, L Lᵀ) with a lower triangular factor L       Kingma and Welling, 2019, arXiv 1906.02691, section 2.5.1
    iaf         inverse autoregressive flow of a diagonal Gaussian   Kingma et al., 2016, arXiv 1606.04934
    logistic    a logistic distribution for each dimension
    log-normal  a log-normal distribution for each dimension, under the prior LogNormal(0, 1)
    gamma       a gamma distribution for each dimension, under the prior Gamma(1, 1), which is exponential

A draw is a function of standard normal noise (S, B, `noise`), which is an argument. The coordinates u of a draw are those in which the prior
is N(0, I): u = z except for log-normal (u = log z) and gamma (u = Φ⁻¹(1 - exp(-z))).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.networks.layers import per_item
from manifold.training.networks.masked import Prefix

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
LOG_SCALES = (-8.0, 6.0)  # limits of log scales whose exponentials would otherwise overflow


def log_normal_density(z: Tensor, mean: Tensor | float = 0.0, log_variance: Tensor | float = 0.0) -> Tensor:
    """Return the log density of N(mean, exp(log_variance)) at each value of z, in nats."""
    log_variance = torch.as_tensor(log_variance, dtype=z.dtype, device=z.device)
    return -HALF_LOG_TWO_PI - 0.5 * (log_variance + (z - mean) ** 2 * (-log_variance).exp())


def sums(values: Tensor) -> Tensor:
    """Return the sums over the last axis of values (S, B, L): (S, B)."""
    return per_item(values.flatten(0, 1)).view(values.shape[:2])


class Posterior(nn.Module):
    """A diagonal Gaussian, and the base class of the others."""

    diagonal = True  # whether mean and log-variance define the posterior
    has_variance = True  # whether the mean and the variance of each dimension have closed forms

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.outputs = 2 * size  # number of outputs of the encoder
        self.noise = size  # number of normals for one draw

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean and the log-variance (B, L) of each dimension. Without the latter, the former is the draw whose noise is 0."""
        return outputs[:, : self.size], outputs[:, self.size :]

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws z (S, B, L) and log q(z | x) in nats (S, B), for noise (S, B, `noise`)."""
        mean, log_variance = outputs[:, : self.size], outputs[:, self.size :]
        z = mean + (0.5 * log_variance).exp() * noise
        return z, sums(-HALF_LOG_TWO_PI - 0.5 * (noise**2 + log_variance))


class Full(Posterior):
    """A Gaussian with a full covariance. The factor L has exp(s) on its diagonal, and free values below it."""

    diagonal = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.outputs = 2 * size + size * (size - 1) // 2
        self.below = nn.Buffer(torch.tril_indices(size, size, -1), persistent=False)

    def factor(self, outputs: Tensor) -> Tensor:
        """Return the factors L (B, L, L)."""
        row, column = self.below[0], self.below[1]
        flat = torch.zeros_like(outputs[:, :1]).expand(-1, self.size**2)
        places = (row * self.size + column).expand(outputs.shape[0], -1)
        below = flat.scatter(1, places, outputs[:, 2 * self.size :]).view(-1, self.size, self.size)
        return below + torch.diag_embed(outputs[:, self.size : 2 * self.size].clamp(*LOG_SCALES).exp())

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return outputs[:, : self.size], self.factor(outputs).square().sum(2).log()

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = outputs[:, self.size : 2 * self.size].clamp(*LOG_SCALES)
        z = outputs[:, : self.size] + torch.einsum("bij,sbj->sbi", self.factor(outputs), noise)
        return z, sums(-HALF_LOG_TWO_PI - 0.5 * noise**2 - log_scale)


class AutoregressiveStep(nn.Module):
    """One step of the flow (Kingma et al., 2016, algorithm 1): z ← σ z + (1 - σ) m, with m and the gate σ from a MADE of z and a context."""

    def __init__(self, size: int, hidden: int, context: int) -> None:
        super().__init__()
        degrees = [1 + (unit * max(1, size - 1)) // hidden for unit in range(hidden)]
        self.first, self.context = Prefix(size, degrees, 2**0.5), nn.Linear(context, hidden)
        limits = [sum(degree <= place for degree in degrees) for place in range(size)]
        self.shift, self.gate = Prefix(hidden, limits, 0.1), Prefix(hidden, limits, 0.1)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (N, L) and context (N, C) to the next z and log σ (N, L)."""
        h = F.elu(self.first(z) + self.context(context))
        log_gate = F.logsigmoid(self.gate(h) + 1.5)  # the gate starts near 1, as a forget gate does
        gate = log_gate.exp()
        return gate * z + (1 - gate) * self.shift(h), log_gate


class Flow(Posterior):
    """An inverse autoregressive flow of STEPS steps, between which the order of the dimensions is reversed."""

    diagonal = has_variance = False
    STEPS, HIDDEN = 3, 320

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.outputs = 3 * size  # mean, log-variance and context
        self.steps = nn.ModuleList(AutoregressiveStep(size, self.HIDDEN, size) for _ in range(self.STEPS))

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        z, _ = self.draw(outputs, torch.zeros_like(outputs[None, :, : self.size]))
        return z[0], None

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        drawn, log_q = super().draw(outputs[:, : 2 * self.size], noise)
        z, context = drawn.flatten(0, 1), outputs[:, 2 * self.size :].repeat(noise.shape[0], 1)
        for step in self.steps:
            z, log_gate = step(z.flip(1), context)
            log_q = log_q - per_item(log_gate).view(log_q.shape)
        return z.view(drawn.shape), log_q


POSTERIORS = {"gaussian": Posterior, "full": Full, "iaf": Flow}
