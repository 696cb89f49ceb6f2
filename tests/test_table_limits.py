"""Hostile tables: files of a few kilobytes that unpack to gigabytes. The files, or some of their rows, are refused with little memory."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from manifold.runtime.engine import Model, load
from manifold.runtime.errors import InvalidValue, Malformed, TooLarge
from manifold.runtime.scores import bulk, recalibration, scored_rows
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.tables import csv_files, files
from manifold.runtime.tables import parquet as limits
from manifold.runtime.tables.thrift import Compact
from tests import tabled
from tests.tabled import HEADER, ROW
from tests.test_bulk import scored

MB = 2**20
PEAK = 150 * MB  # peak of a process above the memory of all imports


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tabled.write(tmp_path_factory.mktemp("tables")), device="cpu")


def table(kind: Any, n: int | None = None) -> pa.Table:
    n = len(kind) if n is None else n
    return pa.table({"price": np.ones(n), "kind": kind, "weight": np.full(n, 70.0)})


def written(content: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    parquet.write_table(content, out, **{"compression": "zstd", "write_statistics": False, **options})
    return out.getvalue()


def repeated(cell: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([cell]))


def one_long_cell() -> bytes:
    return written(table(["small", "x" * (66 * MB)]), use_dictionary=False)


def long_dictionary() -> bytes:
    return written(table(repeated("x" * MB, 4000)))


def fixed_length_dictionary() -> bytes:
    cells = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(100, np.int32)), pa.array([b"x" * 70_000], pa.binary(70_000))
    )
    return written(pa.table({"price": cells, "kind": ["small"] * 100, "weight": np.ones(100)}))


def many_large_pages() -> bytes:
    return written(table(["x" * 200_000] * 600), use_dictionary=False, data_page_size=1, write_batch_size=1)


def lying_dictionary() -> bytes:
    """Return a file whose dictionary page claims 2^31 - 1 values: the decoder would allocate room for all of them."""
    content = written(table(["small", "large"] * 40), compression="none")
    at = content.index(b"\x05\0\0\0small") - 1
    claim = re.compile(rb"\x4c\x15\x04", re.DOTALL)  # the header of a dictionary page: field 7, 2 values
    start = max(match.start() for match in claim.finditer(content[: at + 1]))
    return content[: start + 2] + b"\xfe\xff\xff\xff\x0f" + content[start + 3 :]


def delta_bomb() -> bytes:
    cells = ["x" * 50_000 + str(i) for i in range(4000)]
    return written(table(cells), use_dictionary=False, column_encoding={"kind": "DELTA_BYTE_ARRAY"})


def large_footer() -> bytes:
    return written(table(["small"]).replace_schema_metadata({"note": "x" * (17 * MB)}))


def footer_of_claims() -> bytes:
    """Return a list of 32 000 empty row groups: the reader creates these objects before it can notice."""
    rows = b"\x19\xfc" + b"\x80\xfa\x01" + b"\x00" * 32_000
    footer = b"\x15\x02\x19\x1c\x48\x01s\x15\x00\x00\x16\x00" + rows + b"\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def footer_of_numbers() -> bytes:
    """Return a list of 8 million numbers, each of which would take one step."""
    footer = b"\x15\x02\x19\xf5" + b"\x80\xa4\xe8\x03" + bytes(8_000_000) + b"\0"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def many_rows() -> bytes:
    return written(table(repeated("purple", 60_000)), row_group_size=60_000)


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "one long cell": ("parquet", one_long_cell, "TooLarge: .*column 'kind' has a page of 6920.* bytes .limit"),
    "long dictionary": ("parquet", long_dictionary, "0 scored, 4000 invalid: kind: a cell of 1048576 bytes; the limit is 4096"),
    "fixed length": ("parquet", fixed_length_dictionary, "Malformed: .*has the type"),
    "many large pages": ("parquet", many_large_pages, "TooLarge: .*row group 1 has .* bytes in 600 rows"),
    "lying dictionary": ("parquet", lying_dictionary, "Malformed: .*"),
    "delta": ("parquet", delta_bomb, "Malformed: .*encoding that is not supported"),
    "large footer": ("parquet", large_footer, "TooLarge: .*its footer has"),
    "footer of claims": ("parquet", footer_of_claims, "Malformed: .*"),
    "footer of numbers": ("parquet", footer_of_numbers, "TooLarge: .*its footer has more than"),
    "many rows": ("parquet", many_rows, "60000 scored, 0 invalid"),
    "a long cell": ("csv", lambda: HEADER + b"1," + b"x" * 540_000 + b",70\n" + ROW * 2000, "2000 scored, 1 invalid: kind: a cell of 540000"),
    "long cells": ("csv", lambda: HEADER + (b"1," + b"x" * 5000 + b",70\n" + ROW) * 2000, "2000 scored, 2000 invalid"),
    "no line's end": ("csv", lambda: HEADER + b"x" * (9 * MB), "TooLarge: .*a row is longer than"),
    "an open quote": ("csv", lambda: HEADER + b'1,"small' + ROW * 800_000, "TooLarge: .*a row is longer than"),
    "a long header": ("csv", lambda: b"price,kind,weight," + b"x" * (2 * MB) + b"\n" + ROW, "TooLarge: .*the first line"),
    "many columns": ("csv", lambda: b"price,kind,weight" + b",c" * 100_000 + b"\n1,small,70" + b"," * 100_000 + b"\n", "TooLarge: .*has 100003 columns"),
    "wide rows": ("csv", lambda: HEADER + (b"," * 100_000 + b"\n") * 30 + ROW, "1 scored, 30 invalid: has 100001 cells"),
    "invalid rows": ("csv", lambda: HEADER + b"1\n" * 2_000_000, "InvalidValue: .*10001 of the first 10001 rows are invalid"),
    "half of them": ("csv", lambda: HEADER + (ROW + b"1\n") * 40_000, "40000 scored, 40000 invalid"),
    "words": ("csv", lambda: HEADER + b"dear,small,70\n" * 100_000, "InvalidValue: .*price: 'dear' is not a number"),
    "nothing": ("csv", lambda: HEADER + b",,\n" * 100_000, "InvalidValue: .*every value is missing"),
    "NUL": ("csv", lambda: HEADER + b"\0,small\0,70\n" * 3, "0 scored, 3 invalid: price: '.x00' is not a number"),
}  # fmt: skip

MEASURE = """
import io, json, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import pyarrow.csv, pyarrow.parquet
from manifold.runtime.scores import bulk, scored_rows
from manifold.runtime.scores.decisions import Rule
from manifold.runtime.engine import load
model = load(sys.argv[1], device="cpu")

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10

