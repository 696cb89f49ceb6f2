"""The files in examples/: the scripts beside them make them again, and they are what the README there says."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from manifold.runtime import engine, manifest
from manifold.training.data import tables
from manifold.training.data.schema import ColumnSettings
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
MAX_BYTES = 400_000  # for the folder
TABLES = ("payments.csv", "new-payments.csv", "normal-payments.csv")


def script(name: str) -> ModuleType:
    """Return a script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_folder_is_small_and_named_in_its_readme() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    readme = (EXAMPLES / "README.md").read_text()
    assert [
        path.name for path in files if path.stem not in readme and path.name not in ("README.md", "manifest.json")
    ] == []


def test_the_tables_are_made_again(tmp_path: Path) -> None:
    script("make_payments.py").main(tmp_path)
    assert [name for name in TABLES if (tmp_path / name).read_bytes() != (EXAMPLES / name).read_bytes()] == []


def test_the_pictures_are_made_again(tmp_path: Path) -> None:
    script("make_pictures.py").main(tmp_path)
    for made in tmp_path.iterdir():
        stored = np.asarray(Image.open(EXAMPLES / made.name), np.int16)
        assert np.abs(np.asarray(Image.open(made), np.int16) - stored).max() <= 1


def test_the_payments_are_read_as_the_readme_says() -> None:
    data = tables.of_file(
        EXAMPLES / "payments.csv", ColumnSettings(), None, tables.Roles("label!=normal", "order_id", ())
    )
    assert data.anomalies is not None and 0.01 < len(data.anomalies) / len(rows("payments.csv")) < 0.03
    assert data.folds == 0  # tables with fewer rows are calibrated by folds, which takes six trainings
    empty = np.mean([[value == "" for value in row.values()] for row in rows("payments.csv")])
    assert 0.005 < empty < 0.015
    assert "label" not in rows("new-payments.csv")[0] and "label" not in rows("normal-payments.csv")[0]


def test_the_own_model_works(tmp_path: Path) -> None:
    folder = tmp_path / "my-model/1"
    script("own-model/make_model.py").main(folder)
    model = engine.load(folder, device="cpu")
    assert model.manifest.name.startswith("my-") and model.manifest == manifest.read(folder)
    samples = model.sample(16, seed=1).data
    assert samples.shape == (16, 1, 8, 8) and 0 <= samples.min() < samples.max() <= 1
    assert float(model.reconstruct(samples).errors.mean()) < 0.01
