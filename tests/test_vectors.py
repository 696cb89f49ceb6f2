"""Vectors as rows: .npy files and list columns of Parquet files, from the fit to the scores of files and requests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from manifold import cli
from manifold.runtime import codecs
from manifold.runtime.engine import load
from manifold.runtime.errors import Malformed, ManifoldError, TooLarge
from manifold.runtime.kinds import table as table_kind
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import bulk, scored_rows
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.tables import columns, described, files, parquet
from manifold.runtime.tables import vectors as npy_files
from manifold.runtime.tables.columns import EncodedTable
from manifold.runtime.tables.schema import NumericColumn
from manifold.service.http.app import create_app
from manifold.service.settings import Settings
from manifold.training.data import schema, tables
from manifold.training.errors import DataError, TrainingError
from tests.conftest import wait_until_ready

Array = np.ndarray[Any, Any]
N, WIDTH = 300, 24


def vectors(n: int, seed: int = 0) -> Array:
    """Return unit vectors near three directions, with a last number that is always 0."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, WIDTH))
    found = centres[random.integers(0, 3, n)] + 0.3 * random.normal(size=(n, WIDTH))
    found[:, -1] = 0
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def as_npy(array: Array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def as_lists(array: Array, fixed: bool = True, **others: Any) -> bytes:
    """Return a Parquet file with the vectors in a list column, and other columns."""
    flat = pa.array(array.ravel())
    kind = pa.FixedSizeListArray if fixed else pa.ListArray
    ends = array.shape[1] if fixed else pa.array(np.arange(0, array.size + 1, array.shape[1], dtype=np.int32))
    column = kind.from_arrays(flat, array.shape[1]) if fixed else kind.from_arrays(ends, flat)
    return as_parquet({"embedding": column, **others})


def as_parquet(table: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(pa.table(table), out)
    return out.getvalue()


def as_csv(array: Array) -> bytes:
    out = io.BytesIO()
    pa.csv.write_csv(pa.table({f"x{place}": array[:, place] for place in range(array.shape[1])}), out)
    return out.getvalue()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ManifoldError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model that was fitted to a .npy file."""
    root = tmp_path_factory.mktemp("vectors")
    (root / "known.npy").write_bytes(as_npy(vectors(N)))
    output = run(
        "fit", root / "known.npy", "--name", "vectors", "--models", root / "models", "--run", root / "run", "--html", root / "report.html", "--quiet",
        "--detector", "tabular_detector",
    )  # fmt: skip
    (root / "output").write_text(output)
    return root


def scores_of(folder: Path, content: bytes, kind: str) -> list[dict[str, Any]]:
    parts = bulk.score(load(folder / "models/vectors", device="cpu"), io.BytesIO(content), kind, Rule(), rows=7)
    return [json.loads(line) for part in parts for line in scored_rows.lines(part).splitlines()]


def test_the_numbers_of_a_vector_share_one_scale(folder: Path) -> None:
    """The mean is that of the column, and the scale the root of the mean variance of all columns, so that distances are those of the vectors."""
    spec = load(folder / "models/vectors", device="cpu").manifest.spec
    assert isinstance(spec, TableSpec)
    data = tables.of_file(folder / "known.npy")
    assert data.rows is not None
    train = np.delete(vectors(N).astype(np.float64), data.rows.test - 1, axis=0)
    numeric = [column for column in spec.columns if isinstance(column, NumericColumn)]
    assert [column.name for column in numeric] == [f"x{place}" for place in range(WIDTH)] == spec.names
    assert np.allclose([column.mean for column in numeric], train.mean(0), atol=1e-7)
    assert np.allclose([column.scale for column in numeric], np.sqrt(train.var(0).mean()), rtol=1e-6)
    assert "column x0 … x23: numeric: 24 columns" in (folder / "output").read_text()


def test_scores_are_the_distances_of_the_vectors(folder: Path) -> None:
    """All training rows are references here, so that the first term is the distance to the nearest of them, in units of the common scale."""
    model, new = load(folder / "models/vectors", device="cpu"), vectors(40, seed=1)
    data = tables.of_file(folder / "known.npy")
    assert data.rows is not None and isinstance(model.manifest.spec, TableSpec)
    train = np.delete(vectors(N), data.rows.test - 1, axis=0).astype(np.float64)
    first = model.manifest.spec.columns[0]
    assert isinstance(first, NumericColumn)
    expected = np.linalg.norm(new[:, None] - train, axis=2).min(1) / first.scale
    found = scores_of(folder, as_npy(new), "npy")
    assert np.allclose([item["parts"]["input_neighbours"]["value"] for item in found], expected, rtol=1e-3)


def test_all_formats_give_the_same_scores(folder: Path) -> None:
    new = vectors(40, seed=2)
    expected = scores_of(folder, as_npy(new), "npy")
    assert [item["row"] for item in expected] == list(range(1, 41))
    contents = [
        (as_npy(np.asfortranarray(new)), "npy"), (as_npy(new.astype(">f8")), "npy"), (as_lists(new), "parquet"), (as_lists(new, fixed=False), "parquet"),
        (as_parquet({f"x{place}": new[:, place] for place in range(WIDTH)}), "parquet"), (as_csv(new), "csv"),
    ]  # fmt: skip
    for content, kind in contents:
        found = scores_of(folder, content, kind)
        assert np.allclose([item["score"] for item in found], [item["score"] for item in expected], atol=1e-4)
    half = scores_of(folder, as_npy(new.astype(np.float16)), "npy")
    exact = scores_of(folder, as_npy(new.astype(np.float16).astype(np.float32)), "npy")
    assert half == exact


def test_the_commands_take_every_format(folder: Path) -> None:
    new = np.concatenate([vectors(30, seed=3), np.eye(WIDTH, dtype=np.float32)[:2]])
    (folder / "new.npy").write_bytes(as_npy(new))
    (folder / "new.parquet").write_bytes(as_lists(new, item=np.arange(32)))
    for name, options in (("new.npy", ()), ("new.parquet", ("--id", "item"))):
        out = folder / f"{name}.scores.csv"
        run(
            "score",
            folder / name,
            "--model",
            "vectors",
            "--models",
            folder / "models",
            "-o",
            out,
            "--budget",
            2,
            "--explain",
            *options,
        )
        table = pa.csv.read_csv(out)
        assert np.flatnonzero(table["is_anomaly"].to_pylist()).tolist() == [30, 31]
        assert table["reason"][30].as_py() in {f"x{place}" for place in range(WIDTH)}
        assert ("id" in table.column_names) == bool(options)
    said = run("judge", "vectors", "--models", folder / "models", "--data", folder / "new.npy")
    assert "32" in said
    assert "calibrated on" in run("calibrate", "vectors", folder / "known.npy", "--models", folder / "models")


def test_a_list_column_beside_others_is_learned(tmp_path: Path) -> None:
    """Ids, known anomalies and other columns of numbers can stand beside the vectors."""
    found = vectors(N)
    price = np.random.default_rng(0).normal(size=N)
    content = as_lists(found, name=[f"r{i}" for i in range(N)], price=price, odd=[i % 50 == 0 for i in range(N)])
    (tmp_path / "rows.parquet").write_bytes(content)
    data = tables.of_file(tmp_path / "rows.parquet", roles=tables.Roles("odd", "name"))
    spec = data.spec
    assert isinstance(spec, TableSpec)
    assert set(spec.names) == {"price", *(f"x{place}" for place in range(WIDTH))}
    assert spec.id == "name" and data.anomalies is not None and len(data.anomalies) == 6
    by_name = {column.name: column for column in spec.columns if isinstance(column, NumericColumn)}
    assert by_name["x0"].scale == by_name["x5"].scale != by_name["price"].scale
    (chunk,) = files.chunks(io.BytesIO(content), "parquet", spec, also=("name", "x1"))
    assert np.array_equal(chunk.table["x3"], found[:, 3]) and np.array_equal(chunk.also["x1"].to_numpy(), found[:, 1])
    assert chunk.also["name"].to_pylist()[:2] == ["r0", "r1"]
    assert files.header(io.BytesIO(content), "parquet")[:2] == ["x0", "x1"]


def test_a_kind_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv(vectors(N)))
    (tmp_path / "rows.npy").write_bytes(as_npy(vectors(N)))
    of_csv = tables.of_file(tmp_path / "rows.csv", schema.ColumnSettings(kinds={"*": "vector"})).spec
    of_npy = tables.of_file(tmp_path / "rows.npy", schema.ColumnSettings(kinds={"x0": "quantile", "x1": "ignore"})).spec
    assert isinstance(of_csv, TableSpec) and isinstance(of_npy, TableSpec)
    scales = {column.scale for column in of_csv.columns if isinstance(column, NumericColumn)}
    assert len(scales) == 1  # the last column is constant, hence not of this kind
    assert isinstance(of_npy.columns[0], NumericColumn) and of_npy.columns[0].transform == "quantile"
    assert "x1" in of_npy.ignored


def test_rows_with_invalid_numbers_are_listed(folder: Path, tmp_path: Path) -> None:
    new = vectors(6, seed=4)
    new[1, 3], new[4, 0] = np.nan, np.inf
    found = scores_of(folder, as_npy(new), "npy")
    assert [item["row"] for item in found if "error" in item] == [2, 5]
    assert "number 4 of the vector is nan; replace it by a finite number" in found[1]["error"]
    rows = [*vectors(6, seed=4).tolist()]
    rows[2], rows[3], rows[5][1] = None, rows[3][:-1], None
    found = scores_of(folder, as_parquet({"e": pa.array(rows, pa.list_(pa.float32()))}), "parquet")
    errors = {item["row"]: item["error"] for item in found if "error" in item}
    assert sorted(errors) == [3, 4, 6]
    assert "has no vector" in errors[3] and f"has a vector of {WIDTH - 1} numbers" in errors[4] and "nan" in errors[6]
    known = vectors(N)
    known[7] = np.nan
    (tmp_path / "known.npy").write_bytes(as_npy(known))
    data = tables.of_file(tmp_path / "known.npy")
    assert any("row 8: number 1 of the vector is nan" in note for note in data.notes)
    assert len(data.train) + len(data.test) == N - 1


def unequal() -> bytes:
    rows = [*vectors(50).tolist()]
    rows[20] = rows[20][:-2]
    return as_parquet({"e": pa.array(rows, pa.list_(pa.float32()))})


def objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray([{"a": 1}, None]), allow_pickle=True)
    return out.getvalue()


def archive() -> bytes:
    out = io.BytesIO()
    np.savez(out, vectors(9))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix", "said"),
    [
        (lambda: as_npy(vectors(8).reshape(2, 4, WIDTH)), "npy", r"3 dimensions \(2, 4, 24\); one row for each vector"),
        (lambda: as_npy(vectors(1)[0]), "npy", r"1 dimension \(24,\).*reshape\(1, -1\)"),
        (lambda: as_npy(np.arange(40).reshape(10, 4)), "npy", r"type 'int64'; .*astype\('float32'\)"),
        (lambda: as_npy(np.zeros((3, 4), complex)), "npy", "type 'complex128'"),
        (objects, "npy", "Python objects .pickles., which are never read"),
        (archive, "npy", "an .npz archive; load the array"),
        (lambda: b"x0,x1\n1,2\n", "npy", "not a .npy file"),
        (lambda: as_npy(vectors(9))[:-3], "npy", "the file is damaged"),
        (lambda: as_npy(np.zeros((0, 4), np.float32)), "npy", "no vectors; add rows"),
        (lambda: as_npy(np.full((40, 4), np.nan)), "npy", "no rows that can be read .row 1: number 1 of the vector is nan"),
        (lambda: as_npy(np.zeros((2, 20_000), np.float16)), "npy", "vectors of 20000 numbers; the limit is 16384"),
        (unequal, "parquet", "vectors of different lengths: 24 numbers at first, but 22 in row 21"),
    ],
)  # fmt: skip
def test_other_files_get_errors_that_say_what_to_do(
    content: Callable[[], bytes], suffix: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content())
    with pytest.raises(DataError, match=said):
        tables.of_file(path)


def test_constant_vectors_cannot_be_learned(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(as_npy(np.ones((60, 3), np.float32)))
    with pytest.raises(TrainingError, match=r"all columns are constant .x0 is always 1, x1 is always 1"):
        tables.of_file(tmp_path / "rows.npy")


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (as_npy(vectors(5)[:, :-1]), "npy", "vectors of 23 numbers, but the model has 24 columns"),
        (as_lists(vectors(5)[:, :-1]), "parquet", "vectors of 23 numbers, but the model has 24 columns"),
        (
            as_parquet({"a": [vectors(1)[0]], "b": [vectors(1)[0]]}),
            "parquet",
            "'a', 'b' all hold vectors; keep the one",
        ),
        (as_parquet({"a": pa.array([[1, 2]], pa.list_(pa.int64()))}), "parquet", "vectors must be lists of floating"),
    ],
)
def test_vectors_that_do_not_fit_the_model_are_refused(folder: Path, content: bytes, kind: str, said: str) -> None:
    with pytest.raises(ManifoldError, match=said):
        scores_of(folder, content, kind)


def test_lists_of_a_row_group_have_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "VECTOR_BYTES", 4 * WIDTH * 9)
    assert len(scores_of(folder, as_lists(vectors(9)), "parquet")) == 9
    with pytest.raises(ManifoldError, match=r"240 numbers in a row group .*; write the file again with fewer rows"):
        scores_of(folder, as_lists(vectors(10)), "parquet")


def test_many_columns_are_encoded_as_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data, warnings, invalid rows and unseen values are the same if columns are encoded one by one."""
    random = np.random.default_rng(0)
    table = {f"x{place}": random.normal(size=500) for place in range(12)}
    table["x3"][[4, 9]], table["x4"][9], table["x5"][[7, 9]], table["x2"][20] = np.nan, np.inf, 1e6, -np.inf
    for values in table.values():
        values[30] = np.nan
    fitted = {name: values[40:] for name, values in table.items()}
    spec = schema.fit(fitted, schema.ColumnSettings(kinds={"*": "vector"}))
    for each in (
        spec,
        spec.model_copy(
            update={"columns": tuple(column.model_copy(update={"beyond": None}) for column in spec.columns)}
        ),
    ):
        for missing in (True, False):

            def encoded() -> EncodedTable:
                return columns.encode(table, each, missing=missing)  # noqa: B023 - called at once

            with monkeypatch.context() as patched:
                patched.setattr(columns, "MANY", 1000)
                singly = encoded()
            together = encoded()
            assert np.array_equal(together.data, singly.data, equal_nan=True)
            assert together.bad == singly.bad and together.outside == singly.outside
            assert together.warnings == singly.warnings


def test_numbered_columns_are_described_together() -> None:
    table = {f"x{place}": np.linspace(-place, 1, 50) for place in range(25)} | {
        "y": np.linspace(0, 3, 50),
        "x26": np.linspace(0, 1, 50),
    }
    found = [str(each) for each in described.describe(schema.fit(table, schema.ColumnSettings(kinds={"*": "numeric"})))]
    assert found == ["x0 … x24: numeric: 25 columns, -24 to 1", "y: numeric: 0 to 3", "x26: numeric: 0 to 1"]


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(Settings(models_dir=folder / "models", default_model="vectors", device="cpu"))
    ) as client:
        wait_until_ready(client)
        yield client


def test_requests_take_arrays_in_column_order(service: TestClient) -> None:
    """A list of numbers, a .npy body and a file of vectors have the same scores. With Accept: application/x-ndjson, a body is a file."""
    new = vectors(5, seed=6)
    listed = service.post("/anomaly-score", json={"rows": new.tolist(), "explain": True}).json()["items"]
    header = {"content-type": codecs.NPY}
    answer = service.post("/anomaly-score", content=as_npy(new), headers=header, params={"explain": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["items"] == listed
    assert listed[0]["explanation"]["columns"][0]["column"].startswith("x")
    answer = service.post("/anomaly-score", content=as_npy(new), headers={**header, "accept": "application/x-ndjson"})
    *lines, last = map(json.loads, answer.text.splitlines())
    assert last["total"]["rows"] == 5
    assert np.allclose([line["score"] for line in lines], [item["score"] for item in listed], atol=1e-5)
    one = service.post("/anomaly-score", content=as_npy(new[0]), headers=header)
    assert one.json()["items"][0]["score"] == pytest.approx(listed[0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3), np.float32), "shape is [2, 3]; send [n, 24]"),
        (np.zeros((2, 2, WIDTH), np.float32), "send [n, 24]"),
        (np.full((1, WIDTH), np.inf, np.float32), "not finite"),
        (np.full((1, WIDTH), np.nan, np.float32), "every value is missing"),
        (np.zeros((2, WIDTH), np.bool_), "an array of bool"),
    ],
)
def test_arrays_that_are_no_rows_are_refused(service: TestClient, array: Array, said: str) -> None:
    answer = service.post("/anomaly-score", content=as_npy(array), headers={"content-type": codecs.NPY})
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]["message"]


