"""The split of a table in a file: exact shares, and held-out rows that stay held out if the file grows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manifold.runtime.tables.truth import ANOMALOUS, UNLABELLED
from manifold.training import families, runs
from manifold.training.data import tables
from manifold.training.data.table_splits import BLOCK, BY_BLOCKS, BY_PERMUTATION, SMALL, split
from manifold.training.errors import DataError
from tests.conftest import made_table


def marks(n: int, every: int = 0) -> np.ndarray:
    """Return the marks of n rows, with a known anomaly in every `every` rows."""
    found = np.full(n, UNLABELLED, np.int8)
    if every:
        found[::every] = ANOMALOUS
    return found


@pytest.mark.parametrize("rule", [BY_BLOCKS, BY_PERMUTATION])
@pytest.mark.parametrize(("n", "every"), [(30, 0), (39, 0), (400, 7), (1999, 0), (2000, 0), (2455, 13), (5003, 0)])
def test_every_row_is_in_one_part(rule: str, n: int, every: int) -> None:
    parts = split(marks(n, every), rule)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    rest = n - len(parts["anomalies"])
    assert abs(len(parts["test"]) - rest / 10) <= 1
    assert abs(len(parts["calibration"]) - (rest / 10 if rest >= SMALL else 0)) <= 1


@pytest.mark.parametrize(("before", "after"), [(400, 401), (399, 3000), (1995, 2005), (2455, 2475), (2455, 4910)])
def test_held_out_rows_stay_held_out_if_rows_are_appended(before: int, after: int) -> None:
    for every in (0, 13):
        old, new = (split(marks(n, every), BY_BLOCKS) for n in (before, after))
        assert set(old["test"].tolist()) == {row for row in new["test"].tolist() if row < before}
        assert not set(old["calibration"].tolist()) & set(new["train"].tolist())


def test_the_rows_of_a_part_are_drawn_at_random() -> None:
    """Each place in a block is drawn as often as the others, and the rows of a part are not in the order of the file."""
    parts = split(marks(40_000), BY_BLOCKS)
    for part in ("test", "calibration"):
        counts = np.bincount(parts[part] % BLOCK, minlength=BLOCK)
        assert abs(counts - 400).max() < 4.5 * 400**0.5
        assert abs(np.corrcoef(parts[part], np.arange(4000))[0, 1]) < 0.08


def test_a_split_of_a_later_version_is_refused() -> None:
    with pytest.raises(DataError, match="the split 'by hash' is unknown; a newer version of Manifold made it"):
        split(marks(100), "by hash")


def file_of(path: Path, n: int) -> Path:
    """Write a table with n rows."""
    table = made_table(n)
    lines = (",".join(map(str, row)) for row in zip(*table.values(), strict=True))
    path.write_text("\n".join([",".join(table), *lines]) + "\n")
    return path


def test_a_run_of_an_earlier_version_keeps_its_split(tmp_path: Path) -> None:
    """Earlier versions split files by a permutation and did not record it, as there was no other rule."""
    path = file_of(tmp_path / "rows.csv", 200)
    data = tables.of_file(path)
    assert data.protocol["split"] == BY_BLOCKS
    assert (data.protocol["rows"], data.protocol["bytes"]) == (200, path.stat().st_size)
    config = families.get("tabular_vae").Config()
    run = runs.TrainingRun(tmp_path / "run", "tabular_vae", str(path), "smoke", config)
    run.save(data)
    assert run.load_data().protocol["split"] == BY_BLOCKS
    content = json.loads((run.folder / runs.CONFIG).read_text())
    del content[runs.TABLE]
    (run.folder / runs.CONFIG).write_text(json.dumps(content))
    earlier = run.load_data()
    assert earlier.protocol["split"] == BY_PERMUTATION
    assert earlier.rows is not None and data.rows is not None
    assert sorted(earlier.rows.test) != sorted(data.rows.test)