def score(content, kind):
    total, last = bulk.Total(), ""
    try:
        for part in bulk.score(model, io.BytesIO(content), kind, Rule(), rows=2048):
            total.add(part)
            assert len(scored_rows.lines(part)) < 2 << 20
            last = next(iter(part.bad.values()), last)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{total.rows} scored, {total.bad} invalid: {last}"

score(b"price,kind,weight\\n1,small,2\\n" * 9, "csv")
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    content = path.read_bytes()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    said = score(content, path.suffix[1:])
    print(json.dumps([path.stem, said, peak() - before]), flush=True)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Score each file in its own process. Return the result and the peak of memory in bytes, by name."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (kind, make, _) in BOMBS.items():
        (folder / f"{name}.{kind}").write_bytes(make())
    model = tabled.write(tmp_path_factory.mktemp("model"))
    done = subprocess.run([sys.executable, "-c", MEASURE, model, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (said, peak) for name, said, peak in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_table_takes_little_memory(measured: dict[str, tuple[str, int]], name: str) -> None:
    said, peak = measured[name]
    assert re.match(BOMBS[name][2], said, re.DOTALL), said
    assert len(said) < 1000
    assert peak < PEAK, f"{peak / MB:.0f} MB"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"weight": "DELTA_BINARY_PACKED", "kind": "PLAIN"}},
        {"data_page_version": "2.0", "data_page_size": 1, "write_batch_size": 3},
        {"row_group_size": 90, "dictionary_pagesize_limit": 20},
        {"version": "1.0", "compression": "gzip"},
        {"compression": "none", "write_statistics": True, "write_page_index": True},
    ],
)
def test_every_usual_way_to_write_parquet_is_read(model: Model, options: dict[str, Any]) -> None:
    n = 500
    kinds = pa.array([["small", "large", "purple", None][i % 4] for i in range(n)])
    content = pa.table(
        {
            "weight": pa.array([*range(n - 1), None], pa.int64()),
            "kind": kinds,
            "note": ["x" * 9000] * n,
            "price": np.arange(n) / 100,
        }
    )
    found = read(written(content.replace_schema_metadata({"note": "x" * 70_000}), **options), 64)
    assert [value for value, _, _ in found] == kinds.to_pylist()
    assert [weight for _, weight, _ in found][:-1] == list(range(n - 1))
    assert np.isnan(found[-1][1])
    assert [price for _, _, price in found] == [i / 100 for i in range(n)]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_texts_of_every_kind_are_read(kind: pa.DataType) -> None:
    cells = ["small", None, "large", "small"]
    content = written(table(pa.array(cells).cast(kind) if kind != pa.string_view() else pa.array(cells, kind)))
    assert [value for value, _, _ in read(content, 3)] == cells


