"""Columns that are constant in training: each is kept as one category, a change costs nats, and the columns are part of the distances."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from starlette.testclient import TestClient
from torch.distributions import Categorical

from manifold.runtime import checks
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import COMBINED
from manifold.runtime.runner import example_inputs
from manifold.runtime.tables import rows as table_rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training import export as exporting
from manifold.training import judging
from manifold.training.data import Arrays, Data, schema, tables
from manifold.training.errors import TrainingError
from manifold.training.families import tabular_vae
from manifold.training.likelihoods import Columns, Unseen, unseen_nats
from manifold.training.runs import TrainingRun
from tests.conftest import tiny_run, wait_until_ready
from tests.shared import export, run_as_onnx

USUAL: dict[str, Any] = {"text": "GET", "flag": False, "count": 0, "level": 2.5, "holes": "on"}
OTHERS: dict[str, Any] = {"text": "PUT", "flag": True, "count": 3, "level": -1.5, "holes": "off"}
ROW: dict[str, Any] = {"a": 0.6, "b": 0.4, "kind": "up", "rare": "no", **USUAL}


def made(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return rows with two numbers, two categories (one of them almost constant), and five constant columns."""
    generator = np.random.default_rng(seed)
    a = generator.normal(size=n)
    table: dict[str, np.ndarray] = {
        "a": a,
        "b": a + 0.3 * generator.normal(size=n),
        "kind": np.where(a > 0, "up", "down"),
        "rare": np.where(np.arange(n) == 5, "yes", "no"),
        **{name: np.full(n, value) for name, value in USUAL.items()},
    }
    table["holes"] = table["holes"].astype(object)
    table["holes"][::3] = None
    return table


@pytest.fixture(scope="module")
def data() -> Data:
    table = made(4000, 0)
    parts = {"train": table, **{part: made(n, seed) for part, n, seed in (("calibration", 600, 1), ("test", 400, 2))}}
    return tables.from_parts("constants", parts, {"source": "tests"})


