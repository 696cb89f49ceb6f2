"""List columns of Parquet files that are no vectors, or not those of the model."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from manifold.runtime.errors import Malformed
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import files
from manifold.training.data import schema, tables
from manifold.training.errors import DataError, TrainingError
from tests.test_vectors import WIDTH, N, as_lists, as_parquet, vectors


def test_an_ignored_list_column_is_not_read_as_vectors(tmp_path: Path) -> None:
    """Lists of different lengths, or further vectors, do not stand in the way of a column that is learned, in fit and in score."""
    found, rng = vectors(N), np.random.default_rng(0)
    path = tmp_path / "rows.parquet"
    ragged = pa.array([rng.normal(size=i % 3).tolist() for i in range(N)], pa.list_(pa.float32()))
    columns = {"e": pa.array(found.tolist(), pa.list_(pa.float32())), "ragged": ragged}
    path.write_bytes(as_parquet(columns))
    spec = tables.of_file(path, schema.ColumnSettings(kinds={"ragged": "ignore"})).spec
    assert isinstance(spec, TableSpec)
    assert len(spec.names) == WIDTH and spec.ignored == {"ragged": "left out on request"}
    (chunk,) = files.chunks(io.BytesIO(path.read_bytes()), "parquet", spec)
    assert np.array_equal(chunk.table["x3"], found[:, 3])
    path.write_bytes(as_parquet({"price": rng.normal(size=N), **columns}))
    with pytest.raises(TrainingError, match="no column 'nothing'"):
        tables.check_header(
            path, schema.ColumnSettings(kinds={"nothing": "ignore", "e": "ignore"}), None, tables.Roles()
        )
    both = schema.ColumnSettings(kinds={"e": "ignore", "ragged": "ignore"})
    tables.check_header(path, both, None, tables.Roles())
    spec = tables.of_file(path, both).spec
    assert isinstance(spec, TableSpec)
    assert spec.names == ["price"] and set(spec.ignored) == {"e", "ragged"}
    with pytest.raises(
        DataError, match=r"'e', 'ragged' all hold vectors; leave out all but one with --column NAME=ignore"
    ):
        tables.of_file(path)


def test_other_lists_are_left_out_with_advice(tmp_path: Path) -> None:
    lists = pa.array([[1, 2]] * N, pa.list_(pa.int64()))
    (tmp_path / "rows.parquet").write_bytes(as_parquet({"n": np.random.default_rng(0).normal(size=N), "tags": lists}))
    spec = tables.of_file(tmp_path / "rows.parquet").spec
    assert isinstance(spec, TableSpec)
    assert "lists of floating-point numbers of the same length would be read as vectors" in spec.ignored["tags"]


def test_a_list_column_stands_only_for_numbers_of_a_vector(tmp_path: Path) -> None:
    """A model of ordinary columns does not take a list in place of a missing column."""
    table = {"price": np.linspace(0, 1, 40), "qty": np.arange(40.0), "shop": np.asarray(["a", "b"] * 20)}
    spec = schema.fit(table, schema.ColumnSettings())
    file = tmp_path / "rows.parquet"
    lists = pyarrow.array([[0.5]] * 40, pyarrow.list_(pyarrow.float32()))
    for missing in ("shop", "price"):
        kept = {name: values for name, values in table.items() if name != missing}
        pyarrow.parquet.write_table(pyarrow.table({**kept, "tags": lists}), file)
        with file.open("rb") as source, pytest.raises(Malformed, match=f"lacks the column '{missing}'"):
            list(files.chunks(source, "parquet", spec))


def test_a_file_with_lists_alone_has_nothing_to_learn_from(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(as_parquet({"tags": pa.array([[1, 2]] * N, pa.list_(pa.int64()))}))
    with pytest.raises(TrainingError, match=r"no column is left to learn from \(tags: has the type list"):
        tables.of_file(path)


def test_vectors_of_other_lengths_are_invalid_rows() -> None:
    """A file is refused only if no vector at its beginning has the right width. Lists of whole numbers are named."""
    found = vectors(6)
    names = [f"x{place}" for place in range(WIDTH)]
    spec = schema.fit(dict(zip(names, vectors(N).T, strict=True)), schema.ColumnSettings(vectors=tuple(names)))
    lists = found.tolist()
    lists[0] = lists[0][:-1]
    (chunk,) = files.chunks(io.BytesIO(as_parquet({"e": pa.array(lists, pa.list_(pa.float32()))})), "parquet", spec)
    assert chunk.bad == {1: f"has a vector of {WIDTH - 1} numbers, but {WIDTH} are needed"}
    assert np.array_equal(chunk.table["x3"][1:], found[1:, 3])
    with pytest.raises(Malformed, match="vectors of 23 numbers, but the model has 24 columns"):
        list(files.chunks(io.BytesIO(as_lists(found[:, :-1])), "parquet", spec))
    whole = as_parquet({"e": pa.array([[1] * WIDTH] * 3, pa.list_(pa.int64()))})
    with pytest.raises(Malformed, match=r"'e' has the type list.*vectors must be lists of floating-point numbers"):
        list(files.chunks(io.BytesIO(whole), "parquet", spec))
