"""Estimators of the gradient of the ELBO by the parameters of a Gaussian posterior, one value for each draw.

For q(z | x) = N(μ, diag σ²), p(z) = N(0, I) and z = μ + σ ε with ε from N(0, I), the ELBO is E[f] with f = log p(x | z) + log p(z) - log q(z | x).
Each estimator maps `Draws` to the gradient by μ and by log σ, (N, …, L) each. All have the same mean; `NAMES` lists them:

    form_a           SGVB form A: the derivative of f at fixed ε (Kingma and Welling, 2013, eq. 6)
    form_b           SGVB form B: the derivative of log p(x | z) at fixed ε, minus that of the KL in closed form (eq. 7)
    score            the score function, f · ∂ log q(z) (section 2.2), also known as REINFORCE
    score_baseline   the same with f minus a baseline: the mean of f over the other draws of the item ("leave one out"), which leaves the mean unchanged
    path             sticking the landing: form A without the derivative of log q by its own parameters (Roeder et al., 2017, arXiv 1703.09194)

The functions are pure, and work in any precision. `exact` has the variances of all of them in a model with closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Gradients = tuple[Tensor, Tensor]  # by μ and by log σ, (N, …, L) each


@dataclass(frozen=True)
class Draws:
    """N draws from the posteriors of items, with shapes for items (…) and latent dimensions (L)."""

    mean: Tensor  # μ, (…, L)
    log_sigma: Tensor  # log σ, (…, L)
    noise: Tensor  # ε, (N, …, L)
    log_likelihood: Tensor  # log p(x | z) in nats, (N, …)
    slope: Tensor  # ∂ log p(x | z) / ∂z, (N, …, L)

    @property
    def scaled(self) -> Tensor:
        """The derivative of z by log σ, which is σ ε."""
        return self.log_sigma.exp() * self.noise

    @property
    def z(self) -> Tensor:
        """The latents (N, …, L)."""
        return self.mean + self.scaled

    @property
    def f(self) -> Tensor:
        """The ELBO's integrand log p(x | z) + log p(z) - log q(z | x), (N, …)."""
        return self.log_likelihood + (0.5 * self.noise**2 + self.log_sigma - 0.5 * self.z**2).sum(-1)


def form_a(draws: Draws) -> Gradients:
    """Return the derivative of f. At fixed ε, log q(z | x) depends on the parameters by -log σ alone."""
    slope = draws.slope - draws.z
    return slope, slope * draws.scaled + 1


def form_b(draws: Draws) -> Gradients:
    """Return the derivative of log p(x | z) minus that of the KL, which is μ by μ and σ² - 1 by log σ."""
    kl = (2 * draws.log_sigma).exp() - 1
    return draws.slope - draws.mean, draws.slope * draws.scaled - kl


def score(draws: Draws) -> Gradients:
    """Return f · ∂ log q(z | x), whose second factor is ε / σ by μ and ε² - 1 by log σ."""
    return _scores(draws, draws.f)


def score_baseline(draws: Draws) -> Gradients:
    """Return the score function's gradient of f minus its mean over the other draws, for at least two draws."""
    f = draws.f
    others = (f.sum(0) - f) / (len(f) - 1)
    return _scores(draws, f - others)


def path(draws: Draws) -> Gradients:
    """Return the derivative of f through z alone: ∂f/∂z = ∂ log p(x | z)/∂z - z + ε / σ. At the exact posterior it is 0 for every draw."""
    slope = draws.slope - draws.z + draws.noise / draws.log_sigma.exp()
    return slope, slope * draws.scaled


def _scores(draws: Draws, f: Tensor) -> Gradients:
    f = f[..., None]
    return f * draws.noise / draws.log_sigma.exp(), f * (draws.noise**2 - 1)


ESTIMATORS: Mapping[str, Callable[[Draws], Gradients]] = {
    "form_a": form_a, "form_b": form_b, "score": score, "score_baseline": score_baseline, "path": path,
}  # fmt: skip
NAMES = tuple(ESTIMATORS)


# --- a model with closed forms ------------------------------------------------------------------------------------------------


def conjugate(x: float, mean: float, sigma: float, noise: Tensor) -> Draws:
    """Return draws (N, 1) of the model x given z ~ N(z, 1), z ~ N(0, 1) with q = N(mean, sigma²), for noise (N, 1). Its posterior is N(x / 2, 1 / 2)."""
    m, log_sigma = torch.full_like(noise[0], mean), torch.full_like(noise[0], sigma).log()
    residual = x - m - sigma * noise
    log_likelihood = -0.5 * residual**2 - 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=noise.dtype))
    return Draws(m, log_sigma, noise, log_likelihood[..., 0], residual)


def exact(x: float, mean: float, sigma: float) -> dict[str, tuple[float, float]]:
    """Return the variances by μ and by log σ of each estimator in the model of `conjugate`.

    All have the means x - 2μ by μ and 1 - 2σ² by log σ. With d = x - 2μ, f is c0 + c1 ε + c2 ε² for c1 = d σ and c2 = ½ - σ². The moments of ε
    up to the eighth, 1, 3, 15 and 105, give the variances of the score function. The baseline is the mean of f, c0 + c2, as for many draws.
    """
    d, s = x - 2 * mean, sigma
    c1, c2 = d * s, 0.5 - s**2
    c0 = (
        -0.5 * mean**2
        - 0.5 * (x - mean) ** 2
        + float(torch.tensor(s / (2 * torch.pi) ** 0.5, dtype=torch.float64).log())
    )

    def of_score(c0: float) -> tuple[float, float]:
        pair = c1**2 + 2 * c0 * c2
        return (c0**2 + 3 * pair + 15 * c2**2) / s**2 - d**2, 2 * c0**2 + 10 * pair + 78 * c2**2 - (2 * c2) ** 2

    return {
        "form_a": (4 * s**2, (d * s) ** 2 + 8 * s**4),
        "form_b": (s**2, ((x - mean) * s) ** 2 + 2 * s**4),
        "score": of_score(c0),
        "score_baseline": of_score(-c2),
        "path": ((1 / s - 2 * s) ** 2, (d * s) ** 2 + 2 * (1 - 2 * s**2) ** 2),
    }
