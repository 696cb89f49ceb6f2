"""Tables as other programs write them: the columns that `fit` chooses, and that CSV, Parquet and JSON are scored alike."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from manifold.runtime.errors import Malformed
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import files, rows, values
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import DEFAULT, MISSING_NUMBERS, Notation
from manifold.training.data import Data, rereading, schema, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.errors import TrainingError

N = 200
Column = NumericColumn | CategoricalColumn


def table(cell: Callable[[int], str], separator: str = ";") -> str:
    return f"c{separator}x\n" + "".join(f"{cell(i)}{separator}{i * 37 % 101 / 8:g}\n" for i in range(N))


def fitted(path: Path, content: str | bytes | pa.Table, **options: Any) -> tuple[TableSpec, Data]:
    """Fit a schema to a file, and read the file again as scoring does. Return both."""
    if isinstance(content, pa.Table):
        path = path / "t.parquet"
        pa.parquet.write_table(content, path)
    else:
        path = path / "t.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    data = tables.of_file(path, **options)
    spec = TableSpec.of(data.spec, "")
    rereading.check_again(data, spec, path)
    return spec, data


def column_of(spec: TableSpec, name: str = "c") -> Column | str:
    return next((column for column in spec.columns if column.name == name), spec.ignored.get(name, ""))


def scored(spec: TableSpec, content: bytes, kind: str) -> tuple[np.ndarray, dict[int, list[str]], dict[int, str]]:
    """Return the encoded rows of a file in one chunk, with the warnings and the invalid rows by position."""
    (chunk,) = files.chunks(io.BytesIO(content), kind, spec)
    encoded = spec.encode(chunk.table, missing=True)
    return encoded.data, encoded.warnings, {**encoded.bad, **chunk.bad}


@pytest.mark.parametrize("word", [*MISSING_NUMBERS, "none", "NULL", "nan", " -nan ", "\ufeffNA"])
def test_words_for_missing_numbers_on_every_path(tmp_path: Path, word: str) -> None:
    """Every fifth value is such a word: a column of numbers stays one. In a column of texts, the word is a category."""
    spec, data = fitted(tmp_path, table(lambda i: word if i % 5 == 0 else str(i * 13 % 57)))
    assert isinstance(column_of(spec), NumericColumn)
    assert len(data.train) + len(data.calibration) + len(data.test) == N
    wanted, warnings = rows.encode([{"c": None, "x": 1}], spec, missing=True)
    of_json = rows.encode([{"c": word, "x": "1"}], spec, missing=True)
    of_array = rows.encode([[word, 1]], spec, missing=True)
    out = io.BytesIO()
    pa.parquet.write_table(pa.table({"c": pa.array([word]), "x": pa.array([1])}), out)
    of_csv, csv_warnings, bad = scored(spec, f"c;x\n{word};1\n".encode(), "csv")
    of_parquet, parquet_warnings, _ = scored(spec, out.getvalue(), "parquet")
    assert not bad
    for found in (of_json[0], of_array[0], of_csv, of_parquet):
        np.testing.assert_array_equal(found, wanted)
    assert warnings == of_json[1] == of_array[1] == [csv_warnings[0]] == [parquet_warnings[0]]


def test_words_for_missing_numbers_are_categories_elsewhere_and_yield_to_stated_ones() -> None:
    assert not values.is_missing("None", DEFAULT)
    assert values.is_missing("None", DEFAULT, numeric=True)
    assert not values.is_missing("None", Notation.of(("unknown",)), numeric=True)
    few = schema.fit({"c": np.resize(np.asarray(["None", "1", "2"], object), 60), "x": np.arange(60.0)})
    column = column_of(few)
    assert isinstance(column, CategoricalColumn)
    assert column.categories == ("1", "2", "None")


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("1 234", 1234, 1234), ("12 345 678.5", 12345678.5, None), ("1 234,5", None, 1234.5), ("0,123", None, 0.123), ("0.123", 0.123, None),
        ("030 123 456", None, None), ("1 2", None, None), ("1 23", None, None), ("\ufeff5", 5, 5), ("5\u200b", 5, 5), ("\u202a7\u202c", 7, 7),
    ],
)  # fmt: skip
def test_groups_and_invisible_characters(text: str, point: float | None, comma: float | None) -> None:
    assert values.number(text, DEFAULT) == point
    assert values.number(text, Notation.of(decimal=",")) == comma


def test_blanks_are_the_same_for_whole_columns() -> None:
    from manifold.runtime.tables import cells

    texts = [f"{blank}1{blank}" for blank in values.BLANKS]
    assert cells.numbers_of(pa.array(texts), DEFAULT).tolist() == [1.0] * len(texts)  # type: ignore[union-attr]
    assert cells.plain(pa.array([f"{blank}é{blank}" for blank in values.BLANKS])).tolist() == ["é"] * len(texts)


@pytest.mark.parametrize(
    "made",
    [
        pa.array([2**64 - 1 - i % 3 for i in range(N)], pa.uint64()), pa.array([2**60 + i % 3 for i in range(N)]).dictionary_encode(),
        pa.array([str(12345678901234567890 + i % 3) for i in range(N)]), pa.array([None if i % 7 == 0 else 2**60 + i % 3 for i in range(N)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [None, "numeric"])
def test_whole_numbers_that_floating_point_takes_for_one(tmp_path: Path, made: pa.Array, kind: str | None) -> None:
    kinds = {} if kind is None else {"c": kind}
    content = pa.table({"c": made, "x": pa.array([i * 37 % 101 / 8 for i in range(N)])})
    spec, _ = fitted(tmp_path, content, stated=ColumnSettings(kinds=kinds))
    column = column_of(spec)
    assert isinstance(column, CategoricalColumn)
    assert column.width == 3
    _, warnings, bad = scored(spec, (tmp_path / "t.parquet").read_bytes(), "parquet")
    assert not bad
    assert not any("unknown" in text for texts in warnings.values() for text in texts)


@pytest.mark.parametrize("numbers", [[1e300, -1e300, 5.0, 1e299], [1e-300, 2e-300, 5e-300], [0.0, 1e200, 3.0]])
@pytest.mark.parametrize("kind", ["numeric", "range", "quantile"])
def test_very_large_and_very_small_numbers(numbers: list[float], kind: str) -> None:
    spec = schema.fit({"c": np.resize(numbers, 60), "x": np.arange(60.0)}, ColumnSettings(kinds={"c": kind}))
    encoded, warnings = rows.encode([{"c": number, "x": 1} for number in numbers], spec)
    assert len(set(encoded[:, 0].tolist())) > 1
    assert not any(warnings)


def test_numbers_that_cannot_be_learned_from() -> None:
    assert "the limit is 1e+300" in str(
        column_of(schema.fit({"c": np.resize([1e306, 1, 2], 60), "x": np.arange(60.0)}))
    )
    infinite = np.resize(np.asarray(["inf", "-inf"], object), 60)
    assert column_of(schema.fit({"c": infinite, "x": np.arange(60.0)})) == "has no finite numbers, only -inf, inf"
    when = np.resize(np.asarray([datetime.date(2026, 1, 1)], object), 60)
    with pytest.raises(
        TrainingError, match=r"column 'c': it has no finite number \(a value is 2026-01-01\); remove --column c=numeric"
    ):
        schema.fit({"c": when, "x": np.arange(60.0)}, ColumnSettings(kinds={"c": "numeric"}))


def test_a_number_that_json_cannot_carry_is_rounded() -> None:
    spec = schema.fit({"c": np.arange(60.0) % 7, "x": np.arange(60.0)})
    given = rows.values({"c": "123456789012345678901234567890", "x": str(2**63)}, spec)
    assert given == [1.2345678901234568e29, 2**63]
    assert orjson.loads(orjson.dumps(given)) == given


@pytest.mark.parametrize("name", ["Unnamed: 0", "__index_level_0__", "unnamed: 3_level_1"])
def test_an_index_without_a_name_is_left_out_in_any_order(tmp_path: Path, name: str) -> None:
    order = np.random.default_rng(0).permutation(N) * 1000
    content = pa.table({name: pa.array(order), "x": pa.array(np.arange(N) * 37 % 101 / 8)})
    spec, _ = fitted(tmp_path, content)
    assert column_of(spec, name) == files.UNNAMED
    spec, _ = fitted(tmp_path, content, stated=ColumnSettings(kinds={name: "numeric"}))
    assert isinstance(column_of(spec, name), NumericColumn)


def test_blanks_around_names_are_removed_in_parquet_files_too(tmp_path: Path) -> None:
    made = {" c": pa.array(np.arange(N) % 7), "x ": pa.array(np.arange(N) * 37 % 101 / 8), " ": pa.array(["k"] * N)}
    spec, _ = fitted(tmp_path, pa.table(made))
    assert spec.names == ["c", "x"]
    assert spec.ignored == {"": files.UNNAMED}
    content = (tmp_path / "t.parquet").read_bytes()
    assert files.header(io.BytesIO(content), "parquet", spec) == ["c", "x", ""]
    of_csv, _, _ = scored(spec, b" c,x ,\n3,0.5,k\n", "csv")
    np.testing.assert_array_equal(of_csv, rows.encode([[3, 0.5]], spec)[0])
    # a model that already has such a name is matched exactly
    earlier = schema.fit({" c": np.arange(N) % 7, "x": np.arange(N) / 8.0})
    assert len(scored(earlier, content, "parquet")[0]) == N
    twice = io.BytesIO()
    pa.parquet.write_table(pa.table({"c": pa.array([1]), "c ": pa.array([2]), "x": pa.array([1])}), twice)
    with pytest.raises(Malformed, match="two columns have the name 'c'"):
        scored(spec, twice.getvalue(), "parquet")


def test_missing_values_of_encoded_rows_stay_missing() -> None:
    spec = schema.fit({"c": np.arange(60.0) % 7, "k": np.asarray(["a", "b", "c"] * 20), "x": np.arange(60) / 8})
    given: list[dict[str, Any]] = [{"c": None, "k": "b", "x": 0.5}, {"c": 3, "k": None, "x": None}]
    encoded, _ = rows.encode(given, spec, missing=True)
    assert rows.decode(encoded, spec) == given
    assert spec.sheet(encoded) == b"c,k,x\r\n,b,0.5\r\n3,,\r\n"
    assert spec.preview(encoded, encoded).startswith(b"\x89PNG")


def test_codes_with_a_few_words_stay_codes(tmp_path: Path) -> None:
    spec, _ = fitted(tmp_path, table(lambda i: "unknown" if i % 20 == 0 else f"{i % 40:05}"))
    column = column_of(spec)
    assert isinstance(column, CategoricalColumn)
    assert "00001" in column.categories


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (lambda i: f"{i * 13 % 57}%", "column c is not numeric: values such as '31%' have other characters next to the number"),
        (lambda i: f"{i * 13 % 57}" + "%" * (i % 2), "values such as '31%'"), (lambda i: f"${i * 13 % 57}.50", "other characters next to the number"),
        (lambda i: f"€ {i}.25", "other characters next to the number"), (lambda i: f"{i * 13 % 57} EUR", "other characters next to the number"),
        (lambda i: f"({i % 57}.50)" if i % 3 else f"{i % 89}.25", "other characters next to the number"),
        (lambda i: f"{i * 7 % 31},25", "another decimal separator"),
        (lambda i: "absent" if i % 5 == 0 else str(i * 13 % 57), r"3\d of 180 values are words, such as 'absent'; .* --missing 'absent'"),
    ],
)  # fmt: skip
def test_texts_that_might_be_numbers_are_reported(tmp_path: Path, cell: Callable[[int], str], says: str) -> None:
    # more columns with a decimal point
    content = "y;z;" + table(cell).replace("\n", "\n0.5;2.25;").removesuffix("0.5;2.25;")
    spec, data = fitted(tmp_path, content)
    assert not isinstance(column_of(spec), NumericColumn)
    (note,) = data.notes
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(note)


@pytest.mark.parametrize(
    "cell", [lambda i: f"k{i % 5}", lambda i: "ab"[i % 2], lambda i: f"{i % 9}A", lambda i: f"text {i}"]
)
def test_texts_that_are_texts_are_not_reported(tmp_path: Path, cell: Callable[[int], str]) -> None:
    assert fitted(tmp_path, table(cell))[1].notes == ()


def test_names_of_rows_without_one_in_the_header_and_separators_at_the_ends(tmp_path: Path) -> None:
    lines = [f"{i * 37 % 101 / 8:g},{i % 7}" for i in range(N)]
    forms = {
        "numbers": "".join(f'"{i + 1}",{line}\n' for i, line in enumerate(lines)),
        "texts": "".join(f'"Mazda {i}",{line}\n' for i, line in enumerate(lines)),
        "ends": "".join(f"{line},\n" for line in lines),
    }
    usual, _ = fitted(tmp_path, "a,b\n" + "\n".join(lines))
    for content in forms.values():
        spec, _ = fitted(tmp_path, f"a,b\n{content}")
        assert spec.columns == usual.columns
        assert spec.ignored == {"": files.UNNAMED}
        data, warnings, bad = scored(usual, f"a,b\n{content}".encode(), "csv")
        assert (len(data), warnings, bad) == (N, {}, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        # this looks like decimal commas, not like row names
        ("a,b\n3,1,5\n2,1,5\n", "has 3 cells, but the header has 2"),
        ("a,b\n1,5,2\n1,5,3\n", "has 3 cells, but the header has 2"),
        ("a,b\n7,1,5\n", "has 3 cells, but the header has 2"),
        ("Report of 2025\na,b,c\n1,2,3\n4,5,6\n", "its first line has one cell, 'Report of 2025', but its rows have 3, separated by ','; .*remove"),
        ("# made by x\na;b;c\n1;2;3\n", "its first line has one cell"),
        ("Zahlungen 2026;;;;;\n;;;;;\na;b;c;d;e;f\n1;2;3;4;5;6\n", "only one cell .* 'Zahlungen 2026', but its rows have up to 6; remove"),
        (",,Report,\na,b,c,d\n1,2,3,4\n", "only one cell of its first line has a text, 'Report'"),
        ('{"a": 1, "b": 2}\n{"a": 2, "b": 3}\n', "starts with .*so it is JSON or HTML; save the table as CSV or Parquet"),
        ('[{"a": 1}]\n', "so it is JSON or HTML"), ("\n<!DOCTYPE html>\n<p>,</p>\n", "so it is JSON or HTML"),
    ],
)  # fmt: skip
def test_files_that_are_refused(content: str, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        files.read(io.BytesIO(content.encode()), "csv")


@pytest.mark.parametrize(
    "content", ["text\nhello, you\nhi, there\n", "x\n1,5\n2,5\n", "a b\n1 2\n", '{"a"\n1\n2\n', "[x]\n1\n"]
)
def test_files_of_one_column_are_not_refused(content: str) -> None:
    assert len(files.read(io.BytesIO(content.encode()), "csv").columns) == 1


def test_an_encoding_that_was_assumed_is_reported(tmp_path: Path) -> None:
    text = table(lambda i: ["größe", "farbe", "zahl"][i % 3])
    assert fitted(tmp_path, text)[1].notes == ()
    (note,) = fitted(tmp_path, text.encode("latin-1"))[1].notes
    assert "was read as Latin-1" in note


def test_stated_missing_values_hold_for_the_label(tmp_path: Path) -> None:
    text = table(lambda i: ["NA", "DE"][i % 2])
    data = (
        tables.of_file(tmp_path / "t.csv", ColumnSettings(missing=("x",)), "c")
        if (tmp_path / "t.csv").write_text(text)
        else None
    )
    assert data is not None
    assert data.classes == ("DE", "NA")


@pytest.mark.parametrize(
    ("cells", "stated", "anomalous", "unlabelled"),
    [
        (("normal", "attack", "#N/A", "NaT", "<NA>", "normal"), "c!=normal", {1}, {2, 3, 4}),
        (("normal", "attack", "unlabelled", "normal", "NA", "normal"), "c!=normal", {1, 4}, {2}),
        (("0,5", "1.000,5", "2,5", "0,25", "0,75", ""), "c>0,9", {1, 2}, {5}), (("0,5", "1.000,5", "2,5", "0,25", "0,75", ""), "c>0.9", {1, 2}, {5}),
        (("1 000", "5", "7", "8", "9", "-"), "c>=1 000", {0}, {5}), (("1", "0", "-", "0", "1", "0"), "c!=-", {0, 1, 3, 4, 5}, set()),
        (("01", "1", "2", "002", "3", "4"), "c in 1,2", {0, 1, 2, 3}, set()),
    ],
)  # fmt: skip
def test_truth_is_read_as_values_are_by_fit_and_by_scoring(
    tmp_path: Path, cells: tuple[str, ...], stated: str, anomalous: set[int], unlabelled: set[int]
) -> None:
    from manifold.runtime.tables import truth

    text = "c;x;y\n" + "".join(f"{cells[i % 6]};{i * 37 % 101 / 8:g};{i % 7}\n".replace(".", ",") if "," in cells[0] else
                             f"{cells[i % 6]};{i * 37 % 101 / 8:g};{i % 7}\n" for i in range(N))  # fmt: skip
    text = text.replace("1,000,5", "1.000,5")
    missing = ("unlabelled",) if "unlabelled" in cells else ColumnSettings().missing
    spec, _ = fitted(tmp_path, text, stated=ColumnSettings(missing=missing), roles=tables.Roles(truth=stated))
    assert spec.truth is not None
    marks = []
    for chunk in files.chunks(io.BytesIO(text.encode()), "csv", spec, rows=7, also=("c",)):
        marks += spec.truth.marks(chunk.also["c"].to_pylist(), chunk.notation).tolist()
    assert {i for i, mark in enumerate(marks[:6]) if mark == truth.ANOMALOUS} == anomalous
    assert {i for i, mark in enumerate(marks[:6]) if mark == truth.UNLABELLED} == unlabelled


def test_train_prints_what_fit_prints_about_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from manifold.cli import app
    from manifold.training import train

    monkeypatch.setattr(train, "train", lambda run, *rest, **options: run.folder)
    path = tmp_path / "t.csv"
    path.write_bytes(table(lambda i: "größe" if i % 2 else "zahl").encode("latin-1"))
    result = CliRunner().invoke(app, ["train", "tabular_vae", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "column c: category: 2 values: größe, zahl" in result.output
    assert "note: the file is not UTF-8" in result.output
