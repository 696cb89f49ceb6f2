"""Decisions that a model cannot make: at a rate without a calibration, or below its resolution. The answer is null with a note, not false."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime.engine import load
from manifold.runtime.errors import InvalidValue, UnsupportedTask
from manifold.runtime.manifest import Scoring, Term
from manifold.runtime.scores import bulk, decisions, scoring
from manifold.runtime.scores.decisions import Costs, Rule
from manifold.service.http.app import create_app
from manifold.service.rpc import messages
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb
from manifold_client.results import Scores
from tests import tabled
from tests.conftest import made_table, wait_until_ready
from tests.test_bulk import as_csv

ABOUT = Scoring(score="a", terms=(Term(name="a", kind="nll"),))
EVENLY = scoring.Calibrated(type("About", (), {"n": 99})(), {"a": np.arange(99.0)})
NOTHING = scoring.Calibrated(None, {})
COSTS = {"false_positive": 1, "false_negative": 10, "prevalence": 0.01}
ROW = {"price": 1.5, "kind": "small", "weight": 70}


def judged(calibrated: scoring.Calibrated, values: list[float], rule: Rule, **more: Any) -> decisions.Judged:
    return decisions.judge(ABOUT, calibrated, {"a": np.asarray(values)}, np.zeros(len(values), bool), rule, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Write a model of rows without a calibration beside a calibrated one."""
    folder = tmp_path_factory.mktemp("undecided")
    tabled.write(folder)
    (folder / "table").symlink_to(tiny / "models/table")
    return folder


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models_dir=root, default_model="rows", device="cpu"))) as client:
        wait_until_ready(client)
        yield client


# --- the decision ---


def test_without_a_calibration_a_budget_alone_decides() -> None:
    found = judged(NOTHING, [1.0, 3.0], Rule())
    assert [found.item(i)["is_anomaly"] for i in range(2)] == [None, None]
    assert found.undecided.all() and not found.flagged.any() and "has no calibration" in found.notes[0]
    for rule, more in ((Rule(budget=1), {}), (Rule(budget=1), {"chosen": np.asarray([False, True])})):
        by_budget = judged(NOTHING, [1.0, 3.0], rule, **more)
        assert [by_budget.item(i)["is_anomaly"] for i in range(2)] == [False, True]
        assert not by_budget.undecided.any() and by_budget.notes == ()


@pytest.mark.parametrize(
    ("rate", "values", "anomalies"),
    [
        (0.01, [5.0, 98.0, 200.0], [False, False, True]),  # exactly the rate that 99 items resolve
        (0.0099, [5.0, 98.0, 200.0], [False, False, None]),
        (1e-9, [5.0, 99.0, 1e9], [False, None, None]),
        (0.5, [5.0, 98.0, 200.0], [False, True, True]),
    ],
)
def test_a_rate_below_the_resolution_decides_no_item_beyond_all_others(
    rate: float, values: list[float], anomalies: list[bool | None]
) -> None:
    found = judged(EVENLY, values, Rule(rate=rate))
    items = [found.item(i) for i in range(len(values))]
    assert [item["is_anomaly"] for item in items] == anomalies
    assert [item["band"] is None for item in items] == [anomaly is None for anomaly in anomalies]
    assert all(item["p_value"] is not None and item["risk"] is not None for item in items)
    assert bool(found.notes) is (None in anomalies) is (found.threshold.score is None)
    assert all("99 calibration items resolve no false positive rate below 0.01" in note for note in found.notes)


