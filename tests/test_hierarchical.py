"""The family `hierarchical`: units of the priors, bounds, the forms of inference, and its artifact."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from manifold.runtime import golden
from manifold.runtime.engine import load
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import runs
from manifold.training.bounds import iwae
from manifold.training.data import Arrays, Data
from manifold.training.errors import TrainingError
from manifold.training.families import hierarchical
from manifold.training.families.hierarchical import Config, HierarchicalVAE
from manifold.training.networks.ladder import Dense, Level
from tests.conftest import tiny_run
from tests.shared import export

INFERENCE = ["ladder", "residual", "free"]
CONV = {"body": "conv", "levels": [1, 2, 3], "widths": [8, 8, 8], "sides": [4, 2, 1]}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(model: Any) -> Any:
    """Return the model in double precision, with weights and statistics that are not those of the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
    return model.double().eval()


def built(data: Data, **changes: Any) -> HierarchicalVAE:
    torch.manual_seed(0)
    options = {"levels": [3, 2, 2], "widths": [16, 8, 8], "references": 0, **changes}
    model: HierarchicalVAE = shaken(hierarchical.build(hierarchical.resolve(Config(**options), data), data))
    return model


def items_of(model: HierarchicalVAE, data: Data, n: int = 64) -> Tensor:
    return model.settled(torch.as_tensor(data.test.batch(np.arange(n)).items).double() / 255)


# --- units of the priors --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize("top", [False, True])
def test_the_kl_of_a_level_is_the_same_in_units_of_the_prior_and_of_the_latent(inference: str, top: bool) -> None:
    level = shaken(Level(Dense, 8, 3, inference, top, 2))
    h, d, noise = (torch.randn(50, size, dtype=torch.float64, generator=seeded(0)) for size in (8, 8, 3))
    mean, log_scale = level.prior_of(h)
    m, log_s = level.posterior_of(h, d, mean, log_scale)
    prior, units = Normal(mean, log_scale.exp()), Normal(torch.zeros_like(m), torch.ones_like(m))
    of_z, of_noise = Normal(mean + log_scale.exp() * m, (log_scale + log_s).exp()), Normal(m, log_s.exp())
    assert torch.allclose(kl_divergence(of_z, prior), kl_divergence(of_noise, units), rtol=1e-9, atol=1e-9)
    # log p - log q of a draw is the same too
    epsilon = m + log_s.exp() * noise
    z = mean + log_scale.exp() * epsilon
    ratio = units.log_prob(epsilon) - of_noise.log_prob(epsilon)
    assert torch.allclose(prior.log_prob(z) - of_z.log_prob(z), ratio, rtol=1e-9, atol=1e-9)
    assert bool((log_s > -20).all() and m.std() > 0)
    assert (prior.stddev.std() > 0) != top


@torch.no_grad()
def test_ladder_inference_is_the_product_of_two_gaussians_weighted_by_precision() -> None:
    level = shaken(Level(Dense, 8, 3, "ladder", False, 2))
    h, d = (torch.randn(20, 8, dtype=torch.float64, generator=seeded(seed)) for seed in (0, 1))
    mean, log_scale = level.prior_of(h)
    m, log_s = level.posterior_of(h, d, mean, log_scale)
    own_mean, own_scale = level.posterior(d).chunk(2, 1)
    weights = (-2 * own_scale).exp(), (-2 * log_scale).exp()
    precision = weights[0] + weights[1]
    expected = (weights[0] * own_mean + weights[1] * mean) / precision
    assert torch.allclose(mean + log_scale.exp() * m, expected)
    assert torch.allclose((2 * (log_scale + log_s)).exp(), 1 / precision)


@torch.no_grad()
def test_free_inference_computes_the_posterior_of_the_latent_itself() -> None:
    level = shaken(Level(Dense, 8, 3, "free", False, 2))
    h, d = (torch.randn(20, 8, dtype=torch.float64, generator=seeded(seed)) for seed in (0, 1))
    mean, log_scale = level.prior_of(h)
    m, log_s = level.posterior_of(h, d, mean, log_scale)
    own_mean, own_scale = level.posterior(torch.cat([h, d], 1)).chunk(2, 1)
    assert torch.allclose(mean + log_scale.exp() * m, own_mean)
    assert torch.allclose(log_scale + log_s, own_scale)


