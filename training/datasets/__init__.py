"""The data sets, one file each. A file defines the source, the checksums, the licence and the splits, and exposes

NAME         the name of the data set; the file's name is the same, with underscores for dashes
ITEMS        what its items are: images or rows
HAS_CLASSES  whether its items have classes
LICENCE      the licence of the items, which is stated in artifacts that are trained on them
load()       returns the data set with its splits, a training.data.Data

NAME, ITEMS and HAS_CLASSES are literals, so that commands read them without importing the file (training.outlines).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifold.runtime.errors import shown
from manifold.runtime.kinds import Kind
from manifold.training import outlines
from manifold.training.data import Data, folder, reading, tables
from manifold.training.errors import TrainingError


def names() -> list[str]:
    """Return the names of the data sets."""
    return list(outlines.data_sets())


def load(name: str) -> Data:
    """Load the data set with this name, the table in this file (.csv, .parquet or .npy), or the images in this folder.

    The options of a folder follow its path (see training.data.folder). Raises TrainingError for an unknown name and for an incomplete file of a
    data set, and DataError for a file that is missing, truncated or altered.
    """
    outlines.data_set(name)  # raises for an incomplete file
    if (stem := name.replace("-", "_")) in _stems():
        data: Data = _module(stem).load()
        return data
    if folder.is_folder(name):
        return folder.of_folder(name)
    if Path(name).suffix.lower() in reading.SUFFIXES:
        return tables.of_file(Path(name))
    raise TrainingError(
        f"data: unknown data set {shown(name)}; valid are {', '.join(names())}, or the path of a .csv, .parquet or .npy file or of a folder of images",
        valid=names(),
    )


def stated(name: str, options: Mapping[str, str | bool | None]) -> str:
    """Return the name of a data set with these options. The name of a folder gets its absolute path, so that a run can find it again.

    Raises TrainingError if options are given for anything other than a folder.
    """
    given = {key: "1" if value is True else value for key, value in options.items() if value}
    if _is_folder(name):
        return folder.stated(name, {key: str(value) for key, value in given.items()})
    if given:
        raise TrainingError(f"{next(iter(given))}: {shown(name)} is not a folder of images; remove this option")
    return name


def short(name: str) -> str:
    """Return a short name of a data set, for the names of folders and files that are created from it."""
    if _is_folder(name):
        return folder.parse(name)[0].name
    return Path(name).stem


def like(name: str, spec: Kind) -> str:
    """Return the name of a data set for evaluating a model of `spec`. A folder gets the options that the model needs."""
    return name if name.replace("-", "_") in _stems() else folder.like(name, spec)


def load_like(name: str, spec: Kind) -> Data:
    """Load a data set for evaluating a model of `spec`. The images of a folder are read with the options that the model needs."""
    named = like(name, spec)
    data = load(named)
    return dataclasses.replace(data, spec=spec) if _is_folder(named) else data


def _is_folder(name: str) -> bool:
    """Return whether a name is that of a folder of images. Names of data sets take precedence."""
    return name.replace("-", "_") not in _stems() and folder.is_folder(name)


def _stems() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _module(stem: str) -> Any:
    return importlib.import_module(f"{__name__}.{stem}")
