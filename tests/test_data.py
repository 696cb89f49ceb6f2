"""Data sets: splits, checksums, and errors that name the file and the hash."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from scipy import stats

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import chunk, rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training import datasets, runs
from manifold.training.data import Arrays, Data, fingerprints, moments, reading, schema, tables
from manifold.training.data import idx as idx_files
from manifold.training.data.remote import Remote
from manifold.training.datasets import binarized_mnist, cifar10, mnist
from manifold.training.errors import DataError, TrainingError
from manifold.training.families import tabular_vae, vae
from tests.conftest import made_table


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes())


def test_digits_are_split_once_and_for_all(digits: Data) -> None:
    assert digits.selection is not None
    parts = (digits.train, digits.selection, digits.calibration, digits.test)
    assert [len(part) for part in parts] == [1197, 100, 200, 300]
    assert digits.chosen_on is digits.selection
    assert set(np.unique(Arrays.of(digits.train).items)) == {0, 85, 170, 255}
    everything = np.concatenate([Arrays.of(part).items for part in parts])
    assert len(np.unique(everything.reshape(1797, -1), axis=0)) > 1700


def test_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real reader and the real checks, on a small made data set in MNIST's format."""
    generator = np.random.default_rng(0)
    arrays = [
        generator.integers(0, 255, shape, np.uint8) for shape in ((10_100, 28, 28), (10_100,), (50, 28, 28), (50,))
    ]
    remotes = []
    for remote, array in zip(mnist.FILES, arrays, strict=True):
        path = tmp_path / remote.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(idx(array % 10 if array.ndim == 1 else array))
        remotes.append(Remote(remote.path, remote.url, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"))
    monkeypatch.setenv("MANIFOLD_DATA", str(tmp_path))
    monkeypatch.setattr(mnist, "FILES", tuple(remotes))
    data = datasets.load("mnist")
    assert (len(data.train), len(data.calibration), len(data.test)) == (100, 5000, 50)
    assert np.array_equal(Arrays.of(data.calibration).items[:, 0], arrays[0][5100:])
    assert data.selection is not None
    assert np.array_equal(Arrays.of(data.selection).items[:, 0], arrays[0][100:5100])

    path = tmp_path / remotes[2].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"t10k-images.*truncated or altered.*expected {remotes[2].hash[7:]}"):
        datasets.load("mnist")
    path.unlink()
    with pytest.raises(DataError, match=r"t10k-images.*missing.*MANIFOLD_DATA"):
        datasets.load("mnist")


def test_an_idx_file_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(gzip.decompress(idx(np.zeros((3, 4), np.uint8)))[:-1]))
    with pytest.raises(DataError, match="not a complete IDX file"):
        idx_files.read(path)


def test_a_file_without_an_address_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANIFOLD_DATA", raising=False)
    with pytest.raises(DataError, match=r"MANIFOLD_DATA.*sha256"):
        datasets.load("transactions")


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(TrainingError, match=r"cifar10, creditcard, digits.*mnist, mnist-14.*or the path of a .csv"):
        datasets.load("imagenet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_from_files(tmp_path: Path, suffix: str) -> None:
    path, table = tmp_path / f"made.{suffix}", pa.table(made_table())
    (pyarrow.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table)(table, path)
    data = datasets.load(str(path))
    assert (len(data.train), len(data.calibration), len(data.test), data.folds) == (360, 0, 40, 5)
    assert isinstance(data.spec, TableSpec)
    kinds = {column.name: column.kind for column in data.spec.columns}
    assert kinds == {"price": "numeric", "weight": "numeric", "kind": "categorical", "paid": "categorical"}
    assert data.protocol["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_schema_is_fitted_on_training_rows() -> None:
    table = made_table()
    spec = schema.fit(table, schema.ColumnSettings({"price": 2}))
    price = spec.columns[0]
    assert isinstance(price, NumericColumn)
    assert price.transform == "log1p" if moments.skewness(table["price"]) > 2 else "identity"
    kind, paid = spec.columns[2], spec.columns[3]
    assert isinstance(kind, CategoricalColumn)
    assert isinstance(paid, CategoricalColumn)
    assert kind.categories == ("large", "medium", "small")
    assert paid.categories == ("0", "1")


def test_decimals_are_found_where_they_are_not_stated() -> None:
    columns = {"cents": np.arange(40) / 100, "whole": np.arange(40.0), "third": np.arange(40) / 3}
    spec = schema.fit(columns)
    assert [column.decimals for column in spec.columns if isinstance(column, NumericColumn)] == [2, 0, None]
    row = rows.decode(schema.encode(columns, spec)[7:8], spec)[0]
    assert row == {"cents": 0.07, "whole": 7, "third": pytest.approx(7 / 3, abs=1e-5)}
    assert isinstance(row["whole"], int)


def test_whole_columns_encode_like_single_rows() -> None:
    table = made_table(50)
    spec = schema.fit(table)
    one_by_one, _ = rows.encode([{name: column[i].item() for name, column in table.items()} for i in range(50)], spec)
    assert np.array_equal(schema.encode(table, spec), one_by_one)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (np.asarray([f"2026-01-{i + 1:02}" for i in range(31)] * 2), "dates or times, such as 2026-01-01"),
        (np.asarray(["2026-01-01T10:00:00Z", "31.12.2025 08:15", "n/a"] * 20), "dates or times"),
        (np.asarray(["10:30", "11:15:30.5", "9:00 PM"] * 20), "dates or times"),
        (np.arange(0, 40, dtype="datetime64[D]"), "dates or times, such as 1970-01-01"),
        (np.arange(2**60, 2**60 + 40), "identifier: 40 different whole numbers, some above 2^53"),
        (np.asarray([str(2**60 + i) for i in range(40)]), "identifier"),
        (np.asarray([f"id-{i}" for i in range(40)]), "identifier"),
        (np.full(40, np.nan), "no values"),
        (np.asarray([None] * 40), "no values"),
    ],
)
def test_columns_that_cannot_be_learned_are_left_out(column: np.ndarray, reason: str) -> None:
    spec = schema.fit({"c": column, "good": np.arange(40.0)})
    assert spec.names == ["good"]
    assert reason in spec.ignored["c"]
    with pytest.raises(TrainingError, match=r"no column is left .*c: "):
        schema.fit({"c": column})


