"""Families for rows: from columns to calibrated scores with reasons, with missing values and categories never seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from runtime import checks
from runtime.engine import Model, load
from runtime.manifest import COMBINED
from runtime.spec import TableSpec
from tests.conftest import tiny_run
from training import data as datasets
from training.data import Data
from training.errors import TrainingError
from training.export import export
from training.families import tabular_vae
from training.runs import LOG


def related(n: int, seed: int) -> dict[str, np.ndarray]:
    """Rows whose columns depend on each other: the sum of a and b is c, and the kind says the sign of a."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=n), generator.normal(size=n)
    return {
        "a": a, "b": b, "c": a + b + 0.1 * generator.normal(size=n),
        "kind": np.where(a > 0, "up", "down"), "size": np.exp(generator.normal(size=n)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> Data:
    return datasets.from_table("related", related(4000, 0), {"source": "tests"})


@pytest.fixture(scope="module")
def model(rows: Data, tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("tabular")
    run = tiny_run(root / "run", "tabular_vae", rows, epochs=6, epoch_steps=50, hidden=(32, 32), references=500)
    return load(export(run, "related", root / "models", data=rows), device="cpu")


def test_an_epoch_is_a_number_of_steps(model: Model) -> None:
    lines = [json.loads(line) for line in (model.folder.parents[2] / "run" / LOG).read_text().splitlines()]
    assert len(lines) == 6
    assert lines[-1]["test/loss"] < lines[0]["test/loss"]


def test_the_artifact_is_whole(model: Model) -> None:
    assert checks.run_all(model) == []
    assert model.manifest.latent is not None
    assert model.manifest.latent.size == 3  # half of six encoded columns
    scoring = model.manifest.scoring
    assert scoring is not None
    assert scoring.score == COMBINED
    assert [term.name for term in scoring.terms][-3:] == ["latent_distance", "latent_neighbours", "input_neighbours"]


def _p(model: Model, table: dict[str, np.ndarray]) -> np.ndarray:
    from training import tables

    assert isinstance(model.manifest.data, TableSpec)
    terms = model.score(tables.encode(table, model.manifest.data)).terms
    return model.calibrated.p_values(COMBINED, model.calibrated.place(terms)[COMBINED])


def test_new_normal_rows_are_flagged_at_the_rate_asked_for(model: Model) -> None:
    """False positives lie in the 99% band of their law, Beta-Binomial(n_test; k, n_cal + 1 - k)."""
    p = _p(model, related(3000, 1))
    n = model.calibrated.n
    for rate in (0.01, 0.05, 0.1):
        line = model.calibrated.threshold(COMBINED, rate)
        k = int((n + 1) * rate)
        low, high = stats.betabinom(3000, k, n + 1 - k).ppf([0.005, 0.995])
        assert low <= (p <= line.p_value).sum() <= high


def test_rows_that_break_a_relation_are_strange(model: Model) -> None:
    """Each value of such a row is usual by itself."""
    usual = _p(model, related(500, 5))
    broken = related(500, 2)
    broken["c"] = np.random.default_rng(3).permutation(broken["c"])
    turned = related(500, 4)
    turned["kind"] = np.where(turned["kind"] == "up", "down", "up")
    for strange in (_p(model, broken), _p(model, turned)):
        found = roc_auc_score(np.arange(1000) >= 500, -np.concatenate([usual, strange]))
        assert found > 0.65
    assert np.median(usual) > 0.3


def test_missing_values_are_scored(model: Model) -> None:
    holes = related(500, 6)
    holes["b"] = np.full(500, np.nan)
    assert np.isfinite(_p(model, holes)).all()
    assert np.median(_p(model, holes)) > 0.2


def test_tabular_families_take_tables(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="family `vae`"):
        tabular_vae.build(tabular_vae.Config(), digits)
    with pytest.raises(TrainingError, match="latent_dim"):
        tabular_vae.Config(latent_dim=-1)


def test_a_conditional_one_tells_classes_apart(tmp_path: Path) -> None:
    table = related(3000, 7)
    table["c"] = np.where(np.arange(3000) % 2, table["c"], table["c"] + 4)
    table["label"] = np.where(np.arange(3000) % 2, "plain", "shifted")
    data = datasets.from_table("labelled", table, {"source": "tests"}, label="label")
    run = tiny_run(tmp_path / "run", "tabular_cvae", data, epochs=6, epoch_steps=50, hidden=(32, 32), references=200)
    model = load(export(run, "labelled", tmp_path / "models", data=data), device="cpu")
    assert checks.run_all(model) == []
    found = model.classify(data.edge(data.test)).argmax(1)
    assert (found == data.test.labels).mean() > 0.85
    assert model.manifest.scoring is not None
    assert model.manifest.scoring.evidence == "negative_elbo"
    assert np.isfinite(model.score(data.edge(data.test)).terms["input_neighbours"]).all()
