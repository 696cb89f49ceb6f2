"""Distributions of levels: probabilities that sum to one, log p of all levels, means, histograms fitted after training, and their graphs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold.runtime.engine import load
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import export as exporting
from manifold.training.data import Arrays, Data
from manifold.training.families import vae
from manifold.training.likelihoods import Histogram, LogisticByMean, LogisticMixture, build
from manifold.training.likelihoods import levels as levels_file
from manifold.training.likelihoods.levels import Levels
from manifold.training.networks import emissions
from tests import shared
from tests.conftest import tiny_run

NAMES = ("logistic", "logistic-by-mean", "logistic-learned", "logistic-mixture", "histogram")


def likelihood(name: str, channels: int, levels: int, pixels: int = 1) -> Levels:
    """Return a likelihood of `pixels` pixels with random parameters. Histograms are fitted to random items."""
    torch.manual_seed(0)
    spec = ImageSpec(height=1, width=pixels, channels=1 if channels == 1 else 3, levels=levels)
    part = Arrays(np.zeros((1, channels, 1, pixels), np.uint8), np.zeros(1, np.int64))
    made = build(name, spec, noise=0.1, floor=0.1, components=3, train=part)
    assert isinstance(made, Levels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape))
    made.double()
    if isinstance(made, Histogram):
        d = channels * pixels
        made.fit([(4 * torch.randn(100, d).double(), torch.randint(0, levels, (100, d)).double() / (levels - 1))])
    return made


def every_image(channels: int, levels: int) -> Tensor:
    """Return all images of one pixel, (levels ** channels, channels)."""
    return torch.tensor(list(itertools.product(range(levels), repeat=channels))).double() / (levels - 1)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "levels"), [(1, 7), (3, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_probabilities_sum_to_one_and_log_p_of_all_levels_agrees(name: str, channels: int, levels: int) -> None:
    made, images = likelihood(name, channels, levels), every_image(channels, levels)
    parameters = (2 * torch.randn(1, made.width).double()).expand(len(images), -1)
    nats = made.nll(parameters, images)
    assert float(torch.exp(-nats.sum(1)).sum()) == pytest.approx(1, abs=1e-9)
    log_p = made.logits(parameters, images)
    assert log_p.shape == (len(images), levels, channels)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(len(images), channels).double())
    index = torch.round(images * (levels - 1)).long()
    assert torch.allclose(log_p.gather(1, index[:, None])[:, 0], -nats, atol=1e-9)
    assert made.mean(parameters).shape == images.shape
    assert ((made.mean(parameters) >= 0) & (made.mean(parameters) <= 1)).all()


@torch.no_grad()
def test_the_pixels_of_an_image_are_independent_and_their_colours_are_not() -> None:
    """The parameters of a pixel only matter for that pixel, and a colour of a pixel only for later colours of the same pixel."""
    made = likelihood("logistic-mixture", 3, 16, pixels=4)
    parameters, x = torch.randn(1, made.width).double(), torch.randint(0, 16, (1, 12)).double() / 15
    base = made.nll(parameters, x).view(3, 4)
    moved = parameters.view(1, -1, 4).clone()
    moved[:, :, 2] += 0.5
    changed = (made.nll(moved.flatten(1), x).view(3, 4) - base).abs() > 1e-12
    assert changed[:, 2].all()
    assert not changed[:, [0, 1, 3]].any()
    other = x.clone()
    other[0, 4 + 1] = (other[0, 5] + 0.4) % 1  # the second colour of the second pixel
    changed = (made.nll(parameters, other).view(3, 4) - base).abs() > 1e-12
    assert changed.nonzero().tolist() == [[1, 1], [2, 1]]


@torch.no_grad()
def test_a_mixture_starts_at_the_mean_of_the_data() -> None:
    made = likelihood("logistic-mixture", 3, 256, pixels=4)
    assert isinstance(made, LogisticMixture)
    mean = torch.tensor([0.3, 0.5, 0.6])
    parameters = made.bias(mean).double()[None, :, None].expand(1, -1, 4).flatten(1)
    assert torch.allclose(made.mean(parameters).view(3, 4), mean[:, None].double(), atol=0.02)


@torch.no_grad()
def test_the_scale_is_a_continuous_function_of_the_mean() -> None:
    made = likelihood("logistic-by-mean", 1, 256)
    assert isinstance(made, LogisticByMean)
    at = torch.linspace(0, 1, levels_file.KNOTS).double()
    inside = at.clamp(1e-9, 1 - 1e-9)
    assert torch.allclose(made.log_scales(inside.logit()[:, None])[:, 0], made.at_knots, atol=1e-6)
    fine = torch.linspace(1e-6, 1 - 1e-6, 100_001).double().logit()
    steps = made.log_scales(fine[:, None])[:, 0].diff().abs()
    assert float(steps.max()) < 1e-3 * float(made.at_knots.diff().abs().max())


@torch.no_grad()
def test_histograms_find_the_distribution_that_made_the_items() -> None:
    """The levels are 0 or 15 by a probability that depends on the predicted mean. No logistic distribution is like this."""
    generator = torch.Generator().manual_seed(0)
    made = Histogram(1, 16, 0.1).double()
    logits = (12 * torch.rand(400_000, 1, generator=generator) - 6).double()
    white = torch.rand(400_000, 1, generator=generator) < torch.sigmoid(logits)
    before = made.nll(logits, white.double()).mean()
    made.fit([(logits[:200_000], white[:200_000].double()), (logits[200_000:], white[200_000:].double())])
    places = torch.linspace(-5, 5, 41).double()[:, None]
    p = torch.exp(-made.nll(places, torch.ones_like(places)))
    assert torch.allclose(p, torch.sigmoid(places), atol=0.04)
    assert torch.allclose(made.mean(places), torch.sigmoid(places), atol=0.04)
    entropy = float(torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(logits)))
    assert float(made.nll(logits, white.double()).mean()) == pytest.approx(entropy, abs=0.01)
    assert before > 2 * entropy
    far = torch.tensor([[-30.0], [30.0]]).double()  # beyond the outermost histogram
    assert torch.isfinite(made.nll(far, torch.tensor([[1.0], [0.0]]).double())).all()


def test_a_fit_does_not_depend_on_how_often_it_is_made(digits: Data) -> None:
    """The figures of a run and its exported graphs use histograms that are fitted twice."""
    config = vae.resolve(vae.Config(hidden=(16,), latent_dim=2, likelihood="histogram"), digits)
    model = vae.build(config, digits).eval()
    assert isinstance(model.likelihood, Histogram)
    vae.finish(model, config, digits)
    first = model.likelihood.table.clone()
    vae.finish(model, config, digits)
    assert torch.equal(first, model.likelihood.table)
    assert "likelihood.table" not in model.state_dict()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("vae", {"likelihood": "histogram"}),
        ("vqvae", {"likelihood": "logistic-mixture", "components": 2, "prior_epochs": 1, "epochs": 1}),
    ],
)
def test_the_graph_of_the_score_equals_torch(
    tmp_path: Path, digits: Data, family: str, changes: dict[str, Any]
) -> None:
    run = tiny_run(tmp_path / family, family, digits, **changes)
    model = load(shared.export(run, family, tmp_path / "models", data=digits, backend="torchscript"))
    task = exporting.exports(run, digits).tasks["score"]
    classes = {} if model.manifest.classes is None else {"condition": np.eye(10, dtype=np.float32)[:5]}
    inputs = {"data": digits.inputs(digits.test)[:5], **classes}
    for role, array in shared.run_as_onnx(task, inputs, tmp_path).items():
        np.testing.assert_allclose(array, task(inputs)[role], rtol=1e-4, atol=1e-4)
    names = {metric.name: metric for metric in model.manifest.metrics}
    if family == "vqvae":
        assert names["bits_per_dim"].value > 0


def test_a_mixture_of_levels_draws_each_level_by_its_probability() -> None:
    """The nll of each level equals its row in `logits`, and the frequencies of drawn colours equal the probabilities."""
    torch.manual_seed(0)
    mixture = emissions.LogisticMixture(3, 5, 2, 4, 8).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.mul_(3)
        every = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        features = torch.randn(1, 4, dtype=torch.float64)
        mixture.float()
        parameters = mixture.parameters_of(features.float().expand(len(every), -1), every)
        nats = mixture.nll(parameters, every)
        log_p = mixture.logits(parameters)
        assert torch.allclose(log_p.gather(-1, every[..., None])[..., 0], -nats, atol=1e-5)
        assert torch.allclose(log_p.logsumexp(-1), torch.zeros(len(every), 2), atol=1e-5)
        p = torch.exp(-nats.sum(1))
        n = 40_000
        uniforms = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
        drawn = mixture.pick(features.float().expand(n, -1), uniforms, torch.ones(n))
    counts = torch.bincount(5 * drawn[:, 0] + drawn[:, 1], minlength=25)
    likely = p > 5 / n
    chi2 = float(((counts - n * p) ** 2 / (n * p))[likely].sum())
    assert chi2 < float(likely.sum()) + 4 * math.sqrt(2 * float(likely.sum()))
