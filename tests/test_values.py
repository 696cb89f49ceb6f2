"""Values in tables: the numbers and truth values that texts spell, texts for missing values, and equal names of a category."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from manifold.runtime.tables import values
from manifold.runtime.tables.values import DEFAULT, MISSING, Categories, Notation

COMMA = Notation.of(decimal=",")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", 12), (" 12.5 ", 12.5), ("-3", -3), ("+3", 3), (".5", 0.5), ("5.", 5), ("1e3", 1000), ("1.5E-3", 0.0015), ("007", 7),
        ("1,234", 1234), ("1,234.5", 1234.5), ("-1,234,567.25", -1234567.25), ("1'234", 1234), ("1\u00a0234", 1234), ("1\u202f234.5", 1234.5),
        ("\u22125", -5), (12, 12), (12.5, 12.5), (np.int64(3), 3), (np.float32(0.5), 0.5), (Decimal("4.27"), 4.27), (10**400, math.inf),
        (-(10**400), -math.inf), ("inf", math.inf), ("-Infinity", -math.inf),
        ("1,23", None), ("1,2345", None), ("1,234,5", None), ("1.234.567", None), ("1_000", None), ("0x10", None), ("12a", None), ("", None),
        ("NaN", None), ("NA", None), ("one", None), ("1 2", None), ("--1", None), ("1e", None), ("e5", None), (".", None), ("True", None),
        (True, None), (np.bool_(False), None), (None, None), ([1], None), ({}, None), (b"1", None), (datetime.date(2026, 1, 1), None),
    ],
)  # fmt: skip
def test_numbers(value: Any, expected: float | None) -> None:
    assert values.number(value, DEFAULT) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", 12), ("1,5", 1.5), (",5", 0.5), ("1.234,5", 1234.5), ("1.234", 1234), ("1.5", None), ("1,234.5", None), ("1e3", 1000), ("-0,25", -0.25)],
)  # fmt: skip
def test_numbers_with_decimal_commas(text: str, expected: float | None) -> None:
    assert values.number(text, COMMA) == expected


@pytest.mark.parametrize(
    "value",
    [None, math.nan, np.float32("nan"), Decimal("NaN"), np.datetime64("NaT"), *MISSING, " na ", "nan", "NULL", "Null"],
)
def test_missing_values(value: Any) -> None:
    assert values.is_missing(value, DEFAULT)


@pytest.mark.parametrize(
    "value", [0, 0.0, False, "0", "none", "None", "no", "--", "N", "nano", "n.a.", math.inf, [], "missing", "."]
)
def test_values_that_are_there(value: Any) -> None:
    assert not values.is_missing(value, DEFAULT)


def test_stated_texts_for_missing_values_take_the_place_of_the_usual_ones() -> None:
    notation = Notation.of((" unknown ", "-99"))
    assert [values.is_missing(value, notation) for value in ("Unknown", "-99", "", None, "NA", "-")] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31", "2026/1/31", "2026.01.31", "31.01.2026", "1/31/26", "31-01-2026", "2026-01-31 10:00", "2026-01-31T10:00:00Z",
        "2026-01-31T10:00:00.123456+01:00", "2026-01-31 10:00:00 UTC", "31 Jan 2026", "5-Feb-2026", "Jan 31, 2026", "January 31st, 2026",
        "Sat, 31 Jan 2026 10:00:00 +0000", "10:30", "10:30:15", "10:30:15.25", "9:05 PM", "2026-01", "2026-W05", "2026-W05-6",
    ],
)  # fmt: skip
def test_dates_and_times(text: str) -> None:
    assert values.is_moment(f" {text} ")


@pytest.mark.parametrize(
    "value", ["1.2.3", "10.0.0.1", "20260131", "12-34", "1:2", "3/4", "may", "2026", "a 10:30", "1-2-3", 20260131, None]
)
def test_values_that_are_no_dates(value: Any) -> None:
    assert not values.is_moment(value)


def test_typed_dates_and_times() -> None:
    for value in (
        datetime.date(2026, 1, 31),
        datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC),
        datetime.time(10),
        np.datetime64("2026-01-31"),
    ):
        assert values.is_moment(value)


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (("no", "yes"), {"no": 0, "NO": 0, "false": 0, False: 0, "0": 0, "f": 0, "off": 0, "Yes": 1, True: 1, "t": 1, "on": 1, "maybe": None}),
        (("0", "1"), {0.0: 0, "0.0": 0, "false": 0, True: 1, "1.000": 1, "yes": 1, "2": None}),
        (("False", "True"), {np.bool_(True): 1, "TRUE": 1, "n": 0}),
        (("f", "m"), {"f": 0, "m": 1, "false": None, "F": None}),  # m is no truth value, so neither is f
        (("n", "y", "maybe"), {"n": 0, "no": None, False: None}),
        (("1", "2", "3"), {1: 0, "2.0": 1, Decimal("3.00"): 2, " 3 ": 2, "03": None, "4": None}),
        (("007", "7"), {"007": 0, 7: 1, "7": 1, "7.0": 1, "07": None}),
        (("1", "1.0"), {"1": 0, "1.0": 1, 1: 0, 1.5: None}),
        (("0.5", "12.25"), {0.5: 0, ".5": 0, "0.50": 0, Decimal("12.250"): 1}),
        (("9007199254740992", "9007199254740993"), {9007199254740992: 0, 9007199254740993: 1, "9007199254740993": 1, "9,007,199,254,740,993": 1}),
        (("caf\u00e9", "Stra\u00dfe"), {"cafe\u0301": 0, " caf\u00e9\u00a0": 0, "CAF\u00c9": None, "strasse": None}),
        (("2026-01-31 00:00:00", "x"), {"2026-01-31T00:00:00": 0, datetime.date(2026, 1, 31): 0, np.datetime64("2026-01-31"): 0, "2026-02-01": None}),
        (("true",), {True: 0, "Yes": 0, "1": 0, False: None, "x": None}),
        (("0",), {0.0: 0, "0.0": 0, "false": 0, 5: None}),
    ],
)  # fmt: skip
def test_categories_by_name_and_by_meaning(names: tuple[str, ...], alike: dict[Any, int | None]) -> None:
    categories = Categories(names)
    for value, place in alike.items():
        assert categories.find(value, DEFAULT) == place, value


def test_numbers_that_are_truth_values() -> None:
    """A column may hold them beside the truth values themselves, to which they are equal in Python."""
    categories = Categories(("no", "yes"))
    assert [categories.find(value, DEFAULT) for value in (0, 1, 0.0, 1.0, np.int64(1), Decimal(0), 2)] == [
        0,
        1,
        0,
        1,
        1,
        0,
        None,
    ]


def test_a_number_of_a_file_with_decimal_commas_names_the_same_category() -> None:
    categories = Categories(("0.5", "1000"))
    assert [categories.find(text, COMMA) for text in ("0,5", "1.000", "0.5", "1,000")] == [0, 1, 0, None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (2.5, "2.5"), (True, "true"), (np.bool_(False), "false"), (" a b ", "a b"), (Decimal("1.50"), "1.5"), (Decimal("200"), "200"),
        (datetime.date(2026, 1, 31), "2026-01-31"), (datetime.time(10, 30), "10:30:00"), (np.datetime64("2026-01-31T10:00"), "2026-01-31 10:00:00"),
        (2**70, str(2**70)), (np.int64(-4), "-4"),
    ],
)  # fmt: skip
def test_spellings(value: Any, text: str) -> None:
    assert values.spelling(value) == text
