"""Rows of data frames and Arrow tables, and how the client's results look."""

from __future__ import annotations

import base64
import datetime
import io
import json
import sys
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pyarrow
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold_client import (
    Classes,
    Client,
    Encoded,
    Imputed,
    InvalidType,
    InvalidValue,
    MissingLibrary,
    Reconstruction,
    Sample,
    Samples,
    Scores,
)
from manifold_client.rows import rows
from tests.conftest import ROW
from tests.test_client import transport_to

COMMON = {"model": "m", "version": 1, "request_id": "r", "timing": {}}
MOMENT = datetime.datetime.fromisoformat("2020-01-02T03:04:00")
PLAIN = [{"a": 1, "c": "x", "f": 0.1, "t": "2020-01-02 03:04:00", "z": True}, dict.fromkeys("acftz")]


class FakeSeries:
    """A column as pandas and polars have it."""

    def __init__(self, name: str, dtype: str, values: list[Any]) -> None:
        self.name, self.dtype, self.tolist, self.to_list = name, dtype, lambda: values, lambda: values


class NAType:
    """The missing value of pandas, whose truth is an error."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]


SERIES = [
    FakeSeries("a", "Int64", [1, NAType()]), FakeSeries("c", "category", ["x", float("nan")]),
    FakeSeries("f", "float32", [0.10000000149011612, float("nan")]), FakeSeries("t", "datetime64[ns]", [MOMENT, np.datetime64("NaT")]),
    FakeSeries("z", "object", [np.True_, None]),
]  # fmt: skip


class FakePandas:
    """A data frame with the attributes of pandas that are used."""

    def __init__(self, series: list[FakeSeries]) -> None:
        self.series, self.columns = series, [each.name for each in series]

    @property
    def iloc(self) -> Any:
        class Places:
            def __getitem__(_, place: tuple[slice, int]) -> FakeSeries:  # noqa: N805
                return self.series[place[1]]

        return Places()


class FakePolars:
    """A data frame with the attributes of polars that are used."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        raise AssertionError("the columns are read instead")

    def get_columns(self) -> list[FakeSeries]:
        return SERIES


