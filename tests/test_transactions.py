"""Features of transactions depend only on the past."""

from __future__ import annotations

import numpy as np
import pytest

from manifold.training.datasets.transactions import DAY, FIRST_GAP, Past, features


def made(n: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    seconds = np.sort(generator.integers(0, 60 * DAY, n))
    return seconds, generator.integers(0, 12, n), generator.integers(0, 7, n), np.round(generator.gamma(2, 30, n), 2)


def test_windows_by_hand() -> None:
    """The expected values come from a loop over all pairs, with equal times among them."""
    seconds, cards, _, amount = made()
    seconds[50:55] = seconds[50]
    cards[50:55] = 3
    past = Past(cards, seconds)
    count, total = past.window(7 * DAY, amount)
    gap = past.gap()
    for i in range(len(seconds)):
        earlier = [j for j in range(i) if cards[j] == cards[i]]
        within = [j for j in earlier if seconds[j] >= seconds[i] - 7 * DAY]
        assert count[i] == len(within)
        assert total[i] == pytest.approx(amount[within].sum(), abs=1e-6)
        assert gap[i] == (seconds[i] - seconds[earlier[-1]] if earlier else FIRST_GAP)


def test_the_future_changes_nothing() -> None:
    """The features of the first 300 transactions are the same for any later transactions."""
    seconds, cards, terminals, amount = made()
    before = features(seconds[:300], cards[:300], terminals[:300], amount[:300])
    other = amount.copy()
    other[300:] *= 100
    after = features(seconds, np.where(np.arange(400) < 300, cards, 99), terminals, other)
    for name, column in before.items():
        assert np.array_equal(column, after[name][:300], equal_nan=column.dtype.kind == "f"), name


def test_a_transaction_does_not_see_itself() -> None:
    seconds, cards, terminals, amount = made()
    plain = features(seconds, cards, terminals, amount)
    dear = amount.copy()
    dear[-1] = 1e6
    changed = features(seconds, cards, terminals, dear)
    for name, column in plain.items():
        if name not in ("amount", "amount_over_usual"):
            assert np.array_equal(column, changed[name], equal_nan=column.dtype.kind == "f"), name
    assert changed["amount_over_usual"][-1] > plain["amount_over_usual"][-1]


def test_features_of_a_few_transactions_by_hand() -> None:
    """The times are Sunday 00:30, Sunday 12:20, Monday 05:59 and Monday 06:00, with one card at one terminal."""
    seconds = np.asarray([1800, 44_400, DAY + 21_540, DAY + 21_600])
    one = np.zeros(4, int)
    found = features(seconds, one, one, np.asarray([10.0, 10.02, 10.04, 250.0]))
    assert found["hour"].tolist() == [0.5, 12.33, 5.98, 6.0]
    assert found["weekday"].tolist() == ["6", "6", "0", "0"]
    assert found["night"].tolist() == ["1", "0", "1", "0"]
    assert found["card_1d_count"].tolist() == found["terminal_1d_count"].tolist() == [0, 1, 1, 2]
    assert found["card_1d_mean"].tolist()[1:] == [10.0, 10.02, 10.03]
    assert found["card_30d_mean"].tolist()[1:] == found["terminal_30d_mean"].tolist()[1:] == [10.0, 10.01, 10.02]
    assert found["amount_over_usual"].tolist()[1:] == [0.0018, 0.0027, 3.1257]
    assert found["hours_since_last"].tolist() == [720.0, 11.833, 17.65, 0.017]


def test_no_transactions_have_no_features() -> None:
    none = np.zeros(0, int)
    assert {column.shape for column in features(none, none, none, none).values()} == {(0,)}


def test_first_transactions_miss_what_they_cannot_have() -> None:
    found = features(np.asarray([5, 10]), np.asarray([1, 2]), np.asarray([1, 1]), np.asarray([3.0, 4.0]))
    assert np.isnan(found["card_30d_mean"]).all()
    assert np.isnan(found["amount_over_usual"]).all()
    assert found["terminal_30d_mean"].tolist()[1] == 3.0
    assert found["hours_since_last"].tolist() == [720.0, 720.0]
    with pytest.raises(ValueError, match="in order of time"):
        features(np.asarray([9, 3]), np.zeros(2), np.zeros(2), np.ones(2))
