"""Scores as CSV: the columns of the Parquet output, reasons as plain columns, no formulas. Also the list of rows that `manifold score` prints."""

from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import bulk, leading, scored_rows
from manifold.runtime.scores.csv_rows import SEPARATOR, CsvWriter
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.tables.formulas import no_formula
from manifold.runtime.tables.schema import Carry, CategoricalColumn
from tests.conftest import made_table
from tests.test_bulk import as_csv, as_parquet

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny / "models/table", device="cpu")


def table_of(n: int) -> dict[str, Any]:
    """Return a table with an id. Some rows are very anomalous, the second is invalid, the third has an unknown category."""
    table = {**made_table(n)}
    table["price"] = np.asarray(["dear" if i == 1 else str(value) for i, value in enumerate(table["price"])])
    table["kind"] = np.asarray(["=odd" if i == 2 else str(value) for i, value in enumerate(table["kind"])])
    table["weight"] = np.where(np.arange(n) % 40 == 7, 700.0 + np.arange(n), table["weight"])
    return {"name": [f"=row {i}" for i in range(n)], **table}


def written(model: Model, content: bytes, kind: str = "csv", **options: Any) -> tuple[Rows, bytes]:
    out, rejected = io.BytesIO(), io.BytesIO()
    parts = bulk.score(model, io.BytesIO(content), kind, Rule(budget=3), **options)
    bulk.drain(parts, CsvWriter(out, rejected))
    return list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline=""))), rejected.getvalue()


def test_csv_says_what_parquet_says(model: Model) -> None:
    """The numbers are the same to the last digit, over several chunks with one header; invalid rows are set aside."""
    content = as_csv(table_of(100))
    options: dict[str, Any] = {"explain": True, "rows": 30, "carry": Carry("name", ("kind",))}
    found, rejected = written(model, content, **options)
    assert json.loads(rejected)["row"] == 2
    out = io.BytesIO()
    bulk.drain(
        bulk.score(model, io.BytesIO(content), "csv", Rule(budget=3), **options),
        scored_rows.ParquetWriter(out, io.BytesIO()),
    )
    expected = parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    assert [int(row["row"]) for row in found] == [number for number in range(1, 101) if number != 2]
    reasons = {"reason", "reason_value", "reason_expected", "reason_share", "other_reasons"}
    assert set(found[0]) == {*expected[0]} - {"explanation"} | reasons
    assert list(found[0])[:4] == ["row", "id", "passed.kind", "score"]
    for row, item in zip(found, expected, strict=True):
        for name in ("score", "p_value", "part.reconstruction", "part.reconstruction.p_value"):
            assert float(row[name]) == item[name]
        assert row["is_anomaly"] == str(item["is_anomaly"]).lower()
        assert (row["band"], row["risk"], row["state"]) == (item["band"], str(item["risk"]), item["state"])
        assert row["id"] == f"'{item['id']}"
        assert row["warnings"] == SEPARATOR.join(item["warnings"])
        columns = (json.loads(item["explanation"]) or {"columns": []})["columns"]
        assert bool(row["reason"]) == bool(columns) == item["is_anomaly"]
        if columns:
            assert (row["reason"], float(row["reason_value"])) == ("weight", columns[0]["value"])
            assert float(row["reason_share"]) == pytest.approx(columns[0]["share"], abs=1e-4)
            assert float(row["reason_expected"]) == pytest.approx(columns[0]["expected"], rel=1e-3)
    assert found[1]["passed.kind"] == "'=odd"
    assert "unknown_category" in found[1]["warnings"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "\r=1", " =1", "\u00a0=1", "\uff1d1", "=", "--5", "-5+A1", "-1,x")),
        ("a;=1", "a;'=1"), ("a\t=1", "a\t'=1"), ("-5;=A1", "-5;'=A1"), ("=1;=2", "'=1;'=2"),
        *((text, text) for text in ("", "x", "-5", "-12.50", "-12,50", "+49170", "-1e-05", " -5 ", "a=b", "a-b", "a; b", "-5;-6", "1-2", "'=1")),
    ],
)  # fmt: skip
def test_no_text_is_a_formula(text: str, safe: str) -> None:
    assert no_formula(text) == safe


def test_sampled_rows_contain_no_formulas() -> None:
    spec = TableSpec(columns=(CategoricalColumn(name="@who", categories=("=1+1", "plain", "-5")),))
    lines = spec.sheet(np.eye(3, dtype=np.float32)).decode().splitlines()
    assert lines == ["'@who", "'=1+1", "plain", "-5"]


def test_copied_values_keep_their_form(model: Model) -> None:
    """Numbers, times and quotes are exact. Names of columns are made safe too."""
    table: dict[str, Any] = {name: values[:2] for name, values in made_table(2).items()}
    table |= {
        "id": pa.array([-(2**60), None]), "when": pa.array([datetime.date(2024, 2, 29), None]), "sum": pa.array([Decimal("-1.10"), None]),
        "half": pa.array(np.asarray([-0.5, 2], np.float16)), "flag": pa.array([True, None]), "text": pa.array(['"é",\n;-', ""]).dictionary_encode(),
        "view": pa.array(["-x", "-1"], pa.large_string()), "none": pa.nulls(2), "a;=1": ["x", "y"],
    }  # fmt: skip
    copied = ("when", "sum", "half", "flag", "text", "view", "none", "a;=1")
    found, _ = written(model, as_parquet(table), "parquet", carry=Carry("id", copied))
    assert [{name.removeprefix("passed."): row[name] for name in list(row)[1:10]} for row in found] == [
        {
            "id": str(-(2**60)), "when": "2024-02-29", "sum": "-1.10", "half": "-0.5", "flag": "true", "text": "\"é\",\n;'-",
            "view": "'-x", "none": "", "a;'=1": "x",
        },
        {"id": "", "when": "", "sum": "", "half": "2", "flag": "", "text": "", "view": "-1", "none": "", "a;'=1": "y"},
    ]  # fmt: skip


