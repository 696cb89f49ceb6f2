"""CSV files as various programs write them: encodings, separators, quotes, line ends, headers and decimal signs."""

from __future__ import annotations

import codecs
import io
from typing import Any

import numpy as np
import pytest

from manifold.runtime.errors import Malformed, ManifoldError, TooLarge
from manifold.runtime.tables import csv_files, dialect, files
from manifold.runtime.tables.files import FileTable

PLAIN = "größe,farbe,zahl\n1.5,blau,2\n2.25,grün,3\n"
WANTED = {"größe": [1.5, 2.25], "farbe": ["blau", "grün"], "zahl": [2, 3]}


def read(content: bytes | str) -> FileTable:
    return files.read(io.BytesIO(content.encode() if isinstance(content, str) else content), "csv")


def columns(content: bytes | str) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in read(content).columns.items()}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_line_ends_and_separators(encoding: str, end: str, separator: str) -> None:
    text = PLAIN.replace("\n", end).replace(",", separator)
    assert columns(text.encode(encoding)) == WANTED
    assert columns(text.removesuffix(end).encode(encoding)) == WANTED
    assert columns((end * 2 + text).encode(encoding)) == WANTED


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        # blanks
        ("a, b ,c\n1 , x,  2\n 3,y , 4\n", {"a": [1, 3], "b": ["x", "y"], "c": [2, 4]}),
        ("a\u00a0,b\n1,\u00a0x\n", {"a": [1], "b": ["x"]}),
        ('a, "b c", d\n1, "x, y", 2\n3, "z", 4\n', {"a": [1, 3], "b c": ["x, y", "z"], "d": [2, 4]}),
        # quotes
        ('"a","b"\n"1","x ""y"" z"\n', {"a": [1], "b": ['x "y" z']}),
        ('"two\nlines",b\n1,"x\ny"\n', {"two\nlines": [1], "b": ["x\ny"]}),
        ('"a,b";c\n1;"x;y"\n', {"a,b": [1], "c": ["x;y"]}),
        # separators
        ("sep=;\r\na;b\r\n1,5;x\r\n", {"a": [1.5], "b": ["x"]}),
        ('"sep=|"\na|b\n1|x\n', {"a": [1], "b": ["x"]}),
        *((f"sep={sign}\na{sign}b\n1{sign}x\n", {"a": [1], "b": ["x"]}) for sign in ":^~#!\t /\\"),
        ('sep=:\na: "b: c"\n1: "x:y"\n', {"a": [1], "b: c": ["x:y"]}),
        ("amount, EUR;country\n1,5;DE\n2,25;FR\n", {"amount, EUR": [1.5, 2.25], "country": ["DE", "FR"]}),
        ("a,b\n1;2,3;4\n", {"a": ["1;2"], "b": ["3;4"]}),
        ("x\n1\n2\n", {"x": [1, 2]}),
        ("x\na b\nc d\n", {"x": ["a b", "c d"]}),
        ("a,b,\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}),  # a separator at the end of each line
        # decimal signs
        ("a;b\n0,5;1\n12,25;2\n", {"a": [0.5, 12.25], "b": [1, 2]}),
        ("a;b\n1.234,5;1\n12,25;2\n", {"a": [1234.5, 12.25], "b": [1, 2]}),
        ('a,b\n"0,5",1\n"12,25",2\n', {"a": [0.5, 12.25], "b": [1, 2]}),
        # the separator is no comma, so commas are decimal signs
        ("a;b\n1,234;x\n5,678;y\n", {"a": [1.234, 5.678], "b": ["x", "y"]}),
        ('a,b\n"1,234",x\n"5,678,901",y\n', {"a": [1234, 5678901], "b": ["x", "y"]}),
        ("a;b;c\n1,234;0.5;1.25\n2,000;1.5;2.25\n", {"a": [1234, 2000], "b": [0.5, 1.5], "c": [1.25, 2.25]}),
        ("a;b;c\n1,5;2,5;1.5\n", {"a": [1.5], "b": [2.5], "c": ["1.5"]}),  # two columns against one
        ("a;b\n-1,5e3;+2,5\n", {"a": [-1500], "b": [2.5]}),
        # missing values
        ("a,b\nNA,NA\n1,x\n-,?\nnull,\n", {"a": [None, 1, None, None], "b": ["NA", "x", "?", ""]}),
        # values that only look like numbers
        ("zip,n\n01234,1\n10115,2\n", {"zip": ["01234", "10115"], "n": [1, 2]}),
        ("id\n9007199254740993\n9007199254740992\n", {"id": ["9007199254740993", "9007199254740992"]}),
        ("a\n1_000\n0x10\n", {"a": ["1_000", "0x10"]}),
        ("a\nTrue\nFalse\n", {"a": ["True", "False"]}),
        # headers
        ("2019,2020\n1,2\n", {"2019": [1], "2020": [2]}),
        ("a,A,a b\n1,2,3\n", {"a": [1], "A": [2], "a b": [3]}),
        # line ends within quotes only
        ('a,b\n1,"x\r\ny"\n', {"a": [1], "b": ["x\r\ny"]}),
    ],
)  # fmt: skip
def test_forms(content: str, wanted: dict[str, list[Any]]) -> None:
    found = columns(content)
    assert {name: [None if value != value else value for value in values] for name, values in found.items()} == wanted


