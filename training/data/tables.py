"""Data sets made of tables. Their rows are split, and the schema is fitted to the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.engine import Model
from manifold.runtime.errors import LISTED, cut, near, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import bulk, recalibration
from manifold.runtime.tables import columns, files, truth
from manifold.runtime.tables.columns import EncodedTable
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.truth import ANOMALOUS, OTHER, UNLABELLED, Truth
from manifold.runtime.tables.values import MISSING, Notation, spelling, text_of
from manifold.training.data import hints, reading, schema, table_splits
from manifold.training.data.parts import Array, Arrays
from manifold.training.data.remote import digest
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.splits import BY_CALIBRATION, Data, FileRows
from manifold.training.data.table_splits import BY_BLOCKS, BY_PERMUTATION, FOLDS
from manifold.training.errors import DataError, TrainingError

Table = Mapping[str, Array]
LEAST_ROWS = 30  # smallest number of rows of a table
STATED = ("label", "kinds", "missing", "truth", "id", "passed", "split")  # options of a table in its protocol


@dataclass(frozen=True)
class Roles:
    """The columns of a table that the model does not learn from, by their role.

    `truth` is a column or an expression in the syntax of runtime.tables.truth.
    """

    truth: str | None = None
    id: str | None = None
    passed: tuple[str, ...] = ()

    def stated(self) -> dict[str, Any]:
        """Return the given roles, for a protocol."""
        options = {"truth": self.truth, "id": self.id, "passed": list(self.passed)}
        return {key: value for key, value in options.items() if value}


def of_file(
    path: Path,
    stated: ColumnSettings | None = None,
    label: str | None = None,
    roles: Roles | None = None,
    *,
    split: str = BY_BLOCKS,
) -> Data:
    """Load and split the table in a .csv, .parquet or .npy file. The arguments are those of from_table. Raises DataError if it is unreadable."""
    if path.suffix.lower() not in reading.SUFFIXES:
        raise TrainingError(f"{path}: it is not a table; give a {reading.LISTED_SUFFIXES} file", field="file")
    stated = stated or ColumnSettings()
    missing = None if stated.missing == MISSING else list(stated.missing)
    options = {"label": label, "kinds": dict(stated.kinds), "missing": missing}
    protocol = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest(path, "sha256"),
        **{key: value for key, value in options.items() if value},
        **(roles or Roles()).stated(),
    }
    told = None if roles is None else roles.truth
    whole = reading.read(
        path,
        stated.notation,
        lambda names: () if told is None else [truth.parse(told, list(names)).column],
        stated.ignored,
    )
    stated = replace(stated, decimal=whole.notation.decimal, left_out=whole.left_out, vectors=whole.vectors)
    protocol["rows"] = max([*whole.numbers[-1:].tolist(), *whole.bad], default=0)
    data = from_table(
        path.stem, whole.columns, protocol, stated, label, roles, file=path, numbers=whole.numbers, split=split
    )
    notes = (
        *whole.notes,
        *_invalid(whole.bad),
        *data.notes,
        *_missing(whole.columns, TableSpec.of(data.spec, path.name)),
    )
    return replace(data, notes=notes)


def of_protocol(path: Path, stated: Mapping[str, Any]) -> Data:
    """Return the table in a file, read with the options that `of_file` wrote into the protocol (`STATED`) of an earlier reading.

    Runs of earlier versions do not state the split; it was a permutation.
    """
    settings = ColumnSettings(kinds=dict(stated.get("kinds") or {}))
    if (missing := stated.get("missing")) is not None:
        settings = replace(settings, missing=tuple(missing))
    roles = Roles(stated.get("truth"), stated.get("id"), tuple(stated.get("passed") or ()))
    return of_file(path, settings, stated.get("label"), roles, split=stated.get("split", BY_PERMUTATION))


def from_table(
    name: str,
    table: Table,
    protocol: dict[str, Any],
    stated: ColumnSettings | None = None,
    label: str | None = None,
    roles: Roles | None = None,
    *,
    file: Path | None = None,
    numbers: NDArray[np.int64] | None = None,
    split: str = BY_PERMUTATION,
) -> Data:
    """Split rows at random into 80% train, 10% calibration and 10% test. The schema is fitted to the training rows.

    The rule `split` is a permutation of all rows, or draws one test row from each 10 rows, so that test rows stay test rows if rows are
    appended. If there are fewer than 2000 rows, 90% are for training and calibration is by folds. Known anomalies, as defined by the truth rule, are
    used for evaluation only. Rows without a value in the column of the rule are unlabelled and treated like normal rows. `numbers` are the numbers
    of the rows in `file`, by default 1 to n. Rows of a file with invalid values are left out and reported in the notes.
    """
    if not table:
        without = {} if stated is None else stated.left_out
        why = (
            "; ".join(f"{cut(column) or 'a column'}: {reason}" for column, reason in without.items()) or "there is none"
        )
        raise TrainingError(f"data: no column is left to learn from ({why}); add columns with numbers or categories")
    roles, n = roles or Roles(), _rows(table)
    stated = _without_learning(table, stated or ColumnSettings(), label, roles)
    numbers = np.arange(1, n + 1) if numbers is None else numbers
    marks, rule, notes = _marks(table, roles.truth, stated.notation)
    places = table_splits.split(marks, split)
    if len(places["train"]) + len(places["calibration"]) + len(places["test"]) < LEAST_ROWS:
        known = f"; {(marks == ANOMALOUS).sum()} of its {n} rows are known anomalies" if rule else ""
        raise TrainingError(
            f"data: {name} has {(marks != ANOMALOUS).sum()} rows to learn from{known}; at least {LEAST_ROWS} are needed to train, "
            "calibrate and test"
        )
    parts = {part: take(table, which) for part, which in places.items() if part != "anomalies" or rule is not None}
    protocol = {**protocol, "split": split}
    invalid: dict[str, dict[int, str]] | None = None if file is None else {}
    data = from_parts(
        name, parts, protocol, stated, label, folds=0 if len(places["calibration"]) else FOLDS, invalid=invalid
    )
    notes += hints.of_numbers(parts["train"], TableSpec.of(data.spec, name), stated)
    if file is not None and label is None and roles.truth is None:
        notes += hints.of_labels(parts["train"], TableSpec.of(data.spec, name), stated)
    if file is not None and invalid is not None:
        reasons = {
            int(numbers[places[part][at]]): reason for part, bad in invalid.items() for at, reason in bad.items()
        }
        notes += _invalid(reasons)
        left = {part: np.delete(places[part], list(invalid.get(part, {}))) for part in ("test", "anomalies")}
        normal = marks[left["test"]] == OTHER
        data = replace(data, rows=FileRows(file, numbers[left["test"]], numbers[left["anomalies"]], normal))
    return replace(data, spec=_with_roles(TableSpec.of(data.spec, name), roles, rule, label), notes=tuple(notes))


def _marks(table: Table, stated: str | None, notation: Notation) -> tuple[NDArray[np.int8], Truth | None, list[str]]:
    """Return the mark of each row (n,), the rule that defines it, and notes about both."""
    n = _rows(table)
    if stated is None:
        return np.full(n, UNLABELLED, np.int8), None, []
    expression = truth.parse(stated, list(table))
    values = table[expression.column].tolist()
    rule, said = truth.settle(expression, truth.Counts(values, notation))
    marks = rule.marks(values, notation)
    notes = [said]
    if unlabelled := int((marks == UNLABELLED).sum()):
        notes.append(
            f"truth: {unlabelled} of {n} rows have no value in {shown(rule.column)}; they are unlabelled and treated like rows of a file "
            "without a truth: used for training, and not counted as false positives"
        )
    return marks, rule, notes


def _without_learning(table: Table, stated: ColumnSettings, label: str | None, roles: Roles) -> ColumnSettings:
    """Return the settings without the columns of the roles. Raises the errors of `check_roles`."""
    left = check_roles(list(table), stated, label, roles)
    learned = {name: values for name, values in table.items() if name not in left and name != label}
    numbering = schema.row_numbers(learned, stated)
    return replace(
        stated, kinds={**stated.kinds, **dict.fromkeys(left, "ignore")}, left_out={**stated.left_out, **numbering}
    )


def check_header(path: Path, stated: ColumnSettings, label: str | None, roles: Roles) -> None:
    """Raise an error if the file cannot be opened as a table, or if its header lacks a column that the options name. No rows are read."""
    names = reading.names(path, stated.ignored)
    check_roles(names, stated, label, roles)
    for name in (*stated.kinds, *([] if label is None else [label])):
        if name not in (*names, schema.OTHERS):
            option = "--label" if name == label else "--column"
            raise TrainingError(f"{option}: {_no_column(name, names)}", field=option.lstrip("-"), valid=names)


def check_roles(names: list[str], stated: ColumnSettings, label: str | None, roles: Roles) -> list[str]:
    """Return the columns with a role. Raises TrainingError for a missing column, and for one with a kind or two roles.

    `names` are the columns of the table.
    """
    named = {"--id": [roles.id] if roles.id else [], "--keep": list(roles.passed), "--truth": list[str]()}
    if roles.truth is not None and (column := truth.parse(roles.truth, names).column) != label:
        named["--truth"].append(column)
    for option, given in named.items():
        for name in given:
            if name not in names:
                raise TrainingError(f"{option}: {_no_column(name, names)}", field=option, valid=names)
            if name == label:
                raise TrainingError(
                    f"{option}: column {shown(name)} is already used by --label; choose another column", field=option
                )
            if (kind := stated.kinds.get(name, "ignore")) != "ignore":
                raise TrainingError(
                    f"{option}: column {shown(name)} is not learned from; remove --column {cut(name)}={kind}. To learn from a column and also copy "
                    f"it to the output, name it when scoring: manifold score --keep {cut(name)}",
                    field=option,
                )
    if twice := [name for name in roles.passed if name == roles.id or roles.passed.count(name) > 1]:
        raise TrainingError(f"--keep: column {shown(twice[0])} is given twice; give it once", field="--keep")
    return [name for given in named.values() for name in given]


def _no_column(name: str, names: Iterable[str]) -> str:
    """Return the text of an error for a missing column. `names` are the columns of the table."""
    names = list(names)
    return f"there is no column {shown(name)}{near(name, names)}; the table has {', '.join(map(cut, names[:LISTED]))}"


def _with_roles(spec: TableSpec, roles: Roles, rule: Truth | None, label: str | None) -> TableSpec:
    """Return the schema with the roles, and with the reasons why their columns and the column of classes are left out."""
    why = {} if label is None else {label: "holds the classes"}
    why |= {} if rule is None else {rule.column: "says which rows are known anomalies"}
    why |= dict.fromkeys(roles.passed, "is copied to the output")
    if roles.id is not None:
        why[roles.id] = "names the row; it is copied to the output"
    made = {"ignored": {**spec.ignored, **why}, "truth": rule, "id": roles.id, "passed": roles.passed or None}
    return TableSpec.model_validate({**spec.model_dump(), **made})


def of_model(model: Model, path: Path, stated: str | None = None) -> Data:
    """Read the rows of a file with the columns of a fitted model, to evaluate it. `stated` is a truth rule that replaces the model's own.

    The file to which the model was fitted is split as for fitting, also if rows were appended to it; these are evaluated too. For any other file, all
    rows are evaluated and the training split is empty.
    """
    manifest = model.manifest
    fitted = manifest.provenance.get("data")
    fitted = fitted if isinstance(fitted, dict) else {}
    bad: list[tuple[int, str]] = []
    pieces = []  # for each chunk: row numbers, marks by the model's rule, marks by the rule for evaluation, encoded rows
    with path.open("rb") as source:
        own, rule = (recalibration.rule_of(model, source, files.format_of(path), text) for text in (None, stated))
        also = list(dict.fromkeys(each.column for each in (own, rule) if each is not None))
        for chunk in bulk.encoded(model, source, files.format_of(path), also=also):
            both = [recalibration.marks_of(chunk, each) for each in (own, rule)]
            pieces.append((chunk.numbers, *both, chunk.data))
            bad += chunk.bad.items()
    numbers, own_marks, marks, encoded = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    items = Arrays(encoded, np.full(len(numbers), -1, np.int64))
    sha256 = digest(path, "sha256")
    same = sha256 == fitted.get("sha256")
    places, later = table_splits.unseen(path, fitted, same, numbers, own_marks)
    unseen = np.sort(np.concatenate([places["test"], places["anomalies"]]))
    places |= {"test": unseen[marks[unseen] != ANOMALOUS], "anomalies": unseen[marks[unseen] == ANOMALOUS]}
    if not len(places["test"]):
        raise DataError(
            f"{path}: no row is left for evaluation, as all {len(unseen)} rows that were not used in training are known anomalies; add normal rows"
        )
    notes = (
        [f"{path.name}: {len(bad)} rows could not be read and are left out (row {bad[0][0]}: {bad[0][1]})"]
        if bad
        else []
    )
    shift = ""
    if later:
        shift = f"{later} of the rows were appended to {path.name} after {manifest.name} was fitted to it"
        notes.append(
            f"{shift}: they are evaluated too, and the rows that the model was trained or calibrated on are left out"
        )
    elif not same:
        shift = f"all rows of {path.name} are evaluated, and the calibration rows come from another file"
        notes.append(
            f"{path.name} is not the file to which {manifest.name} was fitted: all its rows are evaluated. Rows that the model was trained on are "
            "not recognised in another file; remove them, as they make the figures too good. There is no comparison with other detectors, because they "
            "are fitted to the training rows"
        )
    judged = FileRows(
        path,
        numbers[places["test"]],
        numbers[places["anomalies"]],
        marks[places["test"]] == OTHER,
        held_out=same or later > 0,
    )
    parts = {part: items[which] for part, which in places.items()}
    return Data(
        path.stem, manifest.spec, parts["train"], parts["calibration"], parts["test"],
        anomalies=None if rule is None else parts["anomalies"], rows=judged, notes=tuple(notes), shift=shift,
        protocol={"data": path.stem, "sha256": sha256}, folds=FOLDS if same and not len(places["calibration"]) else 0,
    )  # fmt: skip


def take(table: Table, which: Array) -> dict[str, Array]:
    """Select rows of a table by index or by mask."""
    return {name: column[which] for name, column in table.items()}


def from_parts(
    name: str,
    parts: Mapping[str, Table],
    protocol: dict[str, Any],
    stated: ColumnSettings | None = None,
    label: str | None = None,
    folds: int = 0,
    licence: str = "",
    *,
    invalid: dict[str, dict[int, str]] | None = None,
    shift: str = "",
) -> Data:
    """Return a data set from tables that are already split. The schema is fitted to the training rows. `shift` is that of Data.

    The splits are `train`, `calibration` (which may be empty if `folds` is given), `test`, and `anomalies` if some are known. `label` names
    the column of classes, which is then not a column of the rows. Rows with invalid values, such as a word in a numeric column, are left out
    and added to `invalid`, which maps each split to row indices and reasons. Raises TrainingError if the label column is absent or has
    missing values, and DataError for classes that no training row has, and for invalid values without `invalid`.
    """
    stated = stated or ColumnSettings()
    classes: tuple[str, ...] | None = None
    labels = {part: np.full(_rows(table), -1, np.int64) for part, table in parts.items()}
    if label is not None:
        column = _classes(parts["train"], label, stated)
        classes = column.categories
        # the classes of anomalies are not used
        labels |= {part: _labels(part, table, column, stated) for part, table in parts.items() if part != "anomalies"}
    left = {part: {key: values for key, values in table.items() if key != label} for part, table in parts.items()}
    spec = schema.fit(left["train"], stated)
    made = {}
    for part, table in left.items():
        encoded = spec.encode(table, missing=True)
        if invalid is not None:
            invalid[part] = encoded.bad
        else:
            _check_valid(part, encoded)
        valid = np.delete(np.arange(len(encoded.data)), list(encoded.bad))
        made[part] = Arrays(encoded.data[valid], labels[part][valid])
    return Data(
        name,
        spec,
        made["train"],
        made["calibration"],
        made["test"],
        classes,
        {
            "data": name,
            **protocol,
            **{part: f"{len(held)} rows" for part, held in made.items()},
            **({} if folds else {"selection": BY_CALIBRATION}),
            **({"shift": shift} if shift else {}),
        },
        anomalies=made.get("anomalies"),
        folds=folds,
        licence=licence,
        shift=shift,
    )


def _check_valid(part: str, encoded: EncodedTable) -> None:
    """Raise DataError for the first row that could not be encoded."""
    if encoded.bad:
        row = min(encoded.bad)
        raise DataError(f"data: {part} row {row + 1}: {encoded.bad[row]}")


def _invalid(reasons: Mapping[int, str]) -> list[str]:
    """Return a note about rows that were left out, with the number of the first one and the reason."""
    if not reasons:
        return []
    n, first = len(reasons), min(reasons)
    return [f"{n} {'row is' if n == 1 else 'rows are'} invalid and left out (row {first}: {reasons[first]})"]


def _missing(table: Table, spec: TableSpec) -> list[str]:
    """Return a note about learned columns with missing values: the number of rows, and the texts that mean a missing value."""
    found = []
    for column in spec.columns:
        name, values = column.name, table[column.name]
        absent = columns.missing_values(values, spec.notation, numeric=isinstance(column, NumericColumn))
        if n := int(absent.sum()):
            texts = sorted({text_of(value) for value in values[absent].tolist() if isinstance(value, str)} - {""})
            found.append(f"{shown(name)} in {n} rows" + (f" (written {', '.join(map(cut, texts))})" if texts else ""))
    if not found:
        return []
    more = f" and {len(found) - LISTED} more columns" if len(found) > LISTED else ""
    return [
        f"missing values: {', '.join(found[:LISTED])}{more}; the other columns decide these scores. Give other texts with --missing TEXT"
    ]


def _rows(table: Table) -> int:
    return len(next(iter(table.values())))


def _classes(train: Table, label: str, stated: ColumnSettings) -> CategoricalColumn:
    """Return the column of classes, fitted to the training rows."""
    if label not in train:
        raise TrainingError(
            f"label: there is no column {shown(label)}; the table has {', '.join(map(cut, list(train)[:LISTED]))}",
            field="label",
            valid=list(train),
        )
    present = train[label][~columns.missing_values(train[label], stated.notation)]
    if len(classes := {spelling(value) for value in present.tolist()}) == 1:
        raise TrainingError(
            f"label: all rows to learn from have the single class {shown(*classes)} in column {shown(label)}; remove --label",
            field="label",
        )
    settings = ColumnSettings(kinds={label: "categorical"}, missing=stated.missing, decimal=stated.decimal)
    (column,) = schema.fit({label: train[label]}, settings).columns
    assert isinstance(column, CategoricalColumn)
    return column


def _labels(part: str, table: Table, column: CategoricalColumn, stated: ColumnSettings) -> Array:
    """Return the class of each row, int64 (n,). Raises DataError for the first row without a known class."""
    absent = int(columns.missing_values(table[column.name], stated.notation).sum())
    if absent:
        raise TrainingError(
            f"label: {absent} rows of the {part} part have no value in column {shown(column.name)}; fill in their class, or remove these rows",
            field="label",
        )
    block = columns.encode(table, TableSpec(columns=(column,), missing=stated.missing, decimal=stated.decimal))
    _check_valid(part, block)
    classes: Array = block.data.argmax(axis=1).astype(np.int64)
    return classes