def test_reasons_are_the_columns_above_their_usual_value() -> None:
    def column(name: str, value: Any, expected: Any, share: float | None) -> dict[str, Any]:
        return {"column": name, "value": value, "expected": expected, "share": share}

    found = leading.reasons({
        "columns": [column("a", 950.0, 43.21785, 0.04), column("b", None, None, 0.02), column("c", "x", "y", 0.0)]
    })  # fmt: skip
    assert list(map(str, found)) == [
        "a = 950, expected 43.22 (4%)"
    ]  # b has less than the least share of a second reason
    many = leading.reasons(
        {"columns": [column("a", None, "x", 0.3)] + [column(str(i), "t", None, 0.2) for i in range(3)]}
    )
    assert list(map(str, many)) == ["a is missing, expected x (30%)", "0 = t (20%)", "1 = t (20%)"]
    assert leading.reasons(None) == leading.reasons({"columns": [column("a", 1.0, 2.0, None)]}) == []


@pytest.mark.parametrize(
    ("value", "expected", "says"),
    [
        (0.0, 0.0, "a = 0, unusual although it is the expected value (30%)"),
        ("0.0", 0, "a = 0.0, unusual although it is the expected value (30%)"),
        ("x", "x", "a = x, unusual although it is the expected value (30%)"),
        (53.26, 53.2514, "a = 53.26, expected 53.251 (30%)"),  # 53.25 would be too near to the value
        (12346.0, 12345.7, "a = 12346, expected 12345.7 (30%)"),  # 12350 would be above the value
        (812.0, 12345678.9, "a = 812, expected 12350000 (30%)"),
        (7, 1234567.0, "a = 7, expected 1234567 (30%)"),
        (None, 3.14159, "a is missing, expected 3.142 (30%)"),
        (1, "b", "a = 1, expected b (30%)"),
    ],
)
def test_a_reason_does_not_contradict_itself(value: Any, expected: Any, says: str) -> None:
    """The texts of a value and its expected value differ as the values do."""
    (reason,) = leading.reasons({"columns": [{"column": "a", "value": value, "expected": expected, "share": 0.3}]})
    assert str(reason) == says


def test_the_most_anomalous_rows_of_all_chunks() -> None:
    """Rows that are not flagged are left out. Among equal scores, earlier rows come first."""
    top = leading.TopRows(3)
    chunks = (([5.0, 9.0, 7.0], [True, False, True]), ([7.0, 8.0], [True, True]), ([7.0], [True]))
    number = 1
    for scores, flagged in chunks:
        judged = SimpleNamespace(flagged=np.asarray(flagged), score=np.asarray(scores), p_value=None)
        numbers = np.arange(number, number + len(scores))
        top.add(SimpleNamespace(judged=judged, numbers=numbers, carried=None, explanations=None))  # type: ignore[arg-type]
        number += len(scores)
    top.add(SimpleNamespace(judged=None))  # type: ignore[arg-type]
    assert [(row.number, row.score) for row in top.rows] == [(5, 8.0), (3, 7.0), (4, 7.0)]


def test_the_command_lists_the_most_anomalous_rows(tiny: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "rows.csv", tmp_path / "my-scores.csv"
    file.write_bytes(as_csv({**table_of(300), "name": ["\x1b[1mA" for _ in range(300)]}))

    def run(*options: str) -> list[str]:
        command = ["score", str(file), "--model", str(tiny / "models/table"), "-o", str(out), "--id", "name", *options]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    said = run("--budget", "7", "--explain")
    assert said[0] == "The 5 most anomalous of 7 flagged rows:"
    assert said[1].split() == ["row", "id", "score", "p-value", "main", "reason,", "with", "its", "share"]
    with out.open(newline="") as source:
        flagged = [row for row in csv.DictReader(source) if row["is_anomaly"] == "true"]
    flagged = sorted(flagged, key=lambda row: -float(row["score"]))[:5]
    assert [line.split()[0] for line in said[2:7]] == [row["row"] for row in flagged]
    assert all(
        f"\\x1b[1mA  {float(row['score']):.4g}" in " ".join(line.split(" "))
        for line, row in zip(said[2:7], flagged, strict=True)
    )
    assert f"weight = {float(flagged[0]['reason_value']):.15g}, expected " in said[2]
    assert said[7].startswith(f"{out}: 299 rows")
    assert "1 invalid row is not in this file: see" in said[7]
    assert (tmp_path / "my-scores.rejected.ndjson").exists()
    assert "main reason" not in run("--budget", "7")[1]
    assert run("--budget", "7", "--quiet")[0].startswith(str(out))


def test_the_file_to_score_is_not_replaced(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(as_csv(made_table(3)))
    before = file.read_bytes()
    with pytest.raises(InvalidValue, match=r"rows\.csv: is the file to score; write the scores to another file"):
        bulk.score_file(model, file, file, Rule())
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
