"""The likelihoods of binary and of real-valued pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold.runtime.manifest import InputSpec
from manifold.training.likelihoods.unseen import Unseen
from manifold.training.networks.logistic import softplus

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Pixels(nn.Module):
    """The common base of likelihoods of pixels. Every value is possible, and the encoder receives all pixels."""

    unseen: Unseen | None = None
    levels: int = 0
    reads_colours = False
    dimensions: int

    def evidence(self, x: Tensor) -> Tensor:
        return x

    width: int  # number of parameters per item

    def bias(self, mean: Tensor) -> Tensor:
        """Return the bias of a decoder's last layer at which it predicts the mean of each channel (C,); 0 for parameters other than means."""
        found = torch.zeros(len(mean) * self.width // self.dimensions)
        found[: len(mean)] = mean.logit()
        return found

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def charged(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.nll(parameters, x)


class Bernoulli(Pixels):
    """The likelihood of binary pixels. Grey pixels are binarised first, as the cross-entropy of grey values is not a likelihood."""

    noise: tuple[InputSpec, ...] = ()
    levels = 2

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.width = self.dimensions = dimensions

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.rand(x.shape, generator=generator, device=x.device) < x).to(x.dtype)

    def settle(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return softplus(parameters) - parameters * x

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(parameters), parameters], 1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)  # images show probabilities, as drawn binary pixels would only look noisy


class _Continuous(Pixels):
    """The common base of likelihoods of real-valued pixels. Samples are shown as their mean."""

    noise: tuple[InputSpec, ...] = ()
    width: int

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def settle(self, x: Tensor) -> Tensor:
        return x

    def mean(self, parameters: Tensor) -> Tensor:
        # half precision (in training) is coarser than 256 levels
        exact = torch.promote_types(parameters.dtype, torch.float32)
        return torch.sigmoid(parameters[:, : self.dimensions].to(exact))

    def sample(self, parameters: Tensor, *noise: Tensor) -> Tensor:
        return self.mean(parameters)

    def __init__(self, dimensions: int, width: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.width = width


class Gaussian(_Continuous):
    """A Gaussian N(x; mean, sigma²) with fixed sigma: (x - mean)² / 2σ² + ½ log 2πσ²."""

    def __init__(self, dimensions: int, sigma: float) -> None:
        super().__init__(dimensions, dimensions)
        self.sigma = sigma

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.mean(parameters)) / self.sigma) ** 2 + math.log(self.sigma) + HALF_LOG_TWO_PI


class GaussianLearned(_Continuous):
    """A Gaussian N(x; mean, σ²) with σ = floor + softplus(s). The floor prevents an infinite density of an exactly predicted pixel."""

    def __init__(self, dimensions: int, floor: float) -> None:
        super().__init__(dimensions, 2 * dimensions)
        self.floor = floor

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        sigma = self.floor + F.softplus(parameters[:, self.dimensions :])
        return 0.5 * ((x - self.mean(parameters)) / sigma) ** 2 + sigma.log() + HALF_LOG_TWO_PI


class Laplace(_Continuous):
    """A Laplace distribution (x; mean, b) with fixed b: |x - mean| / b + log 2b."""

    def __init__(self, dimensions: int, scale: float) -> None:
        super().__init__(dimensions, dimensions)
        self.scale = scale

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return (x - self.mean(parameters)).abs() / self.scale + math.log(2 * self.scale)