@pytest.fixture(scope="module")
def run(data: Data, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    folder = tmp_path_factory.mktemp("constants") / "run"
    return tiny_run(folder, "tabular_vae", data, epochs=6, epoch_steps=50, hidden=(32, 32), references=500)


@pytest.fixture(scope="module")
def model(run: TrainingRun, data: Data) -> Model:
    """Return the model in TorchScript. tests/test_fit.py has a constant column in ONNX."""
    published = export(run, "constants", run.folder.parent / "models", data=data, backend="torchscript")
    return load(published, device="cpu")


# --- the schema ---


@pytest.mark.parametrize(
    ("values", "category"),
    [
        (np.zeros(40), "0"),
        (np.full(40, 2.5), "2.5"),
        (np.full(40, 0.1, np.float32), "0.1"),
        (np.full(40, 2**53 + 1), "9007199254740993"),
        (np.full(40, -1.0), "-1"),
        (np.ones(40, bool), "true"),
        (np.asarray(["x"] * 40), "x"),
        (np.asarray(["x", None] * 20, object), "x"),
        (np.resize([np.nan, 7.0], 40), "7"),
    ],
)
@pytest.mark.parametrize("kind", [None, "categorical"])
def test_a_constant_column_is_one_category(values: np.ndarray, category: str, kind: str | None) -> None:
    stated = schema.ColumnSettings(kinds={"c": kind} if kind else {})
    table = {"c": values, "good": np.arange(40.0)}
    spec = schema.fit(table, stated)
    assert spec.columns[0] == CategoricalColumn(name="c", categories=(category,))
    assert spec.ignored == {}
    encoded = schema.encode(table, spec)[:, 0]
    missing = np.asarray([value is None or value != value for value in values.tolist()])
    assert (encoded[~missing] == 1).all()
    assert np.isnan(encoded[missing]).all()


@pytest.mark.parametrize("kind", ["numeric", "range", "quantile"])
def test_a_number_with_one_value_is_one_category_whatever_its_kind(kind: str) -> None:
    spec = schema.fit({"c": np.full(40, 3.5), "good": np.arange(40.0)}, schema.ColumnSettings(kinds={"c": kind}))
    assert spec.columns[0] == CategoricalColumn(name="c", categories=("3.5",))


@pytest.mark.parametrize("kind", ["numeric", "range"])
@pytest.mark.parametrize("size", [1.0, 1e9, 1e-15])
def test_a_number_that_differs_by_rounding_is_a_number_that_may_round(size: float, kind: str) -> None:
    values = np.resize([size, np.nextafter(size, 2 * size)], 40)
    spec = schema.fit({"c": values, "good": np.arange(40.0)}, schema.ColumnSettings(kinds={"c": kind}))
    column = spec.columns[0]
    assert isinstance(column, NumericColumn)
    around = np.asarray([size, float(np.float32(size)), size * 1.001, 0.0])
    encoded = schema.encode({"c": around, "good": np.arange(4.0)}, spec)[:, 0]
    assert np.abs(encoded[:2]).max() < 0.2
    assert np.abs(encoded[2:]).min() > column.clip


@pytest.mark.parametrize("values", [np.linspace(1, 9, 40) * 1e-15, np.resize([0.0, 5e-324], 40) * 1])
def test_small_numbers_are_kept(values: np.ndarray) -> None:
    spec = schema.fit({"c": values, "good": np.arange(40.0)}, schema.ColumnSettings(kinds={"c": "numeric"}))
    assert spec.names == ["c", "good"]
    assert np.isfinite(schema.encode({"c": values, "good": np.arange(40.0)}, spec)).all()


def test_a_table_without_a_column_that_varies_is_refused() -> None:
    constant = {name: np.full(40, value) for name, value in USUAL.items()}
    with pytest.raises(
        TrainingError, match=r"all columns are constant \(text is always GET, flag is always false, .*two different"
    ):
        schema.fit(constant)
    with pytest.raises(TrainingError, match="the single class"):
        tables.from_table("labelled", {"label": np.full(40, "a"), "x": np.arange(40.0)}, {}, label="label")
    with pytest.raises(TrainingError, match="it has no finite number"):
        schema.fit({"c": np.full(40, np.inf), "good": np.arange(40.0)}, schema.ColumnSettings(kinds={"c": "numeric"}))


def test_the_latent_is_as_large_as_without_constant_columns(data: Data) -> None:
    varying = {name: values for name, values in made(400, 0).items() if name not in USUAL}
    plain = tables.from_parts("plain", {"train": varying, "calibration": varying, "test": varying}, {})
    sizes = [tabular_vae.resolve(tabular_vae.Config(), each).latent_dim for each in (data, plain)]
    assert sizes == [3, 3]


# --- the likelihood ---

SPEC = TableSpec(
    columns=(
        CategoricalColumn(name="always", categories=("x",)),
        NumericColumn(name="n", mean=0, scale=1, minimum=-5, maximum=5),
        CategoricalColumn(name="two", categories=("0", "1")),
    )
)
NAN = math.nan


def test_an_unseen_value_costs_its_probability_by_the_rule_of_succession() -> None:
    items = np.asarray([[1, 0, 1, 0], [NAN, 0, 0, 1], [1, 0, NAN, NAN], [1, 0, 1, 0]], np.float32)
    nats = unseen_nats(SPEC, Arrays(items, np.zeros(4, np.int64)))
    assert nats == pytest.approx([math.log(3 + 1 + 1), math.log(3 + 2 + 1)])
    found = Unseen(SPEC, nats)(torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0], [NAN, NAN, 0, 0], [0, 0, NAN, NAN]]))
    assert found.tolist() == [[0, 0], [1, 0], [0, 1], [1, 0]]


def test_a_score_charges_an_unseen_value_no_less_than_any_seen_one() -> None:
    likelihood = Columns(SPEC, 0.1, [5.0, 6.0])
    generator = torch.Generator().manual_seed(0)
    parameters = 8 * torch.randn(200, likelihood.width, generator=generator)

    def nats(*block: float, row: float = 1.0, charged: bool = True) -> torch.Tensor:
        x = torch.tensor([[row, 0.0, *block]]).expand(200, -1)
        return likelihood.charged(parameters, x) if charged else likelihood.nll(parameters, x)

    seen, unseen = [nats(1, 0), nats(0, 1)], nats(0, 0)
    worst = torch.maximum(seen[0][:, 2], seen[1][:, 2])
    assert torch.equal(unseen[:, 2], worst.clamp(min=6.0))
    assert float(worst.max()) > 6  # so a constant of 6 alone would not be enough
    assert set(nats(0, 0, charged=False)[:, 2].tolist()) == {6.0}
    assert torch.allclose(seen[0][:, 2], -Categorical(logits=parameters[:, 2:4]).log_prob(torch.tensor(0)), atol=1e-5)
    assert set(nats(1, 0)[:, 0].tolist()) == {0.0}
    assert set(nats(1, 0, row=0.0)[:, 0].tolist()) == {5.0}
    assert set(nats(1, 0, row=NAN)[:, 0].tolist()) == {0.0}


