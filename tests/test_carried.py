"""Ids and columns that are copied from rows to the output: they have the same values from every kind of input, and no score uses them."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from manifold import cli
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, Malformed
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import bulk, scored_rows
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.tables import csv_files, files
from manifold.runtime.tables.schema import Carry
from manifold.service.core import row_files
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold_client import Client
from tests import tabled
from tests.served import Served, served

BIG = 2**53 + 1  # not representable as float64
SPEC = {
    "kind": "table", "columns": tabled.COLUMNS, "ignored": {"order": "id", "shop": "copied", "code": "copied", "free": "not asked for"},
    "id": "order", "passed": ["shop", "code"],
}  # fmt: skip
ROW = {"price": 1.5, "kind": "small", "weight": 70}
CSV = b"order,price,kind,weight,shop,code,free\nA-1,1.5,small,70,X,007,z\n9007199254740993,x,small,70,,1e5,z\n  B ,2.5,large,60,Y,-0,z\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("carried")
    tabled.write(root, data=SPEC)
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder / "rows", device="cpu")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Served]:
    with served(folder, default_model="rows", grpc=True) as running:
        yield running


def as_parquet(table: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table(table), out)
    return out.getvalue()


def scored(model: Model, content: bytes, kind: str = "csv", **options: Any) -> list[dict[str, Any]]:
    parts = bulk.score(model, io.BytesIO(content), kind, Rule(), **options)
    return [json.loads(line) for part in parts for line in scored_rows.lines(part).splitlines()]


def copied(line: dict[str, Any]) -> tuple[Any, ...]:
    return line.get("id", "absent"), line.get("passed", "absent")


def test_texts_of_a_csv_stay_texts(model: Model) -> None:
    """Leading zeros and long numbers are kept; an empty cell is null; an invalid row has its id too."""
    one, two, three = scored(model, CSV)
    assert copied(one) == ("A-1", {"shop": "X", "code": "007"})
    assert copied(two) == ("9007199254740993", {"shop": None, "code": "1e5"})
    assert copied(three) == ("B", {"shop": "Y", "code": "-0"})
    assert ("error" in two, "score" in two) == (True, False)
    assert list(one)[:3] == ["row", "id", "passed"]


def test_values_of_parquet_keep_their_type(model: Model) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    table = {
        **{name: [value] * 3 for name, value in ROW.items()}, "order": pa.array([BIG, None, 2**64 - 1], pa.uint64()),
        "shop": pa.array([True, None, False]), "code": pa.array([moment, None, moment], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    content = as_parquet(table)
    lines = scored(model, content, "parquet")
    assert [line["id"] for line in lines] == [BIG, None, 2**64 - 1]
    assert [line["passed"]["shop"] for line in lines] == [True, None, False]
    assert lines[0]["passed"]["code"] == "2026-01-02T03:04:00+00:00"
    out = io.BytesIO()
    bulk.drain(bulk.score(model, io.BytesIO(content), "parquet", Rule()), scored_rows.ParquetWriter(out, io.BytesIO()))
    written = parquet.read_table(io.BytesIO(out.getvalue()))
    assert written["id"].type == pa.uint64()
    assert written["id"].to_pylist() == [BIG, None, 2**64 - 1]
    assert written["passed.code"].to_pylist() == [moment, None, moment]
    assert written["passed.shop"].type == pa.bool_()
    assert written.column_names[:4] == ["row", "id", "passed.shop", "passed.code"]


def test_decimals_and_times_are_exact_texts_in_ndjson(model: Model) -> None:
    table = {
        **{name: [value] for name, value in ROW.items()}, "order": [Decimal("12345678901234567890.12")], "shop": [datetime.time(1, 2)],
        "code": pa.array(["a"]).dictionary_encode(),
    }  # fmt: skip
    (line,) = scored(model, as_parquet(table), "parquet")
    assert copied(line) == ("12345678901234567890.12", {"shop": "01:02:00", "code": "a"})


def test_chunks_of_nulls_have_the_type_of_the_file(model: Model) -> None:
    """The first chunk does not determine the type of a column."""
    n = 60
    ids = pa.array([None] * 40 + list(range(20)), pa.int64())
    table = {
        **{name: [value] * n for name, value in ROW.items()},
        "order": ids, "shop": ["s"] * n, "code": pa.array([None] * n, pa.string()),
    }  # fmt: skip
    out = io.BytesIO()
    parts = bulk.score(model, io.BytesIO(as_parquet(table)), "parquet", Rule(), rows=16)
    bulk.drain(parts, scored_rows.ParquetWriter(out, io.BytesIO()))
    assert parquet.read_table(io.BytesIO(out.getvalue()))["id"].to_pylist() == ids.to_pylist()


def test_rejected_rows_of_a_parquet_file_have_their_id(model: Model) -> None:
    rejected = io.BytesIO()
    bulk.drain(bulk.score(model, io.BytesIO(CSV), "csv", Rule()), scored_rows.ParquetWriter(io.BytesIO(), rejected))
    assert json.loads(rejected.getvalue()) == {
        "row": 2, "id": "9007199254740993", "passed": {"shop": None, "code": "1e5"}, "error": "price: 'x' is not a number; column 'price' is numeric",
    }  # fmt: skip


def test_a_row_with_too_few_cells_has_no_id(model: Model) -> None:
    """The row does not show which of its cells is missing."""
    _, short = scored(model, b"order,price,kind,weight,shop,code\nA,1.5,small,70,X,1\nB,1.5,small,70\n")
    assert short == {"row": 2, "error": "has 4 cells, but the header has 6"}


def test_rows_keep_their_ids_across_blocks_and_chunks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 500)
    wrong, short = {5, 40, 41}, {17, 60}
    cells = [
        f"row-{n}" if n in short else f"row-{n},{'x' if n in wrong else n},small,70,shop {n},0{n}"
        for n in range(1, 101)
    ]
    found = scored(model, "\n".join(["order,price,kind,weight,shop,code", *cells]).encode(), rows=7)
    assert [line["row"] for line in found] == list(range(1, 101))
    for line in found:
        n = line["row"]
        assert ("error" in line) == (n in wrong | short)
        assert copied(line) == (
            ("absent", "absent") if n in short else (f"row-{n}", {"shop": f"shop {n}", "code": f"0{n}"})
        )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_score_depends_on_them(model: Model, kind: str) -> None:
    """Scores, states and warnings are the same as for a file without the columns, for any of their contents."""
    n = 50
    generator = np.random.Generator(np.random.Philox(0))
    table: dict[str, Any] = {
        "price": generator.normal(size=n), "kind": ["small", "purple"] * (n // 2), "weight": generator.normal(70, 9, n),
    }  # fmt: skip
    odd = {
        "order": [["", "NaN", "x,y", "\u202e", "1e999"][i % 5] for i in range(n)],
        "shop": ["é" * (i % 9) for i in range(n)],
    }

    def content(columns: dict[str, Any]) -> bytes:
        if kind == "parquet":
            return as_parquet(columns)
        from pyarrow import csv

        out = io.BytesIO()
        csv.write_csv(pa.table(columns), out)
        return out.getvalue()

    plain, full = scored(model, content(table), kind), scored(model, content({**odd, **table}), kind)
    assert [copied(line) for line in plain] == [("absent", "absent")] * n
    assert [{name: value for name, value in line.items() if name not in ("id", "passed")} for line in full] == plain


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_cell_that_is_too_long_is_left_out_with_a_warning(model: Model, kind: str) -> None:
    """The row is scored nevertheless. A cell of this size in one of the model's columns makes the row invalid."""
    long = "é" * (files.CELL_BYTES // 2 + 1)
    table: dict[str, list[Any]] = {
        **{name: [value] * 2 for name, value in ROW.items()},
        "order": ["A", "B"],
        "shop": [long, "X"],
        "code": ["1", "2"],
    }
    content = as_parquet(table)
    if kind == "csv":
        rows = (",".join(str(column[i]) for column in table.values()) for i in range(2))
        content = "\n".join([",".join(table), *rows]).encode()
    first, second = scored(model, content, kind)
    assert copied(first) == ("A", {"shop": None, "code": "1"})
    assert first["warnings"] == [f"passed: shop: a cell of {2 * len(long)} bytes; the limit is 4096; it was left out"]
    assert first["state"] == second["state"] == "uncalibrated"
    assert copied(second) == ("B", {"shop": "X", "code": "2"})


@pytest.mark.parametrize("cell", [[1, 2], {"a": 1}, b"bytes", datetime.timedelta(1)])
def test_columns_that_cannot_be_copied_are_refused(model: Model, cell: Any) -> None:
    table = {**{name: [value] for name, value in ROW.items()}, "order": [cell], "shop": ["X"], "code": ["1"]}
    with pytest.raises(Malformed, match="column 'order' has the type"):
        scored(model, as_parquet(table), "parquet")


def test_two_columns_of_one_name_are_refused(model: Model) -> None:
    with pytest.raises(Malformed, match="two columns have the name 'order'"):
        scored(model, b"order,price,kind,weight,order\nA,1.5,small,70,B\n")


# --- options, and records in the output ---


def test_a_recorded_column_that_the_file_lacks_is_said_once(model: Model) -> None:
    parts = list(
        bulk.score(model, io.BytesIO(b"price,kind,weight,shop\n" + b"1.5,small,70,X\n" * 40), "csv", Rule(), rows=9)
    )
    notes = [note for part in parts for note in part.notes]
    assert notes == [
        "the file has no column 'order', which the model would copy to the output as the id",
        "the file has no column 'code', which the model would copy to the output as passed",
    ]
    lines = [json.loads(line) for part in parts for line in scored_rows.lines(part).splitlines()]
    assert {json.dumps(copied(line)) for line in lines} == {'["absent", {"shop": "X"}]'}


def scored_by_command(models: Path, folder: Path, content: bytes, *options: str) -> Result:
    """Score a CSV file with the command, which writes `out.ndjson` into the folder."""
    (folder / "rows.csv").write_bytes(content)
    paths = [str(folder / "rows.csv"), "--models", str(models), "-o", str(folder / "out.ndjson")]
    return CliRunner().invoke(cli.app, ["score", *paths, "--model", "rows", *options])


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ((), ("A-1", {"shop": "X", "code": "007"})),
        (("--id", "code"), ("007", {"shop": "X", "code": "007"})),
        (("--keep", "free"), ("A-1", {"shop": "X", "code": "007", "free": "z"})),
        (("--keep", "price", "--keep", "shop"), ("A-1", {"shop": "X", "code": "007", "price": "1.5"})),
    ],
)
def test_the_command_replaces_the_id_and_adds_columns(
    folder: Path, tmp_path: Path, options: tuple[str, ...], fields: tuple[Any, ...]
) -> None:
    result = scored_by_command(folder, tmp_path, CSV, "--quiet", *options)
    assert result.exit_code == 0, result.output
    assert copied(json.loads((tmp_path / "out.ndjson").read_text().splitlines()[0])) == fields


