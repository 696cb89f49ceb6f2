"""The discretised logistic distribution over levels v / (K - 1), and mixtures of it (Salimans et al., 2017, arXiv 1701.05517, eq. 2).

A logistic distribution is cut halfway between levels, with open ends, so that the probabilities of all levels sum to 1. All functions are
also used in exported graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_LOG_SCALE = -7.0  # smallest log scale, in units of the range [0, 1]: a quarter of one of 256 levels
MOST_LOG_SCALE = 7.0  # largest log scale: a scale of 1100 ranges, at which the first and the last level have half of the probability each


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)). torch's own softplus is not used, as it is exported as log(1 - sigmoid), which overflows."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def log_share(rate: Tensor) -> Tensor:
    """Return log(1 - exp(-rate)) for rates > 0. For small rates, 1 - exp(-rate) itself would be 0 in single precision.

    It is written with tanh(rate / 2), as expm1 is exported as exp(x) - 1.
    """
    half = torch.tanh(0.5 * rate)  # 1 - exp(-rate) = 2 half / (1 + half)
    return torch.log(2 * half) - torch.log1p(half)


def nll(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return -log p in nats of the levels x in [0, 1], for means and log scales in the same units. The shapes are broadcast."""
    rate, half = torch.exp(-log_scale.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE)), 0.5 / (levels - 1)
    centred = x - mean
    upper, lower = (centred + half) * rate, (centred - half) * rate
    # σ(u) - σ(l) = σ(u) σ(-l) (1 - exp(l - u)); at the ends one side is open, and only the other side's factor remains
    below, above = (x < 1 - half).to(mean.dtype), (x > half).to(mean.dtype)
    return below * softplus(-upper) + above * softplus(lower) - below * above * log_share(2 * half * rate)


def mixture_nll(x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> Tensor:
    """Return -log p in nats of the levels x (...) for a mixture with components along the last axis (..., K)."""
    return -torch.logsumexp(logits.log_softmax(-1) - nll(x[..., None], means, log_scales, levels), -1)


def component(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return the indices of components, int64 (B, 1), drawn from logits (B, K) by uniforms (B, 1): the inverse of the cumulative probabilities."""
    below = (logits.softmax(1).cumsum(1) <= uniforms).to(torch.int64).sum(1, keepdim=True)
    return below.clamp(max=logits.shape[1] - 1)


def quantile(mean: Tensor, scale: Tensor, share: Tensor) -> Tensor:
    """Return the values of logistic distributions below which these shares lie, which are inside (0, 1). The shapes are broadcast."""
    return mean + scale * (torch.log(share) - torch.log1p(-share))


def draw(
    logits: Tensor,
    means: Tensor,
    log_scales: Tensor,
    first: Tensor,
    second: Tensor,
    levels: int,
    edge: float,
    least: float = LEAST_LOG_SCALE,  # arguments, as TorchScript takes no global numbers
    most: float = MOST_LOG_SCALE,
) -> Tensor:
    """Return levels int64 (B,), drawn from mixtures (B, K) by two uniforms (B, 1): the component, then the level by its quantile."""
    chosen = component(logits, first)
    mean, scale = means.gather(1, chosen), log_scales.gather(1, chosen).clamp(least, most).exp()
    value = quantile(mean, scale, second.clamp(min=edge, max=1.0 - edge))
    return torch.round(value * float(levels - 1)).clamp(0.0, float(levels - 1)).to(torch.int64)[:, 0]


def level_logits(logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> Tensor:
    """Return log p of every level, (..., levels), for mixtures with components along the last axis (..., K)."""
    grid = torch.arange(levels, device=means.device).to(means.dtype) / float(levels - 1)
    return -mixture_nll(grid, logits[..., None, :], means[..., None, :], log_scales[..., None, :], levels)