def test_the_encoder_sees_no_constant_column() -> None:
    likelihood = Columns(SPEC, 0.1, [5.0, 6.0])
    rows = torch.tensor([[1, 0.5, 1, 0], [0, 0.5, 1, 0], [NAN, 0.5, 1, 0]])
    assert likelihood.evidence(rows).tolist() == [[0, 0.5, 1, 0]] * 3
    assert likelihood.settle(rows)[:, 0].tolist() == [1, 0, 1]
    assert torch.isnan(likelihood.settle(torch.full((1, 4), NAN))).tolist() == [[False, True, True, True]]


# --- a fitted model ---


def test_graphs_are_whole_and_equal_torch(model: Model) -> None:
    """Export compares graphs with torch on test rows. This test replays the golden vectors."""
    assert checks.run_all(model) == []
    assert [column.width for column in TableSpec.of(model.manifest.spec, "a test").columns[4:]] == [1] * 5


def test_the_score_is_the_same_as_an_onnx_graph(model: Model, run: TrainingRun, data: Data, tmp_path: Path) -> None:
    """The rows have usual, other and missing values in the constant columns, one by one and together."""
    alone: list[dict[str, Any]] = [
        {name: value} for other in (OTHERS, dict.fromkeys(USUAL)) for name, value in other.items()
    ]
    changes: list[dict[str, Any]] = [{}, {"rare": "yes"}, {"rare": "maybe"}, *alone, OTHERS, dict.fromkeys(USUAL)]
    spec = TableSpec.of(model.manifest.spec, "a test")
    items, _ = table_rows.encode([{**ROW, **change} for change in changes], spec, unknown=True, missing=True)
    task = exporting.exports(run, data).tasks["score"]
    inputs = {**example_inputs(model.manifest.tasks["score"], model.manifest, len(items)), "data": items}
    found, expected = run_as_onnx(task, inputs, tmp_path), model.run("score", inputs)
    assert found.keys() == expected.keys()
    for role, array in found.items():
        np.testing.assert_allclose(array, expected[role], rtol=1e-4, atol=1e-4, err_msg=role)


def scored(model: Model, *changes: dict[str, Any]) -> list[dict[str, float]]:
    """Return the terms of the usual row with each of these changes, and the combined score with its p-value."""
    data, _ = table_rows.encode(
        [{**ROW, **change} for change in changes],
        TableSpec.of(model.manifest.spec, "a test"),
        unknown=True,
        missing=True,
    )
    terms = model.calibrated.place(model.score(data).terms)
    terms["p"] = model.calibrated.p_values(COMBINED, terms[COMBINED])
    return [{name: float(values[i]) for name, values in terms.items()} for i in range(len(changes))]


@pytest.mark.parametrize("name", USUAL)
def test_another_value_of_a_constant_column_is_found(model: Model, name: str) -> None:
    usual, other, missing = scored(model, {}, {name: OTHERS[name]}, {name: None})
    n = 4000 - 1334 if name == "holes" else 4000
    cost = math.log(n + 2)
    assert other["reconstruction"] - usual["reconstruction"] == pytest.approx(cost, abs=1e-4)
    assert other["kl"] == usual["kl"]  # the encoder does not use the column
    for distance, added in (("latent_distance", 2 * cost), ("latent_neighbours", 2 * cost), ("input_neighbours", 2)):
        if distance == "latent_distance":
            assert other[distance] ** 2 - usual[distance] ** 2 == pytest.approx(added, rel=1e-3)
        assert other[distance] ** 2 >= added
    assert usual["p"] > 0.01 > other["p"]
    assert missing == usual


def test_more_changes_score_higher(model: Model) -> None:
    names = list(USUAL)
    steps = [{name: OTHERS[name] for name in names[:count]} for count in range(len(names) + 1)]
    found = [each[COMBINED] for each in scored(model, *steps)]
    assert found == sorted(found)
    assert len(set(found)) == len(steps)


