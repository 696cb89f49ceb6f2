"""Data sets made of tables: rows are split, and the schema is fitted on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns
from manifold.runtime.tables.schema import CategoricalColumn
from manifold.runtime.tables.values import Notation, spelling
from manifold.training.data import reading, schema
from manifold.training.data.parts import Array, Arrays
from manifold.training.data.remote import digest
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.splits import Data
from manifold.training.errors import DataError, TrainingError

Table = Mapping[str, Array]
LEAST_ROWS = 30  # of a table
SMALL, FOLDS = 2000, 5  # tables with fewer rows are calibrated by folds of the training rows


def of_file(
    path: Path, stated: ColumnSettings | None = None, label: str | None = None, truth: str | None = None
) -> Data:
    """Return the table in a .csv or .parquet file, split; arguments as of from_table. Raises DataError if it cannot be read."""
    if path.suffix.lower() not in reading.SUFFIXES:
        raise TrainingError(f"{path}: a table is a {' or '.join(reading.SUFFIXES)} file", field="file")
    stated = stated or ColumnSettings()
    options = {"label": label, "truth": truth, "kinds": dict(stated.kinds)}
    protocol = {
        "file": path.name,
        "sha256": digest(path, "sha256"),
        **{key: value for key, value in options.items() if value},
    }
    whole = reading.read(path, Notation.of(stated.missing))
    stated = replace(stated, decimal=whole.notation.decimal, left_out=whole.left_out)
    data = from_table(path.stem, whole.columns, protocol, stated, label, truth, set_aside=True)
    return replace(data, notes=(*_invalid(whole.bad), *data.notes))


def from_table(
    name: str,
    table: Table,
    protocol: dict[str, Any],
    stated: ColumnSettings | None = None,
    label: str | None = None,
    truth: str | None = None,
    *,
    set_aside: bool = False,
) -> Data:
    """Split rows by a permutation (seed 0) into 80% train, 10% calibration, 10% test. The schema is fitted on the training rows.

    If there are fewer than 2000 rows, 90% train and calibration is by folds. `truth` names a column that is 1 for known anomalies and 0
    for the others; the anomalies are kept for evaluation alone. `set_aside` as of from_parts.
    """
    stated = stated or ColumnSettings()
    numbering = schema.row_numbers({key: table[key] for key in table if key not in (label, truth)}, stated)
    stated = replace(stated, left_out={**stated.left_out, **numbering})
    anomalies = None
    if truth is not None:
        table, anomalies = _without_anomalies(table, truth)
    n = _rows(table)
    if n < LEAST_ROWS:
        raise TrainingError(f"data: {name} has {n} rows; at least {LEAST_ROWS} are needed to train, calibrate and test")
    order = np.random.Generator(np.random.Philox(0)).permutation(n)
    small = n < SMALL
    trained = n * 9 // 10 if small else n * 8 // 10
    cuts = {"train": order[:trained], "calibration": order[trained : n * 9 // 10], "test": order[n * 9 // 10 :]}
    parts = {part: take(table, which) for part, which in cuts.items()}
    if anomalies is not None:
        parts["anomalies"] = anomalies
    protocol = {**protocol, "split": "permutation, Philox seed 0"}
    return from_parts(name, parts, protocol, stated, label, folds=FOLDS if small else 0, set_aside=set_aside)


def take(table: Table, which: Array) -> dict[str, Array]:
    """Return some rows of a table, by index or by mask."""
    return {name: column[which] for name, column in table.items()}


def _without_anomalies(table: Table, truth: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the rows whose column `truth` is 0, and those whose column is 1, both without that column."""
    if truth not in table:
        raise TrainingError(f"truth: there is no column {truth!r}", field="truth", valid=list(table))
    values = [spelling(value) for value in table[truth].tolist()]
    if wrong := sorted(set(values) - {"0", "1"}):
        raise TrainingError(
            f"truth: column {truth!r} has {wrong[0]!r}; it must be 1 for anomalies and 0 for other rows", field="truth"
        )
    anomalous = np.asarray(values) == "1"
    rest = {name: column for name, column in table.items() if name != truth}
    return take(rest, ~anomalous), take(rest, anomalous)


def from_parts(
    name: str,
    parts: Mapping[str, Table],
    protocol: dict[str, Any],
    stated: ColumnSettings | None = None,
    label: str | None = None,
    folds: int = 0,
    licence: str = "",
    *,
    set_aside: bool = False,
) -> Data:
    """Return the data set of tables that are split already. The schema is fitted on the training rows.

    The parts are `train`, `calibration` (may be empty if `folds` are given), `test`, and `anomalies` if some are known. `label` names the
    column with the class, which is then no column of the rows. Rows with invalid values, such as a word in a column of numbers, are left
    out and noted if `set_aside`. Raises TrainingError if the label is absent or has missing values, DataError for classes that the training
    rows lack, and for invalid values that are not set aside.
    """
    classes: tuple[str, ...] | None = None
    labels = {part: np.full(_rows(table), -1, np.int64) for part, table in parts.items()}
    if label is not None:
        column = _classes(parts["train"], label)
        classes = column.categories
        # the classes of anomalies are not used
        labels |= {part: _labels(part, table, column) for part, table in parts.items() if part != "anomalies"}
    left = {part: {key: values for key, values in table.items() if key != label} for part, table in parts.items()}
    spec = schema.fit(left["train"], stated)
    made, invalid = {}, dict[int, str]()
    for part, table in left.items():
        encoded = spec.encode(table, missing=True)
        if encoded.bad and not set_aside:
            raise DataError(f"data: {part} row {min(encoded.bad) + 1}: {encoded.bad[min(encoded.bad)]}")
        valid = np.setdiff1d(np.arange(len(encoded.data)), list(encoded.bad))
        made[part] = Arrays(encoded.data[valid], labels[part][valid])
        invalid |= {len(invalid) + place: reason for place, reason in enumerate(encoded.bad.values())}
    return Data(
        name,
        spec,
        made["train"],
        made["calibration"],
        made["test"],
        classes,
        {"data": name, **protocol, **{part: f"{len(held)} rows" for part, held in made.items()}},
        anomalies=made.get("anomalies"),
        folds=folds,
        licence=licence,
        notes=_invalid(invalid),
    )


def _invalid(reasons: Mapping[int, str]) -> tuple[str, ...]:
    """Return a note on rows that were left out, with the reason of the first one."""
    if not reasons:
        return ()
    n = len(reasons)
    return (f"{n} {'row is' if n == 1 else 'rows are'} invalid and left out; the first one: {reasons[min(reasons)]}",)


def _rows(table: Table) -> int:
    return len(next(iter(table.values())))


def _classes(train: Table, label: str) -> CategoricalColumn:
    """Return the column of classes, fitted on the training rows."""
    if label not in train:
        raise TrainingError(f"label: there is no column {label!r}", field="label", valid=list(train))
    column = schema.fit({label: train[label]}, ColumnSettings(kinds={label: "categorical"})).columns[0]
    assert isinstance(column, CategoricalColumn)
    return column


def _labels(part: str, table: Table, column: CategoricalColumn) -> Array:
    """Return the class of each row, int64 (n,). Raises DataError for the first row without a known one."""
    block = columns.encode(table, TableSpec(columns=(column,)))
    if block.bad:
        row = min(block.bad)
        raise DataError(f"data: {part} row {row + 1}: {block.bad[row]}")
    classes: Array = block.data.argmax(axis=1).astype(np.int64)
    return classes
