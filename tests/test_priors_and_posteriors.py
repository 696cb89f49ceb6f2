"""The learned priors and the posteriors of a VAE: densities, Jacobians, and the coordinates of the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from manifold.runtime import golden
from manifold.runtime.engine import load
from manifold.training.bounds import iwae
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.priors import log_density
from manifold.training.families import vae
from manifold.training.families.vae import Config
from manifold.training.networks import posteriors, priors
from tests.conftest import tiny_run
from tests.shared import export

LAWS = [
    {"posterior": "full"},
    {"posterior": "iaf"},
    {"posterior": "logistic"},
    {"posterior": "log-normal"},
    {"posterior": "gamma"},
    {"prior": "mixture"},
    {"prior": "vamp"},
    {"prior": "hierarchical"},
    {"prior": "flow"},
]


def names(law: dict[str, str]) -> str:
    return next(iter(law.values()))


def unused(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Stand for the encoder of priors without pseudo-inputs."""
    raise AssertionError


def shaken(module: Any) -> Any:
    """Return the module in double precision with random weights."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * (parameter != 0))
    return module.double().eval()


def grid(side: float, steps: int) -> tuple[Tensor, float]:
    """Return points of a square grid in two dimensions, and the area of one."""
    line = torch.linspace(-side, side, steps, dtype=torch.float64)
    return torch.cartesian_prod(line, line), float((line[1] - line[0]) ** 2)


@torch.no_grad()
@pytest.mark.parametrize(
    "prior", [priors.Prior(2), priors.Mixture(2, 5), priors.Flow(2)], ids=["normal", "mixture", "flow"]
)
def test_a_density_integrates_to_one_and_is_that_of_the_draws(prior: Any) -> None:
    prior = shaken(prior)
    z, area = grid(8, 201)
    density = prior.log_density(z, torch.zeros(len(z), 0), unused).exp()
    assert float(density.sum()) * area == pytest.approx(1, abs=1e-3)
    # the mean and the covariance of the density equal those of draws
    latents = prior.draw(100_000, unused, torch.Generator().manual_seed(0)).double()
    draws = prior.from_latent(latents)
    mean = (density[:, None] * z).sum(0) * area
    covariance = (density[:, None, None] * (z[:, :, None] * z[:, None]) * area).sum(0) - mean[:, None] * mean
    assert torch.allclose(draws.mean(0), mean, atol=0.03 * float(draws.std()))
    assert torch.allclose(torch.cov(draws.T), covariance, rtol=0.05, atol=0.05)


@torch.no_grad()
def test_the_flow_inverts_and_its_determinant_is_that_of_the_jacobian() -> None:
    prior = shaken(priors.Flow(5))
    noise = torch.randn(4, 5, dtype=torch.float64)
    z = prior.from_latent(noise)
    back, log_determinant = prior.inverse(z)
    assert torch.allclose(back, noise, atol=1e-9)
    for place in range(4):
        with torch.enable_grad():
            jacobian: Any = torch.autograd.functional.jacobian(lambda one: prior.inverse(one[None])[0][0], z[place])
        assert float(log_determinant[place]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


@torch.no_grad()
def test_the_hierarchical_prior_estimates_its_density_without_bias() -> None:
    """The mean of p̂(z) over the draws of ζ equals the integral over ζ, and a latent gives back its z."""
    torch.manual_seed(1)
    prior = priors.Hierarchical(1).double()
    z = torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64)
    top = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    mean, log_variance = prior._of(prior.down, top)
    weights = posteriors.log_normal_density(top).exp() * float(top[1] - top[0])
    for one in z:
        exact = float((weights * posteriors.log_normal_density(one, mean, log_variance).exp()).sum())
        noise = torch.randn(200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        found = prior.log_density(one[None].expand(len(noise), -1), noise, unused).exp()
        assert float(found.mean()) == pytest.approx(exact, abs=5 * float(found.std()) / len(noise) ** 0.5)
    noise = torch.randn(3, 1, dtype=torch.float64)
    assert torch.allclose(prior.from_latent(prior.to_latent(z, noise)), z, atol=1e-12)


@torch.no_grad()
def test_the_density_of_a_mixture_equals_that_of_its_spec() -> None:
    prior = shaken(priors.Mixture(3, 4))
    z = torch.randn(50, 3, dtype=torch.float64)
    expected = log_density(prior.specs(unused)["learned"], z.numpy())
    assert prior.log_density(z, z[:, :0], unused).numpy() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", posteriors.POSTERIORS)
def test_log_q_of_a_posterior_is_the_density_of_its_draws(kind: str) -> None:
    """The change of variables gives log q(u) = log N(noise) - log |det du/dnoise|. Φ and the gamma quantile are approximations."""
    posterior: Any = shaken(posteriors.POSTERIORS[kind](4))
    outputs = torch.randn(3, posterior.outputs, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, dtype=torch.float64)
    _, log_q = posterior.draw(outputs, noise)
    for s, b in np.ndindex(2, 3):
        with torch.enable_grad():
            jacobian: Any = torch.autograd.functional.jacobian(
                lambda one, b=b: posterior.draw(outputs[b : b + 1], one[None, None])[0][0, 0], noise[s, b]
            )
        normal = float(posteriors.log_normal_density(noise[s, b]).sum())
        expected = normal - float(torch.linalg.slogdet(jacobian)[1])
        assert float(log_q[s, b]) == pytest.approx(expected, abs={"logistic": 1e-5, "gamma": 1e-4}.get(kind, 1e-9))
    mean, log_variance = posterior.moments(outputs)
    draws = posterior.draw(outputs, torch.randn(100_000, 3, 4, dtype=torch.float64))[0]
    if log_variance is None:
        assert torch.allclose(mean, posterior.draw(outputs, torch.zeros_like(noise))[0][0])
    else:
        assert torch.allclose(draws.mean(0), mean, atol=0.05 * float(draws.std()))
        assert torch.allclose(draws.var(0).log(), log_variance, atol=0.03)


@torch.no_grad()
def test_a_full_posterior_is_the_multivariate_normal() -> None:
    posterior = shaken(posteriors.Full(3))
    outputs = torch.randn(1, posterior.outputs, dtype=torch.float64)
    z, log_q = posterior.draw(outputs, torch.randn(20, 1, 3, dtype=torch.float64))
    factor = posterior.factor(outputs)[0].numpy()
    expected = stats.multivariate_normal.logpdf(z[:, 0].numpy(), outputs[0, :3].numpy(), factor @ factor.T)
    assert log_q[:, 0].numpy() == pytest.approx(expected, abs=1e-9)


def built(data: Data, law: dict[str, str]) -> vae.VAE:
    torch.manual_seed(0)
    config = Config.model_validate({"hidden": [16], "latent_dim": 3, "prior_components": 7, "references": 0, **law})
    return vae.build(vae.resolve(config, data), data).eval()


@torch.no_grad()
@pytest.mark.parametrize("law", [{}, *LAWS], ids=["plain", *map(names, LAWS)])
def test_the_bound_tightens_with_the_number_of_draws(law: dict[str, str], digits: Data) -> None:
    """ELBO ≤ IWAE-10 ≤ IWAE-200, with an untrained model, whose bounds are far apart."""
    model = built(digits, law)
    x = model.settled(torch.as_tensor(digits.test.batch(np.arange(64)).items).float() / 255)
    noise = torch.randn((1000, 64, model.noise_size), generator=torch.Generator().manual_seed(0))
    reconstruction, kl = model.terms(x, noise)
    elbo = -float((reconstruction + kl).mean())
    ten = float(torch.stack([iwae(model, x, part) for part in noise.split(10)]).mean())
    many = float(torch.stack([iwae(model, x, part) for part in noise.split(200)]).mean())
    assert elbo < ten < many
    draws = model.draws(x, noise)
    if draws.kl is not None:
        assert float(-draws.log_ratio.mean()) == pytest.approx(float(draws.kl.mean()), abs=0.02)


@pytest.mark.parametrize("law", LAWS, ids=names)
def test_an_exported_model_draws_from_its_posterior_and_its_prior(
    law: dict[str, str], tmp_path: Path, digits: Data
) -> None:
    run = tiny_run(tmp_path / "run", "vae", digits, epochs=1, latent_dim=3, prior_components=7, references=0, **law)
    folder = export(run, "model", tmp_path / "models", data=digits)
    model = load(folder)
    assert not golden.replay(model.run, model.folder, model.manifest, "cpu")
    items = np.asarray(digits.spec.to_model(digits.test.batch(np.arange(6)).items))
    encoded, again = model.encode(items, seed=3), model.encode(items[2:], seed=3, first=2)
    assert np.array_equal(again.latent, encoded.latent[2:])
    assert not np.array_equal(encoded.latent, model.encode(items, seed=4).latent)
    assert model.encode(items).latents is None
    assert model.reconstruct(items, seed=3).data.shape == items.shape
    space = model.manifest.space
    assert space is not None and space.count == (6 if law.get("prior") == "hierarchical" else 3)
    for prior in space.priors:
        assert np.isfinite(model.sample(4, seed=0, prior=prior).data).all()
    assert ("learned" in space.priors) == (law.get("prior") in ("mixture", "vamp"))
    plain = law.get("prior") in ("mixture", "vamp") or law.get("posterior") == "log-normal"
    assert (model.manifest.tasks["encode"].input("normal") is None) == plain
    assert all(np.isfinite(values).all() for values in model.score(items).terms.values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"variational": False, "prior": "flow"}, "prior"),
        ({"variational": False, "posterior": "full"}, "posterior"),
        ({"prior": "vamp", "posterior": "iaf"}, "prior"),
        ({"prior": "vamp", "posterior": "gamma"}, "prior"),
        ({"posterior": "beta"}, "posterior"),
        ({"prior": "uniform"}, "prior"),
        ({"prior_components": 0}, "prior_components"),
    ],
)
def test_combinations_that_are_not_possible_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(TrainingError, match=f"^{field}: "):
        Config.model_validate(changes)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind, law in posteriors.POSTERIORS.items() if law.closed])
def test_the_closed_form_of_the_kl_is_the_mean_of_log_q_minus_log_p(kind: str) -> None:
    law = posteriors.POSTERIORS[kind](3)
    generator = torch.Generator().manual_seed(2)
    outputs = 0.6 * torch.randn((1, law.outputs), generator=generator, dtype=torch.float64)
    draws, log_q = law.draw(outputs, torch.randn((400_000, 1, law.noise), generator=generator, dtype=torch.float64))
    ratios = log_q[:, 0] - posteriors.log_normal_density(draws[:, 0]).sum(1)
    assert float(law.kl(outputs).sum()) == pytest.approx(
        float(ratios.mean()), abs=5 * float(ratios.std()) / 400_000**0.5
    )


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_the_density_of_a_narrow_mixture_far_from_zero_is_precise(autocast: bool) -> None:
    """The terms of the squared distances are up to 3e5 nats here, and cancel."""
    prior = priors.Mixture(20, 50)
    prior.means.mul_(10)
    prior.log_variances.fill_(-6)
    z = prior.draw(200, unused, torch.Generator().manual_seed(0))
    expected = prior.double().log_density(z.double(), z[:, :0], unused)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = prior.float().log_density(z, z[:, :0], unused)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_draws_of_a_full_posterior_are_those_of_its_density_in_mixed_precision() -> None:
    law = posteriors.Full(20)
    outputs, noise = torch.randn(4, law.outputs), torch.randn(2, 4, 20)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_q = law.draw(outputs, noise)
    expected, density = law.draw(outputs, noise)
    torch.testing.assert_close((z, log_q), (expected, density))


@torch.no_grad()
def test_the_interpolation_and_the_description_are_those_of_the_prior(digits: Data) -> None:
    words = {
        "mixture": "mixture of 10 Gaussians",
        "vamp": "VampPrior of 10 pseudo-inputs",
        "flow": "normalising flow as prior",
    }
    for name, path in {"normal": "slerp", "mixture": "lerp", "vamp": "lerp", "flow": "slerp"}.items():
        config = vae.resolve(
            Config.model_validate({**vae.PRESETS["smoke"], "prior": name, "prior_components": 10}), digits
        )
        exports = vae.exports(vae.build(config, digits).eval(), config, digits)
        assert exports.latent is not None and exports.latent.interpolation == path
        assert words.get(name, "bernoulli") in exports.description.replace(" learned", "")
    with pytest.raises(TrainingError, match=r"^prior_components: .* there are 1197"):
        vae.build(config.changed(prior="vamp", prior_components=1198), digits)
