"""Draws follow their laws, densities are scipy's, and draws have the right derivatives by every parameter."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from manifold.training import distributions as laws
from manifold.training.distributions import Law, gammas
from manifold.training.errors import TrainingError
from manifold.training.exporting import graphs
from tests.laws import ALL, INVERSE_CDF, LOCATION_SCALE, OF_GAMMAS, made, name, number

DRAWS = 50_000
LEAST_P = 1e-3  # least p-value of a Kolmogorov-Smirnov test; the seeds are fixed
FACTOR = torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0], [-2, 0.3, 3]], dtype=torch.float64)
PLACE = torch.tensor([1.0, -2, 0.5], dtype=torch.float64)


def drawn(law: Law, n: int = DRAWS, seed: int = 0) -> Tensor:
    return law.draw(*law.random((n,), torch.Generator().manual_seed(seed)))


def follow(x: Tensor, law: Any) -> None:
    assert stats.kstest(x.double().numpy(), law.cdf).pvalue > LEAST_P


# --- the laws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_draws_follow_the_law(kind: type[Law], values: tuple[float, ...], truth: Any) -> None:
    x = drawn(made(kind, *values))
    assert x.isfinite().all()
    follow(x, truth)


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_draws_in_float32_follow_the_law(kind: type[Law], values: tuple[float, ...], truth: Any) -> None:
    law = kind(*(torch.tensor(value) for value in values))
    x = drawn(law, 20_000)
    assert x.dtype == torch.float32 and x.isfinite().all() and law.log_density(x).isfinite().all()
    follow(x, truth)


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_extreme_noise_gives_finite_draws_with_a_density(
    kind: type[Law], values: tuple[float, ...], truth: Any
) -> None:
    """A random float32 from 0 to 1 can be 0, and a uniform from elsewhere can be 1."""
    law = kind(*(torch.tensor(value) for value in values))
    for uniform in (0.0, 1.0):
        for normal in (-6.0, 6.0):
            noise = [torch.full(each.shape, uniform if each.kind == "uniform" else normal) for each in law.noise]
            x = law.draw(*noise)
            assert x.isfinite() and not law.log_density(x).isnan(), (uniform, normal, x)


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_log_densities_and_distribution_functions_are_scipys(
    kind: type[Law], values: tuple[float, ...], truth: Any
) -> None:
    law, ranks = made(kind, *values), np.array([1e-6, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-6])
    x = truth.ppf(ranks)
    low, high = truth.support()
    x = np.array([*x, *(each for each in (low - 1, high + 1) if math.isfinite(each))])
    assert np.allclose(law.log_density(torch.tensor(x)).numpy(), truth.logpdf(x), rtol=1e-9, atol=1e-9)
    try:
        cdf = law.cdf(torch.tensor(x))
    except NotImplementedError:
        assert kind in (laws.Beta, laws.F, laws.Student)
    else:
        assert np.allclose(cdf.numpy(), truth.cdf(x), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_means_and_variances_are_scipys(kind: type[Law], values: tuple[float, ...], truth: Any) -> None:
    law = made(kind, *values)
    mean, variance = truth.stats("mv")
    if kind is laws.Student and values[0] <= 1:  # scipy says inf, but the integral has no value
        mean = variance = np.nan
    assert np.allclose(float(law.mean), mean, rtol=1e-12, equal_nan=True)
    assert np.allclose(float(law.variance), variance, rtol=1e-12, equal_nan=True)


@pytest.mark.parametrize("concentration", [(0.1, 0.1, 0.3), (1.0, 1.0, 1.0), (20.0, 0.5, 3.0)])
def test_dirichlet_has_beta_marginals(concentration: tuple[float, ...]) -> None:
    law = laws.Dirichlet(torch.tensor(concentration, dtype=torch.float64))
    x = drawn(law)
    assert torch.allclose(x.sum(-1), number(1.0)) and law.event == (3,) and law.batch == ()
    for place, share in enumerate(concentration):
        follow(x[:, place], stats.beta(share, sum(concentration) - share))
    follow(x[:, 0] + x[:, 1], stats.beta(sum(concentration[:2]), concentration[2]))
    some = x[:50] / x[:50].sum(-1, keepdim=True)
    expected = [stats.dirichlet(concentration).logpdf(each) for each in some.numpy()]
    assert np.allclose(law.log_density(some).numpy(), expected, rtol=1e-6)
    truth = stats.dirichlet(concentration)
    assert np.allclose(law.mean.numpy(), truth.mean()) and np.allclose(law.variance.numpy(), truth.var())


@pytest.mark.parametrize("df", [1.5, 3.0, 30.0, math.inf])
def test_elliptical_laws_have_the_radius_the_marginals_and_the_density(df: float) -> None:
    if math.isinf(df):
        law = laws.Elliptical.gaussian(PLACE, FACTOR)
        radius, marginal = stats.chi(3), stats.norm()
    else:
        law = laws.Elliptical.student(PLACE, FACTOR, number(df))
        radius, marginal = stats.f(3, df), stats.t(df)
    x, covariance = drawn(law), (FACTOR @ FACTOR.T).numpy()
    distance = law.distance(x)
    follow(distance if math.isinf(df) else distance**2 / 3, radius)
    for place in range(3):
        follow((x[:, place] - PLACE[place]) / covariance[place, place] ** 0.5, marginal)
    standard = torch.linalg.solve_triangular(FACTOR, (x - PLACE).T, upper=False).T
    direction = standard / standard.norm(dim=-1, keepdim=True)
    for place in range(3):  # the coordinates of the uniform law on the sphere of three dimensions are uniform
        follow(direction[:, place], stats.uniform(-1, 2))
    truth = (
        stats.multivariate_normal(PLACE, covariance) if math.isinf(df) else stats.multivariate_t(PLACE, covariance, df)
    )
    assert np.allclose(law.log_density(x[:100]).numpy(), truth.logpdf(x[:100].numpy()), rtol=1e-9)


def test_the_radius_can_be_any_positive_law() -> None:
    """The Rayleigh law is that of the radius of the normal law in two dimensions."""
    law = laws.Elliptical(PLACE[:2], FACTOR[:2, :2], laws.Rayleigh(number(1.0)))
    x = drawn(law, 20_000)
    truth = stats.multivariate_normal(PLACE[:2], FACTOR[:2, :2] @ FACTOR[:2, :2].T)
    assert np.allclose(law.log_density(x).numpy(), truth.logpdf(x.numpy()))
    follow(x[:, 1], stats.norm(-2, 0.89**0.5))


# --- derivatives of draws -----------------------------------------------------------------------------------------------------


def jacobian(law: Callable[..., Law], values: tuple[Tensor, ...], noise: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the derivatives of the sum of draws by each parameter. Parameters have the shape of the draws, so that these are derivatives of draws."""
    leaves = [value.clone().requires_grad_() for value in values]
    return list(torch.autograd.grad(law(*leaves).draw(*noise).sum(), leaves))


