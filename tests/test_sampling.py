"""Arrays from seeds: their bits, their distributions, and that they depend only on seed, index and stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from manifold.runtime import sampling

SEEDS = st.integers(0, sampling.MAX_SEED)


@given(SEEDS, st.integers(0, 2**62), st.integers(1, 9), st.integers(0, 5), st.integers(0, 40))
def test_vectorised_words_are_numpys(seed: int, first: int, n: int, stream: int, blocks: int) -> None:
    serial = sampling._serial(seed, first, n, stream, blocks)
    assert np.array_equal(serial, sampling._vectorised(seed, first, n, stream, blocks))


@pytest.mark.parametrize("draw", [sampling.uniform, sampling.normal])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (20,), (3, 5)])
def test_an_item_depends_on_its_index_alone(draw: object, shape: tuple[int, ...]) -> None:
    assert callable(draw)
    whole = draw(7, 100, 64, 2, shape)
    assert whole.shape == (64, *shape)
    assert whole.dtype == np.float32
    for size in (1, 2, 3, 5):
        for start in (0, 17, 64 - size):
            assert np.array_equal(draw(7, 100 + start, size, 2, shape), whole[start : start + size])


def test_streams_seeds_and_items_differ() -> None:
    draws = [sampling.uniform(seed, first, 1, stream, (8,)) for seed in (0, 1) for first in (0, 1) for stream in (0, 1)]
    assert len({array.tobytes() for array in draws}) == len(draws)


def test_a_longer_draw_begins_like_a_shorter_one() -> None:
    assert np.array_equal(sampling.normal(3, 0, 4, 2, (6,)), sampling.normal(3, 0, 4, 2, (20,))[:, :6])


def test_the_transform_is_frozen() -> None:
    """These numbers are fixed: any change would change every picture ever made with a seed."""
    assert sampling.uniform(7, 3, 1, 2, (3,))[0].tolist() == pytest.approx(UNIFORM, abs=0)
    assert sampling.normal(7, 3, 1, 2, (3,))[0].tolist() == pytest.approx(NORMAL, rel=1e-6)


UNIFORM = [0.8433636426925659, 0.3071080446243286, 0.5123138427734375]
NORMAL = [-0.2049805372953415, 0.5465318560600281, -1.1275646686553955]


def test_laws() -> None:
    uniforms = sampling.uniform(1, 0, 20_000, 2, (2,))
    normals = sampling.normal(1, 0, 20_000, 2, (2,))
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert stats.kstest(uniforms.ravel(), "uniform").pvalue > 0.001
    assert stats.kstest(normals.ravel(), "norm").pvalue > 0.001
    assert abs(float((normals[:, 0] * normals[:, 1]).mean())) < 0.03  # the two values of a Box-Muller pair


@pytest.mark.parametrize(("word", "uniform"), [(2**64 - 1, 1 - 2**-24), (0, 0.0)])
def test_the_most_extreme_words_give_uniforms_below_one_and_finite_normals(
    word: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_words", lambda *of: np.full((of[2], of[4]), word, np.uint64))
    drawn = sampling.uniform(0, 0, 2, 2, (3,))
    assert drawn.dtype == np.float32
    assert (drawn == uniform).all()
    assert drawn.max() < 1
    assert np.isfinite(sampling.normal(0, 0, 2, 2, (3,))).all()
    assert sampling.choice(0, 0, 1, [0.5, 0.25, 0.25]).tolist() == [0 if word == 0 else 2]


def test_choice_follows_the_weights() -> None:
    chosen = sampling.choice(5, 0, 20_000, [0.5, 0.0, 0.25, 0.25])
    counts = np.bincount(chosen, minlength=4) / 20_000
    assert counts == pytest.approx([0.5, 0, 0.25, 0.25], abs=0.015)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_pick_inverts_the_cdf(weights: list[float], u: float) -> None:
    p = np.asarray(weights) / sum(weights)
    index = int(sampling.pick(p[None], np.asarray([u]))[0])
    cumulative = np.concatenate([[0], np.cumsum(p)])
    assert cumulative[index] <= u
    assert u < cumulative[index + 1] or index == len(p) - 1
