"""Execution of the example notebooks. As a program it renews their stored outputs: `python -m tests.notebooks`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

FOLDER = ROOT / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLACES = (
    "IPYTHONDIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
)  # folders where a kernel writes
SECONDS = 600  # for one cell


def executed(path: Path, environment: Mapping[str, str]) -> Any:
    """Return a notebook with the outputs of its execution. Raises nbclient's CellExecutionError if a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch, _changed({**environment, **dict.fromkeys(PLACES, scratch)}):
        client = NotebookClient(book, timeout=SECONDS, record_timing=False, coalesce_streams=True)
        client.execute(cwd=str(path.parent))
    return book


@contextmanager
def _changed(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the block. The kernel inherits them."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    """Execute the notebooks at their default size and store the outputs."""
    import nbformat

    for path in [Path(name).resolve() for name in sys.argv[1:]] or NOTEBOOKS:
        book = executed(path, {})
        for cell in book.cells:
            cell.metadata.clear()
            for output in cell.get("outputs", ()):
                output.get("data", {}).pop("image/jpeg", None)  # the picture is there as PNG too
        book.metadata.language_info = {"name": "python"}
        nbformat.write(book, path)


if __name__ == "__main__":
    main()