def test_decimals_and_numbers_as_texts_are_read(model: Model) -> None:
    from decimal import Decimal

    content = pa.table(
        {"price": [Decimal("1.50"), Decimal("7")], "kind": ["small", "purple"], "weight": ["70", "71.5"]}
    )
    first, second = scored(model, written(content, store_decimal_as_integer=True), "parquet")
    assert "score" in first
    assert second["warnings"] == ["unknown_category: kind 'purple' did not occur in training"]


def read(content: bytes, rows: int) -> list[tuple[Any, Any, Any]]:
    from manifold.runtime.kinds.table import TableSpec

    spec = TableSpec.model_validate({"kind": "table", "columns": tabled.COLUMNS})
    found = list(files.chunks(io.BytesIO(content), "parquet", spec, rows=rows))
    assert all(len(chunk.numbers) <= rows for chunk in found)
    assert [int(each) for chunk in found for each in chunk.numbers] == list(
        range(1, 1 + sum(len(c.numbers) for c in found))
    )
    names = ("kind", "weight", "price")
    return [row for chunk in found for row in zip(*(chunk.table[name].tolist() for name in names), strict=True)]


def test_rows_with_a_long_cell_are_set_aside_and_the_rest_scored(model: Model) -> None:
    cells = ["small", "x" * 5000, "large", "é" * 2048, "é" * 2049]
    of_parquet = scored(model, written(table(cells)), "parquet")
    lines = b"".join(b"1.0,%s,70.0\n" % cell.encode() for cell in cells)
    of_csv = scored(model, HEADER + lines)
    assert of_parquet == of_csv
    assert ["error" in item for item in of_csv] == [False, True, False, False, True]
    assert of_csv[1]["error"] == "kind: a cell of 5000 bytes; the limit is 4096"
    (warning,) = of_csv[3]["warnings"]
    assert warning.startswith("unknown_category: kind 'éé")
    assert len(warning) < 200


def test_pages_of_text_that_a_batch_touches_are_bounded() -> None:
    """Each page of 1 MB holds one row. The batch shrinks until the pages that it touches fit."""
    content = written(table(["x" * 60_000] * 2000), use_dictionary=False, data_page_size=1, write_batch_size=10)
    file = limits.File(io.BytesIO(content), ["price", "kind", "weight"], 100_000)
    rows = file.check(0, 2048)
    assert 256 <= rows <= 512
    assert sum(batch.num_rows for batch in file.batches(2048)) == 2000


def test_pages_without_values_end_the_work() -> None:
    file = limits.File(io.BytesIO(written(table(["small"] * 10))), None, 4096)
    header = bytes(
        [0x15, 0, 0x15, 0, 0x15, 0, 0x2C, 0x15, 0, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0]
    )  # the header of a page without values
    file.source, file.size = io.BytesIO(header * 1000), len(header) * 1000
    about = SimpleNamespace(
        num_values=10, total_compressed_size=file.size, data_page_offset=0, has_dictionary_page=False, physical_type="DOUBLE",
        path_in_schema="price",
    )  # fmt: skip
    with pytest.raises(Malformed, match="column 'price' has more pages than values"):
        file._pages(about, 0, 10)
    with pytest.raises(Malformed, match="column 'price' has 10 values for 9 rows"):
        file._pages(about, 0, 9)


@pytest.mark.parametrize(
    "header",
    [
        bytes([0x15, *b"\xff" * 10, 1]),  # a number of more than 64 bits
        bytes([0x1E]),  # a field of a type that does not exist
        bytes([0x1C] * 99),  # a struct within a struct, 99 levels deep
    ],
    ids=["long number", "unknown type", "deep"],
)
def test_headers_of_pages_that_are_no_thrift(header: bytes) -> None:
    content = written(table(["small"] * 10))
    file = limits.File(io.BytesIO(content), None, 4096)
    at = file.metadata.row_group(0).column(0).dictionary_page_offset
    file.source = io.BytesIO(content[:at] + header + content[at + len(header) :])
    with pytest.raises(Malformed, match="column 'price' has a page without a readable header"):
        file.check(0, 10)


def test_a_dictionary_that_claims_more_values_than_it_has_bytes_for() -> None:
    file = limits.File(io.BytesIO(lying_dictionary()), None, 4096)
    with pytest.raises(Malformed, match="the dictionary of column 'kind' claims 2147483647 values"):
        file.check(0, 80)


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
def test_a_dictionary_of_numbers_that_claims_more_of_them(kind: str) -> None:
    content = written(pa.table({"price": np.resize(np.asarray([1, 2], kind), 80)}), compression="none")
    limits.File(io.BytesIO(content), None, 4096).check(0, 80)
    header = b"\x4c\x15\x04"  # the header of the dictionary page: 2 values
    assert content.count(header) == 1
    file = limits.File(io.BytesIO(content.replace(header, b"\x4c\x15\x06")), None, 4096)
    with pytest.raises(Malformed, match="the dictionary of column 'price' claims 3 values"):
        file.check(0, 80)


