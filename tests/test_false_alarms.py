"""The false-alarm rates of decisions: on exchangeable normal items they follow the law of conformal p-values, for three data sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from manifold.runtime.engine import Model, load
from manifold.runtime.scores import decisions
from manifold.runtime.scores.decisions import Rule
from manifold.training import datasets
from manifold.training.data import Arrays, Data, tables
from tests.conftest import tiny_run
from tests.shared import export

TINY = {"epochs": 2, "epoch_steps": 30, "hidden": (16,), "references": 200}


def dependent(n: int) -> dict[str, np.ndarray]:
    """Return columns that depend on each other."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, n))
    return {"a": a, "b": b, "sum": a + b + 0.1 * generator.normal(size=n), "sign": np.where(a > 0, "up", "down")}


def heavy(n: int) -> dict[str, np.ndarray]:
    """Return columns with heavy tails, counts with many ties, and a rare category."""
    generator = np.random.default_rng(1)
    return {
        "amount": generator.pareto(1.5, n), "count": generator.poisson(30 * generator.random(n)).astype(float),
        "where": generator.choice(["a", "b", "c"], n, p=[0.9, 0.099, 0.001]),
    }  # fmt: skip


def of_rows(table: dict[str, np.ndarray]) -> Data:
    """Split rows: a quarter for training, a quarter for calibration, half for testing."""
    n = len(next(iter(table.values())))
    cuts = {"train": slice(0, n // 4), "calibration": slice(n // 4, n // 2), "test": slice(n // 2, n)}
    return tables.from_parts(
        "made", {part: {name: values[cut] for name, values in table.items()} for part, cut in cuts.items()}, {}
    )


def of_digits() -> Data:
    """Split scikit-learn's handwritten digits in random order: 600 for training, 500 for calibration, 697 for testing."""
    digits = datasets.load("digits")
    parts = [digits.train, digits.calibration, digits.test]
    items, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("items", "labels"))
    order = np.random.default_rng(2).permutation(len(items))
    cuts = (order[:600], order[600:1100], order[1100:])
    train, calibration, test = (Arrays(items[rows], labels[rows]) for rows in cuts)
    return dataclasses.replace(digits, train=train, calibration=calibration, test=test)


@pytest.fixture(scope="module", params=["dependent columns", "heavy tails and ties", "handwritten digits"])
def held_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, np.ndarray]:
    """Return an artifact, and held-out items with the distribution of its calibration items."""
    root = tmp_path_factory.mktemp("alarms")
    if request.param == "handwritten digits":
        data, family = of_digits(), "vae"
        changes: dict[str, object] = {"latent_dim": 3, "hidden": (32,), "references": 200}
    else:
        data, family, changes = (
            of_rows(dependent(8000) if "dependent" in request.param else heavy(8000)),
            "tabular_vae",
            TINY,
        )
    run = tiny_run(root / "run", family, data, **changes)
    return load(export(run, "alarms", root / "models", data=data, backend="torchscript"), device="cpu"), data.inputs(
        data.test
    )


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_false_alarms_lie_in_the_band_of_their_law(held_out: tuple[Model, np.ndarray], rate: float) -> None:
    """The law is Beta-Binomial(n_test; k, n_cal + 1 - k) with k = floor((n_cal + 1) rate). The band holds its central 99%."""
    model, items = held_out
    about, n = model.manifest.scoring, model.calibrated.n
    assert about is not None
    judged = decisions.judge(
        about, model.calibrated, model.score(items).terms, np.zeros(len(items), bool), Rule(rate=rate)
    )
    k = int((n + 1) * rate)
    low, high = stats.betabinom(len(items), k, n + 1 - k).ppf([0.005, 0.995])
    assert low <= judged.flagged.sum() <= high
    assert judged.threshold.interval is not None
    assert judged.threshold.interval[0] < k / (n + 1) < judged.threshold.interval[1]


def test_items_from_elsewhere_are_flagged(held_out: tuple[Model, np.ndarray]) -> None:
    """This shows that the score of the test above detects something."""
    model, items = held_out
    about = model.manifest.scoring
    assert about is not None
    elsewhere = 1 - items if items.ndim == 4 else items + 5
    terms = model.score(elsewhere.astype(np.float32)).terms
    judged = decisions.judge(about, model.calibrated, terms, np.zeros(len(items), bool), Rule(rate=0.1))
    assert judged.flagged.mean() > 0.8
