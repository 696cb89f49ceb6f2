"""Adversarial autoencoders: turns that train their own weights, the prior's density and draws, and codes with the distribution of the prior."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from manifold.runtime.engine import load
from manifold.runtime.manifest import MixturePrior, NormalPrior
from manifold.training.batches import Batch, in_order, to_float
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.exporting import priors
from manifold.training.families import aae
from manifold.training.families.aae import AAE, Config
from manifold.training.families.vae import VAE
from manifold.training.networks.code_priors import COMPONENTS, Mixture, Normal, code_prior, largest_gap
from manifold.training.train import trained_model
from tests.conftest import tiny_run
from tests.shared import export

CPU = torch.device("cpu")


def small(data: Data, **changes: object) -> AAE:
    torch.manual_seed(0)
    config = Config.model_validate({"latent_dim": 3, "hidden": (16,), "critic": (8, 8), **changes})
    return AAE(aae.resolve(config, data), data)


def batch_of(data: Data, n: int = 16) -> Batch:
    part = Arrays.of(data.train)[:n]
    return Batch(to_float(part.items, CPU), torch.from_numpy(part.labels), torch.Generator().manual_seed(0), 0.0)


# --- turns ---


def test_each_turn_has_gradients_for_the_weights_of_its_player_alone(digits: Data) -> None:
    model = small(digits)
    (phase,) = aae.phases(model, model.config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parts = {"autoencoder": {"encoder", "decoder"}, "discriminator": {"critic"}, "generator": {"encoder"}}
    for player in phase.players:
        model.zero_grad()
        player.loss(batch_of(digits))["loss"].backward()
        moved = {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }
        assert {name.partition(".")[0] for name in moved} == parts[player.name]
        # the generator's turn has gradients for the encoder's weights, and its optimiser has the same weights
        assert moved <= {names[id(parameter)] for parameter in player.parameters}
        assert {names[id(each)].partition(".")[0] for each in player.parameters} == parts[player.name]


def test_the_losses_are_those_of_the_paper(digits: Data) -> None:
    """The discriminator maximises log D(draw) + log(1 - D(code)), and the encoder -log D(code) replaces log(1 - D(code))."""
    model = small(digits, likelihood="gaussian")  # without random numbers in the encoder's input
    batch = batch_of(digits)
    found = {name: value.detach() for name, value in model.critic_loss(batch).items()}
    generator = torch.Generator().manual_seed(0)
    codes = model.encode(batch.items.flatten(1))[0].detach()
    drawn = model.code_prior.draw(len(codes), generator)
    real, fake = model.critic(drawn).sigmoid(), model.critic(codes).sigmoid()
    assert float(found["loss"]) == pytest.approx(float(-(real.log() + (1 - fake).log()).mean().detach()), rel=1e-5)
    assert float(model.encoder_loss(batch)["loss"].detach()) == pytest.approx(
        float(-fake.log().mean().detach()), rel=1e-5
    )
    nll = model.likelihood.nll(model.decode(codes), batch.items.flatten(1)).sum(1).mean()
    assert float(model.reconstruction_loss(batch)["loss"].detach()) == pytest.approx(float(nll.detach()), rel=1e-5)


def test_the_discriminator_treats_each_code_alone(digits: Data) -> None:
    """There is no batch normalisation, by whose statistics it could tell a batch of codes from a batch of draws."""
    model = small(digits).train()
    codes = torch.randn(6, 3)
    assert torch.allclose(model.critic(codes)[:2], model.critic(torch.cat([codes[:2], 50 * codes[2:]]))[:2], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variational": True}, "variational: not an option"),
        ({"beta": 4.0}, "beta: not an option of an adversarial autoencoder; remove it, or use the family `vae`"),
        ({"prior": "mixture", "latent_dim": 1}, "latent_dim: 1 is too small for prior 'mixture'.*use at least 2"),
        (
            {"optimizer": "sgd", "beta1": 0.1},
            "beta1: only for steps of Adam; remove it, or choose optimizer=adam instead of sgd",
        ),
        ({"prior": "swiss-roll"}, "prior: unknown value 'swiss-roll'; valid are gaussian, mixture"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Config.model_validate(changes)


# --- priors ---


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_a_prior_is_a_density_whose_draws_have_its_moments(kind: str) -> None:
    prior = code_prior(kind, 2)
    axis = torch.linspace(-8, 8, 641, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).float()
    density = prior.log_density(grid).double().exp() * (axis[1] - axis[0]) ** 2
    assert float(density.sum()) == pytest.approx(1, abs=1e-4)
    drawn = prior.draw(200_000, torch.Generator().manual_seed(0)).double()
    second = (density[:, None, None] * grid[:, :, None] * grid[:, None, :]).sum(0)
    assert torch.allclose(drawn.T @ drawn / len(drawn), second, atol=0.03)
    assert torch.allclose(drawn.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.03)
    for place in range(2):  # the marginal of the draws, against that of the density
        mass = density.view(641, 641).sum(1 - place).cumsum(0).numpy()
        gap = stats.kstest(
            drawn[:, place].numpy(), lambda x, mass=mass: np.interp(x, axis.numpy() + 0.0125, mass)
        ).statistic
        assert gap < 1.95 / math.sqrt(len(drawn)) + 1e-3  # the first summand is the quantile of a level of 0.1%


def test_the_manifest_has_the_prior_of_the_training() -> None:
    assert code_prior("gaussian", 3).stated() == NormalPrior()
    prior = Mixture(4)
    stated = prior.stated()
    assert isinstance(stated, MixturePrior)
    drawn = prior.draw(500, torch.Generator().manual_seed(1))
    assert np.allclose(priors.log_density(stated, drawn.numpy()), prior.log_density(drawn), atol=1e-4)
    assert np.allclose(priors.log_density(NormalPrior(), drawn.numpy()), Normal(4).log_density(drawn), atol=1e-4)


def test_the_components_are_apart_and_further_dimensions_are_normal() -> None:
    prior = Mixture(5)
    drawn = prior.draw(20_000, torch.Generator().manual_seed(0))
    nearest = torch.cdist(drawn[:, :2], prior.means[:, :2]).argmin(1)
    angle = torch.atan2(drawn[:, 1], drawn[:, 0]) / (2 * math.pi) * COMPONENTS
    assert float((nearest == angle.round() % COMPONENTS).float().mean()) > 0.98
    shares = torch.bincount(nearest, minlength=COMPONENTS) / len(drawn)
    assert torch.allclose(shares, torch.full((COMPONENTS,), 1 / COMPONENTS), atol=0.015)
    assert all(stats.kstest(drawn[:, place].numpy(), "norm").pvalue > 1e-3 for place in (2, 3, 4))


def test_the_largest_gap_is_that_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(300, 3, generator=generator), 1.3 * torch.randn(500, 3, generator=generator) + 0.2
    expected = max(stats.ks_2samp(one[:, i].numpy(), other[:, i].numpy()).statistic for i in range(3))
    assert largest_gap(one, other) == pytest.approx(expected, abs=1e-9)
    assert largest_gap(one, one) == 0


# --- trained models ---


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aae")


def codes(model: VAE, data: Data) -> Tensor:
    """Return the codes of training items, as in graphs."""
    with torch.no_grad():
        return torch.cat([model.posterior(batch)[0] for batch in in_order(data.train, 500, torch.Generator())])


def test_codes_approach_the_prior_and_those_of_a_plain_autoencoder_do_not(root: Path, digits: Data) -> None:
    steps = {"epochs": 20, "epoch_steps": 40, "batch_size": 64, "latent_dim": 2, "ema": 0.98}
    run = tiny_run(root / "run", "aae", digits, **steps, critic_lr=1e-3, encoder_lr=1e-3)
    model: Any = trained_model(run.resolved(digits), digits)
    plain_run = tiny_run(root / "plain", "vae", digits, **steps, variational=False)
    plain: Any = trained_model(plain_run.resolved(digits), digits)
    draws = model.code_prior.draw(5000, torch.Generator().manual_seed(1))
    gaps = [largest_gap(codes(each, digits), draws) for each in (model, plain)]
    assert gaps[0] < 0.15 < 0.3 < gaps[1], gaps
    near, far = (float(model.code_prior.log_density(codes(each, digits)).mean()) for each in (model, plain))
    assert near > far + 1
    batch = next(in_order(digits.test, len(digits.test), torch.Generator().manual_seed(0)))
    assert 0.35 < float(aae.evaluate(model, batch)["discriminator_accuracy"].mean()) < 0.7
    assert 0 < aae.monitor(model, batch)["code_distance"] < 0.25


def test_figures_and_the_exported_graphs_are_those_of_torch(root: Path, digits: Data) -> None:
    run = tiny_run(root / "smoke", "aae", digits, prior="mixture")
    model: Any = trained_model(run.resolved(digits), digits)
    found = {metric.name: metric.value for metric in aae.report(model, model.config, digits)}
    assert set(found) == {"reconstruction", "discriminator_accuracy", "code_distance"}
    artifact = load(export(run, "aae", root / "models", data=digits), device="cpu")
    latent = artifact.manifest.space
    assert latent is not None and latent.prior in latent.priors
    assert next(iter(latent.priors)) == model.code_prior.name == "trained"
    assert {name: prior.kind for name, prior in latent.priors.items()} == {
        "trained": "mixture",
        "gaussian": "gaussian",
        "mixture": "mixture",
    }
    items = to_float(Arrays.of(digits.test).items[:5], CPU)
    with torch.no_grad():
        places, _ = model.encode(model.settled(items))
        made = model.decoded(places)
    assert np.allclose(artifact.encode(items.numpy()).placed, places.numpy(), atol=1e-4)
    assert np.allclose(artifact.sample(5, latents=places.numpy()).data, made.numpy(), atol=1e-4)
    prior = latent.priors["trained"]
    assert isinstance(prior, MixturePrior)
    drawn = artifact.sample(4, seed=0, prior="trained")
    assert np.allclose(prior.components[1][0], [3, 0, 0, 0], atol=1e-6)  # the mean of the first component
    assert drawn.data.shape == (4, 1, 8, 8)
