"""Decisions by a false discovery rate: the procedure of Benjamini and Hochberg on the p-values of rows that are scored together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.scores import decisions
from manifold.runtime.scores.decisions import Discoveries, Rule
from manifold.service.core import row_files
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests.conftest import made_table, wait_until_ready
from tests.test_bulk import as_csv, scored

Array = NDArray[Any]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny / "models/table", device="cpu")


@pytest.fixture(scope="module")
def service(tiny: Path) -> Iterator[TestClient]:
    settings = Settings(models_dir=tiny / "models", default_model="table", device="cpu")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def conformal(calibration: Array, scores: Array) -> Array:
    at_least = (calibration[None] >= scores[:, None]).sum(1)
    return np.asarray((1 + at_least) / (len(calibration) + 1))


def naive(p_values: Array, rate: float) -> Array:
    """Flag by the definition: the k smallest p-values, for the largest k whose p-value is at most k rate / m."""
    ordered, m = np.sort(p_values), len(p_values)
    meets = [k for k in range(1, m + 1) if ordered[k - 1] <= k * rate / m + 1e-12]
    return np.asarray(p_values <= ordered[max(meets) - 1]) if meets else np.zeros(m, bool)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_counting_equals_the_definition(rate: float, share: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        n, m = random.integers(5, 300), random.integers(1, 200)
        scores = random.normal(size=m) + 4 * (random.random(m) < share)
        p_values = conformal(random.normal(size=n), scores)
        found = Discoveries(int(n), rate)
        for part in np.array_split(p_values, 3):
            found.add(part)
        assert found.rows == m
        assert np.array_equal(p_values <= found.limit, naive(p_values, rate))


def test_the_rate_is_kept() -> None:
    """The mean share of normal rows among the flagged ones is at most the rate times the share of normal rows, within chance."""
    random, rate, normal = np.random.default_rng(1), 0.2, 160
    shares, found = [], []
    for _ in range(400):
        calibration, scores = random.normal(size=500), random.normal(size=200)
        scores[normal:] += 3
        p_values = conformal(calibration, scores)
        flagged = p_values <= Discoveries(500, rate).add(p_values).limit
        shares.append(flagged[:normal].sum() / max(flagged.sum(), 1))
        found.append(flagged[normal:].mean())
    assert np.mean(shares) < 0.8 * rate + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > 0.5 * rate  # the procedure uses the rate
    assert np.mean(found) > 0.7


def test_all_surfaces_decide_alike(
    model: Model, service: TestClient, tmp_path: Path, tiny: Path, monkeypatch: Any
) -> None:
    """The rows of a request, of a file in chunks, of the library and of the command are decided together."""
    monkeypatch.setattr(row_files, "ROWS", 64)
    table = made_table(300)
    for place in range(60):
        table["price"][place] = 1000.0 + place
    content = as_csv(table)
    rows = [{name: column[i].item() for name, column in table.items()} for i in range(300)]
    request = {"rows": rows, "false_discovery_rate": 0.3}
    answer = service.post("/anomaly-score", json=request).json()
    p_values = np.asarray([item["p_value"] for item in answer["items"]])
    expected = naive(p_values, 0.3).tolist()
    assert 60 <= sum(expected) < 120
    assert [item["is_anomaly"] for item in answer["items"]] == expected
    assert answer["threshold"]["p_value"] == answer["threshold"]["false_positive_rate"] == p_values[expected].max()
    assert all(
        item["score"] > answer["threshold"]["score"]
        for item, flag in zip(answer["items"], expected, strict=True)
        if flag
    )
    sent = service.post(
        "/anomaly-score", params={"false_discovery_rate": 0.3}, content=content, headers={"content-type": "text/csv"}
    )
    *lines, last = [json.loads(line) for line in sent.text.splitlines()]
    assert [line["is_anomaly"] for line in lines] == expected and last["total"]["flagged"] == sum(expected)
    assert last["threshold"] == answer["threshold"]
    assert [line["is_anomaly"] for line in scored(model, content, rule=Rule(fdr=0.3), rows=70)] == expected
    of_library = model.anomaly_score(rows, false_discovery_rate=0.3)
    assert [item.is_anomaly for item in of_library] == expected
    (tmp_path / "rows.csv").write_bytes(content)
    out = tmp_path / "out.ndjson"
    given = ["score", tmp_path / "rows.csv", "--model", "table", "--models", tiny / "models", "-o", out, "--false-discovery-rate", 0.3, "--quiet"]  # fmt: skip
    made = CliRunner().invoke(cli.app, list(map(str, given)))
    assert made.exit_code == 0, made.output
    assert [json.loads(line)["is_anomaly"] for line in out.read_text().splitlines()] == expected


def test_nothing_can_be_flagged_with_few_calibration_items(model: Model, service: TestClient) -> None:
    """If the smallest p-value is too large for a few rows, the response says how many it takes."""
    row = {"price": 10.0, "weight": 70, "kind": "small", "paid": 0}
    strange = {**row, "price": 1e6}
    rate = 1 / (model.calibrated.n + 1)
    answer = service.post("/anomaly-score", json={"rows": [row] * 9 + [strange], "false_discovery_rate": rate}).json()
    assert not any(item["is_anomaly"] for item in answer["items"])
    assert answer["threshold"]["p_value"] is None
    (note,) = answer["warnings"]
    assert "items above all calibration items are flagged if there are at least 10 of them" in note
    alone = service.post("/anomaly-score", json={"rows": [strange], "false_discovery_rate": rate}).json()
    assert alone["items"][0]["is_anomaly"] and "warnings" not in alone
    asked = {"rows": [strange], "false_discovery_rate": 0.9 * rate}
    (note,) = service.post("/anomaly-score", json=asked).json()["warnings"]
    assert "no item can be flagged at a rate of" in note
    many = Discoveries(99, 0.1).add(np.repeat([0.02, 0.5], [20, 80]))
    assert many.limit == 0.02 and many.note is None  # items below some calibration items can be flagged too


def test_normal_rows_are_rarely_flagged_and_bands_agree(service: TestClient) -> None:
    table = made_table(200)
    rows = [{name: column[i].item() for name, column in table.items()} for i in range(200)]
    rows[5] = {**rows[5], "price": 1e6}
    answer = service.post("/anomaly-score", json={"rows": rows, "false_discovery_rate": 0.9}).json()
    assert answer["items"][5]["is_anomaly"]
    for item in answer["items"]:
        assert (item["band"] == "allow") == (not item["is_anomaly"])
    strict = service.post("/anomaly-score", json={"rows": rows, "false_discovery_rate": 0.2}).json()
    assert sum(item["is_anomaly"] for item in strict["items"]) <= 10


@pytest.mark.parametrize("rate", [0, 1, -0.1, "0.1", True, float("nan")])
def test_invalid_rates(rate: Any) -> None:
    with pytest.raises(InvalidValue, match="false_discovery_rate"):
        Rule(fdr=rate)


@pytest.mark.parametrize("other", [{"rate": 0.1}, {"budget": 3}, {"costs": decisions.Costs(1, 1, 0.1)}])
def test_one_way_to_decide(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="give only one"):
        Rule(fdr=0.1, **other)