@pytest.mark.parametrize("option", ["--id", "--keep"])
def test_a_column_that_the_command_names_must_be_there(folder: Path, tmp_path: Path, option: str) -> None:
    result = scored_by_command(folder, tmp_path, CSV, option, "nope")
    assert isinstance(result.exception, InvalidValue)
    assert "has no column 'nope' to copy to the output; choose one of 'order', 'price'" in result.exception.message
    assert not (tmp_path / "out.ndjson").exists()


def test_the_command_says_what_a_file_lacks(folder: Path, tmp_path: Path) -> None:
    result = scored_by_command(folder, tmp_path, b"price,kind,weight,shop,code\n1.5,small,70,X,1\n")
    assert result.output.count("warning: the file has no column 'order'") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "price"}, "so it cannot be copied to the output"),
        ({"passed": ["shop", "price"]}, "so it cannot be copied to the output"),
        ({"id": "other"}, "is copied to the output but not listed in `ignored`"),
        ({"passed": ["shop", "shop"]}, "a column is listed twice"),
    ],
)
def test_a_manifest_states_columns_that_are_not_learned(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableSpec.model_validate({**SPEC, **changes})


def test_what_is_carried_overrides_what_is_recorded(model: Model) -> None:
    assert copied(scored(model, CSV, carry=Carry())[0]) == ("absent", "absent")
    assert copied(scored(model, CSV, carry=Carry("shop", ("free",)))[0]) == ("X", {"free": "z"})


# --- the service ---

VALUES = [("A-1", "007"), (BIG, 1.5), (-3, True), ("é", None), (True, False), (None, 2.0)]


def test_rows_in_json_keep_their_values(service: Served) -> None:
    rows = [{**ROW, "order": order, "code": code, "free": [1]} for order, code in VALUES]
    items = service.client.post("/anomaly-score", json={"rows": rows}).json()["items"]
    assert [(item["id"], item["passed"]) for item in items] == [(order, {"code": code}) for order, code in VALUES]
    assert [type(item["id"]) for item in items] == [type(order) for order, _ in VALUES]
    with Client(service.url) as client:
        scores = client.anomaly_score(rows=rows)
    assert [(item.id, item.passed) for item in scores.items] == [(order, {"code": code}) for order, code in VALUES]


def test_rows_over_grpc_keep_their_values(service: Served) -> None:
    def value(given: Any) -> pb.Value:
        if isinstance(given, bool):
            return pb.Value(boolean=given)
        if isinstance(given, int):
            return pb.Value(integer=given)
        return (
            pb.Value() if given is None else pb.Value(text=given) if isinstance(given, str) else pb.Value(number=given)
        )

    rows = [
        pb.Row(columns={name: value(each) for name, each in {**ROW, "order": order, "code": code}.items()})
        for order, code in VALUES
    ]
    with grpc.insecure_channel(service.target) as channel:
        items = stubs.ManifoldStub(channel).AnomalyScore(pb.ScoreRequest(rows=rows), timeout=60).items

    def plain(passed: pb.PassedValue) -> Any:
        kind = passed.WhichOneof("value")
        return None if kind is None else getattr(passed, kind)

    assert [(plain(item.id), plain(item.passed["code"])) for item in items] == VALUES
    assert [type(plain(item.id)) for item in items] == [type(order) for order, _ in VALUES]
    rest = service.client.post("/anomaly-score", json={"rows": [ROW]}).json()["items"][0]
    assert {item.score for item in items} == {rest["score"]}


def test_rows_without_them_have_none(service: Served) -> None:
    rows = [ROW, list(ROW.values()), {**ROW, "shop": "X"}]
    items = service.client.post("/anomaly-score", json={"rows": rows}).json()["items"]
    assert [(item["id"], item["passed"]) for item in items] == [(None, {}), (None, {}), (None, {"shop": "X"})]


@pytest.mark.parametrize(
    ("value", "message"),
    [([1], "cannot be copied"), ({"a": 1}, "cannot be copied"), ("é" * 3000, "a text of 6000 bytes")],
)
def test_other_values_are_refused(service: Served, value: Any, message: str) -> None:
    answer = service.client.post("/anomaly-score", json={"rows": [ROW, {**ROW, "order": value}]})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "rows[1].order"
    assert message in answer.json()["error"]["message"]


def test_a_model_without_an_id_answers_as_before(tmp_path: Path) -> None:
    tabled.write(tmp_path)
    with served(tmp_path, default_model="rows") as service:
        (item,) = service.client.post("/anomaly-score", json={"rows": [ROW]}).json()["items"]
    assert not {"id", "passed"} & set(item)


def test_files_over_http_have_them_and_one_warning(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "ROWS", 2)
    headers = {"Content-Type": "text/csv"}
    one, two, three, last = map(
        json.loads, service.client.post("/anomaly-score", content=CSV, headers=headers).text.splitlines()
    )
    assert [copied(line)[0] for line in (one, two, three)] == ["A-1", "9007199254740993", "B"]
    assert not any("has no column" in warning for warning in last["warnings"])
    assert set(last["total"]) == {"rows", "bad", "flagged", "undecided", "states"}
    content = b"price,kind,weight,shop,code\n" + b"1.5,small,70,X,1\n" * 5
    *_, last = map(
        json.loads, service.client.post("/anomaly-score", content=content, headers=headers).text.splitlines()
    )
    assert (
        last["warnings"].count("the file has no column 'order', which the model would copy to the output as the id")
        == 1
    )
