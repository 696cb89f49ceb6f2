"""Densities integrate to one, samples follow them, and the KL equals its closed form."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training import likelihoods
from manifold.training.bounds import fixed_draws, gaussian_kl
from manifold.training.data import Arrays
from manifold.training.errors import TrainingError
from manifold.training.exporting import graphs
from manifold.training.likelihoods import Bernoulli, Columns, Gaussian, GaussianLearned, Laplace, Logistic
from manifold.training.likelihoods.predicting import VALUES, predicting
from manifold.training.networks import logistic
from manifold.training.networks.logistic import LEAST_LOG_SCALE

NOTHING = Arrays(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
TABLE = TableSpec(
    columns=(
        NumericColumn(name="a", mean=0, scale=1, minimum=-5, maximum=5),
        CategoricalColumn(name="b", categories=("x", "y", "z")),
        NumericColumn(name="c", mean=0, scale=1, minimum=-5, maximum=5),
        CategoricalColumn(name="d", categories=("0", "1")),
    )
)


def test_kl_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    log_variance = 2 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    assert torch.allclose(gaussian_kl(mean, log_variance), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "likelihood", [Gaussian(1, 0.3), GaussianLearned(1, 0.05), Laplace(1, 0.2)], ids=lambda each: type(each).__name__
)
def test_continuous_densities_integrate_to_one(likelihood: likelihoods.DecoderLikelihood) -> None:
    parameters = torch.randn(1, likelihood.width, dtype=torch.float64)
    x = torch.linspace(-12, 13, 200_001, dtype=torch.float64)[:, None]
    density = torch.exp(-likelihood.nll(parameters.expand(len(x), -1), x))
    assert float(torch.trapezoid(density[:, 0], x[:, 0])) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1e-4, 0.003, 0.1, 3.0])
@pytest.mark.parametrize("logit", [-9.0, 0.3, 12.0])
def test_logistic_sums_to_one_over_levels_and_is_the_cut_law(scale: float, logit: float) -> None:
    likelihood = Logistic(1, 256, scale).double()
    levels = torch.arange(256, dtype=torch.float64)[:, None] / 255
    nll = likelihood.nll(torch.full((256, 1), logit, dtype=torch.float64), levels)[:, 0]
    assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-9)
    edges = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    s = float(likelihood.log_scale.clamp(min=LEAST_LOG_SCALE).exp())
    cdf = torch.cat([torch.zeros(1), torch.sigmoid((edges - torch.sigmoid(torch.tensor(logit))) / s), torch.ones(1)])
    likely = cdf.diff() > 1e-9
    assert torch.allclose(torch.exp(-nll)[likely], cdf.diff()[likely], rtol=1e-4, atol=0)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 3.0, 6.9, 12.0, 200.0])
def test_logistic_is_finite_and_sums_to_one_in_single_precision(log_scale: float, levels: int) -> None:
    """At large scales, the probability of a level is too small to be 1 minus another number."""
    x = torch.arange(levels) / (levels - 1)
    found = []
    for kind in (torch.float32, torch.float64):
        given = [torch.full((levels,), value, dtype=kind, requires_grad=True) for value in (0.37, log_scale)]
        nats = logistic.nll(x.to(kind), given[0], given[1], levels)
        nats.sum().backward()
        assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in given)
        assert float(torch.exp(-nats.detach()).sum()) == pytest.approx(1, abs=1e-5)
        found.append(nats.detach().double())
    assert torch.isfinite(found[0]).all()
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "logistic-by-mean", "logistic-learned", "logistic-mixture", "histogram"])
def test_learned_scales_may_become_large(name: str) -> None:
    spec = ImageSpec(height=1, width=2, channels=3, levels=256)
    likelihood = likelihoods.build(name, spec, noise=math.exp(12), floor=0.1, components=2, train=NOTHING)
    parameters = torch.zeros(4, likelihood.width, requires_grad=True)
    x = likelihood.settle(torch.rand(4, 6, generator=torch.Generator().manual_seed(0)))
    nats = likelihood.nll(parameters, x)
    nats.sum().backward()
    assert torch.isfinite(nats).all()
    assert parameters.grad is not None and torch.isfinite(parameters.grad).all()
    assert torch.allclose(likelihood.logits(parameters, x).exp().sum(1), torch.ones(4, 6), atol=1e-5)


def test_the_share_of_a_level_is_accurate_in_a_graph() -> None:
    class Share(torch.nn.Module):
        def forward(self, rate: torch.Tensor) -> torch.Tensor:
            return logistic.log_share(rate)

    rates = torch.logspace(-7, 2, 200)
    graph = graphs.to_onnx(Share(), (rates,), ["rate"], ["share"], ({},))
    (found,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"rate": rates.numpy()})
    exact = np.log(-np.expm1(-rates.double().numpy()))
    assert np.allclose(found, exact, rtol=1e-5, atol=1e-6)
    assert np.allclose(logistic.log_share(rates).numpy(), exact, rtol=1e-5, atol=1e-6)


def test_logistic_sees_levels() -> None:
    likelihood = Logistic(3, 4, 0.1)
    assert torch.equal(likelihood.settle(torch.tensor([[0.0, 0.4, 0.95]])), torch.tensor([[0.0, 1 / 3, 1.0]]))
    likelihood.nll(torch.zeros(2, 3), torch.tensor([[0.0, 1 / 3, 1.0]])).sum().backward()
    assert likelihood.log_scale.grad is not None
    assert torch.isfinite(likelihood.log_scale.grad).all()


def test_gaussian_is_torchs_with_the_whole_constant() -> None:
    """Some published code divides by sigma instead of its square, or halves the constant."""
    likelihood, x = Gaussian(4, 0.3), torch.rand(5, 4)
    parameters = torch.randn(5, 4)
    expected = -Normal(torch.sigmoid(parameters), 0.3).log_prob(x)
    assert torch.allclose(likelihood.nll(parameters, x), expected, atol=1e-5)


def test_learned_variance_has_a_floor() -> None:
    likelihood = GaussianLearned(1, 0.1)
    perfect = likelihood.nll(torch.tensor([[0.0, -100.0]]), torch.tensor([[0.5]]))
    assert float(perfect) == pytest.approx(math.log(0.1 * math.sqrt(2 * math.pi)), abs=1e-5)


def test_bernoulli_sums_to_one_and_is_stable() -> None:
    likelihood = Bernoulli(1)
    for logit in (-200.0, -3.0, 0.0, 3.0, 200.0):
        logits = torch.tensor([[logit]] * 2)
        nll = likelihood.nll(logits, torch.tensor([[0.0], [1.0]]))
        assert torch.isfinite(nll).all()
        assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-6)


def test_binarisation_is_drawn_in_training_and_settled_in_graphs() -> None:
    likelihood, grey = Bernoulli(1), torch.full((20_000, 1), 0.3)
    drawn = likelihood.observe(grey, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.015)
    exact = torch.tensor([[0.0, 0.36, 0.49, 0.5, 0.51, 0.64, 1.0]])
    assert likelihood.settle(exact).tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_columns_are_one_density_a_column() -> None:
    likelihood = Columns(TABLE, floor=0.1, unseen=[math.log(11)] * 2)
    parameters = torch.randn(1, likelihood.width)
    one_hot = torch.eye(3)
    rows = torch.cat([torch.zeros(3, 1), one_hot, torch.zeros(3, 1), torch.tensor([[1.0, 0.0]] * 3)], 1)
    nll = likelihood.nll(parameters.expand(3, -1), rows)
    assert nll.shape == (3, 4)
    assert float(torch.exp(-nll[:, 1]).sum()) == pytest.approx(1, abs=1e-6)
    expected = -Categorical(logits=parameters[0, 1:4]).log_prob(torch.arange(3))
    assert torch.allclose(nll[:, 1], expected, atol=1e-6)


def test_an_unseen_category_costs_more_than_any_seen_one() -> None:
    likelihood = Columns(TABLE, floor=0.1, unseen=[math.log(1001)] * 2)
    row = torch.tensor([[0.0, 0, 0, 0, 0.0, 1, 0]])
    assert float(likelihood.nll(torch.zeros(1, likelihood.width), row)[0, 1]) == pytest.approx(math.log(1001))


def test_columns_sample_what_they_say() -> None:
    likelihood, n = Columns(TABLE, floor=0.1, unseen=[1.0, 1.0]), 20_000
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(1, likelihood.width, generator=generator).expand(n, -1)
    noise = torch.randn(n, 2, generator=generator), torch.rand(n, 2, generator=generator)
    sample = likelihood.sample(parameters, *noise)
    assert sample.shape == (n, 7)
    assert torch.allclose(sample.mean(0), likelihood.mean(parameters)[0], atol=0.05)
    assert torch.equal(sample[:, 1:4].sum(1), torch.ones(n))
    scale = 0.1 + torch.nn.functional.softplus(parameters[0, 7])
    assert float(sample[:, 0].std()) == pytest.approx(float(scale), rel=0.03)


def test_torchs_pick_is_the_runtimes() -> None:
    from manifold.runtime import sampling

    generator = torch.Generator().manual_seed(0)
    weights, uniforms = torch.rand(500, 5, generator=generator).softmax(1), torch.rand(500, generator=generator)
    assert np.array_equal(likelihoods.pick(weights, uniforms).numpy(), sampling.pick(weights.numpy(), uniforms.numpy()))


def test_a_likelihood_that_does_not_fit_is_refused() -> None:
    image = ImageSpec(height=2, width=2, channels=1)
    with pytest.raises(TrainingError, match="valid are bernoulli"):
        likelihoods.build("poisson", image, noise=1, floor=1, train=NOTHING)
    with pytest.raises(TrainingError, match="cannot be used for images; valid are bernoulli, gaussian"):
        likelihoods.build("columns", image, noise=1, floor=1, train=NOTHING)
    with pytest.raises(TrainingError, match="cannot be used for rows; valid are columns"):
        likelihoods.build("gaussian", TABLE, noise=1, floor=1, train=NOTHING)


@pytest.mark.parametrize("count", [8, 7])
def test_fixed_draws_are_pairs_with_mean_zero_and_variance_one(count: int) -> None:
    draws = fixed_draws(count, 20, seed=3)[:, 0]
    assert draws.shape == (count, 20)
    assert torch.equal(draws, fixed_draws(count, 20, seed=3)[:, 0])
    assert torch.equal(draws[: count // 2], -draws[(count + 1) // 2 :])
    if count % 2 == 0:
        assert torch.allclose(draws.mean(0), torch.zeros(20), atol=1e-6)
        assert torch.allclose(draws.square().mean(0), torch.ones(20), atol=1e-5)


@pytest.mark.parametrize(("width", "rows"), [(28 * 28, 41), (16, 64), (3 * 64 * 64 * 64, 1)])
def test_a_run_of_predict_has_a_limited_number_of_values(width: int, rows: int) -> None:
    class Model(torch.nn.Module):
        likelihood = Logistic(width, 256, 0.1)

    task = predicting(Model(), "decode", (1, 1, width), [])["predict"]
    assert task.max_rows == rows
    assert rows == 1 or rows * 256 * width <= VALUES
