"""Table rows: encoding, decoding, and errors that name row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime import rows
from runtime.errors import InvalidValue
from runtime.spec import CategoricalColumn, NumericColumn, TableSpec

SPEC = TableSpec(
    columns=(
        NumericColumn(name="amount", transform="log1p", mean=3.0, scale=0.5, minimum=0, maximum=500, decimals=2),
        CategoricalColumn(name="night", categories=("0", "1")),
        NumericColumn(name="hour", mean=12, scale=5, minimum=0, maximum=24),
    )
)
GOOD = {"amount": 20.0, "night": 0, "hour": 13.5}


def test_round_trip() -> None:
    encoded, warnings = rows.encode([GOOD, [3.25, "1", 0]], SPEC)
    assert encoded.shape == (2, 4)
    assert warnings == [[], []]
    assert rows.decode(encoded, SPEC)[0] == {"amount": 20.0, "night": "0", "hour": pytest.approx(13.5, abs=1e-5)}
    assert rows.decode(encoded, SPEC)[1]["amount"] == 3.25


@pytest.mark.parametrize("value", [0, 0.0, "0", False, np.float64(0)])
def test_one_category_many_spellings(value: Any) -> None:
    encoded, _ = rows.encode([{**GOOD, "night": value}], SPEC)
    assert encoded[0, 1:3].tolist() == [1, 0]


def test_far_values_are_clipped_and_said() -> None:
    encoded, warnings = rows.encode([{**GOOD, "hour": 1e9}], SPEC)
    assert encoded[0, 3] == 10
    assert "clipped" in warnings[0][0]


def test_made_values_stay_in_the_training_range() -> None:
    row = rows.decode(np.asarray([[9.0, 0.2, 0.8, -9.0]]), SPEC)[0]
    assert row == {"amount": 500.0, "night": "1", "hour": 0.0}


def test_unknown_categories_only_where_allowed() -> None:
    unknown = {**GOOD, "night": "maybe"}
    with pytest.raises(InvalidValue, match=r"rows\[0\].night: unknown category 'maybe'") as caught:
        rows.encode([unknown], SPEC)
    assert caught.value.valid == ["0", "1"]
    encoded, warnings = rows.encode([unknown], SPEC, unknown=True)
    assert encoded[0, 1:3].tolist() == [0, 0]
    assert warnings[0][0].startswith("unknown_category")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({**GOOD, "colour": 1}, "rows[1].colour"),
        ({"amount": 1, "night": 0}, "rows[1].hour"),
        ({**GOOD, "hour": None}, "rows[1].hour"),
        ({**GOOD, "hour": "noon"}, "rows[1].hour"),
        ({**GOOD, "hour": "12"}, "rows[1].hour"),
        ({**GOOD, "hour": True}, "rows[1].hour"),
        ({**GOOD, "hour": float("nan")}, "rows[1].hour"),
        ({**GOOD, "hour": 10**400}, "rows[1].hour"),
        ({**GOOD, "hour": [1]}, "rows[1].hour"),
        ({**GOOD, "amount": -1}, "rows[1].amount"),
        ({**GOOD, "night": {}}, "rows[1].night"),
        ([1, 2], "rows[1]"),
        ([1, None, 2], "rows[1].night"),
        ("abc", "rows[1]"),
        (7, "rows[1]"),
    ],
)
def test_wrong_rows_are_named(row: Any, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        rows.encode([GOOD, row], SPEC, unknown=True)
    assert caught.value.field == field
    assert caught.value.message.startswith(field.rsplit(".", 1)[0])
