"""The example notebooks work from the first cell to the last, and their stored outputs are fit to be published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import notebooks
from tests.blocks import missing
from tests.conftest import ROOT

MAX_BYTES = 150_000  # for one notebook with its outputs
LOCAL = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|private|var|opt|mnt|usr)/")


def cells(path: Path) -> list[Any]:
    """Return the code cells of a stored notebook."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def kinds(outputs: list[Any]) -> set[str]:
    """Return the kinds of output of a cell, such as stdout and image/png."""
    return {kind for output in outputs for kind in output.get("data", {output.get("name"): ""})} - {"image/jpeg"}


def texts(outputs: list[Any]) -> str:
    """Return the texts that a cell prints or shows. A Markdown table counts by its header, because its rows depend on the model."""
    found = []
    for output in outputs:
        shown = {
            kind: "".join(text) for kind, text in output.get("data", {"text/plain": output.get("text", "")}).items()
        }
        found += [shown.get("text/markdown", "").partition("\n")[0], shown.get("text/plain", "")]
    return "\n".join(found)


def test_there_are_three() -> None:
    assert [path.stem for path in notebooks.NOTEBOOKS] == ["1-first-samples", "2-score-your-table", "3-bring-a-model"]


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_can_be_published(path: Path) -> None:
    stored = [output for cell in cells(path) for output in cell["outputs"]]
    assert stored and not [output for output in stored if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    assert not LOCAL.search(path.read_text()) and str(ROOT) not in path.read_text()
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("text", ["in /tmp/x", '"/home/me/a"', "file:///root/a", "(/Users/me)", f"{ROOT}/models"])
def test_a_local_path_is_found(text: str) -> None:
    assert LOCAL.search(text) or str(ROOT) in text
    assert not LOCAL.search("models/my-model/1")


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path) -> None:
    """A failed cell raises. The preset `smoke` gives other numbers than the stored outputs, but outputs of the same kinds and the same texts."""
    book = notebooks.executed(path, {"PRESET": "smoke", "OMP_NUM_THREADS": "1"})
    made = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    stored = [cell["outputs"] for cell in cells(path)]
    assert [kinds(outputs) for outputs in made] == [kinds(outputs) for outputs in stored]
    for before, now in zip(stored, made, strict=True):
        assert missing(texts(before), texts(now)) is None, texts(now)
