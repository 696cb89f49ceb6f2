"""An artifact of table rows on the fake backend, with two numbers, a category and a score. Nothing is trained or exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS: list[dict[str, Any]] = [
    {"kind": "numeric", "name": "price", "mean": 1.0, "scale": 2.0, "minimum": 0.0, "maximum": 9.0},
    {"kind": "categorical", "name": "kind", "categories": ["small", "large"]},
    {"kind": "numeric", "name": "weight", "mean": 70.0, "scale": 10.0, "minimum": 0.0, "maximum": 200.0},
]
HEADER = b"price,kind,weight\n"
ROW = b"1.5,small,70\n"


def manifest(**changes: Any) -> dict[str, Any]:
    """Return a hand-written manifest."""
    return {
        "name": "rows",
        "version": 1,
        "backend": "fake",
        "data": {"kind": "table", "columns": COLUMNS},
        "tasks": {
            "score": {
                "graph": "none",
                "inputs": [{"role": "data", "source": "data", "shape": [4], "missing": True}],
                "outputs": [{"role": "odd", "shape": []}],
            }
        },
        "scoring": {"score": "odd", "terms": [{"name": "odd", "kind": "nll", "description": "made up"}]},
        **changes,
    }


def write(root: Path, **changes: Any) -> Path:
    """Write the artifact into ROOT/rows/1 and return that folder."""
    folder = root / "rows/1"
    folder.mkdir(parents=True)
    (folder / "none").touch()
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    return folder
