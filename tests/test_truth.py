"""The rule for known anomalies: its forms, the meaning of a column alone, and the rows that it marks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from manifold.runtime.errors import InvalidValue
from manifold.runtime.tables import truth
from manifold.runtime.tables.truth import Counts, Truth
from manifold.runtime.tables.values import FALSE, TRUE

COLUMNS = ["label", "kind of row", "is=odd", "score", "in"]


def settled(text: str, values: list[Any], column: str = "label") -> tuple[Truth, str]:
    return truth.settle(truth.parse(text, [column]), Counts(values))


@pytest.mark.parametrize(
    ("text", "column", "test", "values"),
    [
        ("label", "label", None, ()),
        ("label!=normal", "label", "not in", ("normal",)),
        ("label <> normal", "label", "not in", ("normal",)),
        ("label==attack", "label", "in", ("attack",)),
        ("label=attack", "label", "in", ("attack",)),
        (" label = 'two words' ", "label", "in", ("two words",)),
        ("label in a,b", "label", "in", ("a", "b")),
        ('label in (a, "b, c")', "label", "in", ("a", "b, c")),
        ("label IN [a]", "label", "in", ("a",)),
        ("label not in normal,benign", "label", "not in", ("normal", "benign")),
        ("'kind of row'!=ok", "kind of row", "not in", ("ok",)),
        ("kind of row!=ok", "kind of row", "not in", ("ok",)),
        ("is=odd", "is=odd", None, ()),
        ("is=odd=1", "is=odd", "in", ("1",)),
        ("in in a", "in", "in", ("a",)),
        ("score>0", "score", ">", ("0",)),
        ("score >= 1e3", "score", ">=", ("1e3",)),
        ("score<-0.5", "score", "<", ("-0.5",)),
        ("score<=7", "score", "<=", ("7",)),
        ('label==""', "label", "in", ("",)),
    ],
)
def test_what_may_be_written(text: str, column: str, test: str | None, values: tuple[str, ...]) -> None:
    found = truth.parse(text, COLUMNS)
    assert (found.column, found.test, found.values) == (column, test, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fraud", "there is no column 'fraud'; the file has 'label', .*COLUMN!=VALUE"),
        ("lable!=normal", r"there is no column 'lable' \(did you mean 'label'\?\)"),
        ("label!=", "'label!=' has no value after !="),
        ("score>many", "compares with 'many', which is not a number"),
    ],
)
def test_what_may_not(text: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        truth.parse(text, COLUMNS)


@pytest.mark.parametrize(
    "values",
    [
        [True, False], [1, 0], [1.0, 0.0], ["1", "0"], ["True", "False"], ["TRUE", "FALSE"], ["yes", "no"], ["Y", "N"], ["t", "f"], ["on", "off"],
        [" true ", "false"], ["1.0", "0"], [np.bool_(True), np.bool_(False)], [Decimal(1), Decimal(0)],
    ],
)  # fmt: skip
def test_truth_values_of_every_spelling(values: list[Any]) -> None:
    """The true rows are the anomalies, for any number of them. A rule that was made from one spelling reads the others."""
    rule, said = settled("label", [values[0]] * 5 + [values[1]])
    assert (rule.test, rule.values, rule.others) == ("in", TRUE, FALSE)
    assert "is true" in said
    assert rule.marks([*values, "yes", 0, None, "", "NA", float("nan")]).tolist() == [1, 0, 1, 0, -1, -1, -1, -1]
    with pytest.raises(
        InvalidValue,
        match=r"column 'label' has the value 'perhaps', but the rule covers only '1', 'true', 't' .anomalous. and '0'",
    ):
        rule.marks(["yes", "perhaps"])


def test_of_other_values_the_rarer_one_is_anomalous_and_this_is_said() -> None:
    rule, said = settled("label", ["a"] * 7 + ["b"] * 3)
    assert (rule.values, rule.others) == (("b",), ("a",))
    assert "the rarer value 'b' in 'label' (3 of 10)" in said
    assert "'label==a'" in said
    assert rule.marks(["a", "B ", None]).tolist() == [0, 1, -1]
    with pytest.raises(
        InvalidValue, match=r"has the value 'c', but the rule covers only 'b' .anomalous. and 'a'; give a new rule"
    ):
        rule.marks(["c"])


def test_a_value_called_normal_is_not_the_anomaly_though_it_is_rarer() -> None:
    rule, said = settled("label", ["attack"] * 7 + ["Normal"] * 3)
    assert rule.values == ("attack",)
    assert "rows with 'attack' in 'label' (7 of 10)" in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "c", "a"], r"has 3 values: 'a' \(2\), 'b' \(1\), 'c' \(1\); state .* such as --truth 'label!=a'"),
        (["dos", "dos", "probe", "normal"], r"has 3 values: .*--truth 'label!=normal'"),
        ([str(i) for i in range(30)], r"has 30 values: .*, …; state .* such as --truth 'label>0'"),
        (["a", "b"], "as many rows of each"),
        (["a", "a", None], r"has the single value 'a' \(2\)"),
        ([None, "", "NA"], "has no values"),
        (["x" * 500, "y", "z"], r"'x{39}…' \(1\)"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_say_which_rows_are_anomalies(values: list[Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        settled("label", values)


@pytest.mark.parametrize(
    ("text", "values", "marks"),
    [
        ("label!=normal", ["normal", "dos", " NORMAL", "", None], [0, 1, 0, -1, -1]),
        ("label==dos", ["normal", "dos", "probe", "-", "?"], [0, 1, 0, -1, -1]),
        ("label in dos,probe", ["normal", "dos", "probe"], [0, 1, 1]),
        ("label not in normal,benign", ["normal", "benign", "x"], [0, 0, 1]),
        ("label==1", [1, 2, 3.0, "1.0", "01"], [1, 0, 0, 1, 1]),
        ("label!=0", ["0", "1", 0.0, True], [0, 1, 0, 1]),
        ("label==0", [0, 1, "false", "true"], [1, 0, 1, 0]),
        ("label!=true", ["true", "false", None], [0, 1, -1]),
        ("label>0", [0, 1, "2.5", -1.0, None, Decimal("0.1")], [0, 1, 1, 0, -1, 1]),
        ("label<=0", [0, 1], [1, 0]),
        ("label==9007199254740993", [9007199254740993, "9007199254740992"], [1, 0]),
        ("label!=-", ["-", "x", None], [0, 1, -1]),
        ('label!=""', ["", "x", None, "NA"], [0, 1, 0, -1]),
        ("label==none", ["none", "None", "x"], [1, 1, 0]),
    ],
)
def test_which_rows_an_expression_marks(text: str, values: list[Any], marks: list[int]) -> None:
    rule, said = settled(text, values)
    assert rule.marks(values).tolist() == marks
    assert str(rule) in said
    assert Truth.model_validate_json(rule.model_dump_json()) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label!=nromal", r"no row has 'nromal' in column 'label'; use one of its values: 'normal' \(2\), 'dos' \(1\)"),
        ("label in dos,probe", "no row has 'probe'"),
        ("label==dos,normal", "no row has 'dos,normal' .*for several values write 'label in dos,normal'"),
    ],
)
def test_a_value_that_does_not_occur_is_a_mistake(text: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        settled(text, ["normal", "normal", "dos"])


def test_a_value_that_is_no_number_cannot_be_compared() -> None:
    rule, _ = settled("label>0", [1, 2])
    with pytest.raises(
        InvalidValue, match="column 'label' has the value 'many', which is not a number, so label>0 cannot compare it"
    ):
        rule.marks([3, "many"])


@pytest.mark.parametrize(
    "wrong", [{"test": ">", "values": ("x",)}, {"test": ">", "values": ("1", "2")}, {"values": ()}]
)
def test_a_manifest_holds_rules_that_can_be_used(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Truth.model_validate({"column": "label", "test": "in", "values": ("a",), **wrong})


def test_of_very_many_values_only_some_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "DISTINCT", 5)
    counts = Counts(str(i) for i in range(100))
    assert len(counts.rows) == 5
    with pytest.raises(InvalidValue, match="has 5 or more values"):
        truth.settle(truth.parse("label", ["label"]), counts)
