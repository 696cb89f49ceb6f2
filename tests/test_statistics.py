"""Streaming moments and the Fréchet distance: their mathematics."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg

from manifold.evaluation import frechet
from manifold.evaluation.errors import EvaluationError
from manifold.evaluation.statistics import FeatureGaussian, Moments, of_rows

Array = NDArray[Any]


def rows(n: int, d: int, seed: int = 0, *, skew: bool = False) -> Array:
    generator = np.random.Generator(np.random.Philox(seed))
    x = generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)
    return np.maximum(x, 0) if skew else x


def streamed(x: Array, cuts: list[int]) -> Moments:
    moments = Moments(x.shape[1])
    for part in np.split(x, cuts):
        moments.add(part)
    return moments


# --- moments ---


@pytest.mark.slow
@given(st.lists(st.integers(0, 900), max_size=12), st.sampled_from([5, 64, 2000]))
def test_the_bits_do_not_depend_on_how_rows_were_cut(cuts: list[int], d: int) -> None:
    x = rows(900, 5)[:, np.arange(d) % 5] + np.arange(d)
    whole, cut = streamed(x, []).gaussian(), streamed(x, sorted(cuts)).gaussian()
    assert np.array_equal(whole.mean, cut.mean)
    assert np.array_equal(
        whole.factor if whole.rows is not None else whole.covariance,
        cut.factor if cut.rows is not None else cut.covariance,
    )


@pytest.mark.parametrize("n", [2, 3, 40, 41, 300, 1000])
def test_moments_are_numpys(n: int) -> None:
    x = rows(n, 40)
    found = of_rows(x)
    assert np.allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(x.T), rtol=1e-10, atol=1e-12)
    assert found.trace == pytest.approx(np.trace(np.cov(x.T)), rel=1e-12)
    assert np.allclose(found.factor @ found.factor.T, np.cov(x.T), atol=1e-10)


@pytest.mark.parametrize("cut", [1, 30, 255, 700])
def test_shards_merge_to_the_whole(cut: int) -> None:
    x = rows(1000, 40)
    both = streamed(x[:cut], []).merged(streamed(x[cut:], [])).gaussian()
    assert both.n == 1000
    assert np.allclose(both.mean, x.mean(axis=0), rtol=1e-12)
    assert np.allclose(both.covariance, np.cov(x.T), rtol=1e-10, atol=1e-12)


def test_moments_of_many_shards_hold_few_rows() -> None:
    """Each shard is too small to be folded alone, but 200 of them together are folded, so merging does not keep their 50 000 rows."""
    x = rows(50_000, 8)
    shards = [streamed(part, []) for part in np.split(x, 200)]
    whole = functools.reduce(Moments.merged, shards)
    assert len(pickle.dumps(whole)) < 2 * len(pickle.dumps(shards[0]))
    assert np.allclose(whole.gaussian().covariance, np.cov(x.T), rtol=1e-10)


def test_a_large_offset_does_not_cancel() -> None:
    """The sum of squares minus the squared sum would lose all digits here."""
    x = rows(1000, 8)
    shifted = of_rows(x + 1e8)
    assert np.allclose(shifted.covariance, np.cov(x.T), rtol=1e-6, atol=1e-6)


def test_what_moments_refuse() -> None:
    moments = Moments(3)
    with pytest.raises(EvaluationError, match="not finite"):
        moments.add(np.full((2, 3), np.nan))
    with pytest.raises(EvaluationError, match=r"\[rows, 3\]"):
        moments.add(np.zeros((2, 4)))
    moments.add(np.zeros((1, 3)))
    with pytest.raises(EvaluationError, match="at least 2"):
        moments.gaussian()
    with pytest.raises(EvaluationError, match="cannot be merged"):
        moments.merged(Moments(4))


def test_features_that_never_vary_are_left_out_of_the_factor() -> None:
    x = rows(100, 5)
    x[:, [1, 3]] = 7.0
    found = of_rows(x)
    live = np.asarray([0, 2, 4])
    assert np.array_equal(found.live, live)
    assert np.array_equal(found.block(live), found.covariance[np.ix_(live, live)])
    assert np.array_equal(found.block(np.arange(5)), found.covariance)
    assert found.cholesky is not None
    assert np.allclose(found.cholesky @ found.cholesky.T, found.block(live))
    assert of_rows(x[:3]).cholesky is None  # a few rows are their own factor


# --- the trace term, by case ---


def by_sqrtm(x: Array, y: Array) -> float:
    a, b = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(a @ b)
    gap = x.mean(axis=0) - y.mean(axis=0)
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_equals_sqrtm_where_that_converges(d: int, skew: bool) -> None:
    x, y = rows(700, d, 1, skew=skew), rows(500, d, 2, skew=skew)
    expected = (
        by_sqrtm(np.atleast_2d(x), y) if d > 1 else (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    )
    assert frechet.distance(of_rows(x), of_rows(y)) == pytest.approx(expected, rel=1e-6)


def test_commuting_covariances_have_a_closed_form() -> None:
    a, b = np.asarray([4.0, 9.0, 0.0, 1.0]), np.asarray([1.0, 0.0, 0.0, 25.0])
    first, second = (FeatureGaussian(np.zeros(4), 9, covariance=np.diag(v)) for v in (a, b))
    assert frechet.distance(first, second) == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def degenerate() -> dict[str, Array]:
    """Return sets whose covariance is full, singular in several ways, or nearly singular."""
    full = rows(400, 48, 3)
    dead = full.copy()
    dead[:, ::7] = 0.25
    return {
        "full": full,
        "dead features": dead,
        "doubled features": np.concatenate([full[:, :24], full[:, :24]], axis=1),
        "fewer than dimensions": full[:20],
        "one image often": np.repeat(full[:1], 60, axis=0),
        "copies": np.repeat(full[:10], 30, axis=0),
        "ill-conditioned": full * np.logspace(0, -12, 48),
        "large": full * 1e3,
    }


@pytest.mark.parametrize("name", degenerate())
def test_a_set_against_itself_is_zero(name: str) -> None:
    x = degenerate()[name]
    assert frechet.distance(of_rows(x), of_rows(x)) < 1e-9
    shuffled = np.random.default_rng(0).permutation(x)  # the same numbers in another order, which gives other bits
    assert frechet.distance(of_rows(x), of_rows(shuffled)) < 1e-9 * max(1.0, of_rows(x).trace)


def exact(first: FeatureGaussian, second: FeatureGaussian) -> float:
    """Return the distance by SVD of eigen-factors. It is slow, but null spaces do not matter."""
    factors = []
    for part in (first, second):
        values, vectors = np.linalg.eigh(part.covariance)
        factors.append(vectors * np.sqrt(np.clip(values, 0, None)))
    gap = first.mean - second.mean
    nuclear = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    return float(gap @ gap + first.trace + second.trace - 2 * nuclear)


@pytest.mark.parametrize("left", degenerate())
@pytest.mark.parametrize("right", degenerate())
def test_singular_covariances_are_exact_and_symmetric(left: str, right: str) -> None:
    first, second = of_rows(degenerate()[left] + 1), of_rows(degenerate()[right])
    found = frechet.distance(first, second)
    assert found == pytest.approx(exact(first, second), rel=1e-7, abs=1e-13 * (first.trace + second.trace) + 1e-7)
    assert found == pytest.approx(frechet.distance(second, first), rel=1e-7, abs=1e-13 * (first.trace + second.trace))


def test_the_fast_way_is_taken_back_where_rounding_would_show() -> None:
    well, ill = of_rows(rows(400, 48, 3)), of_rows(degenerate()["ill-conditioned"])
    for gaussian, fast in ((well, True), (ill, False)):
        values = frechet._product_spectrum(gaussian, gaussian)
        assert (frechet.rounding(values) <= frechet.ROUNDING * 2 * gaussian.trace) == fast


def test_a_distance_that_rounding_could_make_is_zero() -> None:
    """Two Gaussians have variance 1 and different means. A distance up to 16 ε times the sum of both traces counts as rounding."""
    variance, limit = np.diag([1.0, 0.0]), 2.0**-47  # 16 ε (1 + 1), which is |(2⁻²⁴, 2⁻²⁴)|²
    centre = FeatureGaussian(np.zeros(2), 10, covariance=variance)
    at_limit = FeatureGaussian(np.full(2, 2.0**-24), 10, covariance=variance)
    above = FeatureGaussian(np.full(2, 2.0**-23), 10, covariance=variance)
    assert frechet.distance(centre, at_limit) == 0
    assert frechet.distance(centre, above) == 4 * limit


def test_different_dimensions_are_different_extractors() -> None:
    with pytest.raises(EvaluationError, match="with the same extractor"):
        frechet.distance(of_rows(rows(9, 3)), of_rows(rows(9, 4)))


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    broken = FeatureGaussian(np.zeros(2), 9, covariance=np.asarray([[1.0, 3.0], [3.0, 1.0]]))
    with pytest.raises(EvaluationError, match="must be positive semi-definite"):
        frechet.distance(broken, of_rows(rows(9, 2)))


# --- the perfect generator and the limit ---


@pytest.mark.parametrize(("n", "m"), [(500, 10_000), (2000, 2000)])
def test_the_closed_form_is_what_gaussian_samples_score(n: int, m: int) -> None:
    d = 32
    generator = np.random.Generator(np.random.Philox(5))
    mixing = generator.normal(size=(d, d)) * np.logspace(0, -1, d)
    draws = [
        frechet.distance(
            of_rows(generator.normal(size=(m, d)) @ mixing), of_rows(generator.normal(size=(n, d)) @ mixing)
        )
        for _ in range(20)
    ]
    predicted = frechet.expected_floor(np.linalg.eigvalsh(mixing.T @ mixing), n, m)
    assert np.mean(draws) == pytest.approx(predicted, rel=0.06)


def test_resampling_agrees_with_the_closed_form_for_gaussian_features() -> None:
    x = rows(4000, 16, 6)
    mean, deviation = frechet.resampled_floor(x, 1000, 1000, seed=0, repeats=10)
    assert mean == pytest.approx(frechet.expected_floor(of_rows(x).spectrum, 1000, 1000), rel=0.15)
    assert 0 < deviation < mean
    assert frechet.resampled_floor(x, 1000, 1000, 0) == frechet.resampled_floor(x, 1000, 1000, 0)


def test_the_limit_is_nearer_to_the_truth_than_any_number_of_samples() -> None:
    d = 24
    generator = np.random.Generator(np.random.Philox(7))
    reference = FeatureGaussian(np.zeros(d), None, covariance=np.eye(d))
    x = generator.normal(size=(2000, d)) * 1.2  # the true distance is d 0.2²
    points = frechet.curve(reference, x, seed=0)
    assert points[-1][0] == 2000
    assert points[-1][1] == pytest.approx(frechet.distance(reference, of_rows(x)))
    assert points[0][0] == 200
    values = [value for _, value in points]
    assert values[0] > values[-1] > d * 0.04
    assert abs(frechet.at_infinity(points) - d * 0.04) < abs(values[-1] - d * 0.04)
