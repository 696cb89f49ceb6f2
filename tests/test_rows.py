"""Table rows: encoding, decoding, and errors that name row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns, rows
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn

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
    free = rows.decode(np.asarray([[9.0, 0.2, 0.8, -9.0]]), SPEC, held=False)[0]
    assert free["hour"] == pytest.approx(12 - 45)


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
        ({**GOOD, "hour": "12 h"}, "rows[1].hour"),
        ({**GOOD, "hour": "0x12"}, "rows[1].hour"),
        ({**GOOD, "hour": "1_2"}, "rows[1].hour"),
        ({**GOOD, "hour": "inf"}, "rows[1].hour"),
        ({**GOOD, "hour": "NA"}, "rows[1].hour"),
        ({**GOOD, "hour": True}, "rows[1].hour"),
        ({**GOOD, "hour": float("nan")}, "rows[1].hour"),
        ({**GOOD, "hour": 10**400}, "rows[1].hour"),
        ({**GOOD, "hour": [1]}, "rows[1].hour"),
        ({**GOOD, "night": {}}, "rows[1].night"),
        ([1, 2], "rows[1]"),
        ([1, None, 2], "rows[1].night"),
        ("abc", "rows[1]"),
        ([], "rows[1]"),
        (7, "rows[1]"),
    ],
)
def test_wrong_rows_are_named(row: Any, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        rows.encode([GOOD, row], SPEC, unknown=True)
    assert caught.value.field == field
    assert caught.value.message.startswith(field.rsplit(".", 1)[0])


def test_another_decimal_separator_is_named() -> None:
    with pytest.raises(InvalidValue, match=r"'900,5' is not a number; .* its decimal separator is '.'; write 900.5$"):
        rows.encode([{**GOOD, "amount": "900,5"}], SPEC)
    of_commas = SPEC.model_copy(update={"decimal": ","})
    with pytest.raises(InvalidValue, match=r"its decimal separator is ','; write 1.900,5$"):
        rows.encode([{**GOOD, "amount": " 1,900.5"}], of_commas)
    for value in ("noon", "1,2,3", True):
        with pytest.raises(InvalidValue, match=r"is numeric$"):
            rows.encode([{**GOOD, "amount": value}], SPEC)


def test_missing_values_only_where_allowed() -> None:
    encoded, warnings = rows.encode([{"amount": 20.0, "hour": None}], SPEC, missing=True)
    assert np.isnan(encoded[0]).tolist() == [False, True, True, True]
    assert [warning.split()[1] for warning in warnings[0]] == ["night", "hour"]
    assert all(warning.startswith("missing") for warning in warnings[0])
    with pytest.raises(InvalidValue, match="every value is missing"):
        rows.encode([{"amount": None}], SPEC, missing=True)


def test_ignored_columns_may_be_there() -> None:
    spec = SPEC.model_copy(update={"ignored": {"id": "an identifier"}})
    encoded, _ = rows.encode([{**GOOD, "id": "x-1"}], spec)
    assert np.array_equal(encoded, rows.encode([GOOD], SPEC)[0])
    with pytest.raises(ValueError, match="have the same name"):
        TableSpec(columns=SPEC.columns, ignored={"hour": "twice"})


QUANTILE = NumericColumn(
    name="q", transform="quantile", knots=(0, 1, 10), scores=(-2, 0, 2), slope=0.5, mean=0, scale=1, clip=10, minimum=0, maximum=10
)  # fmt: skip


def test_the_quantile_transform_goes_on_beyond_its_ends() -> None:
    values = np.asarray([-4.0, 0, 0.5, 1, 5.5, 10, 14])
    encoded = rows.standardise(values, QUANTILE)
    assert encoded.tolist() == [-4, -2, -1, 0, 1, 2, 4]
    spec = TableSpec(columns=(QUANTILE,))
    back = [row["q"] for row in rows.decode(encoded[:, None], spec)]
    assert back == pytest.approx(np.clip(values, 0, 10))


@pytest.mark.parametrize(
    "wrong",
    [{"scores": (-2, 0)}, {"knots": (0, 0, 1)}, {"slope": None}, {"transform": "identity"}, {"scores": None}, {"knots": (1,), "scores": (1,)}],
)  # fmt: skip
def test_a_quantile_transform_is_whole(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="knots"):
        NumericColumn.model_validate({**QUANTILE.model_dump(), **wrong})


# --- whole columns ---

CELLS = {
    "amount": st.one_of(st.floats(-0.5, 1e6), st.integers(0, 10**9), st.none(), st.just(float("inf")), st.just(-7.0)),
    "night": st.one_of(st.sampled_from(["0", "1", "0.0", "maybe"]), st.none()),
    "hour": st.one_of(st.floats(-1e3, 1e3), st.none(), st.just("noon")),
}


@given(st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=12), st.booleans(), st.booleans())
def test_columns_are_encoded_as_rows_are(given_rows: list[dict[str, Any]], unknown: bool, missing: bool) -> None:
    """The fast path and the plain one agree in data, in warnings, and in the refused rows."""
    table = {name: np.asarray([row[name] for row in given_rows], object) for name in SPEC.names}
    found = columns.encode(table, SPEC, unknown=unknown, missing=missing)
    for index, row in enumerate(given_rows):
        try:
            one, warnings = rows.encode([row], SPEC, unknown=unknown, missing=missing)
        except InvalidValue:
            assert index in found.bad
            continue
        assert index not in found.bad
        assert np.array_equal(one[0], found.data[index], equal_nan=True)
        assert sorted(warnings[0]) == sorted(found.warnings.get(index, []))


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("hour", ["1", "noon", "3"], "hour: 'noon' is not a number"),
        ("hour", np.asarray([1.0, np.inf, 2.0]), "hour: inf is not finite"),
        ("hour", ["1", "", "3"], "column 'hour' has no value"),
        ("hour", np.asarray([True, False, True]), "hour: true is not a number"),
        ("night", np.asarray([0, 7, 1]), "night: unknown category '7'"),
    ],
)
def test_bad_cells_of_columns_are_named(column: str, values: Any, reason: str) -> None:
    table = {"amount": np.ones(3), "night": np.zeros(3, int), "hour": np.ones(3), column: np.asarray(values)}
    found = columns.encode(table, SPEC)
    place = 0 if values is not None and np.asarray(values).dtype == bool else 1
    assert found.bad[place].startswith(reason)
    assert place == 0 or set(found.bad) == {1}


def test_the_logarithm_goes_on_below_zero() -> None:
    """A refund in a column of payments is anomalous, but valid. The transform stays monotone and has an inverse."""
    column = SPEC.columns[0]
    assert isinstance(column, NumericColumn)
    values = np.asarray([-50.0, -1.0, -0.5, 0.0, 0.5, 50.0])
    moved = rows.transform(values, column)
    assert (np.diff(moved) > 0).all()
    assert np.allclose(moved, -rows.transform(-values, column))
    given = [{"amount": value, "night": "0", "hour": 1.0} for value in values.tolist()]
    encoded, warnings = rows.encode(given, SPEC)
    inside = np.abs(encoded[:, 0]) < column.clip
    back = rows.decode(encoded, SPEC, held=False)
    assert [row["amount"] for row in back][2:4] == [-0.5, 0.0]
    assert [bool(each) for each in warnings] == (~inside).tolist() == [True, False, False, False, False, False]


def test_a_file_without_a_column_says_which() -> None:
    with pytest.raises(InvalidValue, match="'night' missing"):
        columns.encode({"amount": np.ones(1), "hour": np.ones(1)}, SPEC)


def test_missing_numbers_stay_missing_when_rows_are_decoded() -> None:
    column = NumericColumn(name="n", mean=5, scale=2, minimum=0, maximum=9, decimals=0)
    values = [row["n"] for row in rows.decode(np.asarray([[np.nan], [1.0]]), TableSpec(columns=(column,)))]
    assert values[0] is None
    assert values[1] == 7
    assert isinstance(values[1], int)


@pytest.mark.parametrize("transform", ["identity", "log1p"])
def test_values_beyond_the_clip_keep_their_order_and_come_back(transform: str) -> None:
    about = {"name": "n", "transform": transform, "mean": 0.0, "scale": 0.1, "minimum": 0, "maximum": 1}
    log = NumericColumn.model_validate({**about, "beyond": "log"})
    flat = NumericColumn.model_validate(about)
    given = np.asarray([-1e300, -5000.0, -3.0, -0.5, 0.0, 0.5, 3.0, 4.0, 5000.0, 1e300, np.nan])
    encoded, clipped = rows.standardise(given, log), rows.standardise(given, flat)
    assert np.all(np.diff(encoded[:-1]) > 0)
    assert np.isfinite(encoded[:-1]).all()
    assert np.isnan(encoded[-1])
    inside = np.abs(encoded) < log.clip
    assert np.array_equal(encoded[inside], clipped[inside])
    back = [row["n"] for row in rows.decode(encoded[1:-2, None], TableSpec(columns=(log,)), held=False)]
    assert back == pytest.approx(given[1:-2].tolist(), rel=1e-6, abs=1e-9)
