"""Families for rows: from columns to calibrated scores with reasons, with missing values and unseen categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from starlette.testclient import TestClient

from manifold.runtime import checks
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import COMBINED
from manifold.runtime.scores import reasons
from manifold.runtime.tables.rows import encode as encode_rows
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training.data import Arrays, Data, schema, tables
from manifold.training.errors import TrainingError
from manifold.training.families import tabular_vae
from manifold.training.runs import LOG
from tests import tabled
from tests.conftest import tiny_run, wait_until_ready
from tests.shared import export


def related(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return rows whose columns depend on each other: c is the sum of a and b, and `kind` is the sign of a."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=n), generator.normal(size=n)
    return {
        "a": a, "b": b, "c": a + b + 0.1 * generator.normal(size=n),
        "kind": np.where(a > 0, "up", "down"), "size": np.exp(generator.normal(size=n)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> Data:
    return tables.from_table("related", related(4000, 0), {"source": "tests"})


@pytest.fixture(scope="module")
def model(rows: Data, tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("tabular")
    run = tiny_run(root / "run", "tabular_vae", rows, epochs=6, epoch_steps=50, hidden=(32, 32), references=500)
    return load(export(run, "related", root / "models", data=rows, backend="torchscript"), device="cpu")


def test_an_epoch_is_a_number_of_steps(model: Model) -> None:
    lines = [json.loads(line) for line in (model.folder.parents[2] / "run" / LOG).read_text().splitlines()]
    assert len(lines) == 6
    assert lines[-1]["calibration/loss"] < lines[0]["calibration/loss"]


def test_the_artifact_is_whole(model: Model) -> None:
    assert checks.run_all(model) == []
    assert model.manifest.space is not None
    assert model.manifest.space.size == 3  # half of the six encoded columns
    scoring = model.manifest.scoring
    assert scoring is not None
    assert scoring.score == COMBINED
    assert [term.name for term in scoring.terms][-3:] == ["latent_distance", "latent_neighbours", "input_neighbours"]


def _p(model: Model, table: dict[str, np.ndarray]) -> np.ndarray:

    assert isinstance(model.manifest.spec, TableSpec)
    terms = model.score(schema.encode(table, model.manifest.spec)).terms
    return model.calibrated.p_values(COMBINED, model.calibrated.place(terms)[COMBINED])


def test_new_normal_rows_are_flagged_at_the_rate_asked_for(model: Model) -> None:
    """The number of false positives lies in the 99% band of its law, Beta-Binomial(n_test; k, n_cal + 1 - k)."""
    p = _p(model, related(3000, 1))
    n = model.calibrated.n
    for rate in (0.01, 0.05, 0.1):
        line = model.calibrated.threshold(COMBINED, rate)
        k = int((n + 1) * rate)
        low, high = stats.betabinom(3000, k, n + 1 - k).ppf([0.005, 0.995])
        assert low <= (p <= line.p_value).sum() <= high


def test_rows_that_break_a_relation_are_strange(model: Model) -> None:
    """Each value of such a row is usual when seen alone."""
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
    with pytest.raises(InvalidValue, match="the items are images, but rows are needed"):
        tabular_vae.resolve(tabular_vae.Config(), digits)
    with pytest.raises(TrainingError, match="latent_dim"):
        tabular_vae.Config(latent_dim=-1)


def test_a_conditional_one_tells_classes_apart(tmp_path: Path) -> None:
    table = related(3000, 7)
    table["c"] = np.where(np.arange(3000) % 2, table["c"], table["c"] + 4)
    table["label"] = np.where(np.arange(3000) % 2, "plain", "shifted")
    data = tables.from_table("labelled", table, {"source": "tests"}, label="label")
    run = tiny_run(tmp_path / "run", "tabular_cvae", data, epochs=6, epoch_steps=50, hidden=(32, 32), references=200)
    model = load(export(run, "labelled", tmp_path / "models", data=data, backend="torchscript"), device="cpu")
    assert checks.run_all(model) == []
    whole = data.inputs(data.test)
    holes = whole.copy()
    holes[:, 2] = np.nan  # column c, which the class shifts by 4
    informed = model.impute(holes, classes=[data.classes[label] for label in data.test.labels])  # type: ignore[index]
    blind = model.impute(holes)
    errors = [np.abs(each.data[:, 2] - whole[:, 2]).mean() for each in (informed, blind)]
    assert errors[0] < errors[1]
    assert np.isfinite(model.impute(holes, seed=1).data).all()
    found = model.classify(whole).argmax(1)
    assert (found == data.test.labels).mean() > 0.85
    assert model.manifest.scoring is not None
    assert model.manifest.scoring.evidence == "negative_elbo"
    assert np.isfinite(model.score(data.inputs(data.test)).terms["input_neighbours"]).all()
    settings = Settings(models_dir=tmp_path / "models", default_model="labelled", device="cpu")
    row = {"a": 0.3, "b": 0.2, "c": 4.5, "kind": "up", "size": 1.0}
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        shifted, plain = client.post("/classify", json={"rows": [row, {**row, "c": 0.5}]}).json()["items"]
        assert (shifted["class"], plain["class"]) == ("shifted", "plain")
        assert sum(shifted["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        blank = {**row, "c": None}
        for label, expected in (("shifted", 4.5), ("plain", 0.5)):
            (filled,) = client.post("/impute", json={"rows": [blank], "class": label}).json()["rows"]
            assert filled["c"] == pytest.approx(expected, abs=1.5)
        refused = client.post("/classify", json={"rows": [{**row, "kind": 3}]})
        assert refused.status_code == 422, refused.text
        wrong = client.post("/anomaly-score", json={"rows": [row], "class": "neither", "explain": True})
        assert wrong.status_code == 422
        told = client.post("/anomaly-score", json={"rows": [row], "class": "plain", "explain": True}).json()["items"][0]
        assert told["explanation"]["columns"][0]["column"] == "c"
        assert told["explanation"]["columns"][0]["direction"] == "high"
        free = client.post("/anomaly-score", json={"rows": [row], "explain": True}).json()["items"][0]
        assert free["score"] < told["score"]
        assert len(free["explanation"]["neighbours"]) == 5


# --- imputation of missing values ---


def test_missing_values_are_filled_in_from_the_others(model: Model) -> None:

    assert isinstance(model.manifest.spec, TableSpec)
    table = related(400, 8)
    table["kind"], table["c"] = np.asarray([None] * 400), np.full(400, np.nan)
    data = schema.encode(table, model.manifest.spec)
    found = model.impute(data)
    blocks = {column.name: block for column, block in model.manifest.spec.placed}
    truth = schema.encode(related(400, 8), model.manifest.spec)
    kind, c = found.probabilities[:, blocks["kind"]], found.data[:, blocks["c"]][:, 0]
    assert np.allclose(kind.sum(axis=1), 1, atol=1e-5)
    assert (kind.argmax(1) == truth[:, blocks["kind"]].argmax(1)).mean() > 0.75
    assert np.corrcoef(c, truth[:, blocks["c"]][:, 0])[0, 1] > 0.5
    given = ~np.isnan(data)
    assert np.array_equal(found.data[given], data[given])
    assert np.array_equal(found.missing, ~given)
    again, alone = model.impute(data, seed=3), model.impute(data[7:8], seed=3, first=7)
    assert np.array_equal(again.data[7], alone.data[0])
    assert not np.array_equal(again.data, found.data)
    assert set(np.unique(again.data[:, blocks["kind"]])) == {0.0, 1.0}


def test_a_model_that_only_scores_fills_in_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTask, match="rows cannot impute; it supports anomaly_score"):
        load(tabled.write(tmp_path)).impute(np.full((2, 4), np.nan, np.float32))


def test_imputation_over_http(model: Model) -> None:
    settings = Settings(models_dir=model.folder.parents[1], default_model="related", device="cpu")
    row = {"a": 1.2, "b": 0.5, "c": None, "size": 1.0}
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        answer = client.post("/impute", json={"rows": [row, [1.2, 0.5, 1.7, "up", 1.0]]})
        assert answer.status_code == 200, answer.text
        first, second = answer.json()["rows"]
        assert second == {"a": 1.2, "b": 0.5, "c": 1.7, "kind": "up", "size": 1.0}
        assert first["a"] == 1.2
        assert first["kind"] in ("up", "down")
        assert isinstance(first["c"], float)
        probabilities = answer.json()["probabilities"]
        assert sorted(probabilities[0]["kind"]) == ["down", "up"]
        assert sum(probabilities[0]["kind"].values()) == pytest.approx(1, abs=1e-5)
        assert probabilities[1] == {}
        drawn = client.post("/impute", json={"rows": [row], "seed": 5}).json()
        assert drawn["seed"] == 5
        for body, field in (
            ({"rows": []}, "rows"),
            ({"rows": [{"a": 1, "z": 2}]}, "rows[0].z"),
            ({"rows": [{}]}, "rows[0]"),
            ({"rows": [{"kind": "sideways"}]}, "rows[0].kind"),
            ({}, "rows"),
        ):
            refused = client.post("/impute", json=body)
            assert refused.status_code == 422, body
            assert refused.json()["error"]["field"] == field
        scored = client.post("/anomaly-score", json={"rows": [row], "explain": True}).json()["items"][0]
        assert scored["state"] == "unknown"
        why = {each["column"]: each for each in scored["explanation"]["columns"]}
        assert why["c"]["nats"] == 0
        assert why["c"]["value"] is None

    columns, latent = scored["explanation"]["columns"], scored["explanation"]["latent_share"]
    assert sum(each["share"] for each in columns) + latent == pytest.approx(1)


@pytest.mark.parametrize(
    ("column", "value", "direction"),
    [("a", 4.0, "high"), ("b", -4.0, "low"), ("c", 5.0, "high"), ("size", 60.0, "high")],
)
def test_a_perturbed_column_ranks_first(model: Model, column: str, value: float, direction: str) -> None:
    spec = model.manifest.spec
    assert isinstance(spec, TableSpec)
    row = {"a": 0.6, "b": 0.4, "c": 1.0, "kind": "up", "size": 1.0}
    assert model.manifest.scoring is not None
    (usual,), (strange,) = (explained(model, [each]) for each in (row, {**row, column: value}))
    first = strange["columns"][0]
    assert (first["column"], first["direction"]) == (column, direction)
    assert first["share"] == max(each["share"] for each in strange["columns"])
    assert first["excess"] > max(each["excess"] for each in usual["columns"]) + 1
    assert sum(each["share"] for each in strange["columns"]) + strange["latent_share"] == pytest.approx(1)
    # the expected value follows from the other columns, not from the value in question
    if column == "c":
        assert first["expected"] == pytest.approx(1.0, abs=0.6)


def test_a_wrong_category_says_what_was_expected(model: Model) -> None:
    (reason,) = explained(model, [{"a": 1.0, "b": 0.0, "c": 1.0, "kind": "down", "size": 1.0}])
    kind = next(each for each in reason["columns"][:2] if each["column"] == "kind")
    assert (kind["value"], kind["expected"], kind["direction"]) == ("down", "up", None)
    assert kind["share"] > 0.2


def test_neighbours_are_the_nearest_training_rows(model: Model, rows: Data) -> None:
    item = Arrays.of(rows.test).items[:3]
    spec = rows.spec
    outputs = model.run("neighbours", {"data": item})
    assert outputs["nearest"].shape == (3, 5, 6)
    distances = np.linalg.norm(outputs["nearest"] - item[:, None], axis=2)
    assert np.allclose(distances, outputs["distance"], atol=1e-5)
    assert (np.diff(outputs["distance"], axis=1) >= 0).all()
    training = {tuple(row) for row in Arrays.of(rows.train).items.tolist()}
    assert all(tuple(row) in training for row in outputs["nearest"].reshape(-1, 6).tolist())
    terms = model.score(item).terms
    assert np.allclose(terms["input_neighbours"], outputs["distance"].mean(axis=1), atol=1e-5)
    assert isinstance(spec, TableSpec)
    (reason,) = explained(model, [{"a": 0.6, "b": 0.4, "c": 1.0, "kind": "up", "size": 1.0}])
    assert {near["row"]["kind"] for near in reason["neighbours"]} == {"up"}
    assert all(abs(near["row"]["a"] - 0.6) < 1 for near in reason["neighbours"])


def explained(model: Model, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    spec = TableSpec.of(model.manifest.spec, "a test")
    data, _ = encode_rows(given, spec, missing=True)
    why = model.runner.drive(reasons.find(model.manifest, data, model.score(data), model.calibrated))
    return spec.explain(why, given)


def test_neighbours_with_missing_values_show_them_as_missing(tmp_path: Path) -> None:
    table = related(1500, 1)
    table["b"][::2] = np.nan
    data = tables.from_table("holes", table, {"source": "tests"})
    run = tiny_run(
        tmp_path / "run", "tabular_vae", data, epochs=1, epoch_steps=20, hidden=(8,), references=300, mixed=True
    )
    made = load(export(run, "holes", tmp_path / "models", data=data, backend="torchscript"), device="cpu")
    (reason,) = explained(made, [{"a": 0.6, "b": None, "c": 1.0, "kind": "up", "size": 1.0}])
    held = [near["row"]["b"] for near in reason["neighbours"]]
    assert None in held


def test_trimming_leaves_out_what_does_not_belong(tmp_path: Path) -> None:
    """One training row in ten is from another distribution. With `trim`, such rows get higher scores than without."""
    table = related(3000, 2)
    elsewhere = np.arange(3000) % 10 == 0
    table["c"][elsewhere] = table["a"][elsewhere] - 3
    data = tables.from_table("mixed", table, {"source": "tests"})
    fresh = related(1000, 3)
    other = {**fresh, "c": fresh["a"] - 3}
    spec = data.spec
    assert isinstance(spec, TableSpec)
    usual, strange = (schema.encode(each, spec) for each in (fresh, other))
    found = {}
    for trim in (0.0, 0.1):
        run = tiny_run(
            tmp_path / str(trim),
            "tabular_vae",
            data,
            epochs=9,
            epoch_steps=50,
            hidden=(32, 32),
            references=500,
            trim=trim,
        )
        scores = load(
            export(run, f"trim{trim}", tmp_path / "models", data=data, backend="torchscript"), device="cpu"
        ).score
        labels = np.arange(2000) >= 1000
        both = scores(np.concatenate([usual, strange])).terms
        found[trim] = {name: roc_auc_score(labels, both[name]) for name in ("negative_elbo", "input_neighbours")}
    assert found[0.1]["negative_elbo"] > found[0.0]["negative_elbo"] + 0.02
    assert found[0.1]["input_neighbours"] > found[0.0]["input_neighbours"]
    with pytest.raises(TrainingError, match="trim"):
        tiny_run(tmp_path / "never", "tabular_vae", data, trim=0.7)