def test_the_bytes_of_all_pages_are_limited_by_what_cells_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 60 cells of 200 bytes, each in its own page, is read if a cell may have 200 bytes, and refused if it may have 4."""
    monkeypatch.setattr(limits, "BATCH_BYTES", 10_000)
    content = written(table(["x" * 200] * 60), use_dictionary=False, data_page_size=1, write_batch_size=1)
    assert limits.File(io.BytesIO(content), ["kind"], 200).check(0, 16) == 16
    with pytest.raises(
        TooLarge, match=r"row group 1 has 12\d\d\d bytes in 60 rows; the limit for a cell is 4 bytes on average"
    ):
        limits.File(io.BytesIO(content), ["kind"], 4).check(0, 16)


def test_a_column_without_pages_takes_no_room() -> None:
    pages = limits.Pages()
    assert (pages.largest, pages.dictionary, pages.total, pages.heaviest(1000)) == (0, 0, 0, 0)


def test_numbers_of_thrift_have_64_bits() -> None:
    assert Compact(b"\xff" * 9 + b"\x01", 1).varint() == 2**64 - 1
    with pytest.raises(ValueError, match="more than 64 bits"):
        Compact(b"\xff" * 10 + b"\x01", 1).varint()


def test_a_row_that_is_longer_than_a_block(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 1000)
    for line in (b"1.5,%s,70\n" % (b"x" * 2100), b'1.5,"small,70\n' + ROW * 200):
        with pytest.raises(TooLarge, match="file: a row is longer than 1000 bytes, or a quote is not closed"):
            scored(model, HEADER + line)


def test_a_header_of_many_long_names_is_read(model: Model) -> None:
    """With any other delimiter the line is one name, longer than the module csv allows."""
    names = b"".join(b",%d" % i + b"x" * 1000 for i in range(200))
    (found,) = scored(model, HEADER.strip() + names + b"\n" + ROW.strip() + b"," * 200 + b"\n")
    assert "score" in found


def test_progress_is_told_after_each_chunk(model: Model) -> None:
    told: list[tuple[int, int]] = []
    out = io.BytesIO()
    parts = bulk.score(model, io.BytesIO(HEADER + ROW * 150 + b"dear,small,70\n" + ROW * 99), "csv", Rule(), rows=100)
    total = bulk.drain(parts, scored_rows.NdjsonWriter(out), lambda so_far: told.append((so_far.rows, so_far.bad)))
    assert told == [(100, 0), (199, 1), (249, 1)]
    assert (total.rows, len(out.getvalue().splitlines())) == (249, 250)


def test_the_heaviest_batch_is_found() -> None:
    pages = limits.Pages(rows=[10, 1, 10], bytes=[100, 1000, 100])
    assert [pages.heaviest(rows) for rows in (1, 2, 3, 30)] == [1000, 1100, 1200, 1200]


def test_most_rows_may_be_invalid_where_they_are_few(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scored(model, HEADER + b"1\n" * 9000 + ROW)
    assert len(found) == 9001
    monkeypatch.setattr(csv_files, "INVALID_ROWS", 10)
    assert len(scored(model, HEADER + (b"x,small,70\n" + ROW) * 500)) == 1000
    with pytest.raises(InvalidValue, match=r"of the first \d+ rows are invalid"):
        scored(model, HEADER + (b"x,small,70\n1\n" + ROW) * 500)


def test_there_is_an_end_to_rows_that_take_no_room(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROWS", 5000)
    with pytest.raises(TooLarge, match="more than 5000 rows"):
        scored(model, written(table(repeated("small", 10_000))), "parquet")


def test_a_budget_takes_the_same_rows_in_any_chunks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "WAITING", 50)
    generator = np.random.default_rng(0)
    lines = b"".join(b"%.1f,small,%d\n" % (generator.uniform(0, 3), generator.integers(60, 64)) for _ in range(500))
    whole = scored(model, HEADER + lines)
    best = sorted(whole, key=lambda item: (-item["score"], item["row"]))
    for budget in (7, 120, 1000):
        found = scored(model, HEADER + lines, rule=Rule(budget=budget), rows=33)
        assert {item["row"] for item in found if item["is_anomaly"]} == {item["row"] for item in best[:budget]}


def test_a_sample_is_fair_and_small() -> None:
    sample = recalibration.Reservoir(100, 1)
    for start in range(0, 10_000, 250):
        sample.add(np.arange(start, start + 250, dtype=np.float32)[:, None])
    assert sample.data.shape == (100, 1)
    assert len(np.unique(sample.data)) == 100
    assert 4000 < sample.data.mean() < 6000
    few = recalibration.Reservoir(100, 1)
    few.add(np.arange(40, dtype=np.float32)[:, None])
    assert np.array_equal(few.data[:, 0], np.arange(40))