def test_infinite_numbers_take_no_part_in_the_schema_and_their_rows_are_invalid() -> None:
    table = {"c": np.asarray([*np.arange(39.5), np.inf])}
    spec = schema.fit(table)
    (column,) = spec.columns
    assert isinstance(column, NumericColumn)
    assert column.maximum == 39
    with pytest.raises(DataError, match="row 41: c: inf is not finite"):
        schema.encode(table, spec)


def test_stated_kinds_are_taken() -> None:
    generator = np.random.default_rng(0)
    table = {"a": generator.integers(0, 5, 200), "b": generator.lognormal(size=200), "c": generator.normal(size=200)}
    spec = schema.fit(table, schema.ColumnSettings(kinds={"a": "numeric", "b": "quantile", "c": "ignore"}))
    a, b = spec.columns
    assert isinstance(a, NumericColumn)
    assert isinstance(b, NumericColumn)
    assert b.transform == "quantile"
    encoded = schema.encode(table, spec)[:, 1]
    assert stats.kstest(encoded, "norm").pvalue > 0.01
    assert spec.ignored == {"c": "left out on request"}
    ranged = schema.encode(table, schema.fit(table, schema.ColumnSettings(kinds={"*": "range", "c": "numeric"})))
    assert (ranged[:, 1].min(), ranged[:, 1].max()) == (0, 1)
    assert ranged[:, 2].std() == pytest.approx(1, abs=1e-4)
    with pytest.raises(TrainingError, match="column 'z': there is no such column"):
        schema.fit(table, schema.ColumnSettings(kinds={"z": "numeric"}))
    with pytest.raises(TrainingError, match="unknown kind"):
        schema.ColumnSettings(kinds={"a": "number"})
    with pytest.raises(TrainingError, match=r"it has no finite number .*; remove --column a=numeric"):
        schema.fit({"a": np.asarray(["x"] * 40)}, schema.ColumnSettings(kinds={"a": "numeric"}))


def test_missing_values_take_no_part_in_the_schema() -> None:
    table = made_table(200)
    holes = {name: column.astype(object) for name, column in table.items()}
    for place, name in enumerate(holes):
        holes[name][place::20] = None
    holes["weight"] = np.asarray([np.nan if value is None else value for value in holes["weight"]], np.float64)
    spec = schema.fit(holes)
    weight = next(column for column in spec.columns if column.name == "weight")
    assert isinstance(weight, NumericColumn)
    assert weight.mean == pytest.approx(np.nanmean(holes["weight"]))
    encoded = schema.encode(holes, spec)
    _, block = next((column, block) for column, block in spec.placed if column.name == "weight")
    assert np.isnan(encoded[:, block]).sum() == 10