def test_a_value_seen_once_costs_no_more_than_one_never_seen(model: Model) -> None:
    usual, seen, unseen = scored(model, {}, {"rare": "yes"}, {"rare": "maybe"})
    for term in ("reconstruction", "negative_elbo", "input_neighbours", COMBINED):
        assert usual[term] < seen[term], term
    for term in ("reconstruction", "input_neighbours", COMBINED):
        assert seen[term] <= unseen[term] + 1e-4, term


def test_spellings_of_the_usual_value_are_the_usual_value(model: Model) -> None:
    usual, *same = scored(
        model, {}, {"flag": 0}, {"flag": "0"}, {"flag": "no"}, {"count": 0.0}, {"count": "0.0"}, {"level": "2.50"}
    )
    assert same == [usual] * 6


def test_rows_that_are_made_have_the_usual_values(model: Model) -> None:
    spec = TableSpec.of(model.manifest.spec, "a test")
    shown = {"text": "GET", "flag": "false", "count": "0", "level": "2.5", "holes": "on"}
    for items in (model.sample(20, seed=0).data, model.reconstruct(table_rows.encode([ROW], spec)[0]).data):
        for row in table_rows.decode(items, spec):
            assert {name: row[name] for name in USUAL} == shown


def test_blanks_are_filled_in_with_the_usual_value(model: Model) -> None:
    spec = TableSpec.of(model.manifest.spec, "a test")
    given = [{**ROW, **dict.fromkeys(USUAL)}]
    data, _ = table_rows.encode(given, spec, missing=True)
    for found in (model.impute(data), model.impute(data, seed=1)):
        answer = spec.fill(given, found.data, found.probabilities)
        assert answer["rows"][0]["text"] == "GET"
        assert answer["rows"][0]["level"] == "2.5"
        assert answer["probabilities"][0]["count"] == {"0": 1.0}


def test_the_answer_names_the_column(model: Model) -> None:
    settings = Settings(models_dir=model.folder.parents[1], default_model="constants", device="cpu")
    changes = {"count": 3, "text": "PUT", "level": -1.5}
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        body = {"rows": [{**ROW, **changes}, ROW], "explain": True}
        answer = client.post("/anomaly-score", json=body)
        assert answer.status_code == 200, answer.text
        strange, usual = answer.json()["items"]
        reconstructed = client.post("/reconstruct", json={"rows": [ROW]})
        assert reconstructed.status_code == 200, reconstructed.text
        encoded = client.post("/encode", json={"rows": [ROW]})
        assert encoded.status_code == 200, encoded.text
    assert (strange["state"], usual["state"]) == ("unknown", "ok")
    assert (strange["is_anomaly"], usual["is_anomaly"]) == (True, False)
    assert [warning.split(" was")[0] for warning in strange["warnings"]] == [
        "unknown_category: text 'PUT' did not occur in training", "unknown_category: count '3' did not occur in training",
            "unknown_category: level '-1.5' did not occur in training",
    ]  # fmt: skip
    first = {each["column"]: each for each in strange["explanation"]["columns"][:3]}
    assert first.keys() == changes.keys()
    for name, (expected, direction) in {"count": ("0", "high"), "text": ("GET", None), "level": ("2.5", "low")}.items():
        reason = first[name]
        assert (reason["value"], reason["expected"], reason["direction"]) == (changes[name], expected, direction)
        assert reason["nats"] == pytest.approx(math.log(4002), abs=1e-4)
        assert reason["excess"] == pytest.approx(reason["nats"])


def test_files_give_the_same_scores(model: Model, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"count": 3}, {"text": "PUT"}, {"level": 2.75}, {"holes": None}]
    table = pa.Table.from_pylist([{**ROW, "flag": 0, **change} for change in changes])
    pa.csv.write_csv(table, tmp_path / "rows.csv")
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    expected = [each[COMBINED] for each in scored(model, *changes)]
    for form in ("csv", "parquet"):
        spec = TableSpec.of(model.manifest.spec, "a test")
        with (tmp_path / f"rows.{form}").open("rb") as source:
            (chunk,) = spec.chunks(source, form, 100)
            encoded = spec.encode(chunk.table, missing=True)
        assert encoded.bad == {}
        found = model.calibrated.place(model.score(encoded.data).terms)[COMBINED]
        assert found.tolist() == expected