def test_a_preview_of_many_columns_shows_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {f"x{place}": np.linspace(-place, 1, 50) for place in range(9)}
    spec = schema.fit(table, schema.ColumnSettings(kinds={"*": "vector"}))
    drawn: list[str] = []
    monkeypatch.setattr(table_kind, "PREVIEWED_COLUMNS", 3)

    def plot(axes: Any, column: NumericColumn, values: Any) -> None:
        drawn.append(column.name)
        axes.plot([0], label="x")

    monkeypatch.setattr(table_kind, "_plot", plot)
    data = spec.encode(table, missing=False).data
    assert spec.preview(data, data).startswith(b"\x89PNG")
    assert drawn == ["x0", "x4", "x8"]


HEADERS = [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3",
    b"(" * 300,
    b"-" * 4000,
    b"{[]: 1}",
    b"{'descr': (), 'fortran_order': False, 'shape': (2, 3), }",
    b"{'descr': 'f4,,', 'fortran_order': False, 'shape': (2, 3), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2), }",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_damaged_headers_are_refused(header: bytes) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 16
    with pytest.raises(Malformed, match=r"numpy\.save"):
        npy_files.NpyFile(io.BytesIO(content))


def test_a_header_that_claims_gigabytes_is_not_read() -> None:
    class Watched(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(size)

    source = Watched(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 100_000)
    with pytest.raises(Malformed, match="header is not readable"):
        npy_files.NpyFile(source)
    assert source.most <= npy_files.HEADER_BYTES


def test_a_list_that_expands_without_bound_is_refused(tmp_path: Path) -> None:
    """One row with many equal numbers is a small file; it is refused before the numbers are decoded."""
    file = tmp_path / "bomb.parquet"
    values = pyarrow.array(np.zeros(2**23, np.float32))
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 2**23], pyarrow.int32()), values)
    pyarrow.parquet.write_table(pyarrow.table({"vector": lists}), file, compression="zstd")
    assert file.stat().st_size < 100_000
    with file.open("rb") as source, pytest.raises(TooLarge, match="expands from"):
        files.header(source, "parquet")
