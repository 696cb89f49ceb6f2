"""A row has the same meaning as a JSON object, a JSON array, texts, a CSV line, a Parquet record and a gRPC message."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import files, rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.service.rpc import messages
from manifold.service.stubs import manifold_pb2, manifold_pb2_grpc
from manifold.training.data import schema
from tests import tabled
from tests.served import Served, served

WORDS = ("red", "blue", "Straße", "café", "a, b", 'say "so"', "two\nlines", "x;y", "10-20", "don't")
SPEC = TableSpec(
    columns=(
        NumericColumn(name="amount", mean=10, scale=5, minimum=-1e6, maximum=1e6, clip=1e9),
        NumericColumn(name="count", transform="log1p", mean=1, scale=2, minimum=0, maximum=5000),
        CategoricalColumn(name="colour", categories=WORDS),
        CategoricalColumn(name="paid", categories=("no", "yes")),
        CategoricalColumn(name="level", categories=("1", "2.5")),
        CategoricalColumn(name="code", categories=("007", "010", "123")),
        CategoricalColumn(name="account", categories=(str(2**60), str(2**60 + 1))),
        CategoricalColumn(name="country", categories=("DE", "NA")),
        CategoricalColumn(name="same", categories=("0",)),
    )
)

ROW = st.fixed_dictionaries({
    "amount": st.none() | st.decimals(-99_999, 99_999, places=2),
    "count": st.none() | st.integers(0, 2**53),
    "colour": st.none() | st.sampled_from((*WORDS, "unseen", "naïve")),
    "paid": st.none() | st.booleans(),
    "level": st.none() | st.sampled_from((1, 2.5, 3)),
    "code": st.none() | st.sampled_from(("007", "010", "123", "7")),
    "account": st.none() | st.integers(2**60, 2**60 + 2),
    # "NA" is a category here, and means a missing value in other columns
    "country": st.sampled_from(("DE", "NA", "FR")),
    "same": st.none() | st.sampled_from((0, 1)),
})  # fmt: skip

FORMS = st.fixed_dictionaries({
    "delimiter": st.sampled_from((",", ";", "\t", "|")),
    "decimal": st.sampled_from((".", ",")),
    "encoding": st.sampled_from(("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16")),
    "end": st.sampled_from(("\n", "\r\n", "\r")),
    "blanks": st.sampled_from(("", " ", "  ")),
    "missing": st.sampled_from(("", "NA", "NaN", "null", "-", "?", "n/a", "#N/A", "NULL", "nan", "<NA>")),
    "booleans": st.sampled_from((("False", "True"), ("false", "true"), ("0", "1"), ("no", "yes"), ("N", "Y"), ("f", "t"), ("FALSE", "TRUE"))),
    "quoting": st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    "last": st.booleans(),
})  # fmt: skip


def number(value: Any, decimal: str) -> str:
    return str(value).replace(".", decimal)


def texts(row: dict[str, Any], form: dict[str, Any]) -> dict[str, str]:
    """Return a row as another program may write it."""
    said = {name: form["missing"] if value is None else str(value) for name, value in row.items()}
    for name in ("amount", "level"):
        if row[name] is not None:
            said[name] = number(row[name], form["decimal"])
    if row["paid"] is not None:
        said["paid"] = form["booleans"][row["paid"]]
    return said


def as_csv(table: list[dict[str, Any]], form: dict[str, Any]) -> bytes:
    out = io.StringIO(newline="")
    quoting: Any = csv.QUOTE_ALL if form["end"] == "\r" else form["quoting"]  # otherwise the writer does not quote \n
    writer = csv.writer(out, delimiter=form["delimiter"], lineterminator=form["end"], quoting=quoting)
    writer.writerow([*SPEC.names, "not known"])
    for row in table:
        said = texts(row, form)
        writer.writerow([*(form["blanks"] + said[name] for name in SPEC.names), "x"])
    text = out.getvalue()
    if form["blanks"] and quoting == csv.QUOTE_ALL:  # put blanks before the quotes, as some programs do
        text = text.replace(f'{form["delimiter"]}"{form["blanks"]}', f'{form["delimiter"]}{form["blanks"]}"')
    return (text if form["last"] else text.removesuffix(form["end"])).encode(form["encoding"])


def as_parquet(table: list[dict[str, Any]], *, typed: bool) -> bytes:
    kinds = {
        "amount": pa.decimal128(12, 2), "count": pa.int64(), "colour": pa.dictionary(pa.int8(), pa.string()), "paid": pa.bool_(),
        "level": pa.float32(), "account": pa.uint64(), "same": pa.int8(),
    }  # fmt: skip
    out = io.BytesIO()
    columns = {}
    for name in SPEC.names:
        values = [row[name] for row in table]
        kind = kinds.get(name, pa.string()) if typed else pa.string()
        columns[name] = pa.array(values if typed else [None if value is None else str(value) for value in values], kind)
    pa.parquet.write_table(pa.table(columns), out)
    return out.getvalue()


def in_json(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def of_file(content: bytes, kind: str) -> tuple[np.ndarray, list[list[str]]]:
    data, warnings = [], []
    for chunk in files.chunks(io.BytesIO(content), kind, SPEC, rows=7):
        assert chunk.bad == {}
        encoded = SPEC.encode(chunk.table, missing=True)
        assert encoded.bad == {}
        data.append(encoded.data)
        warnings += [encoded.warnings.get(place, []) for place in range(len(encoded.data))]
    return np.concatenate(data), warnings


def said(warnings: list[list[str]]) -> list[list[str]]:
    """Return the warnings without the client's spelling of the values."""
    return [[" ".join(warning.split()[:2]) for warning in each] for each in warnings]