def test_anomalies_in_constant_columns_are_found_in_rows_that_hold_anomalies(tmp_path: Path) -> None:
    """One training row in a hundred is anomalous, in other columns, and the model is trained with `mixed`."""
    table = made(4000, 3)
    table["b"] = np.where(np.arange(4000) % 100 == 7, -6.0, table["b"])
    data = tables.from_table("mixed", table, {"source": "tests"})
    run = tiny_run(
        tmp_path / "run", "tabular_vae", data, epochs=6, epoch_steps=50, hidden=(32, 32), references=500, mixed=True
    )
    model = load(export(run, "mixed", tmp_path / "models", data=data, backend="torchscript"), device="cpu")
    fresh = made(400, 4)
    changed = {**fresh, "text": np.full(400, "PUT")}
    usual, other = (
        model.calibrated.place(model.score(schema.encode(each, TableSpec.of(data.spec, "a test"))).terms)[COMBINED]
        for each in (fresh, changed)
    )
    assert (other > np.quantile(usual, 0.99)).mean() > 0.95


def test_classes_are_told_apart_beside_constant_columns(tmp_path: Path) -> None:
    table = made(3000, 7)
    shifted = np.arange(3000) % 2 == 1
    table["b"] = np.where(shifted, table["b"] + 4, table["b"])
    table["label"] = np.where(shifted, "shifted", "plain")
    data = tables.from_table("labelled", table, {"source": "tests"}, label="label")
    run = tiny_run(tmp_path / "run", "tabular_cvae", data, epochs=6, epoch_steps=50, hidden=(32, 32), references=200)
    made_of = export(run, "labelled", tmp_path / "models", data=data, backend="torchscript")
    model = load(made_of, device="cpu")
    assert checks.run_all(model) == []
    whole = data.inputs(data.test)
    plain = model.classify(whole)
    assert (plain.argmax(1) == data.test.labels).mean() > 0.85
    changed = whole.copy()
    changed[:, [block.start for column, block in TableSpec.of(data.spec, "a test").placed if column.name == "text"]] = 0
    assert np.allclose(model.classify(changed), plain, atol=1e-4)  # another value does not change the class
    scores = [model.calibrated.place(model.score(items).terms)[COMBINED] for items in (whole, changed)]
    assert (scores[1] > np.quantile(scores[0], 0.99)).mean() > 0.9


def test_a_model_without_the_constant_columns_is_judged_on_their_data(tmp_path: Path, data: Data) -> None:
    """Earlier versions left out constant columns."""
    spec = TableSpec.of(data.spec, "a test")
    varying = TableSpec(
        columns=tuple(column for column in spec.columns if column.name not in USUAL),
        ignored=dict.fromkeys(USUAL, "has the single value"),
    )
    places = [
        place for column, block in spec.placed if column.name not in USUAL for place in range(block.start, block.stop)
    ]
    parts = {
        part: Arrays(Arrays.of(held).items[:, places], held.labels)
        for part, held in (("train", data.train), ("calibration", data.calibration), ("test", data.test))
    }
    earlier = Data("constants", varying, parts["train"], parts["calibration"], parts["test"], None, data.protocol)
    run = tiny_run(tmp_path / "run", "tabular_vae", earlier, epochs=1, epoch_steps=20, hidden=(8,), references=100)
    model = load(export(run, "earlier", tmp_path / "models", data=earlier, backend="torchscript"), device="cpu")
    found = [judging.judge(model, each).scores for each in (data, earlier)]
    assert found[0] is not None
    assert np.array_equal(found[0], found[1])  # type: ignore[arg-type]
    other = tables.from_parts("other", dict.fromkeys(("train", "calibration", "test"), made(500, 9)), {})
    with pytest.raises(InvalidValue, match="does not fit"):
        judging.judge(model, other)
    unnamed = varying.model_copy(update={"ignored": {}})
    assert unnamed.reader_of(spec) is None


def test_manifests_of_one_category_are_read_again(model: Model) -> None:
    stored = json.loads((model.folder / "manifest.json").read_text())
    assert [column["categories"] for column in stored["data"]["columns"][4:]] == [
        ["GET"],
        ["false"],
        ["0"],
        ["2.5"],
        ["on"],
    ]
    assert TableSpec.model_validate(stored["data"]) == model.manifest.spec
