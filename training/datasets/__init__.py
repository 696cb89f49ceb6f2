"""The data sets, one file each. A file holds source, checksums, licence and split together, and exposes

NAME      the set's name; the file's name is the same with underscores for dashes
LICENCE   of the items; an artifact that is trained on them states it
load()    the set, split: training.data.Data
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifold.runtime.kinds import Kind
from manifold.training.data import Data, folder, reading, tables
from manifold.training.errors import TrainingError


def names() -> list[str]:
    """Return the names of the data sets."""
    return sorted(_module(stem).NAME for stem in _stems())


def load(name: str) -> Data:
    """Return the data set called `name`, or the table in the file `name` (.csv or .parquet), or the images in the folder `name`.

    The options of a folder stand behind its path: see training.data.folder.
    Raises TrainingError for an unknown name and DataError for a file that is missing, truncated or altered.
    """
    if (stem := name.replace("-", "_")) in _stems():
        data: Data = _module(stem).load()
        return data
    if folder.is_folder(name):
        return folder.of_folder(name)
    if Path(name).suffix.lower() in reading.SUFFIXES:
        return tables.of_file(Path(name))
    raise TrainingError(
        f"data: unknown data set {name!r}; valid are {', '.join(names())}, or a path to a .csv or .parquet file or to a folder of images",
        valid=names(),
    )


def stated(name: str, options: Mapping[str, str | bool | None]) -> str:
    """Return the name of a data set with options that are stated beside it. A folder has its absolute path, so that a run finds it again.

    Raises TrainingError for options of anything else than a folder.
    """
    given = {key: "1" if value is True else value for key, value in options.items() if value}
    if _is_folder(name):
        return folder.stated(name, {key: str(value) for key, value in given.items()})
    if given:
        raise TrainingError(f"{next(iter(given))}: is an option of folders of images, which {name!r} is not")
    return name


def short(name: str) -> str:
    """Return a short name for folders and files that are made from a data set."""
    if _is_folder(name):
        return folder.parse(name)[0].name
    return Path(name).stem


def like(name: str, spec: Kind) -> str:
    """Return the name of a data set whose items a model of `spec` is to be judged by. The images of a folder are read as the model reads them."""
    return name if name.replace("-", "_") in _stems() else folder.like(name, spec)


def load_like(name: str, spec: Kind) -> Data:
    """Return a data set whose items a model of `spec` is to be judged by: as `load` does, and the images of a folder as the model reads them."""
    named = like(name, spec)
    data = load(named)
    return dataclasses.replace(data, spec=spec) if _is_folder(named) else data


def _is_folder(name: str) -> bool:
    """Return whether a name is that of a folder of images. The names of data sets come first."""
    return name.replace("-", "_") not in _stems() and folder.is_folder(name)


def _stems() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _module(stem: str) -> Any:
    return importlib.import_module(f"{__name__}.{stem}")