def test_the_first_row_that_cannot_be_encoded_is_named() -> None:
    spec = schema.fit(made_table())
    table = {name: column.astype(object) for name, column in made_table(9).items()}
    table["price"][7], table["price"][3] = "dear", "cheap"
    with pytest.raises(DataError, match=r"^data: row 4: price: 'cheap' is not a number"):
        schema.encode(table, spec)


def test_a_row_without_any_value_cannot_be_encoded() -> None:
    table = {name: column.astype(object) for name, column in made_table(9).items()}
    for name in ("price", "weight", "paid"):
        table[name][2] = None
    spec = schema.fit(made_table())
    assert np.isnan(schema.encode(table, spec)[2]).any()
    table["kind"][3] = "enormous"  # a category that is new after fitting is none of the known ones
    assert sorted(schema.encode(table, spec)[3:5, 2:5].sum(axis=1)) == [0, 1]
    table["kind"][2] = ""
    with pytest.raises(DataError, match=r"^data: row 3: every value is missing"):
        schema.encode(table, spec)


def test_labels_are_a_column_of_their_own() -> None:
    table = {**made_table(200), "label": np.resize(["good", "bad", "ugly"], 200)}
    data = tables.from_table("made", table, {}, label="label")
    assert data.classes == ("bad", "good", "ugly")
    assert isinstance(data.spec, TableSpec)
    assert "label" not in data.spec.names
    assert data.spec.ignored["label"] == "holds the classes"
    assert "label" in data.spec.known  # a JSON row may contain the label, as a line of a file may
    assert set(np.unique(data.train.labels)) == {0, 1, 2}
    with pytest.raises(TrainingError, match="no column 'y'"):
        tables.from_table("made", table, {}, label="y")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for content, message in (
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "two columns have the name 'a'"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            reading.read(path)
    path.write_text("a\n1.5\n2.5\n")
    with pytest.raises(TrainingError, match="at least 30"):
        datasets.load(str(path))


@pytest.mark.parametrize("values", [[[1, 2], [3]], [[1], [1]], [{"a": 1}, {"a": 2}], [b"a", b"b"]])
def test_columns_that_are_neither_numbers_nor_texts(values: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table({"x": np.arange(40.0), "odd": pa.array(values * 20)}), path)
    table = reading.read(path)
    assert list(table.columns) == ["x"]
    assert re.match(r"has the type (list|struct|binary)", table.left_out["odd"])
    data = tables.of_file(path, schema.ColumnSettings(kinds={"x": "numeric"}))
    assert TableSpec.of(data.spec, "").ignored == table.left_out


def test_durations_and_long_texts_are_no_categories() -> None:
    with pytest.raises(TrainingError, match="durations"):
        schema.fit({"odd": np.arange(40).astype("m8[s]")})
    spec = schema.fit({"x": np.arange(40.0), "odd": np.asarray(["a" * 10_000, "b"] * 20, object)})
    assert spec.ignored == {"odd": "has a text of 10000 characters, but the limit is 1024"}


def test_a_small_file_of_many_rows_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk, "MAX_CELLS", 1000)
    for name, column in (("rows", pa.nulls(1001)), ("items", pa.array([[None] * 1001], pa.list_(pa.int32())))):
        pa.parquet.write_table(pa.table({"a": column}), tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match="has 1001 cells; the limit is 1000"):
            reading.read(tmp_path / f"{name}.parquet")


def cifar(path: Path, content: bytes) -> str:
    """Write an archive in CIFAR-10's format with the same pickle for every batch. Return its md5."""
    with tarfile.open(path, "w:gz") as archive:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_official_cifar_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2100, 3072), np.uint8)
    old = {b"data": pixels, b"labels": [3] * 2100}
    content = pickle.dumps(old, protocol=2).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
    path = tmp_path / "cifar10/cifar-10-python.tar.gz"
    path.parent.mkdir()
    monkeypatch.setenv("MANIFOLD_DATA", str(tmp_path))

    def expect(digest: str) -> None:
        monkeypatch.setattr(cifar10, "ARCHIVE", Remote(cifar10.ARCHIVE.path, "", f"md5:{digest}"))

    expect(cifar(path, content))
    data = datasets.load("cifar10")
    assert (len(data.train), len(data.calibration), len(data.test)) == (500, 5000, 2100)
    assert np.array_equal(Arrays.of(data.test).items.reshape(2100, -1), pixels)
    assert set(data.train.labels) == {3}

    expect(cifar(path, pickle.dumps(Path("/"), protocol=2)))
    with pytest.raises(DataError, match=r"contains a pathlib"):
        datasets.load("cifar10")


