"""Hints about columns that the user may have meant otherwise, given when a table is read for training."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import cut, shown
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables import columns
from manifold.runtime.tables.schema import CategoricalColumn, NumericColumn
from manifold.runtime.tables.values import number
from manifold.training.data.schema import (
    FEW_NUMBERS,
    HINTED,
    IDENTIFIER,
    MIXED,
    SIGNED,
    ColumnSettings,
    are_codes,
    is_almost_number,
)

Array = NDArray[Any]
CLASSES = 20  # largest number of values of a column of texts that can be a label
# words in the names of columns that hold labels
LABELS = frozenset((
    "anomaly", "anomalous", "attack", "class", "defect", "defective", "fraud", "fraudulent", "label", "labels", "outlier", "target", "truth",
))  # fmt: skip


def of_numbers(table: Mapping[str, Array], spec: TableSpec, stated: ColumnSettings) -> list[str]:
    """Return hints about columns that are treated as texts but might be numbers in another notation."""
    notation, found = stated.notation, []
    texts = [column.name for column in spec.columns if isinstance(column, CategoricalColumn)]
    texts += [name for name, reason in spec.ignored.items() if reason.startswith((IDENTIFIER, MIXED, SIGNED))]
    for name in texts:
        values = table.get(name, np.zeros(0))
        if name in stated.kinds or values.dtype.kind not in "OU":
            continue
        few = values[:HINTED]
        present = few[~columns.missing_values(few, notation)].tolist()
        count = Counter(each for each in present if isinstance(each, str))
        almost = [text for text in count if is_almost_number(text, notation)]
        words = {text: n for text, n in count.items() if number(text, notation) is None}
        if len(almost) > len(words) / 2 and len(count) > 2:
            found.append(
                f"column {cut(name)} is not numeric: values such as {shown(almost[0])} have other characters next to the number, or another decimal separator; "
                "write plain numbers if it is numeric"
            )
        elif len(count) - len(words) > FEW_NUMBERS and len(words) < FEW_NUMBERS and not are_codes(values):
            word = max(words, key=lambda text: words[text])
            found.append(
                f"column {cut(name)} is not numeric: {sum(words.values())} of {count.total()} values are words, such as {shown(word)}; if this means "
                f"a missing value, give --missing {shown(word)}"
            )
    return found


def of_labels(table: Mapping[str, Array], spec: TableSpec, stated: ColumnSettings) -> list[str]:
    """Return hints about columns that the model learns from although name and values are those of a label."""
    found = []
    for column in spec.columns:
        words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.name).lower()))
        few = len(set(table[column.name].tolist())) <= (2 if isinstance(column, NumericColumn) else CLASSES)
        if words & LABELS and few and column.name not in stated.kinds:
            name = shlex.quote(cut(column.name))
            found.append(
                f"column {cut(column.name)} looks like a label, but the model learns from it as from other columns; if it marks known anomalies, give "
                f"--truth {name}; if it holds classes, --label {name}; to leave it out, --column {name}=ignore"
            )
    return found
