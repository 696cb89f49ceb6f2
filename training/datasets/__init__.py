"""The data sets, one file each. A file holds source, checksums, licence and split together, and exposes

NAME      the set's name; the file's name is the same with underscores for dashes
LICENCE   of the items; an artifact that is trained on them states it
load()    the set, split: training.data.Data
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from manifold.training.data import Data, reading, tables
from manifold.training.errors import TrainingError


def names() -> list[str]:
    """Return the names of the data sets."""
    return sorted(_module(stem).NAME for stem in _stems())


def load(name: str) -> Data:
    """Return the data set called `name`, or the table in the file `name` (.csv or .parquet).

    Raises TrainingError for an unknown name and DataError for a file that is missing, truncated or altered.
    """
    if (stem := name.replace("-", "_")) in _stems():
        data: Data = _module(stem).load()
        return data
    if Path(name).suffix in reading.SUFFIXES:
        return tables.of_file(Path(name))
    raise TrainingError(
        f"data: unknown data set {name!r}; valid are {', '.join(names())}, or a path to a .csv or .parquet file",
        valid=names(),
    )


def _stems() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _module(stem: str) -> Any:
    return importlib.import_module(f"{__name__}.{stem}")
