"""Gradient estimators: equal means, the variances of closed forms, derivatives by autograd, and the command that compares them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from manifold import cli
from manifold.training import estimators, gradient_variance
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.estimators import ESTIMATORS, Draws, conjugate, exact
from tests.conftest import tiny_run

DRAWS = 200_000
PLACES = [
    (1.0, 0.0, 1.0),
    (5.0, 2.0, 0.8),
    (-3.0, 1.0, 0.3),
    (2.0, 1.0, 0.5**0.5),
]  # x, μ, σ; the last one is the posterior


def standard(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", estimators.NAMES)
@pytest.mark.parametrize(("x", "mean", "sigma"), PLACES)
def test_means_and_variances_are_those_of_the_closed_forms(name: str, x: float, mean: float, sigma: float) -> None:
    gradients = ESTIMATORS[name](conjugate(x, mean, sigma, standard(DRAWS, 1)))
    for gradient, truth, variance in zip(
        gradients, (x - 2 * mean, 1 - 2 * sigma**2), exact(x, mean, sigma)[name], strict=True
    ):
        values = gradient[:, 0]
        assert abs(float(values.mean()) - truth) <= 4 * (variance / DRAWS) ** 0.5 + 1e-12
        squares = (values - truth).square()
        assert abs(float(squares.mean()) - variance) <= 4 * float(squares.std()) / DRAWS**0.5 + 1e-12


def test_the_means_are_the_gradient_of_the_elbo() -> None:
    """The ELBO of the model is -½ (x - μ)² - ½ μ² - σ² + log σ up to a constant. The mean over ε = ±1 is exact, as f is quadratic."""
    x = 1.7
    mean, log_sigma = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.4, -0.3))
    elbo = -0.5 * (x - mean) ** 2 - 0.5 * mean**2 - (2 * log_sigma).exp() + log_sigma
    found = torch.autograd.grad(elbo, (mean, log_sigma))
    means = [
        gradient.mean().item()
        for gradient in ESTIMATORS["form_b"](
            conjugate(x, 0.4, math.exp(-0.3), torch.tensor([1.0, -1.0], dtype=torch.float64))
        )
    ]
    assert means == pytest.approx([float(each) for each in found])


def test_only_those_without_noise_at_the_posterior_have_no_variance_there() -> None:
    """At the posterior, f is log p(x) for every draw: sticking the landing and the baseline leave 0."""
    draws = conjugate(2.0, 1.0, 0.5**0.5, standard(1000, 1))
    assert torch.allclose(draws.f, torch.full((1000,), -0.5 * 4 / 2 - 0.5 * math.log(4 * math.pi), dtype=torch.float64))
    for name, estimator in ESTIMATORS.items():
        variances = [float(gradient.var()) for gradient in estimator(draws)]
        assert max(variances) < 1e-20 if name in ("path", "score_baseline") else min(variances) > 0.1, name


def decoder(z: Tensor) -> Tensor:
    """Return a log likelihood that is not quadratic, with dependent latents."""
    return -(z[..., 0] * z[..., 1] - 1).square() - torch.cosh(0.5 * z).sum(-1)


def drawn(mean: Tensor, log_sigma: Tensor, noise: Tensor) -> Draws:
    z = (mean + log_sigma.exp() * noise).detach().requires_grad_()
    value = decoder(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    return Draws(mean.detach(), log_sigma.detach(), noise, value.detach(), slope)


@pytest.mark.parametrize("name", ["form_a", "form_b", "path"])
def test_pathwise_estimators_are_derivatives_by_autograd(name: str) -> None:
    """Autograd differentiates each integrand at fixed ε. Sticking the landing stops the gradient of the parameters of log q."""
    shape = (50, 3, 2)  # draws, items, latents
    noise = standard(*shape)
    mean, log_sigma = (standard(*shape, seed=seed).mul(0.5).requires_grad_() for seed in (1, 2))
    z = mean + log_sigma.exp() * noise
    log_p = -0.5 * (z**2).sum(-1)
    if name == "form_b":
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(-1)
        integrand = decoder(z) - kl
    else:
        m, s = (mean, log_sigma) if name == "form_a" else (mean.detach(), log_sigma.detach())
        integrand = decoder(z) + log_p + (0.5 * ((z - m) / s.exp()) ** 2 + s).sum(-1)
    expected = torch.autograd.grad(integrand.sum(), (mean, log_sigma))
    for found, truth in zip(ESTIMATORS[name](drawn(mean, log_sigma, noise)), expected, strict=True):
        assert torch.allclose(found, truth)


def test_scores_are_the_integrand_times_the_derivative_of_log_q() -> None:
    noise = standard(40, 3, 2)
    mean, log_sigma = (standard(40, 3, 2, seed=seed).mul(0.5).requires_grad_() for seed in (1, 2))
    z = (mean + log_sigma.exp() * noise).detach()
    log_q = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(z).sum(-1)
    scores = torch.autograd.grad(log_q.sum(), (mean, log_sigma))
    f = decoder(z) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q.detach()
    draws = drawn(mean, log_sigma, noise)
    assert torch.allclose(draws.f, f)
    others = torch.stack([torch.cat([f[:i], f[i + 1 :]]).mean(0) for i in range(40)])  # the mean of the other draws
    for name, weight in {"score": f, "score_baseline": f - others}.items():
        for found, each in zip(ESTIMATORS[name](draws), scores, strict=True):
            assert torch.allclose(found, weight[..., None] * each), name


def test_all_estimators_agree_in_the_mean_for_dependent_latents() -> None:
    mean, log_sigma = torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([-0.7, -0.4], dtype=torch.float64)
    draws = drawn(mean, log_sigma, standard(DRAWS, 2))
    reference = [gradient.mean(0) for gradient in ESTIMATORS["form_b"](draws)]
    for name, estimator in ESTIMATORS.items():
        for found, truth in zip(estimator(draws), reference, strict=True):
            error = (found.var(0) / DRAWS).sqrt() + 0.02
            assert ((found.mean(0) - truth).abs() <= 4 * error).all(), name


# --- models and the command ---------------------------------------------------------------------------------------------------


def test_draws_of_a_model_have_its_likelihood_and_its_derivative(tmp_path: Path, digits: Data) -> None:
    model = gradient_variance.untrained(tiny_run(tmp_path / "run", "vae", digits, epochs=1), digits)
    x = model.settled(torch.as_tensor(digits.test.batch(np.array([5])).items).float() / 255).double()
    model = model.double()
    draws = gradient_variance.drawn(model, x, None, 3, torch.Generator().manual_seed(0))
    reconstruction, _ = model.terms(x, draws.noise[:, None])
    assert float(-draws.log_likelihood.mean()) == pytest.approx(reconstruction.item())

    def log_likelihood(z: Tensor) -> float:
        return -float(model.likelihood.nll(model.decode(z[None]), x).sum().detach())

    for place in (0, 7):
        step = torch.zeros_like(draws.z[1])
        step[place] = 1e-5
        difference = log_likelihood(draws.z[1] + step) - log_likelihood(draws.z[1] - step)
        assert float(draws.slope[1, place]) == pytest.approx(difference / 2e-5, rel=1e-4, abs=1e-7)


def test_the_command_compares_the_estimators_of_a_run(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(tmp_path / "run", "vae", digits, epochs=2)
    wanted, picture = tmp_path / "report.json", tmp_path / "bars.png"
    arguments = ["gradient-variance", str(run.folder), "--items", "4", "--draws", "600"]
    done = CliRunner().invoke(cli.app, [*arguments, "-o", str(wanted), "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    assert "| SGVB form B |" in done.output and picture.read_bytes().startswith(b"\x89PNG")
    report = json.loads(wanted.read_text())
    for stage in gradient_variance.STAGES:
        found = report[stage]["variances"]
        assert set(found) == set(estimators.NAMES)
        for key in gradient_variance.SYMBOLS:
            assert found["form_b"][key] < found["form_a"][key] < found["score"][key] / 100
    assert report["trained"]["elbo"] > report["initial"]["elbo"]
    assert json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).output) == report  # the seed determines it


@pytest.mark.parametrize(
    ("family", "changes"), [("vae", {"variational": False}), ("pixelcnn", {}), ("hierarchical", {})]
)
def test_a_run_without_a_gaussian_posterior_is_refused(
    tmp_path: Path, digits: Data, family: str, changes: dict[str, object]
) -> None:
    from tests.test_train import make_run

    run = make_run(tmp_path / "run", family, **changes)
    with pytest.raises(TrainingError, match=f"its model .'{family}'. has no Gaussian posterior"):
        gradient_variance.check(run)
    gradient_variance.check(make_run(tmp_path / "run", "cvae"))


@pytest.mark.parametrize("prior", ["mixture", "vamp", "hierarchical", "flow"])
def test_a_run_with_another_prior_is_refused(tmp_path: Path, prior: str) -> None:
    from tests.test_train import make_run

    with pytest.raises(TrainingError, match=f"its prior is {prior}.* give a run with prior=normal"):
        gradient_variance.check(make_run(tmp_path / "run", "vae", prior=prior))
