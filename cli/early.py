"""Checks of arguments before a command imports torch, scipy or ONNX Runtime, which takes seconds, and before data are read or downloaded.

Later checks repeat some of them for callers from Python. These exist so that a mistyped word is answered at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifold.runtime.errors import InvalidValue, near, shown

if TYPE_CHECKING:
    from manifold.runtime.manifest import Manifest

TABLES = (".csv", ".parquet", ".npy")  # the suffixes of files of rows
DEVICES = ("auto", "cpu", "cuda")
ENDPOINTS = ("sample", "encode", "reconstruct", "interpolate", "anomaly-score", "classify", "impute")


def check_choice(option: str, value: str, valid: Sequence[str]) -> None:
    """Raise InvalidValue for a value that is not one of the valid ones."""
    if value not in valid:
        raise InvalidValue(
            f"{option}: unknown {shown(value)}; valid are {', '.join(valid)}",
            field=option,
            valid=valid,
        )


def check_device(device: str, precision: str = "32-true") -> None:
    """Raise InvalidValue for an unknown device or precision."""
    from manifold.training import outlines

    check_choice("device", device, DEVICES)
    check_choice("precision", precision, outlines.PRECISIONS)


def check_recipe(family: str, preset: str, settings: Sequence[str]) -> None:
    """Raise an error for an unknown family or preset, and for a --set that is not KEY=VALUE or whose key is not an option of the family."""
    from manifold.training import outlines

    outlines.check_family(family)
    check_choice("preset", preset, outlines.PRESETS)
    outlines.check_settings(family, settings)


AUTO = "auto"
PLAIN, NETWORK = "tabular_detector", "tabular_vae"
DETECTORS = (AUTO, PLAIN, NETWORK)  # the values of --detector


def detector(chosen: str, label: str | None, settings: Sequence[str], before: Manifest | None) -> tuple[str, str]:
    """Return the family that `manifold fit` uses, and the reason. `settings` are the KEY=VALUE of --set.

    `before` is the latest version of the model, if there is one. Raises InvalidValue for an unknown detector, for one that cannot classify with
    --label, and for a score with a term that neither detector has.
    """
    from manifold.training import outlines

    check_choice("detector", chosen, DETECTORS)
    if label is not None:
        if chosen not in (AUTO, NETWORK):
            raise InvalidValue(
                f"--detector {chosen}: with --label the model is a tabular_cvae, which classifies; remove one of both",
                field="detector",
            )
        return "tabular_cvae", "--label makes the model conditional, so that it can classify"
    if chosen != AUTO:
        return chosen, "as requested"
    plain, network = set(outlines.options(PLAIN)), set(outlines.options(NETWORK))
    given = [text.partition("=")[0] for text in settings]
    for family, own in ((NETWORK, network - plain), (PLAIN, plain - network)):
        for key in given:
            if key in own:
                return family, f"{key} is an option of {family}"
    for text in settings:
        key, _, rule = text.partition("=")
        others = set(rule.rpartition(":")[2].split(",")) - {AUTO, *outlines.terms(PLAIN)}
        if key != "score" or not others:
            continue
        if unknown := sorted(others - set(outlines.terms(NETWORK))):
            both = ", ".join(outlines.terms(PLAIN)), ", ".join(outlines.terms(NETWORK))
            raise InvalidValue(
                f"score: unknown term {shown(unknown[0])}{near(unknown[0], [*outlines.terms(PLAIN), *outlines.terms(NETWORK)])}; the terms of {PLAIN} "
                f"are {both[0]}, those of {NETWORK} {both[1]}",
                field="score",
            )
        return NETWORK, f"score names {', '.join(sorted(others))}, which {PLAIN} does not compute"
    if before is not None and before.family in (NETWORK, "tabular_cvae"):
        return (
            NETWORK,
            f"version {before.version} of {before.name} can sample and encode too; --detector {PLAIN} is faster and scores as well",
        )
    return (
        PLAIN,
        f"it scores rows as well as a network, in seconds; --detector {NETWORK} trains a network, which can also sample, encode and fill in rows",
    )


def check_data(name: str, option: str = "data") -> None:
    """Raise an error for a name that is neither that of a data set, nor a folder, nor a file of a table that exists."""
    from manifold.training import outlines
    from manifold.training.errors import TrainingError

    folder = name.partition("?")[0]  # options of a folder follow its path
    if outlines.data_set(name) is not None or Path(folder).is_dir():
        return
    if Path(name).suffix.lower() in TABLES:
        check_file(Path(name))
        return
    valid = list(outlines.data_sets())
    raise TrainingError(
        f"{option}: unknown data set {shown(name)}{near(name, valid)}; valid are {', '.join(valid)}, or the path of a .csv, .parquet or .npy file or "
        "of a folder of images",
        field=option.lstrip("-"),
        valid=valid,
    )


def check_images(name: str, option: str) -> None:
    """Raise an error for a name that is neither a folder nor a data set of images."""
    from manifold.training import outlines

    check_data(name, option)
    outlines.check_items(name, "images", option)


def check_file(path: Path) -> None:
    """Raise InvalidValue for a file of a table that does not exist, is a folder, or is a spreadsheet or another kind of file."""
    if not path.exists():
        if not path.parent.exists():
            below = "" if path.is_absolute() else f" in the working folder {Path.cwd()}"
            raise InvalidValue(f"{path}: there is no folder {path.parent}{below}; check the path", field="file")
        names = [each.name for each in path.parent.iterdir() if each.is_file()] if path.parent.is_dir() else []
        raise InvalidValue(f"{path}: No such file or directory{near(path.name, names)}; check the path", field="file")
    if path.is_dir():
        raise InvalidValue(f"{path}: is a folder; give a .csv, .parquet or .npy file", field="file")
    if path.suffix.lower() not in TABLES:
        raise InvalidValue(
            f"{path}: the suffix {shown(path.suffix)} is not that of a table; save the table as a .csv or .parquet file, or vectors as a .npy "
            "file, and give that file",
            field="file",
            valid=["csv", "parquet", "npy"],
        )


def check_run(folder: Path, other: str) -> None:
    """Raise InvalidValue if a folder holds a run already. `other` says what to do instead."""
    if has_run(folder):
        raise InvalidValue(f"{folder}: this folder holds a run already; {other}", field="run")


def has_run(folder: Path) -> bool:
    """Return whether a training began in a folder."""
    from manifold.training import outlines

    return (folder / outlines.CHECKPOINT).exists()


def next_to(folder: Path) -> Path:
    """Return the first of the folders NAME-2, NAME-3, … that does not exist."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(other for other in others if not other.exists())