def through_grpc(table: list[dict[str, Any]]) -> Any:
    message = manifold_pb2.ScoreRequest()
    messages.fill(message, {"rows": table})
    return messages.fields_of(manifold_pb2.ScoreRequest.FromString(message.SerializeToString()))["rows"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(ROW, min_size=1, max_size=8), FORMS)
def test_a_row_means_the_same_on_every_path(table: list[dict[str, Any]], form: dict[str, Any]) -> None:
    if all(row["amount"] is None for row in table):
        form = {**form, "decimal": "."}
    wanted, warnings = rows.encode([in_json(row) for row in table], SPEC, unknown=True, missing=True)
    spoken = {**form, "decimal": "."}  # a single row of texts cannot show another decimal sign
    found = {
        "array": rows.encode(
            [[in_json(row)[name] for name in SPEC.names] for row in table], SPEC, unknown=True, missing=True
        ),
        "texts": rows.encode([texts(row, spoken) for row in table], SPEC, unknown=True, missing=True),
        "parquet": of_file(as_parquet(table, typed=True), "parquet"),
        "parquet texts": of_file(as_parquet(table, typed=False), "parquet"),
        "csv": of_file(as_csv(table, form), "csv"),
    }
    of_grpc = through_grpc([in_json(row) for row in table])
    found["grpc"] = rows.encode(of_grpc, SPEC, unknown=True, missing=True)
    for path, (data, others) in found.items():
        np.testing.assert_array_equal(data, wanted, err_msg=path)
        assert said(others) == said(warnings), path


@pytest.mark.parametrize("typed", [True, False])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(ROW, min_size=40, max_size=60), FORMS)
def test_the_schema_of_a_file_does_not_depend_on_its_form(
    typed: bool, table: list[dict[str, Any]], form: dict[str, Any]
) -> None:
    """The names of truth values are the exception: they are taken from the file."""
    kinds = {
        "amount": "numeric",
        "count": "numeric",
        **dict.fromkeys(("colour", "level", "code", "account", "country"), "categorical"),
    }

    def fitted(content: bytes, kind: str) -> TableSpec:
        whole = files.read(io.BytesIO(content), kind)
        columns = {name: whole.columns[name] for name in SPEC.names} | {"varies": np.arange(len(whole.numbers))}
        return schema.fit(columns, schema.ColumnSettings(kinds=kinds, decimal=whole.notation.decimal))

    of_parquet, of_csv = fitted(as_parquet(table, typed=typed), "parquet"), fitted(as_csv(table, form), "csv")
    for one, other in zip(of_parquet.columns, of_csv.columns, strict=True):
        if one.name == "paid" and isinstance(one, CategoricalColumn) and isinstance(other, CategoricalColumn):
            assert [other.lookup.find(name, SPEC.notation) for name in one.categories] == list(range(one.width))
        else:
            assert one == other


