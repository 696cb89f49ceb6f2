"""Files of rows over HTTP: streamed NDJSON, totals at the end, errors before and after the first line."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from starlette.testclient import TestClient

from manifold.runtime import imaging
from manifold.service.core import row_files
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from tests.conftest import made_table, wait_until_ready
from tests.test_bulk import as_csv, as_parquet


@pytest.fixture(scope="module")
def service(tiny: Path) -> Iterator[TestClient]:
    settings = Settings(models_dir=tiny / "models", default_model="table", device="cpu", max_upload_bytes=200_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def post(service: TestClient, content: bytes, kind: str = "text/csv", **query: Any) -> list[dict[str, Any]]:
    answer = service.post("/anomaly-score", content=content, headers={"Content-Type": kind}, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-model"] == query.get("model", "table")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_is_answered_as_its_rows_are(service: TestClient, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "ROWS", 64)
    table = made_table(300)
    content, media = (
        (as_csv(table), "text/csv; charset=utf-8")
        if kind == "csv"
        else (as_parquet(table), "application/vnd.apache.parquet")
    )
    *lines, last = post(service, content, media, false_positive_rate=0.1)
    assert [line["row"] for line in lines] == list(range(1, 301))
    rows = [{name: column[i].item() for name, column in table.items()} for i in range(40)]
    items = service.post("/anomaly-score", json={"rows": rows, "false_positive_rate": 0.1}).json()
    for line, item in zip(lines, items["items"], strict=False):
        assert {
            key: line[key] for key in ("score", "p_value", "is_anomaly", "band", "risk", "state", "parts", "warnings")
        } == {
            key: item[key] for key in ("score", "p_value", "is_anomaly", "band", "risk", "state", "parts", "warnings")
        }
    assert last["threshold"] == items["threshold"]
    assert last["calibration"] == items["calibration"]
    assert last["total"]["rows"] == 300
    assert last["total"]["flagged"] == sum(line["is_anomaly"] for line in lines)


@pytest.mark.parametrize(
    ("content", "media", "decimal"),
    [
        (b"price,weight,kind,paid\n1,70,small,0\n", "text/csv", "."),  # the file shows none: that of the model
        (b"price,weight,kind,paid\n1.5,70,small,0\n", "text/csv", "."),
        (b"price;weight;kind;paid\n1,5;70;small;0\n" + b"2;71;small;0\n" * 200, "text/csv", ","),
        (as_parquet({"price": [1.5], "weight": [70], "kind": ["small"], "paid": [0]}), "application/vnd.apache.parquet", None),
    ],
)  # fmt: skip
def test_the_last_line_has_the_decimal_separator(
    service: TestClient, content: bytes, media: str, decimal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "ROWS", 64)
    *_, last = post(service, content, media)
    assert last.get("decimal") == decimal
    assert "decimal" not in last["total"]


@pytest.mark.parametrize("sign", ["x", "7", '"', "'", "é"])
def test_a_stated_separator_that_cannot_be_one_is_refused(service: TestClient, sign: str) -> None:
    content = f"sep={sign}\nprice{sign}weight\n1{sign}2\n".encode()
    answer = service.post("/anomaly-score", content=content, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 400
    assert "states" in answer.json()["error"]["message"] and "remove this line" in answer.json()["error"]["message"]


def test_any_other_sign_may_be_the_stated_separator(service: TestClient) -> None:
    *lines, _ = post(service, b"sep=:\nprice:weight:kind:paid\n1.5:70:small:0\n")
    assert len(lines) == 1 and "score" in lines[0]


def test_bad_rows_stand_in_their_place(service: TestClient) -> None:
    one, two, three, last = post(service, b"price,weight,kind,paid\n1,70,small,0\nx,70,small,0\n1,70,small\n")
    assert "score" in one
    assert two == {"row": 2, "error": "price: 'x' is not a number; column 'price' is numeric"}
    assert three == {"row": 3, "error": "has 3 cells, but the header has 4"}
    assert (last["total"]["rows"], last["total"]["bad"]) == (1, 2)


def test_budget_and_reasons(service: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "ROWS", 32)
    *lines, last = post(service, as_csv(made_table(200)), budget=7, explain="true")
    flagged = [line for line in lines if line["is_anomaly"]]
    assert last["threshold"]["score"] == min(line["score"] for line in flagged)
    assert last["threshold"]["p_value"] == max(line["p_value"] for line in flagged)
    assert len(flagged) == last["total"]["flagged"] == 7
    assert all(line["explanation"]["columns"] for line in flagged)
    assert all(line["explanation"] is None for line in lines if not line["is_anomaly"])


def test_reasons_hold_numbers_beside_a_bad_row(service: TestClient) -> None:
    """One cell that is no number makes a column of a file one of texts, and a column of decimals is one of numbers."""
    content = b"price,weight,kind,paid\n900,70,small,0\nx,70,small,0\n1,200,large,1\n"
    first, bad, third, last = post(service, content, explain="true", budget=2)
    assert "error" in bad
    for line, price in ((first, 900.0), (third, 1.0)):
        values = {column["column"]: column["value"] for column in line["explanation"]["columns"]}
        assert values["price"] == price
        assert isinstance(values["price"], float)
    assert last["total"]["flagged"] == 2
    table = {"price": [Decimal("900.5"), None], "weight": [70.0, 71.0], "kind": ["small", "large"], "paid": [0, 1]}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(table), buffer)
    first, *_ = post(service, buffer.getvalue(), "application/vnd.apache.parquet", explain="true", budget=1)
    assert {column["column"]: column["value"] for column in first["explanation"]["columns"]}["price"] == 900.5


@pytest.mark.parametrize("cell", [[1, 2], {"a": 1}, b"bytes", datetime.date(2026, 1, 1), datetime.timedelta(1)])
def test_columns_of_other_things_are_refused(service: TestClient, cell: Any) -> None:
    table = {"price": [cell] * 2, "weight": [70.0, 71.0], "kind": ["small", "large"], "paid": [0, 1]}
    buffer = io.BytesIO()
    parquet.write_table(pa.table(table), buffer)
    headers = {"Content-Type": "application/vnd.apache.parquet"}
    answer = service.post("/anomaly-score", content=buffer.getvalue(), headers=headers)
    assert answer.status_code == 400
    assert "column 'price' has the type" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "query", "status", "field", "says"),
    [
        ("price,weight,kind,paid\n1,2,é,0\n".encode() + b"1,2,\xff,0\n", {}, 400, "file", "is not valid UTF-8"),
        (b"", {}, 400, "file", "is empty"),
        (b"price,weight\n1,2\n", {}, 400, "file", "lacks the column"),
        (b"price,weight,kind,paid\n", {}, 400, "file", "has no rows"),
        (b"price,weight,kind,paid\n1,2,small,0\n", {"budget": 0}, 422, "budget", "use 1 or more"),
        (
            b"price,weight,kind,paid\n1,2,small,0\n",
            {"budget": 3, "false_positive_rate": 0.1},
            422,
            "budget",
            "give only one of them",
        ),
        (b"price,weight,kind,paid\n1,2,small,0\n", {"rows": "[[1]]"}, 422, "rows", "not allowed with a file"),
        (b"price,weight,kind,paid\n1,2,small,0\n", {"model": "vae"}, 409, "model", "does not score rows"),
        (b"price,weight,kind,paid\n1,2,small,0\n", {"model": "nobody"}, 404, "model", "no model"),
        (b"price,weight,kind,paid\n" + b"1,2,small,0\n" * 20_000, {}, 413, "body", "over the limit"),
    ],
)
def test_files_that_are_refused(
    service: TestClient, content: bytes, query: dict[str, Any], status: int, field: str, says: str
) -> None:
    answer = service.post("/anomaly-score", content=content, headers={"Content-Type": "text/csv"}, params=query)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    assert says in error["message"]


def test_other_content_types_are_told_of_tables(service: TestClient) -> None:
    for route, there in (("/anomaly-score", True), ("/encode", False)):
        answer = service.post(route, content=b"x", headers={"Content-Type": "application/x-thing"})
        assert answer.status_code == 415
        assert ("text/csv" in answer.json()["error"]["valid"]) is there


def test_a_truncated_parquet_is_refused(service: TestClient) -> None:
    content = as_parquet(made_table(50))[:-30]
    answer = service.post("/anomaly-score", content=content, headers={"Content-Type": "application/x-parquet"})
    assert answer.status_code == 400
    assert "cannot be read as parquet" in answer.json()["error"]["message"]


def test_what_goes_wrong_on_the_way_is_the_last_line(service: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from manifold.runtime.tables import csv_files

    monkeypatch.setattr(row_files, "ROWS", 512)
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 300)
    good = as_csv(made_table(5000))
    *lines, last = post(service, good + "1.0,70,é,0\n".encode() + b"1.0,70,\xff\xfe,0\n")
    assert [line["row"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) >= 8
    assert last["error"]["type"] == "malformed"
    assert "is not valid UTF-8" in last["error"]["message"]


def test_a_default_model_of_another_kind_is_named(tiny: Path) -> None:
    """Requests that name no model, and do not suit the default model, list the models that they suit."""
    png = base64.b64encode(imaging.to_png(np.zeros((1, 8, 8), np.uint8))).decode()
    row = {"price": 1, "weight": 2, "kind": "small", "paid": 0}
    with TestClient(create_app(Settings(models_dir=tiny / "models", default_model="vae", device="cpu"))) as client:
        wait_until_ready(client)
        found = [
            client.post("/anomaly-score", content=b"price\n1\n", headers={"Content-Type": "text/csv"}),
            client.post("/anomaly-score", json={"rows": [row]}),
            client.post("/interpolate", json={"from": {"row": row}, "to": {"seed": 1}}),
        ]
        named = client.post("/anomaly-score", json={"rows": [row], "model": "vae"}).json()["error"]
        fitting = client.post("/encode", json={"images": [png]})
    assert fitting.status_code == 200
    assert (named["field"], named["message"][:15]) == ("rows", "rows: vae takes")
    errors = [answer.json()["error"] for answer in found]
    says = ("does not score files of rows", "takes images, not rows", "takes images, not rows")
    for error, text in zip(errors, says, strict=True):
        assert error["message"] == f"model: the default model vae {text}; name one of the valid models"
        assert (error["field"], error["valid"]) == ("model", ["table"])
