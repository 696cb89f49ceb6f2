"""Hints about columns that look like labels, and what the report of a fit says about the choice of the detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from typer.testing import CliRunner

from manifold import cli
from manifold.training.data import tables
from manifold.training.data.schema import ColumnSettings
from manifold.training.data.tables import Roles

RANDOM = np.random.default_rng(0)
VALUES: dict[str, Any] = {
    "is_fraud": RANDOM.integers(0, 2, 300),
    "isFraud": RANDOM.integers(0, 2, 300),
    "Class": RANDOM.choice(["good", "bad"], 300),
    "target": RANDOM.choice(["a", "b", "c"], 300),
    "classic": RANDOM.integers(0, 2, 300),  # the word is only a part of the name
    "target_speed": RANDOM.normal(size=300),  # a label has few values
    "class of ticket": RANDOM.normal(size=300),
}


@pytest.mark.parametrize("name", VALUES)
def test_columns_that_look_like_labels_are_named(tmp_path: Path, name: str) -> None:
    """The hint says how to use the column as a label, and how to leave it out. It is silent if the user has said what the column is."""
    file = tmp_path / "rows.csv"
    pa.csv.write_csv(pa.table({"a": RANDOM.normal(size=300), "b": RANDOM.normal(size=300), name: VALUES[name]}), file)
    found = [note for note in tables.of_file(file).notes if "looks like a label" in note]
    expected = name in ("is_fraud", "isFraud", "Class", "target")
    assert len(found) == expected
    if expected:
        assert all(option in found[0] for option in (f"--truth {name}", f"--label {name}", f"--column {name}=ignore"))
        for stated, label, roles in (
            (ColumnSettings(kinds={name: "ignore"}), None, None),
            (ColumnSettings(kinds={name: "categorical"}), None, None),
            (None, name, None),
            (None, None, Roles(truth=f"{name}={VALUES[name][0]}")),
        ):
            assert "looks like a label" not in "".join(tables.of_file(file, stated, label, roles).notes)


def test_the_report_says_why_the_detector_was_chosen_and_what_was_left_out(tmp_path: Path) -> None:
    file, page = tmp_path / "rows.csv", tmp_path / "mine.html"
    pa.csv.write_csv(pa.table({"a": RANDOM.normal(size=2100), "b": RANDOM.normal(size=2100)}), file)
    done = CliRunner().invoke(
        cli.app, ["fit", str(file), "--name", "mine", "--models", str(tmp_path / "models"), "--run", str(tmp_path / "run"),
                  "--html", str(page), "--quiet", "--mixed", "--set", "trim=0.1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    reason = done.output.split("detector: ", 1)[1].splitlines()[0]
    assert reason.startswith("tabular_detector: ")
    text = page.read_text()
    assert f"<p>Detector: {reason}.</p>" in text
    assert "10% of them, the most anomalous, do not count in the fit" in text
