"""Metrics of the evaluation: each agrees with its definition, and has the properties that it must have."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from manifold.evaluation import metrics
from manifold.evaluation.errors import EvaluationError

Array = NDArray[Any]


def draw(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> Array:
    return np.random.Generator(np.random.Philox(seed)).normal(size=(n, d)) + shift


def mmd(x: Array, y: Array) -> float:
    """Return the unbiased estimator by its definition (Gretton et al., 2012, eq. 3), pair by pair."""
    k = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    m, n = len(x), len(y)
    within_x = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / (m * (m - 1))
    within_y = sum(k(a, b) for a, b in itertools.permutations(y, 2)) / (n * (n - 1))
    return float(within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n))


def test_kid_is_the_unbiased_estimator_over_all_pairs() -> None:
    x, y = draw(41), draw(57, seed=1, shift=0.3)
    assert metrics.kernel_distance(x, y, seed=0, blocks=5).value == pytest.approx(mmd(x, y), rel=1e-10)


def test_kid_between_halves_is_zero_within_its_error_and_unbiased() -> None:
    found = [metrics.kernel_distance(draw(400, seed=seed), draw(400, seed=seed + 500), 0) for seed in range(40)]
    values = np.asarray([estimate.value for estimate in found])
    assert min(values) < 0 < max(values)  # a biased estimator is never negative
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_of_kid_is_its_deviation_over_repeated_samples(shift: float) -> None:
    """For equal distributions the U-statistic is degenerate. A jackknife over blocks gives 1.3 to 1.4 times the deviation there."""
    found = [
        metrics.kernel_distance(draw(100, seed=seed), draw(140, seed=1000 + seed, shift=shift), 0)
        for seed in range(300)
    ]
    values, errors = (np.asarray([getattr(each, name) for each in found]) for name in ("value", "error"))
    deviation = np.std(values, ddof=1)
    assert 0.85 < np.sqrt(np.mean(errors**2)) / deviation < 1.25
    assert errors.min() > 0.3 * deviation  # an error of zero would make any difference significant
    assert np.mean(np.abs(values - values.mean()) < 2 * errors) > 0.9


def test_kid_needs_pairs_in_each_block() -> None:
    with pytest.raises(EvaluationError, match="at least 40"):
        metrics.kernel_distance(draw(39), draw(100), 0)


# --- Inception Score ---


def one_hot(labels: Array, classes: int = 10) -> Array:
    return np.eye(classes)[labels]


def test_inception_score_in_both_senses() -> None:
    uniform = np.full(10, 0.1)
    balanced = one_hot(np.arange(1000) % 10)
    single = one_hot(np.zeros(1000, int))
    half = one_hot(np.arange(1000) % 5)
    vague = np.full((1000, 10), 0.1)
    for p, marginal, prior in ((balanced, 10, 10), (single, 1, 10), (half, 5, 10), (vague, 1, 1)):
        found = metrics.inception_score(p, 0), metrics.inception_score(p, 0, uniform)
        assert found[0].value == pytest.approx(marginal, rel=0.05)
        assert found[1].value == pytest.approx(prior, rel=1e-9)
    assert metrics.class_divergence(single, uniform) == pytest.approx(np.log(10))
    assert metrics.class_divergence(balanced, uniform) == pytest.approx(0, abs=1e-12)


def test_the_two_scores_part_by_the_divergence_of_the_classes() -> None:
    p = np.random.Generator(np.random.Philox(0)).dirichlet([0.3, 0.2, 0.4], 500)
    prior = np.asarray([0.5, 0.3, 0.2])
    marginal, against = (np.log(metrics.inception_score(p, 0, q, splits=1).value) for q in (None, prior))
    assert against == pytest.approx(marginal + metrics.class_divergence(p, prior), rel=1e-10)


def test_splits_are_shuffled_by_seed() -> None:
    p = one_hot(
        np.sort(np.arange(1000) % 10)
    )  # sorted by class: without shuffling each split would hold one class and score 1
    assert metrics.inception_score(p, 0).value > 9
    assert metrics.inception_score(p, 0) == metrics.inception_score(p, 0)
    assert metrics.inception_score(p, 0) != metrics.inception_score(p, 1)
    with pytest.raises(EvaluationError, match="10 splits, but there are 9"):
        metrics.inception_score(p[:9], 0)


def test_a_class_that_the_data_lacks_is_infinitely_surprising() -> None:
    assert metrics.inception_score(one_hot(np.arange(100) % 2, 2), 0, np.asarray([1.0, 0.0])).value == np.inf


# --- precision and recall ---


def naive(real: Array, fake: Array, k: int = 3) -> tuple[float, float]:
    def within(points: Array, among: Array) -> float:
        radii = [sorted(np.linalg.norm(a - b) for b in among)[k] for a in among]
        return float(
            np.mean([any(np.linalg.norm(p - a) <= r for a, r in zip(among, radii, strict=True)) for p in points])
        )

    return within(fake, real), within(real, fake)


def test_precision_and_recall_as_defined() -> None:
    real, fake = draw(60, 3), draw(50, 3, seed=1, shift=0.7)
    assert metrics.precision_recall(real, fake) == pytest.approx(naive(real, fake))


def test_precision_and_recall_tell_quality_from_variety() -> None:
    real = draw(1500, 4)
    narrow, wide = draw(1500, 4, seed=1) * 0.3, draw(1500, 4, seed=2) * 3
    p_narrow, r_narrow = metrics.precision_recall(real, narrow)
    p_wide, r_wide = metrics.precision_recall(real, wide)
    assert p_narrow > 0.95 > 0.5 > r_narrow
    assert r_wide > 0.95 > 0.5 > p_wide
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    shifted = metrics.precision_recall(real + 1e4, narrow + 1e4)
    assert shifted == pytest.approx((p_narrow, r_narrow), abs=0.01)
    with pytest.raises(EvaluationError, match="more than 3"):
        metrics.precision_recall(real[:3], narrow)


# --- images and codes ---


def test_psnr_and_usage() -> None:
    assert metrics.psnr(np.asarray([0.01, 0.0001])) == pytest.approx(30)
    assert metrics.psnr(np.zeros(3)) == 100
    usage, perplexity = metrics.code_usage(np.arange(64).reshape(4, 4, 4) % 8, 16)
    assert (usage, perplexity) == pytest.approx((0.5, 8))
    assert metrics.code_usage(np.zeros((4, 2), int), 16) == pytest.approx((1 / 16, 1))
    with pytest.raises(EvaluationError, match="they must be 0 to 3"):
        metrics.code_usage(np.asarray([[4]]), 4)