# --- bounds ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("changes", [*({"inference": name} for name in INFERENCE), CONV], ids=[*INFERENCE, "conv"])
def test_bounds_tighten_and_the_kl_is_the_mean_of_the_log_ratio(changes: dict[str, Any], digits: Data) -> None:
    """ELBO ≤ IWAE-10 ≤ IWAE-100, and the sum of the levels' KL is the KL."""
    model = built(digits, **changes)
    x = items_of(model, digits)
    noise = torch.randn((400, 64, model.noise_size), dtype=torch.float64, generator=seeded(0))
    reconstruction, kl = model.terms(x, noise)
    ten = float(torch.stack([iwae(model, x, part) for part in noise.split(10)]).mean())
    hundred = float(torch.stack([iwae(model, x, part) for part in noise.split(100)]).mean())
    assert -float((reconstruction + kl).mean()) < ten < hundred
    ratios = model.draws(x, noise).log_ratio
    assert -float(ratios.mean()) == pytest.approx(float(kl.mean()), abs=5 * float(ratios.std()) / ratios.numel() ** 0.5)
    one = model.draws(x, noise[:1]).kl
    assert one is not None and torch.allclose(model.kl_of_levels(x, noise[:1]).sum(1), one)


@torch.no_grad()
@pytest.mark.parametrize("inference", INFERENCE)
def test_the_estimates_of_p_sum_to_one_over_all_images(inference: str) -> None:
    """The mean importance weight of each of the 16 images of 2x2 binary pixels is p(x), whatever the posterior is."""
    images = np.array(list(itertools.product((0, 255), repeat=4)), np.uint8).reshape(16, 1, 2, 2)
    part = Arrays(images, np.full(16, -1, np.int64))
    data = Data("bits", ImageSpec(height=2, width=2, channels=1, levels=2), part, part, part, None)
    model = built(data, inference=inference, likelihood="bernoulli")
    for (
        level
    ) in model.prior.down.levels:  # with posteriors about as wide as the priors, the weights have a small variance
        last: Any = level.posterior[-1]
        last.weight.mul_(0.1)
        if level.prior is not None:
            level.prior[-1].weight.mul_(0.1)
        last.bias[level.size :].add_(2 if inference == "ladder" else 0.2)
    x = model.settled(torch.as_tensor(images).double() / 255)
    noise = torch.randn((20_000, 16, model.noise_size), dtype=torch.float64, generator=seeded(0))
    draws = model.draws(x, noise)
    nll = model.likelihood.nll(model.decode(draws.z), x.repeat(20_000, 1)).sum(1).view(20_000, 16)
    weights = (draws.log_ratio - nll).exp()
    error = float((weights.var(0) / len(weights)).sum().sqrt())
    assert error < 0.02
    assert float(weights.mean(0).sum()) == pytest.approx(1, abs=5 * error)


def test_the_kl_of_a_level_trains_the_levels_above_it_and_the_features(digits: Data) -> None:
    """A level's prior depends on the latents above it, and its features on the layers below it. Posteriors below it have no influence."""
    model = built(digits, inference="residual")
    x = items_of(model, digits)
    noise = torch.randn((1, 64, model.noise_size), dtype=torch.float64, generator=seeded(0))
    levels, first = model.prior.down.levels, cast("Any", model.up.first)  # the top level first
    for k, kl in enumerate(model.kl_of_levels(x, noise).flip(1).unbind(1)):
        heads = [level.posterior[-1].weight for level in levels]
        gradients = torch.autograd.grad(kl.sum(), [*heads, first.weight], retain_graph=True, allow_unused=True)
        assert [each is not None and bool(each.any()) for each in gradients] == [*(j <= k for j in range(3)), True]