# --- whole answers ---


def made_rows(n: int) -> list[dict[str, Any]]:
    """Return rows with every kind of value, drawn by a seed. Half of them have neither missing nor unseen values."""
    generator = np.random.default_rng(0)

    def row(strange: bool) -> dict[str, Any]:
        def one_of(*values: Any, other: tuple[Any, ...] = (None,)) -> Any:
            values = (*values, *other) if strange else values
            return values[generator.integers(len(values))]

        return {
            "amount": one_of(*(Decimal(int(cents)) / 100 for cents in generator.integers(-(10**6), 10**6, 3))), "count": one_of(0, 3, 2**40),
            "colour": one_of(*WORDS, other=(None, "unseen")), "paid": one_of(True, False), "level": one_of(1, 2.5, other=(None, 3)),
            "code": one_of("007", "010", other=(None, "7")), "account": one_of(2**60, 2**60 + 1, other=(None, 2**60 + 2)),
            "country": one_of("DE", "NA", other=("FR",)), "same": one_of(0, other=(None, 1)),
        }  # fmt: skip

    return [row(strange=place % 2 == 1) for place in range(n)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("same")
    score = tabled.manifest()["tasks"]["score"]
    inputs = [{**score["inputs"][0], "shape": list(SPEC.shape)}]
    tabled.write(
        folder, data=SPEC.model_dump(mode="json", exclude_none=True), tasks={"score": {**score, "inputs": inputs}}
    )
    with served(folder, default_model="rows", grpc=True) as running:
        yield running


def asked(service: Served, rows: list[Any]) -> list[dict[str, Any]]:
    answer = service.client.post("/anomaly-score", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def uploaded(service: Served, content: bytes, kind: str) -> list[dict[str, Any]]:
    answer = service.client.post("/anomaly-score", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    *lines, _ = map(json.loads, answer.text.splitlines())
    return lines


def test_a_row_has_the_same_answer_on_every_path(service: Served) -> None:
    table = made_rows(60)
    plain = [in_json(row) for row in table]
    form = {
        "delimiter": ";", "decimal": ",", "encoding": "latin-1", "end": "\r\n", "blanks": " ", "missing": "n/a", "booleans": ("No", "YES"),
        "quoting": csv.QUOTE_ALL, "last": True,
    }  # fmt: skip
    spoken = [texts(row, {**form, "decimal": "."}) for row in table]
    arrays = [[row[name] for name in SPEC.names] for row in plain]
    found = {name: asked(service, rows) for name, rows in (("objects", plain), ("arrays", arrays), ("texts", spoken))}
    found["csv"] = uploaded(service, as_csv(table, form), "text/csv")
    found["parquet"] = uploaded(service, as_parquet(table, typed=True), "application/vnd.apache.parquet")
    found["parquet texts"] = uploaded(service, as_parquet(table, typed=False), "application/vnd.apache.parquet")
    with grpc.insecure_channel(service.target) as channel:
        request = manifold_pb2.ScoreRequest()
        messages.fill(request, {"rows": plain})
        items = manifold_pb2_grpc.ManifoldStub(channel).AnomalyScore(request, timeout=60).items
    answers = {
        path: [(item["score"], item["state"], said([item["warnings"]])) for item in each]
        for path, each in found.items()
    }
    answers["grpc"] = [(item.score, item.state, said([list(item.warnings)])) for item in items]
    assert len({state for _, state, _ in answers["objects"]}) == 2
    assert len({score for score, *_ in answers["objects"]}) > 30
    for path, answer in answers.items():
        assert answer == answers["objects"], path
