"""Optional terms of `tabular_detector`, and the evidence for the weights of terms: their mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.ensemble import IsolationForest as Forest
from sklearn.metrics import roc_auc_score

from manifold.runtime.manifest import Combination
from manifold.runtime.scores.scoring import combine
from manifold.runtime.scores.tails import Tail
from manifold.training.detectors import denoiser, evidence
from manifold.training.detectors.denoiser import Denoiser
from manifold.training.detectors.forest import IsolationForest
from manifold.training.detectors.histograms import Histograms
from manifold.training.detectors.sampled import SampledNeighbours
from manifold.training.detectors.tails import Tails
from manifold.training.errors import TrainingError
from manifold.training.scores import rules
from manifold.training.scores.neighbours import Neighbours

Array = np.ndarray[Any, Any]
SINGLE = [slice(i, i + 1) for i in range(4)]


def related(n: int, seed: int = 0) -> Array:
    """Return rows (n, 4) whose columns depend on each other, with some equal values."""
    random = np.random.default_rng(seed)
    first = random.normal(size=(n, 1))
    rows = np.c_[
        first, first + 0.1 * random.normal(size=(n, 1)), random.normal(size=(n, 1)), random.integers(0, 3, (n, 1))
    ]
    return np.asarray(rows.astype(np.float32), np.float64)


def related_by(rows: Array) -> float:
    """Return the size of the correlation of the first two columns."""
    return float(np.abs(np.asarray(np.corrcoef(rows[:, :2], rowvar=False))[0, 1]))


def on(module: torch.nn.Module, rows: Array) -> Array:
    return evidence.scored(module, rows)


@pytest.mark.parametrize("n", [2, 30, 1000])
def test_a_forest_equals_that_of_scikit_learn(n: int) -> None:
    rows = related(n)
    own = IsolationForest(rows, seed=3, trees=50)
    theirs = Forest(n_estimators=50, random_state=3).fit(rows.astype(np.float32))
    x = np.r_[rows[:20], related(200, seed=1), 9 * related(20, seed=2)]
    assert np.allclose(on(own, x), -theirs.score_samples(x.astype(np.float32)), atol=1e-5)


def test_tails_equal_their_definition() -> None:
    rows = np.c_[
        related(80), np.random.default_rng(5).exponential(size=80), -np.random.default_rng(6).exponential(size=80)
    ]
    found = Tails(rows)
    x = np.r_[rows[:10], rows.max(0, keepdims=True) + 1, rows.min(0, keepdims=True) - 1]
    at_most = (rows.astype(np.float32)[:, None] <= x.astype(np.float32)).sum(0)
    at_least = (rows.astype(np.float32)[:, None] >= x.astype(np.float32)).sum(0)
    left, right = -np.log((at_most + 1) / 81), -np.log((at_least + 1) / 81)
    skewed = ((rows - rows.mean(0)) ** 3).mean(0) < 0
    assert skewed[5] and not skewed[4]
    three = [left.sum(1), right.sum(1), np.where(skewed, left, right).sum(1)]
    assert np.allclose(on(found, x), np.max(three, axis=0), atol=1e-4)


def test_quantiles_stand_for_many_rows() -> None:
    """The tail of a value among 10 000 rows is kept to within one part of a hundred."""
    rows = np.random.default_rng(0).normal(size=(10_000, 1))
    found = Tails(rows)
    assert found.knots.shape == (1, 100)
    x = np.quantile(rows, [0.05, 0.5, 0.9, 0.99], axis=0)
    share = np.exp(-on(found, x))
    expected = np.asarray([[0.05, 0.95], [0.5, 0.5], [0.9, 0.1], [0.99, 0.01]]).min(1)
    assert np.allclose(share, expected, atol=0.02)


def test_the_noise_of_the_denoiser_is_that_of_its_steps() -> None:
    """The share of noise after step t is one minus the product of the shares that all steps keep."""
    share = denoiser.noise(3)
    kept = [1 - 1e-4, 1 - (1e-4 + 0.01) / 2, 1 - 0.01]
    assert np.allclose(share, [1 - kept[0], 1 - kept[0] * kept[1], 1 - kept[0] * kept[1] * kept[2]])
    assert np.all(np.diff(denoiser.noise()) > 0)


def test_a_denoiser_tells_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "STEPS", 300)
    rows = related(400)
    before = torch.get_rng_state()
    found = Denoiser(rows, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    x, random = related(300, seed=4), np.random.default_rng(8)
    levels = [
        on(found, np.sqrt(1 - share) * x + np.sqrt(share) * random.normal(size=x.shape)).mean()
        for share in denoiser.noise()[[0, 100, 200, 299]]
    ]
    assert np.all(np.diff(levels) > 0.1)
    assert min(levels) >= 0 and max(levels) <= denoiser.LEVELS - 1
    again = Denoiser(rows, seed=1)
    assert np.array_equal(on(found, x), on(again, x))
    assert not np.array_equal(on(found, x), on(Denoiser(rows, seed=2), x))


def test_an_unseen_value_adds_to_the_distance_in_samples() -> None:
    """The same as in `input_neighbours`: with samples of all rows, both are the distance to the nearest row."""
    rows, x = related(50), torch.from_numpy(related(9, seed=2)).float()
    apart = torch.linspace(0, 2, 9)
    sampled, nearest = SampledNeighbours(rows, 50, 0), Neighbours(torch.from_numpy(rows).float(), 1)
    assert torch.allclose(sampled(x, apart), nearest(x, apart), atol=1e-4)
    assert torch.allclose(sampled(x), nearest(x), atol=1e-4)
    assert (sampled(x, apart)[1:] > sampled(x)[1:]).all()


def test_synthetic_anomalies_are_disturbed_rows() -> None:
    random = np.random.default_rng(0)
    numbers, category = related(300)[:, :2], np.eye(3)[random.integers(0, 3, 300)]
    rows, blocks = np.c_[numbers, category], [slice(0, 1), slice(1, 2), slice(2, 5)]
    made = evidence.synthetic(rows, blocks, random)
    assert set(made) == {"one column", "a third of the columns", "all columns", "noise", "uniform"}
    for name, items in made.items():
        assert items.shape == rows.shape
        assert np.array_equal(items[:, 2:].sum(1), np.ones(300)), name  # one category in each row
        if name != "noise" and name != "uniform":  # all values are values of the column
            assert all(np.isin(items[:, column], rows[:, column]).all() for column in range(5))
    changed = np.stack([(made["one column"][:, block] != rows[:, block]).any(1) for block in blocks], 1)
    assert changed.sum(1).max() == 1
    assert np.array_equal(made["noise"][:, 2:], rows[:, 2:])
    assert (made["noise"][:, :2] - rows[:, :2]).std() == pytest.approx(1, abs=0.1)
    assert related_by(rows) > 0.9 > 0.2 > related_by(made["all columns"])
    assert (made["uniform"] >= rows.min(0)).all() and (made["uniform"] <= rows.max(0)).all()


@pytest.mark.parametrize("n", [300, 1500])
def test_a_term_that_does_not_see_a_dependence_has_less_weight(n: int) -> None:
    """Histograms of single columns see none of the exchanged values; nearest rows do. A constant score finds nothing."""

    def fit(rest: Array) -> dict[str, evidence.Score]:
        assert len(rest) == n * 4 // 5
        return {
            "nearest": Neighbours(torch.from_numpy(rest).float(), 1),
            "histograms": Histograms(rest),
            "nothing": lambda x: torch.zeros(len(x)),
        }

    found = evidence.aurocs(related(n), SINGLE, fit, seed=0)
    assert found["nearest"] > found["histograms"] + 0.1 > 0.6
    assert found["nothing"] == 0.5
    weights = evidence.weights(found, 2)
    assert sum(weights.values()) == pytest.approx(3, abs=0.01)
    assert weights["nearest"] / weights["nothing"] == pytest.approx((found["nearest"] / 0.5) ** 2, rel=0.01)


def test_evidence_is_an_auroc_of_held_out_rows() -> None:
    """With one kind of anomalies, computed once more by scikit-learn from the held-out fifth."""
    rows, seen = related(1000), []

    def fit(rest: Array) -> dict[str, evidence.Score]:
        seen.append(rest)
        return {"first": lambda x: x[:, 0]}

    found = evidence.aurocs(rows, SINGLE, fit, seed=7)["first"]
    (rest,) = seen
    random = np.random.default_rng(7)
    order = rows[random.permutation(1000)]
    assert np.array_equal(rest, np.delete(order, np.s_[::5], 0))
    held_out = order[::5]
    made = evidence.synthetic(held_out, SINGLE, random)
    expected = np.mean(
        [roc_auc_score(np.repeat([0, 1], 200), np.r_[held_out[:, 0], items[:, 0]]) for items in made.values()]
    )
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("n", [300, 1500])
def test_agreement_is_the_mean_rank_correlation_on_held_out_rows(n: int) -> None:
    """Two related terms agree, a random and a constant one do not. Rows are held out once, or all of them by folds."""
    rows, usual = related(n), np.arange(n) % 5 > 0
    places: list[int] = []

    def fit(rest: Array, kept: Array) -> dict[str, evidence.Score]:
        assert len(rest) == n * 4 // 5

        def first(x: torch.Tensor) -> torch.Tensor:
            places.append(len(x))
            return x[:, 0]

        assert {tuple(row) for row in kept} == {tuple(row) for row in rest} & {tuple(row) for row in rows[usual]}
        return {
            "first": first,
            "second": lambda x: x[:, 1] ** 3,
            "third": lambda x: x[:, 2],
            "nothing": lambda x: torch.zeros(len(x)),
        }

    found = evidence.agreements(rows, usual, fit, seed=3)
    assert sum(places) == (n if n < evidence.FEW else n // 5)
    assert found["nothing"] == 0
    held_out = np.random.default_rng(3).permutation(n)
    held_out = held_out if n < evidence.FEW else held_out[::5]
    related_rows = rows[held_out]
    theirs = spearmanr(np.c_[related_rows[:, 0], related_rows[:, 1], related_rows[:, 2]]).statistic
    assert found["first"] == pytest.approx((theirs[0, 1] + theirs[0, 2]) / 3, abs=1e-6)
    assert found["third"] == pytest.approx((theirs[0, 2] + theirs[1, 2]) / 3, abs=1e-6)
    weights = evidence.weights(found, 1)
    assert weights["nothing"] == pytest.approx(weights["third"]) and weights["first"] > weights["nothing"]


def test_weights_multiply_the_log_survivals() -> None:
    random = np.random.default_rng(0)
    terms = {name: random.normal(size=50) for name in "ab"}
    tails = {name: Tail.fit(random.normal(size=200)) for name in "ab"}
    plain = combine(Combination(terms=("a", "b")), tails, terms)
    weighted = combine(Combination(terms=("a", "b"), weights=(0.5, 1.5)), tails, terms)
    assert np.allclose(plain, tails["a"](terms["a"]) + tails["b"](terms["b"]))
    assert np.allclose(weighted, 0.5 * tails["a"](terms["a"]) + 1.5 * tails["b"](terms["b"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (1.0,)}, "1 numbers for 2 terms"),
        ({"evidence": (0.5, 0.6, 0.7)}, "3 numbers for 2 terms"),
        ({"weights": (1.0, 0.0)}, "greater than 0"),
        ({"weights": (1.0, 1.0), "method": "min-p"}, "use the method fisher"),
    ],
)
def test_wrong_weights_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Combination(terms=("a", "b"), **changes)


@pytest.mark.parametrize(
    "rule", ["nosuch", "fisher:mixture,nosuch", "mixture,tails", "sum:mixture,tails", "fisher:tails,tails"]
)
def test_a_rule_of_unknown_terms_is_refused(rule: str) -> None:
    with pytest.raises(TrainingError, match="the terms are mixture, tails"):
        rules.parsed(rule, ["mixture", "tails"])
