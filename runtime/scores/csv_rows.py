"""A writer of scored rows as CSV, for spreadsheets: one line per row, with the columns of the Parquet output and the reasons as plain columns.

The file is UTF-8 without a byte order mark, with commas, a header, decimal points, and quotes around every text. An empty cell is a missing value.

Texts that a spreadsheet would take for formulas get an apostrophe: see runtime.tables.formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manifold.runtime.scores import leading
from manifold.runtime.scores.scored_rows import ColumnsWriter, ScoredRows
from manifold.runtime.tables.formulas import SUSPECT, no_formula

SEPARATOR = " | "  # between several texts in one cell


class CsvWriter(ColumnsWriter):
    """A writer of CSV."""

    def _columns(self, made: dict[str, Any], scored: ScoredRows) -> dict[str, Any]:
        warnings = made.pop("warnings")
        parts = {name: made.pop(name) for name in list(made) if name.startswith("part.")}
        made |= {} if scored.explanations is None else _reasons(scored.explanations)
        made |= {"warnings": [SEPARATOR.join(each) or None for each in warnings.to_pylist()], **parts}
        return {no_formula(name): _cells(column) for name, column in made.items()}

    def _opened(self, schema: Any) -> Any:
        from pyarrow import csv

        return csv.CSVWriter(self.out, schema)


def _cells(column: Any) -> Any:
    """Return a column as pyarrow can write it: numbers, truth values and times as they are, all others as texts without formulas."""
    import pyarrow
    from pyarrow import compute, types

    if isinstance(column, list):
        column = pyarrow.array(column, pyarrow.string())
    elif not isinstance(column, pyarrow.Array | pyarrow.ChunkedArray):
        column = pyarrow.array(column)
    kind = column.type
    if types.is_dictionary(kind):
        return _cells(column.cast(kind.value_type))
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_date, types.is_time, types.is_timestamp)  # fmt: skip
    if any(fits(kind) for fits in plain):
        return column
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        column = column.cast(pyarrow.string())
    else:
        column = pyarrow.array(
            [None if value is None else str(value) for value in column.to_pylist()], pyarrow.string()
        )
    if not compute.any(compute.match_substring_regex(column, SUSPECT)).as_py():
        return column
    return pyarrow.array([None if text is None else no_formula(text) for text in column.to_pylist()], pyarrow.string())


def _reasons(explanations: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Return the columns of the main reason, and the further reasons as a text. They are empty for rows that are not flagged."""
    import pyarrow

    found = [leading.reasons(each) for each in explanations]
    first = [reasons[0] if reasons else None for reasons in found]
    return {
        "reason": [None if main is None else main.column for main in first],
        "reason_value": [None if main is None else main.value for main in first],
        "reason_expected": [None if main is None else main.expected for main in first],
        "reason_share": pyarrow.array([None if main is None else round(main.share, 4) for main in first], pyarrow.float64()),
        "other_reasons": [SEPARATOR.join(map(str, reasons[1:])) or None for reasons in found],
    }  # fmt: skip
