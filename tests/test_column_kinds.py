"""The kinds of columns that `fit` chooses, and how the model sees their values afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import described, files, rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data import rereading, schema, tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.errors import DataError

GENERATOR = np.random.default_rng(0)
N = 120


def repeated(*values: Any) -> np.ndarray:
    made = np.empty(N, object)
    made[:] = [values[place % len(values)] for place in range(N)]
    return made


def of(values: Any, **stated: Any) -> NumericColumn | CategoricalColumn | str:
    """Return the column that is chosen, or the reason why there is none."""
    kinds = stated.pop("kinds", {})
    table = {"c": values, "other": GENERATOR.normal(size=len(values))}
    spec = schema.fit(table, ColumnSettings(kinds=kinds, **stated))
    return next((column for column in spec.columns if column.name == "c"), spec.ignored.get("c", ""))


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (repeated("x"), ("x",)), (np.zeros(N), ("0",)), (np.full(N, 2.5), ("2.5",)), (repeated(True), ("true",)), (repeated("1", "NA", ""), ("1",)),
        (np.resize([0, 1], N), ("0", "1")), (np.resize([1.0, 2.0], N), ("1", "2")), (np.resize([0.5, 1.25], N), ("0.5", "1.25")),
        (np.resize([7, 4000], N), ("7", "4000")), (np.resize([True, False], N), ("false", "true")), (repeated("True", "False"), ("False", "True")),
        (repeated("yes", "No", "YES", "yes"), ("No", "yes")), (repeated("Y", "N", "?"), ("N", "Y")), (repeated("b", "a"), ("a", "b")),
        (repeated("b", " a ", "a", "c"), ("a", "b", "c")), (repeated("1", "2", "3+", "0"), ("0", "1", "2", "3+")),
        (repeated("01234", "10115", "99999"), ("01234", "10115", "99999")), (repeated("00", "01", "12", "23"), ("00", "01", "12", "23")),
        (repeated(1, "1", 1.0, "x"), ("1", "x")), (repeated(2**60, 2**60 + 1), (str(2**60), str(2**60 + 1))),
        (repeated("10", "9", "x"), ("9", "10", "x")),
    ],
)  # fmt: skip
def test_categories(values: np.ndarray, categories: tuple[str, ...]) -> None:
    column = of(values)
    assert isinstance(column, CategoricalColumn), column
    assert column.categories == categories


@pytest.mark.parametrize(
    ("values", "transform", "maximum"),
    [
        (np.resize([0, 1, 2], N), "identity", 2), (np.resize([0] * 60 + [1, 5], N), "log1p", 5), (repeated("0", "1", "2"), "identity", 2),
        (GENERATOR.normal(size=N).astype(str), "identity", None), (repeated("1", "02", "3"), "identity", 3), (repeated(1, 2, None, 3, "NA"), "identity", 3),
        (np.asarray([*map(str, range(100, 217)), "abc", "abc", "d"], object)[GENERATOR.permutation(N)], "identity", 216),
        (repeated(2**60, 2**60 + 2**20, 2**61), "identity", float(2**61)),
        (np.resize(np.arange(20_250_100, 20_250_150), N), "identity", 20_250_149), (np.resize([1.5e9, 1.6e9, 1.7e9], N), "identity", 1.7e9),
        (GENERATOR.permutation(N) * 3e7, "identity", (N - 1) * 3e7),
    ],
)  # fmt: skip
def test_numbers(values: np.ndarray, transform: str, maximum: float | None) -> None:
    column = of(values)
    assert isinstance(column, NumericColumn), column
    assert column.transform == transform
    assert maximum is None or column.maximum == maximum


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.asarray([f"2026-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(N)]), "holds dates or times, such as 2026-"),
        (np.asarray([f"{i % 24:02}:15" for i in range(N)]), "holds dates or times"),
        (np.arange(N).astype("datetime64[s]"), "holds dates or times, such as 1970-01-01"),
        (np.asarray([f"customer {i}" for i in range(N)]), "is an identifier: 120 different values in 120 rows, such as customer"),
        (np.asarray([f"${i}.50" for i in range(N)]), "has numbers with signs or in another notation, such as $0.50; write plain numbers"),
        (repeated(None), "has no values"), (repeated("NA", "?", ""), "has no values"), (np.full(N, np.nan), "has no values"),
        (1_735_689_600 + np.resize([5, 86_400, 7], N) * np.arange(N), "holds dates or times, such as 1735689600 (seconds since 1970)"),
        (1_735_689_600.5 + np.resize([5, 86_400, 7], N) * np.arange(N), "holds dates or times, such as 1735689600.5 (seconds since 1970)"),
        ((1_735_689_600_123 + np.arange(N) // 2 * 977).astype(str), "holds dates or times, such as 1735689600123 (milliseconds since 1970)"),
        (np.asarray([20_250_000 + 100 * (1 + i % 12) + 1 + i % 28 for i in range(N)]), "holds dates or times, such as 20250101 (YYYYMMDD)"),
        (
            np.asarray([f"{i}.5" if i % 6 else "absent" for i in range(N)]),
            "has numbers, but other texts in 20 of 120 rows, such as 'absent'; if it means a missing value, give --missing 'absent'",
        ),
        (repeated([1], [2]), "holds lists"), (repeated({"a": 1}), "holds lists"), (repeated(b"x"), "holds lists"),
    ],
)  # fmt: skip
def test_columns_that_are_left_out(values: np.ndarray, reason: str) -> None:
    found = of(values)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_stated_kinds_and_texts_for_missing_values() -> None:
    assert isinstance(of(np.resize([0, 1], N), kinds={"c": "numeric"}), NumericColumn)
    assert isinstance(of(np.resize([0, 1, 2], N), kinds={"c": "categorical"}), CategoricalColumn)
    # a constant column cannot be scaled
    assert isinstance(of(np.full(N, 3.0), kinds={"c": "numeric"}), CategoricalColumn)
    dates = of(repeated("2026-01-01", "2026-01-02"), kinds={"c": "categorical"})
    assert isinstance(dates, CategoricalColumn)
    column = of(repeated("1", "2", "unknown", "3"), missing=("unknown",))
    assert isinstance(column, NumericColumn)
    column = of(repeated("NA", "DE", "unknown"), missing=("unknown",))
    assert isinstance(column, CategoricalColumn)
    assert column.categories == ("DE", "NA")
    assert isinstance(of(repeated("1,5", "2,25", "3"), decimal=","), NumericColumn)


def test_counts_of_two_five_and_five_thousand_differ() -> None:
    """A count that is almost always 0 in training: the farther a new value is, the larger its encoded value, without limit."""
    for often in (40, 4000):
        logins = np.resize([0] * often + [1, 2, 3], often * 2 + 6)
        spec = schema.fit({"logins": logins, "x": GENERATOR.normal(size=len(logins))})
        asked = (0, 1, 2, 5, 50, 5000, 5001, 10**9, 1e300)
        encoded, warnings = rows.encode([{"logins": n, "x": 0} for n in asked], spec, unknown=True, missing=True)
        assert np.all(np.diff(encoded[:, 0]) > 0)
        assert (
            "5000 is more than 10 times the scale away from the mean and was compressed by a logarithm"
            in warnings[5][0]
        )
        back = [row["logins"] for row in rows.decode(encoded[:7], spec, held=False)]
        assert back == pytest.approx(asked[:7], rel=1e-3)


@pytest.mark.parametrize(
    ("values", "numbers_rows"),
    [
        (np.arange(N), True), (np.arange(1, N + 1).astype(str), True), (np.arange(N)[::-1], True), (np.random.default_rng(1).permutation(N) + 7, True),
        (np.cumsum(GENERATOR.integers(1, 9, N)), True), (1.7e9 + np.arange(N) * 60, True),
        (np.arange(N) // 2, False), (np.arange(N) * 0.5, False), (np.random.default_rng(1).permutation(N) * 2, True),
        (np.random.default_rng(1).permutation(10 * N)[:N], False), (np.random.default_rng(1).permutation(N) * 50, False),
        (np.random.default_rng(1).permutation(300)[:N], True),
        (np.sort(GENERATOR.normal(size=N)), False),
    ],
)  # fmt: skip
def test_row_numbers_are_left_out(values: np.ndarray, numbers_rows: bool) -> None:
    table = {"n": values, "x": GENERATOR.normal(size=N)}
    spec = TableSpec.of(tables.from_table("made", table, {}).spec, "")
    assert ("numbers the rows" in spec.ignored.get("n", "")) is numbers_rows
    stated = tables.from_table("made", table, {}, ColumnSettings(kinds={"n": "numeric"}))
    assert "n" in TableSpec.of(stated.spec, "").names


def made_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_words_in_a_column_of_numbers_make_their_rows_invalid(tmp_path: Path) -> None:
    lines = ["x,y", *(f"{0.5 + 3 * i % 59},{i % 7 + i / 8}" for i in range(400))]
    lines[5], lines[77], lines[150] = "abc,1", "inf,2", "1,2,3"
    data = tables.of_file(made_file(tmp_path / "t.csv", lines))
    assert len(data.train) + len(data.test) + len(data.calibration) == 397
    assert data.notes[0] == "1 row is invalid and left out (row 150: has 3 cells, but the header has 2)"
    assert data.notes[1] == "2 rows are invalid and left out (row 5: x: 'abc' is not a number; column 'x' is numeric)"


def test_a_parquet_file_of_every_type(tmp_path: Path) -> None:
    from decimal import Decimal

    n = 60
    columns = {
        "amount": pa.array([Decimal(i * 7 % 50) / 4 for i in range(n)], pa.decimal128(20, 2)),
        "wide": pa.array([Decimal(i * 7 % 50) / 4 for i in range(n)], pa.decimal256(40, 10)),
        "kind": pa.array([["a", "b", None][i % 3] for i in range(n)]).dictionary_encode(),
        "half": pa.array(np.resize([0.5, 1, 2.5], n).astype(np.float16)),
        "flag": pa.array([None, True, False] * 20),
        "count": pa.array([i % 5 if i % 9 else None for i in range(n)], pa.int16()),
        "large": pa.large_array(["x", "y", "z"] * 20) if hasattr(pa, "large_array") else pa.array(["x", "y", "z"] * 20, pa.large_string()),
        "text": pa.array([str(i * 3 % 40 + 0.5) for i in range(n)]),
        "day": pa.array(np.arange(n).astype("datetime64[D]")),
        "clock": pa.array([i * 1000 for i in range(n)], pa.time32("s")),
        "stamp": pa.array(np.arange(n).astype("datetime64[ms]"), pa.timestamp("ns", "UTC")),
        "list": pa.array([[1, 2]] * n),
        "struct": pa.array([{"a": 1}] * n),
        "map": pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int8())),
        "bytes": pa.array([b"x"] * n),
        "span": pa.array(np.arange(n).astype("m8[s]")),
        "none": pa.nulls(n),
    }  # fmt: skip
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    spec = TableSpec.of(tables.of_file(tmp_path / "t.parquet").spec, "")
    kinds = {column.name: column.kind for column in spec.columns}
    assert kinds == {
        "amount": "numeric", "wide": "numeric", "kind": "categorical", "half": "numeric", "flag": "categorical", "count": "numeric",
        "large": "categorical", "text": "numeric",
    }  # fmt: skip
    reasons = {name: reason.split()[0] + " " + reason.split()[1] for name, reason in spec.ignored.items()}
    assert {reasons.pop(name) for name in ("day", "clock", "stamp")} == {"holds dates"}
    assert set(reasons) == {"list", "struct", "map", "bytes", "span", "none"}
    chunk = next(spec.chunks(io.BytesIO((tmp_path / "t.parquet").read_bytes()), "parquet", 100))
    assert spec.encode(chunk.table, missing=True).bad == {}


NASTY = """id; amount ;country;paid;note;when;code;score
1; 1.234,50;DE;True;"two
lines";2026-01-31;007;0,5
2;NA;NA;yes; café ;2026-02-01;010;1,25
3;abc;FR;N;"x;y";2026-02-02;123;2,5
4;-3,25;-;FALSE;"x;y";2026-02-03;123;3,75
5;0,5;DE
6;7;DE;0;x;;010;?
"""


def nasty(path: Path, encoding: str = "latin-1") -> Path:
    header, *rest = NASTY.split("\n", 1)
    path.write_bytes((header + "\n" + rest[0] * 30).encode(encoding))
    return path


def test_a_file_is_read_again_as_scoring_reads_it(tmp_path: Path) -> None:
    path = nasty(tmp_path / "t.csv")
    data = tables.of_file(path, ColumnSettings(kinds={"amount": "numeric"}), roles=tables.Roles(id="id"))
    spec = TableSpec.of(data.spec, "")
    assert [(column.name, column.kind) for column in spec.columns] == [
        ("amount", "numeric"), ("country", "categorical"), ("paid", "categorical"), ("note", "categorical"), ("code", "categorical"),
        ("score", "numeric"),
    ]  # fmt: skip
    assert spec.decimal == ","
    paid = spec.columns[2]
    assert isinstance(paid, CategoricalColumn)
    assert [paid.lookup.find(value, spec.notation) for value in (False, True)] == [0, 1]
    assert spec.columns[3].categories == ("café", "two\nlines", "x", "x;y")  # type: ignore[union-attr]
    assert "read as Latin-1" in data.notes[0]
    assert list(data.notes[1:]) == [
        "30 rows are invalid and left out (row 5: has 3 cells, but the header has 8)",
        "30 rows are invalid and left out (row 3: amount: 'abc' is not a number; column 'amount' is numeric)",
        "missing values: 'amount' in 30 rows (written NA), 'country' in 60 rows (written -, NA), 'score' in 30 rows; the other columns decide these scores. "
        "Give other texts with --missing TEXT",
    ]
    rereading.check_again(data, spec, path)
    again = TableSpec.model_validate_json(spec.model_dump_json())
    rereading.check_again(data, again, path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (";7;", ";8;", r"row 6: column 'amount' is encoded as .* for training, but as .* for scoring; this is a bug in Manifold"),
        (";-3,25;", ";x;", r"row 4 is invalid only for scoring \(amount: 'x' is not a number"),
        (";abc;", ";1;", r"row 3 is invalid only for training \(amount: 'abc' is not a number"),
        (";DE\n", ";DE;0;x;;010;1\n", "row 5 is invalid only for training"),
    ],
)  # fmt: skip
def test_a_difference_between_fit_and_score_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str
) -> None:
    """The file that scoring reads differs in one row here, as if the reader had changed it."""
    path = nasty(tmp_path / "t.csv")
    data = tables.of_file(path, ColumnSettings(kinds={"amount": "numeric"}), roles=tables.Roles(id="id"))
    content = path.read_bytes().replace(old.encode(), new.encode(), 1)
    real = files.chunks
    monkeypatch.setattr(files, "chunks", lambda source, *rest, **options: real(io.BytesIO(content), *rest, **options))
    with pytest.raises(DataError, match=says):
        rereading.check_again(data, TableSpec.of(data.spec, ""), path)


def test_descriptions_say_what_is_not_seen() -> None:
    table = {
        "count": np.resize([0] * 40 + [1, 2, 3], N), "flag": np.resize([0, 1], N), "same": np.zeros(N), "when": np.resize(["10:30"], N),
        "kind": np.asarray([f"k{i % 12}" for i in range(N)]),
    }  # fmt: skip
    spec = schema.fit(table, ColumnSettings(left_out={"": files.UNNAMED}))
    said = {each.column: str(each) for each in described.describe(spec)}
    (count,) = (column for column in spec.columns if column.name == "count")
    assert isinstance(count, NumericColumn)
    assert said["count"] == "count: numeric: 0 to 3, log(1 + v)"
    flat = TableSpec(columns=(count.model_copy(update={"beyond": None, "maximum": 1234567.0}),))
    low, high = rows.clipped_at(count)
    (old,) = described.describe(flat)
    assert (
        str(old)
        == f"count: numeric: 0 to 1234567, log(1 + v) (the model cannot distinguish values below {low:g}, nor values above {high:g})"
    )
    ends, _ = rows.encode([{"count": value} for value in (high * 1.01, high * 0.99)], flat)
    assert ends[0, 0] == count.clip > ends[1, 0]
    assert (
        said["flag"]
        == "flag: category: 2 values: 0, 1 (all other numbers count as the same unknown value; --column flag=numeric makes them differ)"
    )
    classes = described.describe(spec, "type", ("a", "b"))[len(spec.columns)]
    assert str(classes) == "type: class: 2 values: a, b; /classify predicts them, so rows need no such column"
    assert said["same"] == "same: constant: 0; any other value counts as unknown"
    assert said["kind"] == "kind: category: 12 values: k0, k1, k10, k11, k2, k3, k4, k5, …"
    assert said["when"].startswith("when: left out: holds dates or times, such as 10:30")
    assert said["when"].endswith("(its values do not influence the score)")
    assert said["(no name)"].startswith("(no name): left out: has no name in the header of the file")
