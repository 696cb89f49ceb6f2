"""The approximate posteriors q(z | x) of a variational autoencoder. An encoder computes their parameters.

    gaussian    N(mean, diag σ²)                                     Kingma and Welling, 2013, arXiv 1312.6114
    full        N(mean, L Lᵀ) with a lower triangular factor L       Kingma and Welling, 2019, arXiv 1906.02691, section 2.5.1
    iaf         inverse autoregressive flow of a diagonal Gaussian   Kingma et al., 2016, arXiv 1606.04934
    logistic    a logistic distribution for each dimension
    log-normal  a log-normal distribution for each dimension, under the prior LogNormal(0, 1)
    gamma       a gamma distribution for each dimension, under the prior Gamma(1, 1), which is exponential

A draw is a function of standard normal noise (S, B, `noise`), which is an argument. The coordinates u of a draw are those in which the prior
is N(0, I): u = z except for log-normal (u = log z) and gamma (u = Φ⁻¹(1 - exp(-z))). Draws, densities and moments below are in u, and so are the
priors of training.networks.priors: by the change of variables, each of them is a prior of z too. `to_decoder` maps u to z, the decoder's input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.training.bounds import gaussian_kl
from manifold.training.distributions import gamma_quantiles, normals
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
    closed = True  # whether the KL to N(0, I) has a closed form
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
        """Return draws u (S, B, L) and log q(u | x) in nats (S, B), for noise (S, B, `noise`)."""
        mean, log_variance = outputs[:, : self.size], outputs[:, self.size :]
        u = mean + (0.5 * log_variance).exp() * noise
        return u, sums(-HALF_LOG_TWO_PI - 0.5 * (noise**2 + log_variance))

    def kl(self, outputs: Tensor) -> Tensor:
        """Return terms (B, L) whose sum over the dimensions is KL(q(u | x) || N(0, I)) in nats. Only for a law with a closed form."""
        return gaussian_kl(outputs[:, : self.size], outputs[:, self.size :])

    def to_decoder(self, u: Tensor) -> Tensor:
        """Map u (B, L) to z, the input of the decoder (B, L)."""
        return u


class Full(Posterior):
    """A Gaussian with a full covariance. The factor is L = diag(exp(s)) (I + A / d), with A strictly lower triangular, for d dimensions.

    Values below the diagonal that are not relative to the scale of their row add noise, and training ends at a much lower ELBO.
    """

    diagonal = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.outputs = 2 * size + size * (size - 1) // 2
        self.below = nn.Buffer(torch.tril_indices(size, size, -1), persistent=False)

    def log_scale(self, outputs: Tensor) -> Tensor:
        """Return log L_ii (B, L). The outputs are twice as large, as those of a diagonal Gaussian are."""
        return (0.5 * outputs[:, self.size : 2 * self.size]).clamp(*LOG_SCALES)

    def factor(self, outputs: Tensor) -> Tensor:
        """Return the factors L (B, L, L)."""
        row, column = self.below[0], self.below[1]
        flat = torch.zeros_like(outputs[:, :1]).expand(-1, self.size**2)
        places = (row * self.size + column).expand(outputs.shape[0], -1)
        below = flat.scatter(1, places, outputs[:, 2 * self.size :] / self.size).view(-1, self.size, self.size)
        scale = self.log_scale(outputs).exp()
        return scale[:, :, None] * below + torch.diag_embed(scale)

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return outputs[:, : self.size], self.factor(outputs).square().sum(2).log()

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        # in double precision, which mixed precision leaves as it is: log q below is that of these draws
        moved = torch.einsum("bij,sbj->sbi", self.factor(outputs).double(), noise.double()).to(outputs.dtype)
        return outputs[:, : self.size] + moved, sums(-HALF_LOG_TWO_PI - 0.5 * noise**2 - self.log_scale(outputs))

    def kl(self, outputs: Tensor) -> Tensor:
        """Return ½ (Σ_j L_ij² + mean_i² - 1) - log L_ii for each dimension i."""
        squares = self.factor(outputs).square().sum(2) + outputs[:, : self.size] ** 2
        return 0.5 * (squares - 1) - self.log_scale(outputs)


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

    diagonal = has_variance = closed = False
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


class Logistic(Posterior):
    """A logistic distribution of each dimension. The encoder computes locations and log scales, which are limited to LOG_SCALES."""

    diagonal = False

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        log_scale = outputs[:, self.size :].clamp(*LOG_SCALES)
        return outputs[:, : self.size], 2 * log_scale + math.log(math.pi**2 / 3)

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = outputs[:, self.size :].clamp(*LOG_SCALES)
        log_p, log_rest = normals.log_probabilities(noise)
        u = outputs[:, : self.size] + log_scale.exp() * (log_p - log_rest)  # the quantile function at p = Φ(noise)
        return u, sums(log_p + log_rest - log_scale)

    def kl(self, outputs: Tensor) -> Tensor:
        """Return ½ (location² + π² scale² / 3 + log 2π) - log scale - 2, as the entropy of the law is log scale + 2."""
        location, log_scale = outputs[:, : self.size], outputs[:, self.size :].clamp(*LOG_SCALES)
        return 0.5 * (location**2 + math.pi**2 / 3 * (2 * log_scale).exp()) + HALF_LOG_TWO_PI - log_scale - 2


class LogNormal(Posterior):
    """A log-normal distribution of each dimension. The encoder computes the mean and the log-variance of u = log z, which is Gaussian."""

    LIMIT = 10.0  # size of u above which it is clipped for the decoder, whose input is then within 4.5e-5 and 22026

    def to_decoder(self, u: Tensor) -> Tensor:
        """Map u (B, L) to z = exp(u), with u clipped to ± LIMIT, so that z is finite for any latent."""
        return u.clamp(-self.LIMIT, self.LIMIT).exp()


class Gamma(Posterior):
    """A gamma distribution of each dimension with shape α and rate α / m, for which the encoder computes log m, the log of the mean, and α.

    Outputs near 0 give the prior, m = α = 1. α is 0.3 + 0.7 exp(output), which is log α = log 0.3 + softplus(output + log 7/3), and at most 9352.
    """

    diagonal = has_variance = closed = False
    LOG_MEANS = (-30.0, 3.0)  # limits of log m
    LOG_VALUES = (
        -80.0,
        6.5,
    )  # limits of log z, between which u is from -12.4 to 36.3; only far tails of small α exceed them
    LOG_SHAPE = 9.5  # limit of the output that gives α, so that α is within gamma_quantiles.SHAPES
    LIMIT = 37.0  # size of u above which it is clipped for the decoder

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.table = nn.Buffer(gamma_quantiles.table(), persistent=False)

    def laws(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log means and the shapes α (B, L)."""
        least = gamma_quantiles.SHAPES[0]
        shape = least + (1 - least) * outputs[:, self.size :].clamp(max=self.LOG_SHAPE).exp()
        return outputs[:, : self.size].clamp(*self.LOG_MEANS), shape

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the medians of u, which are the draw whose noise is 0.

        They are computed in float64: in a dimension that is hardly used they differ little, and distances are in units of their deviation.
        """
        log_mean, shape = self.laws(outputs.double())
        u, _ = self.latent(log_mean + gamma_quantiles.log_median(self.table, shape))
        return u.to(outputs.dtype), None

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_mean, shape = self.laws(outputs)
        ratio, log_q = gamma_quantiles.log_draw(self.table, shape, noise)
        u, log_p = self.latent(log_mean + ratio)
        return u, sums(log_q + log_normal_density(u) - log_p)

    def latent(self, log_z: Tensor) -> tuple[Tensor, Tensor]:
        """Return u for log z, and the log density of log z under the prior, which is N(u; 0, 1) du / d log z."""
        log_z = log_z.clamp(*self.LOG_VALUES)
        z = log_z.exp()
        return normals.quantile(_log_of_rest(z, log_z), -z), log_z - z

    def to_decoder(self, u: Tensor) -> Tensor:
        """Map u (B, L) to z = -log(1 - Φ(u)), with u clipped to ± LIMIT, so that z is at most 689."""
        return -normals.log_probabilities(u.clamp(-self.LIMIT, self.LIMIT))[1]


def _log_of_rest(z: Tensor, log_z: Tensor) -> Tensor:
    """Return log(1 - exp(-z)), for z < 1 by the series of log(sinh(z / 2) / (z / 2)), as exp(-z) rounds to 1 for small z."""
    square = z.clamp(max=1.0) ** 2
    series = log_z - 0.5 * z + square * (1 / 24 - square * (1 / 2880 - square / 181440))
    return torch.where(z < 1, series, (1 - (-z.clamp(min=1.0)).exp()).log())


POSTERIORS = {
    "gaussian": Posterior, "full": Full, "iaf": Flow, "logistic": Logistic, "log-normal": LogNormal, "gamma": Gamma,
}  # fmt: skip
WORDS = {  # names for descriptions, after a comma
    "full": ", posteriors with a full covariance",
    "iaf": ", posteriors by an inverse autoregressive flow",
    **{name: f", {name} posteriors" for name in ("logistic", "log-normal", "gamma")},
}