# --- the latent of the artifact ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("changes", [*({"inference": name} for name in INFERENCE), CONV], ids=[*INFERENCE, "conv"])
def test_generation_from_the_latents_repeats_the_pass_of_inference(changes: dict[str, Any], digits: Data) -> None:
    model = built(digits, **changes)
    x = items_of(model, digits)
    noise = torch.randn((1, 64, model.noise_size), dtype=torch.float64, generator=seeded(0))
    assert torch.allclose(model.generate(model.drawn(x, noise[0])), model.decode(model.draws(x, noise).z))
    mean, log_variance = model.encode(x)
    assert log_variance is not None and mean.shape == log_variance.shape == (64, model.latent_size)
    assert torch.allclose(model.drawn(x, 0 * noise[0]), mean)  # without noise, a draw is the mean
    assert torch.allclose(model.generate(mean), model.decode(model.draws(x, 0 * noise).z))


@torch.no_grad()
def test_all_levels_change_the_image(digits: Data) -> None:
    model = built(digits)
    latent = torch.randn((8, model.latent_size), dtype=torch.float64, generator=seeded(0))
    plain = model.decoded(latent)
    for part, sizes in enumerate(model.prior.down.sizes):
        parts = list(latent.split(model.prior.down.sizes, 1))
        parts[part] = torch.zeros(8, sizes, dtype=torch.float64)
        assert float((model.decoded(torch.cat(parts, 1)) - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("changes", [{}, CONV], ids=["mlp", "conv"])
def test_an_exported_model_equals_torch_and_is_served_like_a_vae(
    changes: dict[str, Any], tmp_path: Path, digits: Data
) -> None:
    options: Any = {"levels": [4, 2], "widths": [16, 8], **changes}
    run = tiny_run(tmp_path / "run", "hierarchical", digits, epochs=1, references=50, **options)
    model = load(export(run, "model", tmp_path / "models", data=digits))
    assert not golden.replay(model.run, model.folder, model.manifest, "cpu")
    items = np.asarray(digits.spec.to_model(digits.test.batch(np.arange(6)).items))
    encoded, again = model.encode(items, seed=3), model.encode(items[2:], seed=3, first=2)
    assert np.array_equal(again.latent, encoded.latent[2:])
    assert not np.array_equal(encoded.latent, model.encode(items, seed=4).latent)
    space = model.manifest.space
    assert space is not None and "gaussian" in space.priors
    assert space.count == (6 if not changes else 16 + 8 + 3)
    for prior in space.priors:
        assert np.isfinite(model.sample(4, seed=0, prior=prior).data).all()
    assert model.reconstruct(items, seed=3).data.shape == items.shape
    assert {"kl", "negative_elbo", "reconstruction"} <= set(model.score(items).terms)


def test_training_uses_the_levels_and_reports_each(tmp_path: Path, digits: Data) -> None:
    run = tiny_run(
        tmp_path / "run",
        "hierarchical",
        digits,
        epochs=12,
        epoch_steps=40,
        batch_size=64,
        levels=[8, 4],
        widths=[64, 32],
    )
    log = runs.read_log(run.folder / runs.LOG)
    assert log[-1]["selection/loss"] < 0.8 * log[0]["selection/loss"]
    assert len(log[-1]["kl_by_level"]) == 2 and sum(log[-1]["kl_by_level"]) > 1
    figures = {metric["name"]: metric["value"] for metric in json.loads((run.folder / runs.METRICS).read_text())}
    levels = figures["kl_level_1"] + figures["kl_level_2"]
    assert levels == pytest.approx(figures["kl"], rel=0.02)
    assert figures["active_units"] == figures["active_units_level_1"] + figures["active_units_level_2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": []}, "levels: must have at least one entry"),
        ({"levels": [4, 0]}, "levels: "),
        ({"widths": [8]}, "widths: has 1 entries; it must have one for each of the 5 levels"),
        ({"sides": [4, 2, 2, 1, 1]}, "sides: only the body conv has grids"),
        ({"body": "conv"}, "sides: has 0 entries"),
        ({"inference": "bottom-up"}, "inference: unknown value 'bottom-up'; valid are ladder, residual, free"),
        ({"posterior": "full"}, "posterior: unknown option"),
    ],
)
def test_invalid_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=f"^{message}"):
        Config(**changes)


@pytest.mark.parametrize("sides", [[3, 1, 1], [8, 4, 3], [2, 4, 1]])
def test_grids_that_do_not_divide_the_image_are_refused(sides: list[int], digits: Data) -> None:
    with pytest.raises(TrainingError, match=r"^sides: .* do not fit images of 8x8"):
        built(digits, **{**CONV, "sides": sides})
