"""The client and the library with real data frames of pandas and polars. Each package is imported once for all tests of this module."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from manifold.runtime.engine import load
from manifold.runtime.errors import ManifoldError
from manifold_client import InvalidType, InvalidValue, Samples, Scores
from manifold_client.rows import rows
from tests.conftest import ROW, SHIPPED

COMMON = {"model": "m", "version": 1, "request_id": "r"}
MOMENT = datetime.datetime.fromisoformat("2020-01-02T03:04:00")
PLAIN = [{"a": 1, "c": "x", "f": 0.1, "t": "2020-01-02 03:04:00", "z": True}, dict.fromkeys("acftz")]


@pytest.fixture(scope="module")
def pandas() -> Any:
    """Import pandas: at the top of the module, every process that collects tests would import it."""
    import pandas

    return pandas


@pytest.fixture(scope="module")
def polars() -> Any:
    """Import polars."""
    import polars

    return polars


def test_frames_of_pandas_are_rows(pandas: Any) -> None:
    frame = pandas.DataFrame({
        "a": pandas.array([1, None], dtype="Int64"), "c": pandas.Categorical(["x", None]), "f": np.asarray([0.1, np.nan], np.float32),
        "t": pandas.to_datetime([MOMENT, None]), "z": pandas.array([True, None], dtype="boolean"),
    })  # fmt: skip
    for given in (frame, frame.convert_dtypes(dtype_backend="pyarrow"), frame.set_index("a", drop=False)):
        assert rows(given, "rows") == PLAIN
    assert rows(frame.iloc[0].drop("f"), "rows") == [{name: PLAIN[0][name] for name in "actz"}]
    with pytest.raises(InvalidType, match=r"rows: this Series is not a row, .*give one row, such as frame.iloc\[0\]"):
        rows(frame["a"], "rows")
    with pytest.raises(InvalidType, match="the column 0 has a name that is not a string"):
        rows(pandas.DataFrame([[1]]), "rows")


def test_frames_of_polars_are_rows(polars: Any, recwarn: pytest.WarningsRecorder) -> None:
    frame = polars.DataFrame({
        "a": [1, None], "c": polars.Series(["x", None], dtype=polars.Categorical), "f": polars.Series([0.1, None], dtype=polars.Float32),
        "t": [MOMENT, None], "z": [True, None],
    })  # fmt: skip
    assert rows(frame, "rows") == PLAIN and rows(frame[:1], "rows") == PLAIN[:1]
    with pytest.raises(InvalidType, match=r"is not a list of rows; give the frame that its method collect\(\) returns"):
        rows(frame.lazy(), "rows")
    with pytest.raises(InvalidValue, match=r"rows: the Series cannot be read as a table: .*; give a mapping by column"):
        rows(frame["a"], "rows")
    with pytest.raises(InvalidType, match=r"rows\[0\]: shape: .* is not a row") as caught:
        rows([frame], "rows")
    assert "\n" not in str(caught.value) and not recwarn.list


def test_results_of_the_client_are_frames(pandas: Any, polars: Any) -> None:
    made = Samples.parse({**COMMON, "rows": [{"a": 1, "b": "x", "c": 1}, {"a": None, "b": None, "c": "y"}]})
    frame = made.to_pandas()
    assert list(frame["c"]) == [1, "y"] and frame["a"].isna().tolist() == [False, True]
    assert rows(frame, "rows") == [*made.rows]
    columns = made.to_polars()
    assert columns["c"].to_list() == ["1", "y"] and columns["a"].to_list() == [1, None]
    for values in ([1, "y"], [[1], "y"], [2**70, 1]):
        with pytest.raises(
            InvalidValue, match=r"to_arrow: the column 'a' has no type of Arrow: .*; use to_pandas\(\) or"
        ):
            Samples.parse({**COMMON, "rows": [{"a": value} for value in values]}).to_arrow()
    item: dict[str, Any] = {"score": 1.5, "is_anomaly": None, "state": "ok", "warnings": ["w"], "parts": {}}
    scores = Scores.parse({**COMMON, "items": [item, {**item, "is_anomaly": True, "warnings": []}], "threshold": {}})
    assert scores.to_pandas()["is_anomaly"].tolist() == scores.to_polars()["is_anomaly"].to_list() == [None, True]
    assert scores.to_polars()["warnings"].to_list() == [["w"], []]


def test_the_library_takes_and_makes_frames(pandas: Any, polars: Any) -> None:
    model = load(SHIPPED / "transactions-vae", device="cpu", verify=False)
    given = [ROW, {**ROW, "amount": 0.1}]
    expected = model.anomaly_score(given)
    narrow = polars.DataFrame(given).with_columns(polars.col("amount").cast(polars.Float32))
    for frame in (pandas.DataFrame(given), polars.DataFrame(given), narrow, pandas.DataFrame(given).convert_dtypes()):
        assert model.anomaly_score(frame).items == expected.items
    one: Any = pandas.DataFrame(given).iloc[0]
    assert model.anomaly_score(one).items == expected.items[:1]
    assert (
        expected.to_pandas()["score"].tolist() == expected.to_polars()["score"].to_list() == expected.table()["score"]
    )
    made = model.sample(3, seed=1)
    for frame in (made.to_pandas(), made.to_polars(), made.to_arrow()):
        assert model.anomaly_score(frame).items == model.anomaly_score(made.rows()).items
    wrong: list[tuple[Any, str]] = [
        (polars.DataFrame(given).lazy(), r"is a LazyFrame; give the frame that its method collect\(\) returns"),
        (polars.DataFrame(given)["amount"], "rows: the Series cannot be read: "),
        (pandas.DataFrame(given)["amount"], "rows: this Series is not a row"),
    ]
    for frame, message in wrong:
        with pytest.raises(ManifoldError, match=message):
            model.anomaly_score(frame)
