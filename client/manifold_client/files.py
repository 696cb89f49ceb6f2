"""The kinds of files whose paths users pass, by suffix: errors say how a file of rows is read, and where an image belongs."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from manifold_client.errors import shown

# the function of pandas that reads a file of rows
TABLES = {
    ".csv": "read_csv", ".tsv": "read_table", ".parquet": "read_parquet", ".feather": "read_feather", ".json": "read_json", ".xlsx": "read_excel",
}  # fmt: skip
LINES = (".jsonl", ".ndjson")  # one object in each line
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def reader(given: Any) -> str | None:
    """Return the call that reads a file of rows, such as pandas.read_csv('x.csv'); None if the value is no path of such a file."""
    path, suffix = _suffix(given)
    if suffix in LINES:
        return f"pandas.read_json({shown(path)}, lines=True)"
    return f"pandas.{TABLES[suffix]}({shown(path)})" if suffix in TABLES else None


def is_picture(given: Any) -> bool:
    """Return whether a value is the path of an image, by its suffix."""
    return _suffix(given)[1] in PICTURES


def _suffix(given: Any) -> tuple[str, str]:
    """Return the path and its suffix without that of a compression; two empty strings if the value is no path."""
    if not isinstance(given, str | os.PathLike) or not isinstance(path := os.fspath(given), str):
        return "", ""
    pure = PurePath(path)
    return path, (PurePath(pure.stem) if pure.suffix.lower() in COMPRESSED else pure).suffix.lower()