def test_costs_and_block_rates_below_the_resolution_are_said_too() -> None:
    found = judged(EVENLY, [200.0], Rule(costs=Costs(1.0, 1.0, 1e-6)))
    assert found.item(0)["is_anomaly"] is None and "below_resolution" in found.notes[0]
    found = judged(EVENLY, [200.0], Rule(rate=0.05, block=0.001))
    assert found.item(0)["band"] == "review" and found.notes[0].startswith("block_rate: 0.001 is below")
    assert judged(EVENLY, [200.0], Rule(rate=0.05)).notes == ()  # a tenth of the rate was not requested


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rate": 0.1, "budget": 3}, "budget"), ({"rate": 0.1, "costs": Costs(1, 1, 0.1)}, "costs"), ({"budget": 1, "costs": Costs(1, 1, 0.1)}, "costs"),
        ({"rate": 0.0}, "false_positive_rate"), ({"rate": 1.0}, "false_positive_rate"), ({"block": 0.0}, "block_rate"), ({"block": 0.5}, "block_rate"),
        ({"rate": 0.1, "block": 0.2}, "block_rate"), ({"rate": float("nan")}, "false_positive_rate"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Rule(**fields)
    assert caught.value.field == field


# --- over both transports ---

STATED: list[dict[str, Any]] = [
    {"false_positive_rate": 0.01}, {"false_positive_rate": 0.5}, {"costs": COSTS}, {"block_rate": 0.001}, {"budget": 1, "block_rate": 0.001},
]  # fmt: skip


@pytest.mark.parametrize("fields", STATED, ids=str)
def test_what_is_asked_for_and_cannot_be_decided_is_an_error(
    client: TestClient, root: Path, fields: dict[str, Any]
) -> None:
    field = next(name for name in fields if name != "budget")
    answers = [
        client.post("/anomaly-score", json={"rows": [ROW], **fields}),
        client.post(
            "/anomaly-score", content=tabled.HEADER + tabled.ROW, headers={"content-type": "text/csv"},
            params={name: json.dumps(value) for name, value in fields.items()},
        ),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 409, answer.text
        error = answer.json()["error"]
        assert (error["type"], error["field"], error["valid"]) == ("unsupported_task", field, ["budget"])
        assert (
            "rows has no calibration" in error["message"]
            and "`manifold calibrate`, or give a budget" in error["message"]
        )
    costs = Costs(**fields["costs"]) if "costs" in fields else None
    rule = Rule(fields.get("false_positive_rate"), fields.get("budget"), costs, fields.get("block_rate"))
    with pytest.raises(UnsupportedTask):
        next(bulk.score(load(root / "rows"), io.BytesIO(tabled.HEADER + tabled.ROW), "csv", rule))


def test_what_is_not_asked_for_is_null_with_a_warning(client: TestClient) -> None:
    answer = client.post("/anomaly-score", json={"rows": [ROW, ROW]}).json()
    for item in answer["items"]:
        assert [item[name] for name in ("is_anomaly", "band", "risk", "p_value")] == [None] * 4
        assert item["state"] == "uncalibrated"
    assert len(answer["warnings"]) == 1 and "give a budget" in answer["warnings"][0]
    scores = Scores.parse(answer)
    assert scores.items[0].is_anomaly is None and scores.warnings == answer["warnings"]
    by_budget = client.post("/anomaly-score", json={"rows": [ROW, ROW], "budget": 1}).json()
    assert [item["is_anomaly"] for item in by_budget["items"]] == [True, False] and "warnings" not in by_budget
    message = pb.ScoreResponse()
    messages.fill(message, answer)
    assert not message.items[0].HasField("is_anomaly") and list(message.warnings) == answer["warnings"]
    messages.fill(message := pb.ScoreResponse(), by_budget)
    assert [item.HasField("is_anomaly") for item in message.items] == [True, True]
    assert [item.is_anomaly for item in message.items] == [True, False]


def test_files_of_rows_count_what_is_not_decided(client: TestClient) -> None:
    content, kind = tabled.HEADER + tabled.ROW * 3, {"content-type": "text/csv"}
    *lines, last = map(json.loads, client.post("/anomaly-score", content=content, headers=kind).text.splitlines())
    assert [line["is_anomaly"] for line in lines] == [None] * 3
    assert (last["total"]["flagged"], last["total"]["undecided"]) == (0, 3) and "notes" not in last["total"]
    assert "has no calibration" in last["warnings"][0]
    answer = client.post("/anomaly-score", content=content, headers=kind, params={"budget": 2})
    *lines, last = map(json.loads, answer.text.splitlines())
    assert [line["is_anomaly"] for line in lines] == [True, True, False]
    assert (last["total"]["flagged"], last["total"]["undecided"]) == (2, 0) and "warnings" not in last


def test_a_rate_below_the_resolution_over_rest(client: TestClient) -> None:
    table = made_table(40)
    rows = [{name: column[i].item() for name, column in table.items()} for i in range(40)]
    rows[3] = {name: 1e9 if isinstance(value, float) else value for name, value in rows[3].items()}
    answer = client.post("/anomaly-score", json={"model": "table", "rows": rows, "false_positive_rate": 1e-6}).json()
    beyond = [item["state"] == "below_resolution" for item in answer["items"]]
    assert [item["is_anomaly"] for item in answer["items"]] == [None if each else False for each in beyond]
    assert answer["threshold"]["score"] is None and "1e-06 was requested" in answer["warnings"][0]


# --- the command ---


def test_the_command_says_it(root: Path, tmp_path: Path) -> None:
    def run(*options: str, out: str = "s.ndjson") -> Any:
        arguments = ["score", str(tmp_path / "rows.csv"), "--models", str(root), "--quiet", "-o", str(tmp_path / out)]
        return CliRunner().invoke(cli.app, [*arguments, *options])

    (tmp_path / "rows.csv").write_bytes(tabled.HEADER + tabled.ROW * 3)
    done = run("--model", "rows", out="s.parquet")
    assert done.exit_code == 0, done.exception
    assert "warning: uncalibrated: the model has no calibration" in done.stderr
    assert "0 flagged, 3 not decided" in done.stdout
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table["is_anomaly"].to_pylist() == table["band"].to_pylist() == [None] * 3
    assert run("--model", "rows", "--budget", "1", out="s.parquet").exit_code == 0
    assert parquet.read_table(tmp_path / "s.parquet")["is_anomaly"].to_pylist() == [True, False, False]
    for options, said in (
        (["--false-positive-rate", "0.1"], "has no calibration"), (["--block-rate", "0.001"], "has no calibration"),
        (["--explain"], "explain: it has no effect, because"), (["--budget", "2", "--false-positive-rate", "0.1"], "give only one of them"),
        (["--false-positive-rate", "0"], "0 is out of range; give a number above 0 and below 1"), (["--block-rate", "0.5"], "above the rate for review"),
    ):  # fmt: skip
        done = run("--model", "rows", *options)
        assert done.exit_code == 1 and said in str(done.exception), options
        assert not (tmp_path / "s.ndjson").exists()
    (tmp_path / "rows.csv").write_bytes(as_csv(made_table(30)))
    done = run("--model", "table", "--false-positive-rate", "0.000001", out="t.parquet")
    assert done.exit_code == 0 and "warning: below_resolution" in done.stderr
    states, found = (parquet.read_table(tmp_path / "t.parquet")[name].to_pylist() for name in ("state", "is_anomaly"))
    assert found == [None if state == "below_resolution" else False for state in states]
