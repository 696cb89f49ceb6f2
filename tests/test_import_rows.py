"""`manifold import` of graphs that read or make rows: generators, and pipelines for data frames with an input for each column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.training.data import plain_columns
from manifold.training.exporting import columns
from tests import graphs
from tests.graphs import constant, node, value
from tests.test_import import bring, refused

WEIGHTS = np.asarray([[10, 1, 0], [0, 1, 2], [5, 0, 1], [0, 0.5, 3]], np.float32)
OFFSET = np.asarray([50, 12, 3], np.float32)
MULTIPLE = [node("MatMul", ["noise", "w"], ["m"]), node("Add", ["m", "b"], ["out"])]


def table(path: Path) -> Path:
    z = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    rows = z @ WEIGHTS + OFFSET
    lines = [f"{amount:.2f},{hour:.1f},{round(items)}" for amount, hour, items in rows.tolist()]
    path.write_text("\n".join(["amount,hour,items", *lines]) + "\n")
    return path


def generator(path: Path, offset: Any = OFFSET, scale: float = 1) -> Path:
    graphs.write(
        path, MULTIPLE, [value("noise", shape=["B", 4])], [value("out", shape=["B", 3])],
        [constant("w", WEIGHTS * np.float32(scale)), constant("b", offset)],
    )  # fmt: skip
    return path


def test_a_generator_of_rows(tmp_path: Path) -> None:
    model, output = bring(tmp_path / "m", generator(tmp_path / "g.onnx"), "--columns", table(tmp_path / "rows.csv"))
    assert "rows, one number for each of the 3 columns in the order of the file" in output
    assert set(model.endpoints) == {"sample", "interpolate"}
    z = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    assert np.allclose(model.sample(latents=z).data, z @ WEIGHTS + OFFSET, atol=1e-4)
    assert isinstance(model.manifest.spec, TableSpec)
    assert [each.decimals for each in model.manifest.spec.columns if isinstance(each, NumericColumn)] == [2, 1, 0]


def test_a_generator_of_scaled_rows_gets_a_warning(tmp_path: Path) -> None:
    path = generator(tmp_path / "g.onnx", np.zeros(3, np.float32), 0.1)
    _, output = bring(tmp_path / "m", path, "--columns", table(tmp_path / "rows.csv"))
    assert "lie outside the range of training and are clipped; if the graph makes scaled values" in output


def test_rows_made_of_rows_are_refused(tmp_path: Path) -> None:
    """The reconstruction of an autoencoder is no score. With a statement, the numbers are features."""
    graphs.write(
        tmp_path / "a.onnx", [node("Tanh", ["x"], ["y"])], [value("x", shape=["B", 3])], [value("y", shape=["B", 3])]
    )
    given = [tmp_path / "a.onnx", "--columns", table(tmp_path / "rows.csv")]
    assert "it makes rows of rows, which no endpoint serves" in refused(tmp_path / "m", *given)
    assert "export the error of each row" in refused(tmp_path / "m", *given)
    model, _ = bring(tmp_path / "m", *given, "--output", "y=features")
    assert set(model.manifest.tasks) == {"features"}


def test_roles_and_outputs_that_do_not_exist(tmp_path: Path) -> None:
    given = [generator(tmp_path / "g.onnx"), "--columns", table(tmp_path / "rows.csv")]
    assert "'foo' would be the name of a score, but the output 'out' has 3" in refused(
        tmp_path / "m", *given, "--output", "out=foo"
    )
    assert "--output: no graph has an output 'oat'; the outputs are out" in refused(
        tmp_path / "m", *given, "--output", "oat=data"
    )


# --- an input for each column ---

SPEC = TableSpec(
    columns=(
        NumericColumn(name="amount", mean=0, scale=1, clip=1e30, minimum=0, maximum=100),
        CategoricalColumn(name="card type", categories=("credit", "debit", "none")),
        NumericColumn(name="hour", mean=0, scale=1, clip=1e30, minimum=0, maximum=23, decimals=0),
    )
)
COUNTRY = {"credit": 1.0, "debit": 2.0, "none": 4.0, "": -8.0}


def framed(path: Path, *, kind: int = TensorProto.INT64, opset: int = 18, flat: bool = False) -> Path:
    """Write a scorer with an input for each column: amount + 100 * hour + a number for the card."""
    shape: list[Any] = ["B"] if flat else ["B", 1]
    nodes = [
        node("LabelEncoder", ["card_type"], ["card"], domain="ai.onnx.ml", keys_strings=list(COUNTRY), values_floats=list(COUNTRY.values()),
             default_float=-1000.0),
        node("Cast", ["hour"], ["hours"], to=TensorProto.FLOAT), node("Mul", ["hours", "hundred"], ["more"]),
        node("Add", ["amount", "more"], ["both"]), node("Add", ["both", "card"], ["score"]),
    ]  # fmt: skip
    graphs.write(
        path, nodes, [value("amount", shape=shape), value("card_type", TensorProto.STRING, shape), value("hour", kind, shape)],
        [value("score", shape=shape)], [constant("hundred", np.float32(100))], opset=opset, domains={"ai.onnx.ml": 3},
    )  # fmt: skip
    return path


def scores(model: Any, rows: list[dict[str, Any]]) -> list[float]:
    return [item.score for item in model.anomaly_score(rows).items]


def frame(path: Path) -> Path:
    path.write_text("label,hour,card type,amount\nx,0,credit,0.5\ny,23,debit,99.5\nx,12,none,3.5\n")
    return path


@pytest.mark.parametrize("flat", [False, True])
def test_inputs_for_columns_are_joined(tmp_path: Path, flat: bool) -> None:
    """The columns are found by their names, in any order and beside others; each category arrives as its text, and numbers in their type."""
    path = framed(tmp_path / "f.onnx", flat=flat)
    model, output = bring(tmp_path / "m", path, "--columns", frame(tmp_path / "rows.csv"), "--keep-sign")
    assert "f.onnx: its 3 inputs are columns of the file; they are joined to one input for rows" in output
    rows = [
        {"amount": 7.25, "card type": "none", "hour": 23}, {"amount": 0, "card type": "credit", "hour": 0},
        {"hour": 3, "card type": "debit", "amount": 50.5},
    ]  # fmt: skip
    assert scores(model, rows) == [7.25 + 2300 + 4, 1, 50.5 + 300 + 2]


def test_an_unknown_category_is_an_empty_text(tmp_path: Path) -> None:
    """Blocks without a category, with NaN or with several numbers never become another category or an error of the graph."""
    import onnxruntime

    framed(tmp_path / "f.onnx")
    inputs = {name.replace(" ", "_"): column for name, column in zip(SPEC.names, SPEC.columns, strict=True)}
    columns.join(tmp_path / "f.onnx", inputs, SPEC, tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    given = np.asarray([[1, 0, 0, 0, 2], [1, np.nan, np.nan, np.nan, 2], [1, 0, 0, 1, 2.4]], np.float32)
    (scores,) = session.run(None, {columns.ROWS: given})
    assert scores[:, 0].tolist() == [201 - 8, 201 - 8, 201 + 4]


def test_missing_numbers(tmp_path: Path) -> None:
    path, rows = framed(tmp_path / "f.onnx", kind=TensorProto.FLOAT), frame(tmp_path / "rows.csv")
    model, _ = bring(tmp_path / "m", path, "--columns", rows, "--keep-sign", "--missing")
    whole, lacking = scores(
        model, [{"amount": 1, "card type": "debit", "hour": 2}, {"amount": 1, "card type": None, "hour": 2}]
    )
    assert (whole, lacking) == (203, 201 - 8)
    said = refused(tmp_path / "i", framed(tmp_path / "i.onnx"), "--columns", rows, "--keep-sign", "--missing")
    assert "input 'hour' takes whole numbers, of which none stands for a missing value" in said


def test_files_that_do_not_have_the_columns(tmp_path: Path) -> None:
    path = framed(tmp_path / "f.onnx")
    assert "give --columns FILE if the inputs are columns of a table" in refused(tmp_path / "m", path)
    (tmp_path / "less.csv").write_text("amount,hour\n1,2\n3,4\n")
    assert "has no column 'card_type'" in refused(tmp_path / "m", path, "--columns", tmp_path / "less.csv")
    (tmp_path / "other.csv").write_text("amount,hour,card type\n1,2,3\n3,4,5\n")
    said = refused(tmp_path / "m", path, "--columns", tmp_path / "other.csv")
    assert "input 'card_type' takes texts, but the column 'card type' of the file has numbers" in said
    old = framed(tmp_path / "old.onnx", opset=12)
    assert "its opset is 12, but inputs of columns can be joined from opset 13 on" in refused(
        tmp_path / "m", old, "--columns", frame(tmp_path / "rows.csv")
    )


def test_columns_of_a_file(tmp_path: Path) -> None:
    """Numbers keep their values, texts become categories, empty cells are left out, and other columns are refused."""
    (tmp_path / "t.csv").write_text("a,b,c\n1.25,x,\n,,7\n3.5,y,9\n")
    spec = plain_columns.read(tmp_path / "t.csv")
    assert [column.name for column in spec.columns] == ["a", "b", "c"]
    first, second, third = spec.columns
    assert isinstance(first, NumericColumn) and (first.minimum, first.maximum, first.decimals) == (1.25, 3.5, 2)
    assert isinstance(second, CategoricalColumn) and second.categories == ("x", "y")
    assert isinstance(third, NumericColumn) and third.decimals == 0
    for text, said in (
        ("a,b\n1,\n2,\n", "'b' has neither numbers"),
        ("a,b\n1,2020-01-01\n", "'b' has neither numbers"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InvalidValue, match=said):
            plain_columns.read(tmp_path / "t.csv")


def test_a_pipeline_of_scikit_learn_for_a_data_frame(tmp_path: Path) -> None:
    """Scores are those of scikit-learn, row by row."""
    import pandas as pd
    from skl2onnx import to_onnx
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import IsolationForest
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    drawn = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "amount": drawn.gamma(2, 20, 200).round(2).astype(np.float32),
            "hour": drawn.integers(0, 24, 200),
            "country": drawn.choice(["DE", "FR", "US"], 200),
        }
    )
    parts = [
        ("numbers", StandardScaler(), ["amount", "hour"]),
        ("texts", OneHotEncoder(handle_unknown="ignore"), ["country"]),
    ]
    fitted = make_pipeline(ColumnTransformer(parts), IsolationForest(n_estimators=20, random_state=0)).fit(data)
    made = to_onnx(fitted, data[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    (tmp_path / "p.onnx").write_bytes(made.SerializeToString())
    data.to_csv(tmp_path / "rows.csv", index=False)
    model, _ = bring(tmp_path / "m", tmp_path / "p.onnx", "--columns", tmp_path / "rows.csv", "--negate")
    found = scores(model, data.to_dict("records"))
    assert np.allclose(found, -fitted.decision_function(data), atol=1e-5)


def test_random_rows_are_valid() -> None:
    made = SPEC.example(50, np.random.default_rng(0))
    assert ((made[:, 0] >= 0) & (made[:, 0] <= 100)).all() and made[:, 0].std() > 10
    assert np.array_equal(made[:, 1:4].sum(1), np.ones(50)) and set(np.unique(made[:, 1:4])) == {0, 1}
    assert SPEC.outside(made) == {}
    made[:25, 0] = 101
    assert SPEC.outside(made) == {"amount": 0.5}


def test_whole_numbers_are_not_rounded(tmp_path: Path) -> None:
    graphs.write(
        tmp_path / "s.onnx", [node("ReduceSum", ["x", "last"], ["sum"], keepdims=0), node("Cast", ["sum"], ["anomaly"], to=TensorProto.FLOAT)],
        [value("x", TensorProto.INT64, ["B", 3])], [value("anomaly", shape=["B"])], [constant("last", [1])],
    )  # fmt: skip
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n7,8,9\n")
    model, _ = bring(tmp_path / "m", tmp_path / "s.onnx", "--columns", tmp_path / "rows.csv")
    assert scores(model, [{"a": 1, "b": 2, "c": 3}]) == [6]
    with pytest.raises(InvalidValue, match=r"takes whole numbers \(int64\), but a value is 1\.5"):
        scores(model, [{"a": 1, "b": 2, "c": 3}, {"a": 1.5, "b": 2, "c": 3}])