def test_binarised_digits_are_checked_by_their_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in MANIFOLD_DATA and the official text files contain the same bits."""
    generator = np.random.default_rng(0)
    bits = {part: generator.integers(0, 2, (n, 784), np.uint8) for part, n in (("train", 6), ("valid", 4), ("test", 3))}
    packed = {part: np.packbits(array, axis=1) for part, array in bits.items()}
    found = {part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in packed.items()}
    monkeypatch.setattr(binarized_mnist, "BITS", found)
    path = tmp_path / binarized_mnist.FILE
    path.parent.mkdir()
    np.savez(path, allow_pickle=False, **packed)
    monkeypatch.setenv("MANIFOLD_DATA", str(tmp_path))
    data = datasets.load("binarized-mnist")
    assert data.selection is not None
    assert [len(part) for part in (data.train, data.selection, data.calibration, data.test)] == [6, 2, 2, 3]
    assert np.array_equal(Arrays.of(data.test).items.reshape(3, -1), bits["test"] * 255)
    assert np.array_equal(Arrays.of(data.calibration).items.reshape(2, -1), bits["valid"][2:] * 255)

    def text(what: str, url: str, known: str | None, folder: Path, otherwise: str) -> Path:
        np.savetxt(tmp_path / "part.amat", bits[url.split("_")[-1].removesuffix(".amat")], fmt="%d")
        return tmp_path / "part.amat"

    monkeypatch.delenv("MANIFOLD_DATA")
    monkeypatch.setattr(binarized_mnist, "download", text)
    assert np.array_equal(Arrays.of(datasets.load("binarized_mnist").train).items, Arrays.of(data.train).items)
    bits["test"][0, 0] ^= 1
    with pytest.raises(DataError, match=r"part\.amat: the part test is truncated or altered.*delete this file"):
        datasets.load("binarized-mnist")
    monkeypatch.setenv("MANIFOLD_DATA", str(tmp_path))
    np.savez(path, allow_pickle=False, **{**packed, "valid": packed["valid"][:3]})
    with pytest.raises(
        DataError,
        match=r"binarized_mnist\.npz: the part valid is truncated or altered.*restore it, or unset MANIFOLD_DATA",
    ):
        datasets.load("binarized-mnist")


def test_a_run_continues_only_with_the_data_it_began_with(tmp_path: Path) -> None:
    """The error names each difference: columns, classes, numbers of items, digest."""
    path = tmp_path / "rows.csv"

    def write(rows: int, *, column: str = "b", classes: str = "xy", first: float = 0.5) -> Data:
        lines = [f"{i / rows if i else first:.4f},{i % 7},{classes[i % 2]}" for i in range(rows)]
        path.write_text("\n".join([f"a,{column},label", *lines]) + "\n")
        return tables.of_file(path, label="label")

    run = runs.TrainingRun(tmp_path / "run", "tabular_vae", str(path), "smoke", tabular_vae.Config())
    began = write(2500)
    run.save(began)
    run.check_data(began)
    for changed, differences in (
        (write(2500, first=0.25), ["the SHA-256 was"]),
        (
            write(2600),
            ["2000 train items were there, now 2080", "250 test items were there, now 260", "the SHA-256 was"],
        ),
        (write(2500, column="c"), ["columns are now without 'b' and with the new 'c'"]),
        (write(2500, classes="xz"), ["classes are now without 'y' and with the new 'z'"]),
    ):
        with pytest.raises(TrainingError, match="Restore the earlier data, or start a new run") as caught:
            run.check_data(changed)
        for text in differences:
            assert text in str(caught.value)
    assert fingerprints.differences({"sha256": "0"}, {**fingerprints.of(began), "sha256": "0"}) == []
    content = json.loads((run.folder / runs.CONFIG).read_text())
    (run.folder / runs.CONFIG).write_text(json.dumps({**content, runs.FINGERPRINT: None}))
    with pytest.raises(TrainingError, match="does not record the data"):
        run.check_data(began)


def test_a_run_does_not_continue_if_held_out_items_moved_into_training(tmp_path: Path, digits: Data) -> None:
    run = runs.TrainingRun(tmp_path / "run", "vae", "digits", "smoke", vae.Config())
    run.save(digits)
    run.check_data(digits)
    every = Arrays.of(digits.train)
    held_out = Arrays.of(digits.calibration)
    moved = dataclasses.replace(
        digits,
        train=Arrays(
            np.concatenate([every.items[:-200], held_out.items]), np.concatenate([every.labels[:-200], held_out.labels])
        ),
        calibration=every[-200:],
    )
    with pytest.raises(TrainingError, match="SHA-256"):
        run.check_data(moved)