def test_columns_without_a_name_are_left_out() -> None:
    table = read(",a,b\n0,1,x\n1,2,y\n")
    assert list(table.columns) == ["a", "b"]
    assert table.left_out == {"": files.UNNAMED}


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", Malformed, "is empty"),
        (b"\n\n", Malformed, "is empty"),
        (b"a,b\n", Malformed, "has no rows"),
        (b"a,b\n1\n2\n", Malformed, r"has no rows that can be read \(row 1: has 1 cells, but the header has 2\)"),
        (b",,\n1,2,3\n", Malformed, "its first line is empty; add a header"),
        (b"1.5,2,-3\n4,5,6\n", Malformed, r"its first line contains only numbers \(1.5, 2, -3\); add a header"),
        (b"1,1\n4,5\n", Malformed, "its first line contains only numbers"),
        (b"a,b,a\n1,2,3\n", Malformed, "two columns have the name 'a'; rename or remove one"),
        (b"a, a\n1,2\n", Malformed, "two columns have the name 'a'"),
        ("ä,b\n1,2\n".encode() + b"\xe4,2\n", Malformed, "byte 10 is not valid UTF-8, but the bytes before it are; save the file as UTF-8"),
        (codecs.BOM_UTF8 + b"a,b\n\xe4,2\n", Malformed, "byte 5 is not valid UTF-8"),
        (codecs.BOM_UTF16_LE + "a,b\n1,2\n".encode("utf-16-le") + b"\x00\xd8x\x00", Malformed, "is not valid UTF-16-LE"),
        (b"a\0b,c\n1,2\n", Malformed, "contains NUL bytes"),
        (b"a\x02b,c\n1,2\n", Malformed, "is a binary file: its first line contains control characters; save the table as CSV"),
        *((f"sep={sign}\na{sign}b\n1{sign}2\n".encode(), Malformed, "its first line states .* remove this line") for sign in "\"'x7é\x01\r\u20ac"),
        (b'"sep="\r\na,b\n1,2\n', Malformed, "its first line states"),
        (b"a,b\n" + b'"' + b"x" * 140_000 + b'", 1\n' + b'1, "y"\n' , TooLarge, "a quote is not closed"),
    ],
)  # fmt: skip
def test_files_that_are_refused(content: bytes, error: type[ManifoldError], says: str) -> None:
    with pytest.raises(error, match=says):
        read(content)


@pytest.mark.parametrize("seed", range(20))
def test_binary_files_are_refused_whatever_columns_are_wanted(seed: int) -> None:
    """The message repeats nothing of the content that cannot be printed."""
    content = np.random.default_rng(seed).bytes(5000)
    for wanted in (None, ("price", "weight")):
        with pytest.raises(Malformed, match=r"binary file|is not valid UTF|save the file as UTF-8") as caught:
            csv_files.open_csv(io.BytesIO(content), wanted)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 200


def test_a_stray_control_character_in_a_cell_spoils_its_row_only() -> None:
    """A file that has the wanted columns is read."""
    opened = csv_files.open_csv(io.BytesIO(b"a,b\n1,\0\n2,x\n"), ("a", "b"))
    (batch,) = opened.batches
    assert batch.columns["b"].to_pylist() == ["\0", "x"]


def test_latin_1_that_begins_late() -> None:
    """The first bytes are ASCII, like most of the file. Later bytes decide the encoding, even if a character spans two reads."""
    for filler in (70_000, 2**17 - 12, 2**17 - 11):
        content = b"a,b\n" + b"1,x\n" * (filler // 4) + b"2," + "größe".encode("latin-1") + b"\n"
        table = read(content)
        assert table.columns["b"][-1] == "größe"
    utf8 = b"a,b\n" + b"1,x\n" * 20_000 + "2,größe\n".encode() * 5_000
    assert set(read(utf8).columns["b"][20_000:]) == {"größe"}


def test_undefined_bytes_of_windows_1252_are_as_in_latin_1() -> None:
    assert read(b"a\n\x80\x81\n").columns["a"].tolist() == ["€\x81"]


def test_rows_with_a_wrong_number_of_cells_are_listed_by_both_readers() -> None:
    lines = ["1,2", "3", "4,5,6", "7,8", "", "9,10"]
    plain = read("\n".join(["a,b", *lines]))
    spaced = read("\n".join(["a,b", *lines, '11, "12"']))
    for table in (plain, spaced):
        assert table.bad == {2: "has 1 cells, but the header has 2", 3: "has 3 cells, but the header has 2"}
        assert table.numbers[:3].tolist() == [1, 4, 5]
        assert table.columns["a"][:3].tolist() == [1, 7, 9]


def test_the_slower_reader_reads_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BATCH_ROWS", 7)
    content = "a, b\n" + "".join(f'{number}, "x{number % 3}"\n' for number in range(50))
    table = read(content)
    assert table.columns["a"].tolist() == list(range(50))
    assert table.numbers.tolist() == list(range(1, 51))
    assert table.columns["b"][3] == "x0"


def test_the_form_is_found_in_the_beginning_of_a_long_file() -> None:
    content = "a;b\n" + "0,5;x\n" * 100_000 + "1,234;y\n"
    table = read(content)
    assert table.notation.decimal == ","
    assert table.columns["a"][-1] == 1.234
    assert len(table.numbers) == 100_001


def test_a_long_header_is_still_found() -> None:
    names = [f"column {number} {'x' * 100}" for number in range(5_000)]
    table = read(";".join(names) + "\n" + ";".join(["1,5"] * 5_000) + "\n")
    assert list(table.columns) == names
    assert np.concatenate(list(table.columns.values())).tolist() == [1.5] * 5_000
    with pytest.raises(TooLarge, match="the first line"):
        dialect.find("x" * (dialect.HEADER_BYTES + 1) + "\n1\n")