@pytest.mark.parametrize(("kind", "values", "truth"), [*INVERSE_CDF, *LOCATION_SCALE], ids=name)
def test_derivatives_at_the_same_noise_are_finite_differences(
    kind: type[Law], values: tuple[float, ...], truth: Any
) -> None:
    parameters = tuple(number(value).expand(1000).clone() for value in values)
    noise = kind(*parameters).random((), torch.Generator().manual_seed(1))
    for place, found in enumerate(jacobian(kind, parameters, noise)):
        step = 1e-6 * max(1.0, abs(values[place]))
        up, down = (
            kind(*(each + sign * step if at == place else each for at, each in enumerate(parameters))).draw(*noise)
            for sign in (1, -1)
        )
        assert torch.allclose(found, (up - down) / (2 * step), rtol=1e-5, atol=1e-6), place


@pytest.mark.parametrize(("kind", "values", "truth"), OF_GAMMAS, ids=name)
def test_derivatives_of_gamma_draws_are_implicit(
    kind: type[Law], values: tuple[float, ...], truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They equal finite differences of draws whose gamma values keep their ranks F(z; α), computed by scipy's quantile function."""
    parameters = tuple(number(value).expand(1000).clone() for value in values)
    noise = kind(*parameters).random((), torch.Generator().manual_seed(2))
    found = jacobian(kind, parameters, noise)
    ranks: list[tuple[Any, Any]] = []
    draw, turn = gammas.log_draw, itertools.count()

    def remember(concentration: Tensor, *noise: Tensor) -> Tensor:
        a, log_z = concentration.numpy(), draw(concentration, *noise)
        z = log_z.exp().numpy()
        ranks.append((special.gammainc(a, z), special.gammaincc(a, z)))
        return log_z

    def keep_rank(concentration: Tensor, *noise: Tensor) -> Tensor:
        lower, upper = ranks[next(turn) % len(ranks)]
        a = concentration.numpy()
        return torch.tensor(
            np.log(np.where(lower < 0.5, special.gammaincinv(a, lower), special.gammainccinv(a, upper)))
        )

    monkeypatch.setattr(gammas, "log_draw", remember)
    x = kind(*parameters).draw(*noise)
    monkeypatch.setattr(gammas, "log_draw", keep_rank)
    for place, derivative in enumerate(found):
        step = 1e-4 * abs(values[place])
        up, down = (
            kind(*(each + sign * step if at == place else each for at, each in enumerate(parameters))).draw(*noise)
            for sign in (1, -1)
        )
        expected = (up - down) / (2 * step)
        assert torch.allclose(derivative, expected, rtol=1e-4, atol=1e-8 * float(x.abs().max())), place


@pytest.mark.parametrize("log_rank", [-700.0, -40.0, -5.0, -0.1])
def test_the_slope_is_right_for_draws_that_underflow(log_rank: float) -> None:
    """For small z, F = z^α / Γ(α + 1), so that log z = (log F + log Γ(α + 1)) / α."""
    a, step = 0.05, 1e-6

    def log_z(a: float) -> float:
        return (log_rank + math.lgamma(a + 1)) / a

    if log_z(a) > -20:  # the power is not exact
        rank = math.exp(log_rank)
        expected = float(np.log(special.gammaincinv(a + step, rank) / special.gammaincinv(a - step, rank))) / (2 * step)
        found = gammas.slope(number(a), number(math.log(special.gammaincinv(a, rank))))
    else:
        expected = (log_z(a + step) - log_z(a - step)) / (2 * step)
        found = gammas.slope(number(a), number(log_z(a)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def trigamma(x: float) -> float:
    return float(special.polygamma(1, x))


EXPECTATIONS: list[Any] = [  # the law, f, and the derivatives of E[f(z)] by each parameter
    (laws.Exponential, (2.0,), lambda z: z**2, (-0.5,)),  # E = 2 / rate²
    (laws.Logistic, (0.5, 2.0), lambda z: z**2, (1.0, 2 * 2 * math.pi**2 / 3)),
    (laws.Cauchy, (0.3, 1.5), torch.cos, (-math.sin(0.3) * math.exp(-1.5), -math.cos(0.3) * math.exp(-1.5))),  # the characteristic function
    (laws.Rayleigh, (1.5,), lambda z: z**2, (6.0,)),
    (laws.Pareto, (1.5, 3.0), torch.log, (1 / 1.5, -1 / 9)),
    (laws.Gumbel, (0.5, 2.0), lambda z: z, (1.0, 0.5772156649)),
    (laws.Gaussian, (0.5, 2.0), lambda z: z**2, (1.0, 4.0)),
    (laws.Laplace, (0.5, 2.0), lambda z: z**2, (1.0, 8.0)),
    (laws.Uniform, (-1.0, 2.0), lambda z: z**2, (0.0, 1.0)),  # E = (low² + low high + high²) / 3
    (laws.Triangular, (-1.0, 0.5, 2.0), lambda z: z, (1 / 3, 1 / 3, 1 / 3)),
    (laws.LogNormal, (0.3, 0.5), lambda z: z, (math.exp(0.425), 0.5 * math.exp(0.425))),
    (laws.Student, (9.0, 0.5, 2.0), lambda z: z**2, (4 * -2 / 49, 1.0, 4 * 9 / 7)),
    *((laws.Gamma, (a, 2.0), lambda z: z, (0.5, -a / 4)) for a in (0.1, 0.5, 1.0, 10.0)),
    *((laws.Gamma, (a, 2.0), torch.log, (trigamma(a), -0.5)) for a in (0.5, 1.0, 10.0)),
    (laws.ChiSquared, (3.0,), torch.log, (0.5 * trigamma(1.5),)),
    (laws.Beta, (0.3, 0.5), lambda z: z, (0.5 / 0.64, -0.3 / 0.64)),
    (laws.Beta, (3.0, 2.0), torch.log, (trigamma(3) - trigamma(5), -trigamma(5))),
    (laws.F, (5.0, 7.0), torch.log, (0.5 * trigamma(2.5) - 1 / 5, -0.5 * trigamma(3.5) + 1 / 7)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "f", "expected"), EXPECTATIONS, ids=name)
def test_gradients_of_expectations_are_unbiased(
    kind: type[Law], values: tuple[float, ...], f: Callable[[Tensor], Tensor], expected: tuple[float, ...]
) -> None:
    parameters = tuple(number(value).expand(DRAWS).clone().requires_grad_() for value in values)
    law = kind(*parameters)
    x = law.draw(*law.random((), torch.Generator().manual_seed(3)))
    gradients = torch.autograd.grad(f(x).sum(), parameters)
    for place, (gradient, truth) in enumerate(zip(gradients, expected, strict=True)):
        error = float(gradient.std()) / DRAWS**0.5
        assert abs(float(gradient.mean()) - truth) <= 4 * error + 1e-6, (place, float(gradient.mean()), truth, error)


def test_the_gradient_of_a_dirichlet_expectation_is_unbiased() -> None:
    """E[x₁²] = α₁ (α₁ + 1) / (s (s + 1)) for s = Σ α."""
    base = torch.tensor([0.4, 1.3, 2.0], dtype=torch.float64, requires_grad=True)
    s = base.sum()
    (expected,) = torch.autograd.grad(base[0] * (base[0] + 1) / (s * (s + 1)), base)
    concentration = base.detach().expand(DRAWS, 3).clone().requires_grad_()
    law = laws.Dirichlet(concentration)
    x = law.draw(*law.random((), torch.Generator().manual_seed(4)))
    (gradient,) = torch.autograd.grad(x[:, 0].square().sum(), concentration)
    assert ((gradient.mean(0) - expected).abs() <= 4 * gradient.std(0) / DRAWS**0.5).all()


def test_the_gradient_of_an_elliptical_expectation_is_unbiased() -> None:
    """E|x|² = |m|² + |L|² df / (df - 2) for Student's law."""
    df, n = 9.0, 20_000
    place = PLACE.expand(n, 3).clone().requires_grad_()
    factor = FACTOR.expand(n, 3, 3).clone().requires_grad_()
    degrees = number(df).expand(n).clone().requires_grad_()
    law = laws.Elliptical.student(place, factor, degrees)
    x = law.draw(*law.random((), torch.Generator().manual_seed(5)))
    gradients = torch.autograd.grad(x.square().sum(), (place, factor, degrees))
    truths = (2 * PLACE, 2 * FACTOR * df / (df - 2), -2 / (df - 2) ** 2 * FACTOR.square().sum())
    for gradient, truth in zip(gradients, truths, strict=True):
        assert ((gradient.mean(0) - truth).abs() <= 4 * gradient.std(0) / n**0.5 + 1e-9).all()


def test_the_derivative_of_an_accepted_proposal_would_be_biased() -> None:
    """The derivative of E[log z] is π² / 6 at α = 1. That of Marsaglia and Tsang's proposal z = d (1 + c n)³ at fixed n is not."""
    z = drawn(laws.Gamma(number(1.0), number(1.0)))
    d = 2 / 3
    root = (z / d) ** (1 / 3)  # 1 + c n of the accepted proposal, with c = 1 / √(9 d)
    slope = 1 / d - 1.5 * (root - 1) / (d * root)
    assert abs(float(slope.mean()) - math.pi**2 / 6) > 20 * float(slope.std()) / DRAWS**0.5


# --- shapes, errors, graphs ---------------------------------------------------------------------------------------------------


def some(*shape: int) -> Tensor:
    """Return different positive parameters."""
    return 0.5 + torch.linspace(0, 1, math.prod(shape), dtype=torch.float64).view(shape)


@pytest.mark.parametrize(
    "law",
    [
        laws.Logistic(some(5, 3), some(3)),
        laws.Student(number(3), some(5, 3), some(5, 1)),
        laws.Gamma(some(5, 3), number(2)),
        laws.Gamma(number(2), some(5, 3)),
        laws.Beta(some(5, 1), some(3)),
        laws.Dirichlet(some(5, 3, 4)),
        laws.Elliptical.student(some(5, 3, 2), FACTOR[:2, :2], number(4)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_a_draw_of_an_item_does_not_depend_on_the_others(law: Law) -> None:
    """Parameters are (B, L) or broadcast to it, and noise is (S, B, L, …)."""
    noise = law.random((7,), torch.Generator().manual_seed(0))
    assert law.batch == (5, 3) and [each.shape for each in noise] == [(7, 5, 3, *each.shape) for each in law.noise]
    x = law.draw(*noise)
    assert x.shape == (7, 5, 3, *law.event) and law.log_density(x).shape == (7, 5, 3)
    assert torch.allclose(law.draw(*(each[2:3] for each in noise)), x[2:3])
    changed = [each.clone() for each in noise]
    for each in changed:
        each[:, 4] = 0.5
    y = law.draw(*changed)
    assert torch.allclose(y[:, :4], x[:, :4]) and not torch.allclose(y[:, 4], x[:, 4])


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_invalid_parameters_are_refused(kind: type[Law], values: tuple[float, ...], truth: Any) -> None:
    for parameter in kind.POSITIVE:
        place = [each.name for each in dataclasses.fields(kind) if each.name != "checked"].index(parameter)
        for wrong in (0.0, -1.0, math.nan):
            changed = [torch.tensor([value, value]) for value in values]
            changed[place][1] = wrong
            with pytest.raises(TrainingError, match=f"{kind.__name__}: {parameter} must be greater than 0") as refused:
                kind(*changed)
            assert refused.value.field == parameter
            assert kind(*changed, checked=False).checked is False


def test_invalid_orders_and_factors_are_refused() -> None:
    with pytest.raises(TrainingError, match="high must be greater than low; a value is 1"):
        made(laws.Uniform, 1, 1)
    with pytest.raises(TrainingError, match="mode must be greater than low"):
        made(laws.Triangular, 1, 1, 2)
    with pytest.raises(TrainingError, match="high must be greater than mode"):
        made(laws.Triangular, 1, 3, 2)
    with pytest.raises(TrainingError, match="factor must be a matrix with a positive diagonal"):
        laws.Elliptical.gaussian(PLACE, -FACTOR)


class Drawing(nn.Module):
    """A module that computes the parameters of laws from x (B, 3), and draws from each law."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 9)
        self.map.weight.data *= 3  # concentrations below and above 1

    def forward(self, x: Tensor, normals: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        free, first, second = self.map(x).view(-1, 3, 3).unbind(1)
        first, second = first.exp(), second.exp()
        return (
            laws.Logistic(free, first).draw(uniforms[..., 0]),
            laws.LogNormal(free, second).draw(normals[..., 0]),
            laws.Gamma(first, second).draw(normals, uniforms),
        )


def test_exported_draws_equal_torchs_on_the_same_noise() -> None:
    torch.manual_seed(0)
    module, inputs, outputs = Drawing(), ["x", "normals", "uniforms"], ["logistic", "log_normal", "gamma"]

    def given(n: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(n, 3), torch.randn(n, 3, gammas.ROUNDS), torch.rand(n, 3, gammas.ROUNDS + 1)

    batch = torch.export.Dim("batch", min=1, max=64)
    model = graphs.to_onnx(module, given(2), inputs, outputs, ({0: batch},) * 3)
    assert not any("Random" in node.op_type for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 50):
        x = given(n)
        found = session.run(None, dict(zip(inputs, (each.numpy() for each in x), strict=True)))
        with torch.no_grad():
            expected = module(*x)
        for law, graph, torchs in zip(outputs, found, expected, strict=True):
            assert np.allclose(graph, torchs.numpy(), rtol=2e-5, atol=1e-6), law


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("df", [4.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_of_an_elliptical_law_at_its_location(size: int, df: float, dtype: torch.dtype) -> None:
    place, factor = torch.zeros(size, dtype=dtype), torch.eye(size, dtype=dtype)
    law = (
        laws.Elliptical.gaussian(place, factor)
        if df == math.inf
        else laws.Elliptical.student(place, factor, torch.tensor(df, dtype=dtype))
    )
    x = place.clone().requires_grad_()
    density = law.log_density(x)
    expected = (
        stats.multivariate_normal(np.zeros(size)) if df == math.inf else stats.multivariate_t(np.zeros(size), df=df)
    )
    assert float(density.detach()) == pytest.approx(float(expected.logpdf(np.zeros(size))), abs=1e-4)
    (slope,) = torch.autograd.grad(density, x)
    assert not slope.any()


@pytest.mark.parametrize(("kind", "values", "truth"), ALL, ids=name)
def test_the_density_at_nan_is_nan(kind: type[Law], values: tuple[float, ...], truth: Any) -> None:
    law = kind(*(torch.tensor(value) for value in values))
    assert law.log_density(torch.tensor(math.nan)).isnan().all()


def test_heavy_tails_do_not_overflow() -> None:
    pareto = laws.Pareto(torch.tensor(1.0), torch.tensor(0.1))
    x = drawn(pareto, 100_000)
    assert x.isfinite().all() and pareto.log_density(x).isfinite().all()
    assert drawn(laws.F(torch.tensor(1.0), torch.tensor(0.1)), 100_000).isfinite().all()
