"""The family `hierarchical`: units of the priors, bounds, the forms of inference, and its artifact."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
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
from manifold.runtime.manifest import GaussianPrior
from manifold.training import runs
from manifold.training.bounds import iwae, iwae_in_parts
from manifold.training.data import Arrays, Data
from manifold.training.data.parts import subset
from manifold.training.errors import TrainingError
from manifold.training.families import hierarchical
from manifold.training.families.hierarchical import Config, HierarchicalVAE
from manifold.training.networks.ladder import limited
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


def walked(model: HierarchicalVAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the KL of each level (B, K), level 1 first, and log p(z) - log q(z | x) (B,), with the latents z themselves and their densities."""
    down, features = model.prior.down, model.up(model.likelihood.evidence(x))
    h = down.start.expand(len(x), -1)
    kls, ratio, place = [], torch.zeros(len(x), dtype=x.dtype), 0
    for k, level in enumerate(down.levels):
        h = down.moves[k - 1](h) if k else h
        if level.prior is None:
            mean, scale = torch.zeros(len(x), level.size, dtype=x.dtype), torch.ones(len(x), level.size, dtype=x.dtype)
        else:
            mean, log_scale = level.prior(h).chunk(2, 1)
            scale = limited(log_scale).exp()
        d = features[len(down.levels) - 1 - k]
        first, second = level.posterior(d if level.inference == "ladder" else torch.cat([h, d], 1)).chunk(2, 1)
        second = limited(second)
        if level.inference == "ladder":  # the product of two Gaussians
            precision = (-2 * second).exp() + scale**-2
            q = Normal(((-2 * second).exp() * first + mean * scale**-2) / precision, precision**-0.5)
        elif level.inference == "residual":
            q = Normal(mean + first, scale * second.exp())
        else:
            q = Normal(first, second.exp())
        p = Normal(mean, scale)
        z = q.mean + q.stddev * noise[:, place : place + level.size]
        kls.append(kl_divergence(q, p).sum(1))
        ratio = ratio + (p.log_prob(z) - q.log_prob(z)).sum(1)
        h, place = level.block(h + level.enter(z)), place + level.size
    return torch.stack(kls[::-1], 1), ratio


@torch.no_grad()
@pytest.mark.parametrize("inference", INFERENCE)
def test_kl_and_log_ratio_in_units_of_the_priors_are_those_of_the_latents(inference: str, digits: Data) -> None:
    model = built(digits, inference=inference)
    x = items_of(model, digits)
    noise = torch.randn((64, model.noise_size), dtype=torch.float64, generator=seeded(0))
    kls, ratio = walked(model, x, noise)
    assert float(kls.mean(0).min()) > 0.01
    assert torch.allclose(model.kl_of_levels(x, noise[None]), kls, rtol=1e-8, atol=1e-8)
    assert torch.allclose(model.draws(x, noise[None]).log_ratio[0], ratio, rtol=1e-8, atol=1e-8)


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
    assert torch.allclose(iwae_in_parts(model, x, noise), iwae(model, x, noise))  # three parts
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


@pytest.mark.parametrize(
    "changes", [{}, CONV, {"inference": "residual", "stored": "float16"}], ids=["mlp", "conv", "residual-float16"]
)
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
    assert space.count == (16 + 8 + 3 if "body" in changes else 6)
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
        ({"levels": [4, 0]}, "levels: 0 must be at least 1"),
        ({"batch_size": 1}, "batch_size: 1 is too small for body mlp"),
        ({"widths": [8]}, "widths: has 1 entries; it must have one for each of the 5 levels"),
        ({"sides": [4, 2, 2, 1, 1]}, "sides: only the body conv has grids; set sides="),
        ({"body": "conv"}, "sides: the body conv needs the side of the grid of each level.* choose body=mlp"),
        ({"body": "conv", "sides": [14]}, "sides: has 1 entries"),
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


def test_the_convolutional_body_takes_square_images_only(digits: Data, table: Data) -> None:
    wide = replace(digits, spec=digits.spec.model_copy(update={"width": 12}))
    for data, message in (
        (wide, "conv needs square images, and these are 12x8"),
        (table, "conv: the items are rows, but images are needed; choose body=mlp"),
    ):
        with pytest.raises(TrainingError, match=f"^body: {message}"):
            built(data, **CONV)


@torch.no_grad()
def test_a_model_with_more_latents_than_training_items_can_be_exported(digits: Data) -> None:
    few = replace(digits, train=subset(digits.train, np.arange(4)))
    model = built(few, references=3).float()
    latent = hierarchical.exports(model, model.config, few).latent
    assert latent is not None and latent.size == 7
    prior = latent.priors["gaussian"]
    assert isinstance(prior, GaussianPrior)
    cholesky = np.array(prior.cholesky)
    assert np.isfinite(cholesky).all() and np.diag(cholesky).min() > 0


def test_rows_with_missing_values_are_scored(tmp_path: Path, table: Data) -> None:
    run = tiny_run(tmp_path / "run", "hierarchical", table, epochs=2, references=20)
    model = load(export(run, "rows", tmp_path / "models", data=table, backend="torchscript"))
    items = table.inputs(table.test.batch(np.arange(6)))
    assert all(np.isfinite(values).all() for values in model.score(items).terms.values())
