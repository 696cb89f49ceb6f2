"""Graphs with an input for each column of a table, as skl2onnx makes them of pipelines for data frames, joined to graphs that take whole rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from manifold.runtime.errors import GraphError, InvalidValue, cut, reason, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn

Column = NumericColumn | CategoricalColumn
ROWS = "rows"  # the name of the new input
OLDEST = 13  # the oldest opset with the operators that are added
UNKNOWN = ""  # the text for a category that did not occur in training


def columns_of(inputs: Sequence[str], spec: TableSpec) -> dict[str, Column] | None:
    """Return the column of each input by the input's name; None if no input has the name of a column.

    Other characters than letters and digits may be underscores in the graph. Raises InvalidValue for an input without a column, and for one that could be
    one of two columns.
    """
    found = {name: [column for column in spec.columns if column.name == name] for name in inputs}
    for name in inputs:
        found[name] = found[name] or [column for column in spec.columns if _plain(column.name) == _plain(name)]
    if not any(found.values()):
        return None
    for name, columns in found.items():
        if not columns:
            raise InvalidValue(
                f"--columns: the graph has an input for each column, but the file has no column {shown(name)}; give a file with all columns of the graph, or "
                f"say what the input is, such as --constant {cut(name)}=1",
                field="--columns",
            )
    used = [column.name for columns in found.values() for column in columns]
    if twice := [name for name in used if used.count(name) > 1]:
        raise InvalidValue(
            f"--columns: two inputs of the graph could be the column {shown(twice[0])}; rename one of them",
            field="--columns",
        )
    if several := [name for name, columns in found.items() if len(columns) > 1]:
        raise InvalidValue(
            f"--columns: the input {shown(several[0])} could be one of several columns of the file; rename the columns", field="--columns"
        )  # fmt: skip
    return {name: columns[0] for name, columns in found.items()}


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def join(path: Path, columns: Mapping[str, Column], spec: TableSpec, target: Path, *, missing: bool = False) -> None:
    """Write a graph that takes encoded rows (B, width) and gives inputs of the graph in `path` the values of their columns.

    `columns` are the columns by the names of the inputs, and `spec` has them among others, in the order of the rows. A number is converted into the type
    of the input, and a one-hot block into the text of its category, or into an empty text if the category is unknown or missing. A missing number stays
    NaN, which `missing` allows. Raises GraphError if the graph cannot be joined.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise errors of many types
        raise GraphError(f"{path.name}: cannot be read: {reason(error)}", graph=path.name) from error
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        raise GraphError(
            f"{path.name}: its opset is {opset}, but inputs of columns can be joined from opset {OLDEST} on; export it again", graph=path.name
        )  # fmt: skip
    held = {each.name for each in model.graph.initializer}
    given = [each for each in model.graph.input if each.name in columns and each.name not in held]
    places = {column.name: block for column, block in spec.placed}
    made = _Nodes(missing)
    for tensor in given:
        column = columns[tensor.name]
        made.column(path.name, tensor, column, places[column.name])
    rows = helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["B", *spec.shape])
    kept = [each for each in model.graph.input if each not in given]
    del model.graph.input[:]
    model.graph.input.extend([rows, *kept])
    nodes = [*made.nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(made.constants)
    target.write_bytes(model.SerializeToString())


class _Nodes:
    """The added nodes and their constants."""

    def __init__(self, missing: bool) -> None:
        self.missing = missing
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def column(self, graph: str, tensor: Any, column: Column, block: slice) -> None:
        """Add the nodes that compute the values of one column, under the name of its input."""
        of = f"{ROWS}/{tensor.name}/"
        kind = tensor.type.tensor_type.elem_type
        texts = kind == TensorProto.STRING
        if texts != isinstance(column, CategoricalColumn):
            raise InvalidValue(
                f"{graph}: input {shown(tensor.name)} takes {'texts' if texts else 'numbers'}, but the column {shown(column.name)} of the file has "
                f"{'numbers' if texts else 'texts'}; give a file in which the column is as in training",
                field="--columns",
            )
        bounds = [self._constant(f"{of}{name}", np.asarray([value], np.int64)) for name, value in
                  (("start", block.start), ("end", block.stop), ("axis", 1))]  # fmt: skip
        values = self._add("Slice", [ROWS, *bounds], f"{of}values")
        if isinstance(column, CategoricalColumn):
            values = self._text(values, of, column)
        elif np.issubdtype(helper.tensor_dtype_to_np_dtype(kind), np.integer):
            if self.missing:
                raise InvalidValue(
                    f"{graph}: input {shown(tensor.name)} takes whole numbers, of which none stands for a missing value; leave out --missing, or export the "
                    "graph with a float input for this column", field="--missing",
                )  # fmt: skip
            values = self._add("Round", [values], f"{of}whole")
        if len(tensor.type.tensor_type.shape.dim) == 1:
            values = self._add("Squeeze", [values, self._constant(f"{of}last", np.asarray([1], np.int64))], f"{of}flat")
        self._add(*("Identity", [values], tensor.name)) if texts else self._add("Cast", [values], tensor.name, to=kind)

    def _text(self, block: str, of: str, column: CategoricalColumn) -> str:
        """Add the nodes from a one-hot block (B, K) to texts (B, 1). A block of zeros, or of NaN, is an unknown category."""
        known = self._add("Greater", [block, self._constant(f"{of}half", np.float32(0.5))], f"{of}known")
        numbers = self._add("Cast", [known], f"{of}numbers", to=TensorProto.INT64)
        places = np.arange(1, column.width + 1, dtype=np.int64)[:, None]
        place = self._add("MatMul", [numbers, self._constant(f"{of}places", places)], f"{of}place")
        last = self._constant(f"{of}categories", np.asarray(column.width, np.int64))
        index = self._add(
            "Min", [place, last], f"{of}index"
        )  # it differs from place for values that are no one-hot block
        texts = np.asarray([UNKNOWN, *column.categories], object)
        return self._add("Gather", [self._constant(f"{of}texts", texts), index], f"{of}text")
