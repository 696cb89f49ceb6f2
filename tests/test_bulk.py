"""Files of rows: they are read in chunks and scored like single rows; invalid rows are written to another file, and the order is kept."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from manifold.runtime.engine import Model, load
from manifold.runtime.errors import Malformed, UnsupportedTask
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.manifest import COMBINED
from manifold.runtime.scores import bulk, decisions, scored_rows
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.tables import csv_files
from tests.conftest import made_table


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny / "models/table", device="cpu")


def as_csv(table: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pa.csv.write_csv(pa.table(table), out)
    return out.getvalue()


def as_parquet(table: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(pa.table(table), out)
    return out.getvalue()


def scored(model: Model, content: bytes, kind: str = "csv", rule: Rule | None = None, **options: Any) -> list[dict[str, Any]]:  # fmt: skip
    parts = bulk.score(model, io.BytesIO(content), kind, rule or Rule(), **options)
    return [json.loads(line) for part in parts for line in scored_rows.lines(part).splitlines()]


@pytest.mark.parametrize(("kind", "write"), [("csv", as_csv), ("parquet", as_parquet)])
def test_a_file_is_scored_as_its_rows_are(model: Model, kind: str, write: Callable[[Any], bytes]) -> None:
    table = made_table(300)
    found = scored(model, write(table), kind, rows=70)
    spec = model.manifest.spec
    assert isinstance(spec, TableSpec)
    from manifold.runtime.tables import rows

    data, _ = rows.encode([{name: column[i].item() for name, column in table.items()} for i in range(300)], spec)
    expected = model.calibrated.place(model.score(data).terms)[COMBINED]
    assert [item["row"] for item in found] == list(range(1, 301))
    assert np.array_equal([item["score"] for item in found], expected)
    assert np.mean([item["is_anomaly"] for item in found]) < 0.1
    assert {item["state"] for item in found} <= {"ok", "below_resolution"}


def test_bad_rows_are_set_aside_and_the_rest_scored(model: Model) -> None:
    content = (
        b"price,weight,kind,paid\n1.5,70,small,0\nfive,70,small,0\n1.5,inf,small,0\n2.5,60\n1.5,70,small,0,9,9\n"
        b"1.5,,small,1\n,,,\n1.5,70,purple,0\n1.5,70,large,1\n0.1,70,small,0\n"
    )
    found = {item["row"]: item for item in scored(model, content)}
    assert sorted(found) == list(range(1, 11))
    errors = {number: item["error"] for number, item in found.items() if "error" in item}
    assert sorted(errors) == [2, 3, 4, 5, 7]
    assert errors[2] == "price: 'five' is not a number; column 'price' is numeric"
    assert errors[3] == "weight: inf is not finite; give a finite number"
    assert errors[4] == "has 2 cells, but the header has 4"
    assert errors[5] == "has 6 cells, but the header has 4"
    assert errors[7] == "every value is missing"
    assert found[6]["state"] == "unknown"
    assert found[6]["warnings"] == ["missing: weight has no value; the other columns decide the score"]
    assert found[8]["state"] == "unknown"
    assert found[1]["score"] == scored(model, b"price,weight,kind,paid\n1.5,70,small,0\n")[0]["score"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_and_quotes_are_read(model: Model, delimiter: str) -> None:
    header = ["note", "kind", "paid", "weight", "price"]  # another order, and a column that the model does not have
    row = [f'"two\nlines{delimiter} and a comma, too"', "small", "1", " 70 ", "1.5"]
    content = "\r\n".join(delimiter.join(cells) for cells in (header, row, row)).encode("utf-8-sig")
    first, second = scored(model, content)
    assert first["score"] == second["score"]
    assert first["warnings"] == []
    assert first["score"] == scored(model, b"price,weight,kind,paid\n1.5,70,small,1\n")[0]["score"]


def test_bad_rows_keep_their_numbers_across_blocks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 400)
    wrong = {3, 17, 18, 60, 61, 99, 100}
    lines = ["1.5,70" if number in wrong else f"{number},70,small,0" for number in range(1, 101)]
    content = "\n".join(["price,weight,kind,paid", *lines]).encode()
    found = scored(model, content, rows=7)
    assert [item["row"] for item in found] == list(range(1, 101))
    assert {item["row"] for item in found if "error" in item} == wrong
    alone = scored(model, b"price,weight,kind,paid\n98,70,small,0\n")[0]
    assert found[97]["score"] == alone["score"]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "csv", "is empty"),
        (b"price,weight,kind,paid\n", "csv", "has no rows"),
        (b"price,kind,paid\n1,small,0\n", "csv", "lacks the column.* 'weight'; it has 'price'"),
        (b"a;b\n1;2\n", "csv", "lacks"),
        (b"price,weight,kind,paid,paid\n1,1,small,0,0\n", "csv", "two columns have the name 'paid'"),
        (
            "price,weight,kind,paid\n1,1,é,0\n".encode() + b"1,1,\xff,0\n",
            "csv",
            "byte 37 is not valid UTF-8, but the bytes before it are",
        ),
        (b"1.5,70,2.5,0\n1,70,2,0\n", "csv", "its first line contains only numbers"),
        (b",,\n1,2,3\n", "csv", "its first line is empty"),
        (b"PAR1 and then nothing", "parquet", "cannot be read as parquet"),
        (as_parquet(made_table(50))[:-40], "parquet", "cannot be read as parquet"),
        (as_parquet({"price": [1.0]}), "parquet", "lacks the column"),
    ],
)
def test_files_that_are_no_tables(model: Model, content: bytes, kind: str, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        scored(model, content, kind)


def test_a_budget_is_spent_on_the_whole_file(model: Model) -> None:
    table = made_table(300)
    content = as_csv(table)
    by_score = sorted(scored(model, content), key=lambda item: (-item["score"], item["row"]))
    found = scored(model, content, rule=Rule(budget=11), rows=40)
    assert {item["row"] for item in found if item["is_anomaly"]} == {item["row"] for item in by_score[:11]}
    assert {item["band"] for item in found if item["is_anomaly"]} <= {"review", "block"}
    many = scored(model, content, rule=Rule(budget=1000), rows=40)
    assert all(item["is_anomaly"] for item in many)


def test_explanations_are_given_for_what_is_flagged(model: Model) -> None:
    content = b"price,weight,kind,paid\n1.5,70,small,0\n1.5,700,small,0\n"
    usual, strange = scored(model, content, explain=True, rule=Rule(rate=0.1))
    assert usual["explanation"] is None
    assert strange["is_anomaly"]
    assert strange["explanation"]["columns"][0]["column"] == "weight"
    assert strange["explanation"]["columns"][0]["value"] == 700


def test_parquet_out_says_the_same(model: Model) -> None:
    table = {**made_table(100)}
    table["price"] = np.asarray([*table["price"][:-1].astype(str), "dear"])
    out, rejected = io.BytesIO(), io.BytesIO()
    total = bulk.drain(bulk.score(model, io.BytesIO(as_csv(table)), "csv", Rule(), rows=30), scored_rows.ParquetWriter(out, rejected))  # fmt: skip
    assert (total.rows, total.bad) == (99, 1)
    assert json.loads(rejected.getvalue()) == {"row": 100, "error": "price: 'dear' is not a number; column 'price' is numeric"}  # fmt: skip
    written = pa.parquet.read_table(io.BytesIO(out.getvalue())).to_pylist()
    for item, line in zip(written, scored(model, as_csv(table)), strict=False):
        assert item["row"] == line["row"]
        assert item["score"] == line["score"]
        assert (item["band"], item["risk"], item["state"]) == (line["band"], line["risk"], line["state"])
        assert item["part.reconstruction.p_value"] == line["parts"]["reconstruction"]["p_value"]
    assert total.states == {
        name: sum(item["state"] == name for item in written) for name in decisions.STATES if any(item["state"] == name for item in written)
    }  # fmt: skip


def test_models_of_images_score_no_rows(tiny: Path) -> None:
    with pytest.raises(UnsupportedTask, match="does not score rows"):
        next(bulk.score(load(tiny / "models/vae", device="cpu"), io.BytesIO(b"a\n1\n"), "csv", Rule()))


def test_columns_unlike_those_of_training_are_named(model: Model) -> None:
    """A category with another spelling, and a number in another unit, in at least a tenth of the rows of all chunks."""
    table = made_table(100)
    table["kind"] = np.where(np.arange(100) < 40, "Klein", table["kind"].astype(str)).astype(object)
    table["weight"] = np.where(np.arange(100) < 9, 1e9, table["weight"])
    for rows in (7, 100):
        total = bulk.Total()
        for part in bulk.score(model, io.BytesIO(as_csv(table)), "csv", Rule(), rows=rows):
            total.add(part)
        assert total.told() == [
            "column 'kind': 40 of 100 rows have a value that did not occur in training, such as 'Klein'; check the spelling and the unit of the "
            "column, or fit the model again"
        ]
        assert total.counts()["rows"] == 100
        assert "outside" not in total.counts()
    table["weight"] = np.where(np.arange(100) < 10, 1e9, table["weight"])
    total = bulk.Total()
    for part in bulk.score(model, io.BytesIO(as_csv(table)), "csv", Rule()):
        total.add(part)
    assert any("'weight': 10 of 100 rows" in note and "'1000000000'" in note for note in total.told())


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Price,weight,kind,paid", "Upper and lower case differ: rename 'Price' to 'price'"),
        ("Price,Weight,kind,paid", "differ: rename 'Price' to 'price', 'Weight' to 'weight'"),
        ("Price,kind,paid", "rename 'Price' to 'price'. Add the other columns; cells without a value may be empty"),
        ("weight,kind,paid", "Add them; cells without a value may be empty"),
        (
            "Price,amount,hour",
            "Most columns of the model are missing: choose a model that fits this file, or add the columns",
        ),
    ],
)
def test_what_to_do_about_columns_that_a_file_lacks(model: Model, header: str, said: str) -> None:
    with pytest.raises(Malformed, match=re.escape(said)):
        scored(model, f"{header}\n1,2,small,0\n".encode())
