"""The logistic, log-normal and gamma posteriors of a VAE: their laws in z, their gradients, and the functions they are computed with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from manifold.runtime.engine import load
from manifold.training.data import Data
from manifold.training.distributions import gamma_quantiles, normals
from manifold.training.families import vae
from manifold.training.networks import posteriors, priors
from manifold.training.networks.posteriors import POSTERIORS
from manifold.training.train import trained_model
from tests.conftest import tiny_run
from tests.shared import export

KINDS = ("logistic", "log-normal", "gamma")
# outputs of the encoder for four dimensions: locations, or log means, and log scales, log-variances, or log((shape - 0.3) / 0.7)
OUTPUTS = torch.tensor([[0.0, -3.0, 1.5, 0.7, 0.0, -1.0, 1.5, -6.0]])


def law(kind: str, outputs: Tensor, place: int) -> Any:
    """Return the law of scipy of z in one dimension."""
    size = outputs.shape[1] // 2
    first, second = float(outputs[0, place]), float(outputs[0, size + place])
    if kind == "logistic":
        return stats.logistic(first, np.exp(second))
    if kind == "log-normal":
        return stats.lognorm(np.exp(0.5 * second), scale=np.exp(first))
    shape = 0.3 + 0.7 * np.exp(second)
    return stats.gamma(shape, scale=np.exp(first) / shape)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_law_and_log_q_is_its_density(kind: str) -> None:
    """The law is that of z, the input of the decoder. In u the density is q(z) |dz/du| = q(z) N(u) / p(z), for a prior of z that is N(0, I) in u."""
    posterior = POSTERIORS[kind](4)
    noise = torch.randn((100_000, 1, 4), generator=torch.Generator().manual_seed(0))
    u, log_q = posterior.draw(OUTPUTS, noise)
    z = posterior.to_decoder(u[:, 0]).double().numpy()
    prior = {"logistic": stats.norm(), "log-normal": stats.lognorm(1), "gamma": stats.expon()}[kind]
    expected = np.zeros(1000)
    for place in range(4):
        given = law(kind, OUTPUTS, place)
        assert stats.kstest(z[:, place], given.cdf).pvalue > 0.005
        some = z[:1000, place]
        expected += given.logpdf(some) - prior.logpdf(some) + stats.norm.logpdf(u[:1000, 0, place].double().numpy())
    assert log_q[:1000, 0].numpy() == pytest.approx(expected, abs=5e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_of_the_decoder_input_is_the_stated_one(kind: str) -> None:
    u = priors.Prior(2).draw(50_000, lambda x: (x, x), torch.Generator().manual_seed(0))
    z = POSTERIORS[kind](2).to_decoder(u).flatten().numpy()
    stated = {"logistic": stats.norm(), "log-normal": stats.lognorm(1), "gamma": stats.gamma(1)}[kind]
    assert stats.kstest(z, stated.cdf).pvalue > 0.01


@torch.no_grad()
def test_outputs_of_zero_give_the_prior_as_the_gamma_posterior() -> None:
    posterior = POSTERIORS["gamma"](1)
    noise = torch.linspace(-5, 5, 101)[:, None, None]
    u, log_q = posterior.draw(torch.zeros(1, 2), noise)
    assert torch.allclose(u, noise, atol=1e-4)
    assert torch.allclose(log_q, posteriors.log_normal_density(u)[..., 0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind: str) -> None:
    posterior = POSTERIORS[kind](3).double()
    noise = torch.randn((5, 2, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = torch.randn((2, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def results(given: Tensor) -> tuple[Tensor, Tensor]:
        u, log_q = posterior.draw(given, noise)
        return posterior.to_decoder(u.flatten(0, 1)), log_q

    assert torch.autograd.gradcheck(results, outputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_a_gamma_draw_has_the_implicit_gradient() -> None:
    """The gradient of E log z by the shape, from draws, is the derivative of digamma(α) - log α: that of the law."""
    shape = torch.tensor([[0.5, 1.0, 3.0, 50.0]], dtype=torch.float64, requires_grad=True)
    places = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    noise = special.ndtri(places.numpy())[:, None, None] * np.ones(4)
    ratio, _ = gamma_quantiles.log_draw(gamma_quantiles.table(), shape, torch.from_numpy(noise))
    (slope,) = torch.autograd.grad(ratio.mean(0).sum(), shape)
    a = shape.detach().numpy()
    assert slope.numpy() == pytest.approx(special.polygamma(1, a) - 1 / a, rel=2e-3)


@torch.no_grad()
def test_the_gamma_quantile_equals_that_of_scipy() -> None:
    generator = np.random.default_rng(0)
    shapes = np.exp(generator.uniform(math.log(0.3), math.log(1e4), 500))
    noise = generator.uniform(-6, 6, (40, 1, 500))
    ratio, log_q = gamma_quantiles.log_draw(
        gamma_quantiles.table(), torch.from_numpy(shapes)[None], torch.from_numpy(noise)
    )
    lower, upper = special.gammaincinv(shapes, special.ndtr(noise)), special.gammainccinv(shapes, special.ndtr(-noise))
    exact = np.log(np.where(noise < 0, lower, upper) / shapes)
    assert np.abs((ratio.numpy() - exact) * np.sqrt(shapes)).max() < 2e-5  # in standard deviations for large shapes
    log_z = ratio.numpy() + np.log(shapes)
    assert log_q.numpy() == pytest.approx(stats.gamma.logpdf(np.exp(log_z), shapes) + log_z, abs=1e-7)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 3e-7), (torch.float32, 3e-6)])
def test_the_normal_law_and_its_inverse_equal_those_of_scipy(dtype: torch.dtype, error: float) -> None:
    u = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    log_p, log_rest = (each.double() for each in normals.log_probabilities(u.to(dtype)))
    for found, exact in ((log_p, special.log_ndtr(u.numpy())), (log_rest, special.log_ndtr(-u.numpy()))):
        assert found.numpy() == pytest.approx(exact, rel=5 * error, abs=0)
    t = torch.cat([torch.linspace(0.6932, 700, 5001), torch.linspace(0.6932, 4, 5001)]).double()
    lower, upper = -t, torch.log(-torch.expm1(-t))
    quantiles = special.ndtri_exp(-t.numpy())
    below = normals.quantile(lower.to(dtype), upper.to(dtype)).double().numpy()
    assert below == pytest.approx(quantiles, rel=error, abs=error)
    above = normals.quantile(upper.to(dtype), lower.to(dtype)).double().numpy()
    assert above == pytest.approx(-quantiles, rel=error, abs=error)
    points = special.ndtri(np.linspace(0.001, 0.999, 999))
    back = normals.quantile(*normals.log_probabilities(torch.from_numpy(points).to(dtype)))
    assert back.double().numpy() == pytest.approx(points, abs=2 * error)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_gradients_stay_finite_for_extreme_outputs(kind: str) -> None:
    posterior = POSTERIORS[kind](2)
    sizes = [-50.0, -8.0, 0.0, 8.0, 50.0]
    outputs = torch.cartesian_prod(torch.tensor(sizes), torch.tensor(sizes)).repeat_interleave(2, 1)  # (25, 4)
    outputs.requires_grad_()
    noise = torch.tensor([-9.0, -6.0, 0.0, 6.0, 9.0])[:, None, None].expand(-1, len(outputs), 2)
    u, log_q = posterior.draw(outputs, noise)
    z = posterior.to_decoder(u.flatten(0, 1))
    (slope,) = torch.autograd.grad(z.sum() + log_q.sum(), outputs)
    for values in (u, log_q, z, slope, posterior.moments(outputs)[0]):
        assert values.isfinite().all()
    latents = torch.tensor([[-1e30, -100.0], [-37.0, 37.0], [100.0, 1e30]])
    assert posterior.to_decoder(latents).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_training_improves_the_bound_and_the_graphs_equal_torch(kind: str, tmp_path: Path, digits: Data) -> None:
    options = {"latent_dim": 3, "references": 0, "posterior": kind, "epochs": 40, "lr": 5e-3}
    run = tiny_run(tmp_path / "run", "vae", digits, **options).resolved(digits)
    model = cast(vae.VAE, trained_model(run, digits))
    torch.manual_seed(0)
    untrained = vae.build(cast(vae.Config, run.config), digits).eval()
    items = np.asarray(digits.spec.to_model(digits.test.batch(np.arange(64)).items))
    x = model.settled(torch.from_numpy(items))
    noise = torch.randn((200, 64, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (float(torch.stack(each.terms(x, noise)).sum(0).mean()) for each in (untrained, model))
    assert after < before - 5
    artifact = load(export(run, "model", tmp_path / "models", data=digits))
    made = vae.exports(model, model.config, digits).tasks
    given = {"data": items, "latent": 3 * noise[0].numpy(), "noise": noise[1].numpy()}
    for name in ("encode", "decode", "score"):
        inputs = {each.role: given[each.role] for each in made[name].inputs}
        found = artifact.run(name, inputs)
        for role, values in made[name](inputs).items():
            assert found[role] == pytest.approx(values, rel=1e-4, abs=1e-3), (name, role)
