"""Latent distances: tails, combinations, and their calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from manifold.runtime.manifest import COMBINED, Combination, Scoring, Term
from manifold.runtime.scores import decisions, scoring
from manifold.runtime.scores.tails import Tail

# --- tails ---


def test_a_tail_is_continuous_rising_and_without_end() -> None:
    generator = np.random.default_rng(0)
    for sample in (generator.normal(size=500), generator.pareto(1.2, size=500), generator.integers(0, 9, 500), generator.normal(size=3)):  # fmt: skip
        tail = Tail.fit(sample.astype(np.float64))
        grid = np.linspace(sample.min(), sample.max() + 100 * (np.ptp(sample) + 1), 20_001)
        nats = tail(grid)
        assert (np.diff(nats) >= 0).all()
        assert (np.diff(tail(np.linspace(tail.threshold, sample.max() * 1e3, 1000))) > 0).all()
        around = tail(tail.threshold + np.asarray([-1e-9, 0, 1e-9]))
        assert np.ptp(around) < 1e-6 * max(1, 1 / tail.scale)
        assert nats.min() >= 0


def test_a_tail_is_the_log_survival() -> None:
    """The survival functions are known. The tail is tested within the sample, and far outside it for distributions that the fit represents exactly."""
    generator = np.random.default_rng(1)
    for law in (stats.expon(scale=3), stats.genpareto(0.4), stats.norm()):
        tail = Tail.fit(law.rvs(20_000, random_state=generator))
        at = law.isf([0.9, 0.5, 0.2, 0.05, 0.01, 0.001])
        assert tail(at) == pytest.approx(-law.logsf(at), rel=0.1, abs=0.02)
    exponential = Tail.fit(stats.expon(scale=3).rvs(20_000, random_state=generator))
    assert exponential(np.asarray([60.0]))[0] == pytest.approx(20, rel=0.35)
    heavy = Tail.fit(stats.genpareto(0.4).rvs(20_000, random_state=generator))
    assert heavy.shape == pytest.approx(0.4, abs=0.12)


def test_a_tail_of_equal_or_few_values_is_finite() -> None:
    for sample in (np.zeros(50), np.full(50, -3.0), np.ones(1), np.asarray([1.0, 1.0, 1.0, 2.0])):
        tail = Tail.fit(sample)
        nats = tail(np.asarray([-10.0, 0.0, 1.0, 5.0, 1e6]))
        assert np.isfinite(nats).all()
        assert (np.diff(nats) >= 0).all()
        assert nats[-1] > nats[-2]
    with pytest.raises(ValueError, match="at least one"):
        Tail.fit(np.zeros(0))


def test_the_strangest_of_many_rows_are_ordered() -> None:
    """Among a million normal rows and two hundred anomalies, p-values tie at 1 / (n + 1), but the score still orders them by strength."""
    generator = np.random.default_rng(2)
    n = 2000
    combination = Combination(terms=("a", "b"))
    terms = {name: generator.gamma(2.0, size=n) for name in combination.terms}
    calibrated = _calibrated(combination, terms)
    strength = np.linspace(5, 12, 200)
    usual = {name: generator.gamma(2.0, size=1_000_000) for name in combination.terms}
    strange = {name: 8 + strength + generator.gamma(2.0, size=200) for name in combination.terms}
    placed = calibrated.place({name: np.concatenate([usual[name], strange[name]]) for name in combination.terms})
    top = np.argsort(-placed[COMBINED])[:200]
    assert (top >= 1_000_000).mean() > 0.95
    p = calibrated.p_values(COMBINED, placed[COMBINED])
    assert len(np.unique(p[top])) == 1
    assert p[top][0] == pytest.approx(1 / (n + 1))
    assert len(np.unique(placed[COMBINED][top])) == 200
    assert stats.spearmanr(placed[COMBINED][1_000_000:], strength).statistic > 0.8


# --- combinations ---


def _calibrated(combination: Combination, terms: dict[str, np.ndarray]) -> scoring.Calibrated:
    n = len(next(iter(terms.values())))
    values = {**terms, COMBINED: scoring.cross_combined(combination, terms)}
    about = type("About", (), {"n": n})()
    return scoring.Calibrated(about, {name: np.sort(term) for name, term in values.items()}, combination)


def test_combinations_by_hand() -> None:
    tails = {name: Tail.fit(np.arange(100.0)) for name in "ab"}
    terms = {"a": np.asarray([10.0, 99.0, 500.0]), "b": np.asarray([90.0, 3.0, 4.0])}
    nats = {name: tails[name](terms[name]) for name in "ab"}
    total = scoring.combine(Combination(terms=("a", "b")), tails, terms)
    largest = scoring.combine(Combination(method="min-p", terms=("a", "b")), tails, terms)
    assert total == pytest.approx(nats["a"] + nats["b"])
    assert largest == pytest.approx(np.maximum(nats["a"], nats["b"]))
    assert nats["a"][0] == pytest.approx(-np.log(0.895))


@pytest.mark.parametrize("method", ["fisher", "min-p"])
@pytest.mark.parametrize("n", [40, 300, 2000])
def test_combined_p_values_hold_their_rate(method: str, n: int) -> None:
    """For dependent terms and many calibration sets of n, the mean measured rate is the nominal one, although the tails use the same items."""
    generator = np.random.default_rng(n)
    combination = Combination.model_validate({"method": method, "terms": ("a", "b", "c")})

    def draw(size: int) -> dict[str, np.ndarray]:
        common = generator.gamma(2.0, size=size)
        return {"a": common, "b": common + generator.exponential(size=size), "c": generator.normal(size=size) ** 3}

    rates = []
    for _ in range(60):
        calibrated = _calibrated(combination, draw(n))
        p = calibrated.p_values(COMBINED, calibrated.place(draw(2000))[COMBINED])
        rates.append([(p <= level).mean() for level in (0.05, 0.1, 0.3)])
    for found, level in zip(np.mean(rates, axis=0), (0.05, 0.1, 0.3), strict=True):
        k = np.floor((n + 1) * level)
        spread = np.sqrt(stats.betabinom(2000, k, n + 1 - k).var() / 60) / 2000
        assert abs(found - k / (n + 1)) < 4 * spread + 0.003


def test_a_combination_needs_terms_that_are_there() -> None:
    terms = (Term(name="a", kind="nll"), Term(name="b", kind="distance"))
    with pytest.raises(ValueError, match="combination"):
        Scoring(score="a", terms=terms, combination=Combination(terms=("c",)))
    with pytest.raises(ValueError, match="neither a term nor a combination"):
        Scoring(score=COMBINED, terms=terms)
    with pytest.raises(ValueError, match="none may be"):
        Scoring(score="combined", terms=(*terms, Term(name=COMBINED, kind="nll")))
    assert Scoring(score=COMBINED, terms=terms, combination=Combination(terms=("a",))).evidence is None


# --- decisions ---


def test_risk_is_a_fixed_falling_function_of_p() -> None:
    assert scoring.risk(np.asarray([1.0, 0.1, 0.02, 0.001])).tolist() == [0, 600, 900, 980]
    values = scoring.risk(np.geomspace(1e-9, 1, 200)).tolist()
    assert values == sorted(values, reverse=True)
    assert 0 <= min(values) <= max(values) <= 999


ABOUT = Scoring(score="a", terms=(Term(name="a", kind="nll"),))
EVENLY = scoring.Calibrated(type("About", (), {"n": 999})(), {"a": np.arange(999.0)})


def _judge(values: list[float], **rule: Any) -> decisions.Judged:
    return decisions.judge(
        ABOUT, EVENLY, {"a": np.asarray(values)}, np.zeros(len(values), bool), decisions.Rule(**rule)
    )


def test_bands_follow_two_rates() -> None:
    values = [0.0, 988.0, 989.5, 997.5, 998.5, 2000.0]
    found = _judge(values)  # 0.01 for review and 0.001 for blocking, with 999 calibration items
    assert [item["band"] for item in map(found.item, range(6))] == [
        "allow",
        "allow",
        "review",
        "review",
        "block",
        "block",
    ]
    assert found.flagged.tolist() == [False, False, True, True, True, True]
    assert [found.item(i)["state"] for i in range(6)] == ["ok"] * 4 + ["below_resolution"] * 2
    assert found.threshold.p_value == pytest.approx(0.01)
    assert found.block_p_value == pytest.approx(0.001)
    # 999 items cannot resolve this rate: nothing is flagged, and the threshold says so
    finer = _judge(values, rate=0.0005)
    assert not finer.flagged.any()
    assert finer.threshold.score is None
    assert finer.block_p_value is None
    wider = _judge(values, rate=0.5, block=0.012)
    assert [wider.item(i)["band"] for i in range(6)] == ["allow", "block", "block", "block", "block", "block"]


def test_a_budget_takes_the_strangest_and_breaks_ties_by_order() -> None:
    found = _judge([5.0, 7.0, 7.0, 1.0], budget=2)
    assert found.flagged.tolist() == [False, True, True, False]
    assert _judge([7.0, 7.0, 7.0], budget=2).flagged.tolist() == [True, True, False]
    assert found.threshold.score == 7.0
    assert found.threshold.interval is None
    assert _judge([1.0], budget=5).flagged.tolist() == [True]


def test_costs_flag_where_the_bound_says_that_it_pays() -> None:
    """At the threshold, prevalence times the largest Bayes factor equals the cost of a false alarm. A higher cost of anomalies raises the rate."""
    rates = []
    for missed in (10.0, 100.0, 500.0):
        costs = decisions.Costs(false_positive=1.0, false_negative=missed, prevalence=0.001)
        p = costs.rate
        factor = 1 / (-np.e * p * np.log(p))
        assert costs.prevalence * missed * factor == pytest.approx((1 - costs.prevalence) * costs.false_positive)
        rates.append(p)
    assert rates == sorted(rates)
    assert decisions.Costs(1.0, 1e9, 0.5).rate == pytest.approx(1 / np.e)
    for extreme in (decisions.Costs(5e-324, 5e-324, 1 - 2**-53), decisions.Costs(1e308, 5e-324, 5e-324)):
        assert 0 < extreme.rate <= 1 / np.e
    found = _judge([998.5], costs=decisions.Costs(1.0, 100.0, 0.001))
    assert found.threshold.false_positive_rate == pytest.approx(rates[1])


@pytest.mark.parametrize(("alarm", "missed"), [(1.0, 20.0), (5.0, 500.0), (0.2, 60.0)])
def test_flagging_beyond_the_rate_of_costs_never_pays(alarm: float, missed: float) -> None:
    """Some rows are anomalies of any strength (beta p-values). Above the rate flagging pays for no strength; just below it, for one."""
    costs = decisions.Costs(false_positive=alarm, false_negative=missed, prevalence=0.001)
    beyond = np.geomspace(costs.rate * 1.001, 1 / np.e, 50)

    def pays(strength: float, p: np.ndarray) -> np.ndarray:
        gained = costs.prevalence * costs.false_negative * stats.beta(strength, 1).pdf(p)
        paid: np.ndarray = gained > (1 - costs.prevalence) * costs.false_positive
        return paid

    for strength in (0.05, 0.1, 0.2, 0.5, 0.9, *(-1 / np.log(beyond))):
        assert not pays(strength, beyond).any()
    just_before = costs.rate * 0.999
    assert pays(-1 / np.log(just_before), np.asarray(just_before))  # the strength with the largest factor at this rate


def test_without_a_calibration_there_is_a_score_and_a_budget() -> None:
    terms = {"a": np.asarray([1.0, 3.0])}
    nothing = scoring.Calibrated(None, {})
    unknown = decisions.are_unknown([["x: 9 was clipped"], ["unknown_category: x"]])
    found = decisions.judge(ABOUT, nothing, terms, unknown, decisions.Rule())
    assert found.item(0)["state"] == "uncalibrated"
    assert found.item(1) == {
        "score": 3.0, "p_value": None, "is_anomaly": None, "band": None, "risk": None, "state": "unknown",
        "parts": {"a": {"value": 3.0, "p_value": None}},
    }  # fmt: skip
    assert decisions.judge(ABOUT, nothing, terms, np.zeros(2, bool), decisions.Rule(budget=1)).flagged.tolist() == [
        False,
        True,
    ]