class Stream:
    """A table of a package that is not known, with the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return ARROW.__arrow_c_stream__(requested_schema)


ARROW = pyarrow.table({
    "a": [1, None], "c": pyarrow.array(["x", None]).dictionary_encode(), "f": pyarrow.array([0.1, None], pyarrow.float32()),
    "t": [MOMENT, None], "z": [True, None],
})  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [FakePandas(SERIES), FakePolars(), Stream(), ARROW, ARROW.to_batches()[0], ARROW.to_reader()],
    ids=["pandas", "polars", "stream", "table", "batch", "reader"],
)
def test_frames_are_rows(frame: Any) -> None:
    read = rows(frame, "rows")
    assert read == PLAIN
    assert json.dumps(read, allow_nan=False)


def test_single_values_as_they_are_sent() -> None:
    given = {
        "d": Decimal("0.10"),
        "w": Decimal(3),
        "long": Decimal("0.12345678901234567890"),
        "h": np.float16(0.1),
        "i": np.int8(3),
    }
    given |= {
        "day": MOMENT.date(),
        "time": MOMENT.time(),
        "n": np.datetime64("2020-01-02"),
        "s": np.str_("x"),
        "nan": np.float64("nan"),
    }
    assert rows(given, "rows") == [{
        "d": 0.1, "w": 3, "long": "0.12345678901234567890", "h": 0.1, "i": 3, "day": "2020-01-02", "time": "03:04:00", "n": "2020-01-02 00:00:00",
        "s": "x", "nan": None,
    }]  # fmt: skip
    assert rows({"a": [np.int8(1), {"b": (2,)}], "c": np.ones(2)}, "rows") == [{"a": [1, {"b": [2]}], "c": [1.0, 1.0]}]
    assert rows(np.asarray([[1, 2.5], [3, np.nan]]), "rows") == [[1, 2.5], [3, None]]


def test_frames_that_cannot_be_rows() -> None:
    with pytest.raises(InvalidValue, match="2 columns have the name 'a'"):
        rows(FakePandas([SERIES[0]] * 2), "rows")
    with pytest.raises(InvalidType, match="the column 3 has a name that is not a string"):
        rows(FakePandas([FakeSeries(3, "int", [1])]), "rows")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="the table is empty"):
        rows(ARROW.slice(0, 0), "rows")
    with pytest.raises(InvalidType, match=r"rows\[0\].a: b'x' is a bytes; .* or remove the column"):
        rows(pyarrow.table({"a": [b"x"]}), "rows")
    with pytest.raises(InvalidValue, match=r"an array of shape \(2,\)"):
        rows(np.zeros(2), "rows")


def test_a_table_of_an_unknown_package_names_the_package_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibrary, match=r"a Stream is read by pyarrow.*pip install pyarrow") as caught:
        rows(Stream(), "rows")
    assert isinstance(caught.value, ImportError)


def test_a_table_gets_the_scores_of_its_rows(client: TestClient) -> None:
    given = [ROW, {**ROW, "amount": None}, {**ROW, "amount": 0.1}]
    with Client(transport=transport_to(client)) as service:
        expected = service.anomaly_score(rows=given, model="transactions-vae", explain=True)
        table = pyarrow.Table.from_pylist(given)
        scores = service.anomaly_score(rows=table, model="transactions-vae", explain=True)
        assert scores.items == expected.items
        narrow = table.set_column(table.schema.names.index("amount"), "amount", table["amount"].cast(pyarrow.float32()))
        assert service.anomaly_score(rows=narrow, model="transactions-vae").items[2].score == expected.items[2].score
        arrow = scores.to_arrow()
        assert arrow.column("score").to_pylist() == [item.score for item in scores.items]
        assert arrow.schema.names[:7] == ["score", "p_value", "is_anomaly", "band", "risk", "state", "warnings"]
        assert repr(scores).startswith("<Scores: 3 items, ") and len(repr(scores)) < 120
        made = service.sample(3, seed=1, model="transactions-vae")
        assert service.anomaly_score(rows=made.to_arrow(), model="transactions-vae").items == service.anomaly_score(
            rows=made.rows, model="transactions-vae").items  # fmt: skip


# --- how results look ---------------------------------------------------------------------------------------------------------


def png(size: tuple[int, int] = (8, 6)) -> str:
    buffer = io.BytesIO()
    Image.new("L", size, 7).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


SCORED: dict[str, Any] = {
    "score": 1.5, "p_value": 0.25, "is_anomaly": None, "band": None, "risk": 3, "state": "ok", "warnings": ["<script>"],
    "parts": {"nll": {"value": 1.5, "p_value": None}}, "explanation": {"columns": []}, "id": "<b>", "passed": {"shop": "&"},
}  # fmt: skip
FITTED = [
    {"width": 28, "height": 28, "mode": "L", "steps": [], "warnings": []},
    {"width": 1456, "height": 476, "mode": "RGB", "steps": ["to grey", "scaled and centred to <28x28>"]},
]
RESULTS: dict[str, tuple[Any, str]] = {
    "images": (Samples.parse({**COMMON, "images": [png()] * 3, "seed": 7}), "<Samples: 3 images of 8×6, seed 7, model m version 1>"),
    "rows": (Samples.parse({**COMMON, "rows": [{"<i>": 1}], "seed": 7}), "<Samples: 1 row with 1 column, seed 7, model m version 1>"),
    "values": (Samples.parse({**COMMON, "series": [[0.5]] * 2}), "<Samples: 2 items in series, model m version 1>"),
    "outputs": (
        Samples.parse({**COMMON, "items": {"picture": {"images": [png()]}, "facts": {"rows": [{"a": 1}]}}}),
        "<Samples: picture: 1 image of 8×6, facts: 1 row with 1 column, model m version 1>",
    ),
    "line": (Sample.parse({"item": 4, "image": png()}), "<Sample 4: 1 image of 8×6>"),
    "encoded": (Encoded.parse({**COMMON, "mean": [[1, 2]], "codes": [[[3]]]}), "<Encoded: mean 1×2, codes 1×1×1, model m version 1>"),
    "named": (
        Encoded.parse({**COMMON, "posteriors": {"place": {"mean": [[1, 2]]}}}), "<Encoded: place: mean 1×2, model m version 1>",
    ),
    "back": (Reconstruction.parse({**COMMON, "images": [png()], "errors": [0.25]}), "<Reconstruction: 1 image of 8×6, mean error 0.25, model m version 1>"),
    "fitted": (
        Reconstruction.parse({**COMMON, "images": [png()] * 2, "errors": [0.25, 0.75], "fitted": FITTED}),
        "<Reconstruction: 2 images of 8×6, mean error 0.5, model m version 1; 1 of 2 images fitted, image 1 from 1456×476 RGB: to grey, "
        "scaled and centred to <28x28>>",
    ),
    "scores": (Scores.parse({**COMMON, "items": [SCORED], "threshold": {}}), "<Scores: 1 item, 0 anomalous, 1 undecided, model m version 1>"),
    "classes": (
        Classes.parse({**COMMON, "items": [{"class": "a", "probabilities": {"a": 0.75, "b": 0.25}}], "classification": {"class_prior": {"a": 1, "b": 1}}}),
        "<Classes: 1 item (a), model m version 1>",
    ),
    "imputed": (Imputed.parse({**COMMON, "rows": [{"a": 1}] * 30}), "<Imputed: 30 rows with 1 column, model m version 1>"),
}  # fmt: skip


@pytest.mark.parametrize("case", RESULTS)
def test_results_are_short_texts(case: str) -> None:
    result, text = RESULTS[case]
    assert repr(result) == text


def test_images_are_shown_as_a_grid_and_rows_as_an_escaped_table() -> None:
    shown = {
        case: (result._repr_png_(), result._repr_html_())
        for case, (result, _) in RESULTS.items()
        if hasattr(result, "_repr_png_")
    }
    assert {case for case, (picture, _) in shown.items() if picture} == {"images", "outputs", "line", "back", "fitted"}
    assert {case for case, (_, table) in shown.items() if table} == {"rows", "imputed", "fitted"}
    assert "scaled and centred to &lt;28x28&gt;</figcaption>" in str(shown["fitted"][1])
    fitted = RESULTS["fitted"][0].fitted
    assert [(each.width, each.mode, each.steps, each.warnings) for each in fitted] == [
        (28, "L", [], []), (1456, "RGB", ["to grey", "scaled and centred to <28x28>"], []),
    ]  # fmt: skip
    picture = shown["images"][0]
    assert picture is not None and Image.open(io.BytesIO(picture)).size == (18, 14)
    assert (
        shown["rows"][1]
        == "<table><thead><tr><th>&lt;i&gt;</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"
    )
    assert "<p>20 of 30 rows</p>" in str(shown["imputed"][1])
    scores = RESULTS["scores"][0]._repr_html_()
    assert (
        "&lt;script&gt;" in scores
        and "<script>" not in scores
        and "<td>&lt;b&gt;</td>" in scores
        and "<td>&amp;</td>" in scores
    )


def test_the_column_of_the_error_does_not_replace_one_of_the_rows() -> None:
    rows = [{"error": "E1", "error_": 2}, {"error": "E2", "error_": 3}]
    made = Reconstruction.parse({**COMMON, "rows": rows, "errors": [0.25, 0.5]}).table()
    assert made == {"error": ["E1", "E2"], "error_": [2, 3], "error__": [0.25, 0.5]}


def test_results_are_tables() -> None:
    tables = {case: RESULTS[case][0].table() for case in ("rows", "encoded", "named", "back", "scores", "classes")}
    assert tables == {
        "rows": {"<i>": [1]}, "encoded": {"mean.0": [1.0], "mean.1": [2.0], "codes.0": [3]}, "named": {"place.mean.0": [1.0], "place.mean.1": [2.0]},
        "back": {"error": [0.25]}, "classes": {"class": ["a"], "probability.a": [0.75], "probability.b": [0.25]},
        "scores": {
            "id": ["<b>"], "passed.shop": ["&"], "score": [1.5], "p_value": [0.25], "is_anomaly": [None], "band": [None], "risk": [3], "state": ["ok"],
            "warnings": [["<script>"]], "part.nll": [1.5], "part.nll.p_value": [None],
        },
    }  # fmt: skip
    assert RESULTS["classes"][0].to_arrow().to_pydict() == tables["classes"]
    with pytest.raises(InvalidType, match="Samples has no rows"):
        RESULTS["images"][0].to_arrow()
    with pytest.raises(InvalidValue, match="images: there are none, but 1 row with 1 column; use rows"):
        RESULTS["rows"][0].grid()
    with pytest.raises(InvalidValue, match="images: there are none"):
        RESULTS["rows"][0].arrays()


@pytest.fixture
def without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_frames")
@pytest.mark.parametrize("name", ["pandas", "polars", "arrow"])
def test_a_missing_package_is_named(name: str) -> None:
    package = name.replace("arrow", "pyarrow")
    with pytest.raises(
        MissingLibrary,
        match=rf"to_{name}: the package {package} is not installed; run `pip install {package}`, or use table",
    ):
        getattr(RESULTS["scores"][0], f"to_{name}")()


def test_a_frame_is_sent_as_rows() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.read())["rows"] == PLAIN
        return httpx.Response(200, json={**COMMON, "items": [], "threshold": {}})

    with Client(transport=httpx.MockTransport(handle)) as client:
        assert len(client.anomaly_score(rows=FakePandas(SERIES), model="m")) == 0
        assert len(client.anomaly_score(rows=FakePolars())) == 0
