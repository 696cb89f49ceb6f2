"""Denoising autoencoders and VAEs: corruptions by their statistics, the clean image as the target, and the served reconstruction of a noisy image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from manifold.runtime.engine import load
from manifold.training.batches import Batch, to_float
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.families import denoising, vae
from manifold.training.families.denoising import Config, DenoisingVAE, corrupted, psnr
from manifold.training.families.vae import VAE
from manifold.training.train import trained_model
from tests.conftest import tiny_run
from tests.shared import export

CPU = torch.device("cpu")


def small(data: Data, **changes: object) -> DenoisingVAE:
    torch.manual_seed(0)
    config = Config.model_validate({"latent_dim": 3, "hidden": (16,), **changes})
    return DenoisingVAE(denoising.resolve(config, data), data)


def batch_of(data: Data, n: int = 16) -> Batch:
    part = Arrays.of(data.train)[:n]
    return Batch(to_float(part.items, CPU), torch.from_numpy(part.labels), torch.Generator().manual_seed(0), 0.0)


# --- corruptions ---


def test_gaussian_noise_has_its_deviation_and_is_cut_to_the_range() -> None:
    x = torch.full((20_000,), 0.5)
    noisy = corrupted("gaussian", 0.1, x, torch.Generator().manual_seed(0))
    assert stats.kstest((noisy - 0.5).numpy() / 0.1, "norm").pvalue > 1e-3
    cut = corrupted("gaussian", 0.5, torch.zeros(20_000), torch.Generator().manual_seed(0))
    assert float(cut.min()) == 0 and float(cut.max()) == 1
    assert float((cut == 0).float().mean()) == pytest.approx(0.5, abs=0.015)
    assert float((cut == 1).float().mean()) == pytest.approx(1 - stats.norm.cdf(2), abs=0.005)


def test_masking_and_salt_and_pepper_change_their_share_of_the_values() -> None:
    x, spread = torch.full((20_000,), 0.5), 4 * math.sqrt(0.3 * 0.7 / 20_000)
    masked = corrupted("masking", 0.3, x, torch.Generator().manual_seed(0))
    assert set(masked.tolist()) == {0.0, 0.5}
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=spread)
    spiced = corrupted("salt-and-pepper", 0.3, x, torch.Generator().manual_seed(0))
    assert set(spiced.tolist()) == {0.0, 0.5, 1.0}
    for value in (0.0, 1.0):
        assert float((spiced == value).float().mean()) == pytest.approx(0.15, abs=spread)
    assert torch.equal(corrupted("masking", 1.0, x, torch.Generator()), torch.zeros_like(x))


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt-and-pepper"])
def test_level_0_draws_nothing_and_changes_nothing(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    x = torch.rand(5, 4)
    assert torch.equal(corrupted(kind, 0.0, x, generator), x)
    assert torch.equal(generator.get_state(), before)


# --- losses ---


@pytest.mark.parametrize("variational", [True, False])
def test_the_encoder_gets_the_corrupted_image_and_the_loss_the_clean_one(digits: Data, variational: bool) -> None:
    model = small(digits, corruption="masking", level=0.5, variational=variational)
    batch = batch_of(digits)
    with torch.no_grad():
        losses = {name: float(value) for name, value in model.loss(batch).items()}
        x, generator = batch.items.flatten(1), torch.Generator().manual_seed(0)
        noise = torch.randn((1, len(x), 3), generator=generator)
        mean, log_variance = model.encode(corrupted("masking", 0.5, x, generator))
        z, kl = mean, torch.zeros(())
        if log_variance is not None:
            z = mean + (0.5 * log_variance).exp() * noise[0]
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        nll = model.likelihood.nll(model.decode(z), x).sum(1).mean()
    assert losses["reconstruction"] == pytest.approx(float(nll), rel=1e-5)
    assert losses["kl"] == pytest.approx(float(kl), rel=1e-5, abs=1e-7)
    assert losses["loss"] == pytest.approx(float(nll + kl), rel=1e-5)


def test_at_level_0_the_loss_is_that_of_the_vae(digits: Data) -> None:
    model, plain = small(digits, level=0.0), None
    plain = VAE(vae.resolve(vae.Config(latent_dim=3, hidden=(16,), likelihood="gaussian"), digits), digits)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert float(model.loss(batch_of(digits))["loss"]) == float(plain.loss(batch_of(digits))["loss"])
        other = small(digits, level=0.5)
        assert float(other.loss(batch_of(digits))["loss"]) != float(plain.loss(batch_of(digits))["loss"])


def test_the_criterion_is_a_lower_bound_on_the_likelihood_of_the_clean_image(digits: Data) -> None:
    """With one latent, p(x) = ∫ p(x | z) p(z) dz can be computed by quadrature. The bound lies below the ELBO of the mixture of proposals."""
    model = small(digits, latent_dim=1, level=0.5, noise=0.5)
    x = batch_of(digits, 1).items.flatten(1)
    z = torch.linspace(-8, 8, 4001)[:, None]
    n, generator = 4000, torch.Generator().manual_seed(1)
    with torch.no_grad():
        nll = model.likelihood.nll(model.decode(z), x.expand(len(z), -1)).sum(1)
        prior = -0.5 * z[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
        exact = float((prior - nll).logsumexp(0)) + math.log(16 / 4000)
        seen = corrupted("gaussian", 0.5, x.expand(n, -1), generator)
        reconstruction, kl = model.terms(x.expand(n, -1), torch.randn(1, n, 1, generator=generator), None, seen)
        criterion = -float((reconstruction + kl).mean())
        mean, log_variance = model.encode(seen)
        assert log_variance is not None
        proposals = torch.distributions.Normal(mean[:, 0], (0.5 * log_variance[:, 0]).exp())
        mixture = torch.stack([proposals.log_prob(place).logsumexp(0) for place in z]) - math.log(n)
        elbo = float((mixture.exp() * (prior - nll - mixture)).sum()) * 16 / 4000
    error = float((reconstruction + kl).std()) / math.sqrt(n)
    assert criterion < elbo + 3 * error
    assert elbo < exact + 1e-3
    assert exact - criterion < 20  # the bound is not vacuous


# --- options ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruption": "blur"}, "corruption: unknown value 'blur'; valid are gaussian, masking, salt-and-pepper"),
        ({"corruption": "masking", "level": 1.5}, "level: 1.5 is the share of values to corrupt and must be at most 1"),
        ({"level": -0.1}, "level: -0.1 must be at least 0"),
        ({"likelihood": "bernoulli"}, "likelihood: 'bernoulli' binarises the encoder's input.*use 'gaussian'"),
    ],
)
def test_options_that_do_not_fit_are_refused(digits: Data, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        small(digits, **changes)


def test_psnr_is_that_of_the_evaluation() -> None:
    clean = torch.zeros(2, 4)
    assert psnr(torch.tensor([[0.1] * 4, [0.0] * 4]), clean).tolist() == pytest.approx([20.0, 100.0], rel=1e-5)


# --- served models ---


def test_a_noisy_image_is_denoised_and_the_artifact_equals_torch(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(
        tmp_path / "run", "denoising", digits, epochs=20, epoch_steps=40, batch_size=64, variational=False,
        latent_dim=10, lr=3e-3, ema=0.98, level=0.4,
    )  # fmt: skip
    model: Any = trained_model(run.resolved(digits), digits)
    figures = {metric.name: metric.value for metric in denoising.report(model, model.config, digits)}
    assert figures["psnr_denoised"] > figures["psnr_noisy"] + 2
    artifact = load(export(run, "denoising", tmp_path / "models", data=digits, backend="torchscript"), device="cpu")
    clean = to_float(Arrays.of(digits.test).items[:50], CPU)
    noisy = corrupted("gaussian", 0.4, clean, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.decoded(model.encode(model.settled(noisy))[0])
    made = artifact.reconstruct(noisy.numpy()).data
    assert np.allclose(made, expected.numpy(), atol=1e-5)
    assert ((made - clean.numpy()) ** 2).mean() < 0.7 * float(((noisy - clean) ** 2).mean())
    assert "Trained to remove gaussian noise of standard deviation 0.4." in artifact.manifest.description
