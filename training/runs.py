"""The run folder with its config, log and checkpoint.

A file is written under a temporary name, flushed to disk and then renamed. The last complete file stays readable if the process is killed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from manifold.runtime.errors import cut, nearest, shown
from manifold.runtime.locks import held
from manifold.runtime.repository import replacing
from manifold.training import datasets, families, outlines
from manifold.training.data import Data, fingerprints, reading, tables
from manifold.training.errors import TrainingError
from manifold.training.recipes import Recipe

FINGERPRINT = "data_fingerprint"  # an optional key in addition to KEYS: the data that the run was begun with
DIGEST = "data_sha256"  # the key with the digest alone, in runs of older versions
TABLE = "table"  # another optional key: the roles and kinds of columns that `manifold fit` was given
NAME = "name"  # another optional key: the name that `manifold fit` was given
KEYS = {"family": str, "data": str, "preset": str, "config": dict}  # required keys of a run's config file
WORDS = {str: "a text", dict: "an object"}
ANOTHER = "restore the file that `manifold train` wrote, or start a new run with it"
ALARMS, GOOD = "alarms.jsonl", "good.safetensors"
CONFIG, LOG, METRICS = "config.json", "log.jsonl", "metrics.json"
CHECKPOINT = outlines.CHECKPOINT
USUAL = Path("runs")  # folder of the runs that are made without the name of a folder


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A training run: its folder, family, data set, preset and config, and the name of the model if it is known before training."""

    folder: Path
    family: str
    data: str
    preset: str
    config: Recipe
    name: str | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def good(self) -> Path:
        """The path of the last state without alarms, to which an alarm can roll training back."""
        return self.folder / GOOD

    @contextmanager
    def sole(self) -> Iterator[None]:
        """Lock the run for the block, and remove incomplete files of killed processes. Raises TrainingError if another process trains this run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder) as free:
            if free is False:
                raise TrainingError(
                    f"{self.folder}: another process is training this run; wait for it, or give another folder with --out"
                )
            for name in (CONFIG, LOG, CHECKPOINT, METRICS, GOOD) if free else ():
                for left in self.folder.glob(f".{name}.*"):
                    left.unlink(missing_ok=True)
            yield

    def resolved(self, data: Data) -> ResolvedRun:
        """Return the run with all options that depend on the data resolved. Runs of older versions were saved with unresolved options."""
        config = families.get(self.family).resolve(self.config, data)
        return ResolvedRun(self.folder, self.family, self.data, self.preset, config, self.name)

    def check_data(self, data: Data) -> None:
        """Raise TrainingError with the differences if the data is not the one that the run was begun with.

        Items that were held out would otherwise move into the training split. The error is also raised for a run that does not record its data.
        """
        content = read_config(self.folder)
        began = content.get(FINGERPRINT) or ({"sha256": content[DIGEST]} if DIGEST in content else None)
        if not isinstance(began, dict):
            raise TrainingError(
                f"{self.folder}: the run does not record the data that it was begun with, as an earlier version of Manifold made it; "
                "start a new run with `manifold train`",
                field="data",
            )
        if found := fingerprints.differences(began, fingerprints.of(data)):
            raise TrainingError(
                f"data: {cut(self.data)} is not the data that the run was begun with: {'; '.join(found)}. Restore the earlier data, or start a "
                "new run with `manifold train`",
                field="data",
            )

    def load_data(self) -> Data:
        """Return the data of a run that was begun. A table is read with the roles and kinds of columns that the run began with."""
        stated = read_config(self.folder).get(TABLE)
        is_table = Path(self.data).suffix.lower() in reading.SUFFIXES
        return tables.of_protocol(Path(self.data), stated or {}) if stated or is_table else datasets.load(self.data)

    def save(self, data: Data | None = None) -> None:
        """Write the config, with the fingerprint of the data, and with the roles of a table's columns."""
        protocol = {} if data is None else data.protocol
        stated = {key: protocol[key] for key in tables.STATED if protocol.get(key)} if data and data.rows else {}
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "family": self.family,
            "data": self.data,
            "preset": self.preset,
            "torch": torch.__version__,
            "config": self.config.model_dump(mode="json"),
            **({} if data is None else {FINGERPRINT: fingerprints.of(data)}),
            **({TABLE: stated} if stated else {}),
            **({NAME: self.name} if self.name else {}),
        }
        with replacing(self.folder / CONFIG) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class ResolvedRun(TrainingRun):
    """A run whose options that depend on the data are resolved."""

    def resolved(self, data: Data) -> ResolvedRun:
        """Return the run itself."""
        return self


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config file of a run. Raises TrainingError if the folder is not a run, or the file has another structure."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise TrainingError(f"{folder}: there is no such folder; {_advice(folder)}") from None
        raise TrainingError(
            f"{folder}: it is not a run, as it has no {CONFIG}; create a run with `manifold train`"
        ) from None
    except OSError as error:
        raise TrainingError(f"{path}: it cannot be read: {error.strerror}; check its permissions") from None
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path}: it is not JSON (line {error.lineno}, column {error.colno}); {ANOTHER}") from None
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        raise TrainingError(f"{path}: it is not JSON; {ANOTHER}") from None
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: {shown(content)} is not an object with the keys {', '.join(KEYS)}; {ANOTHER}")
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind):
            wrong = f"{shown(content[key])} is not {WORDS[kind]}" if key in content else "is missing"
            raise TrainingError(f"{path}: {key}: {wrong}; {ANOTHER}", field=key)
    return content


def _advice(folder: Path) -> str:
    """Return the nearest run to a folder that does not exist, in its own parent folder or in runs/, or how to make one."""
    for parent in dict.fromkeys((folder.parent, USUAL / folder.parent, USUAL)):
        names = [path.parent.name for path in parent.glob(f"*/{CONFIG}")]
        if near := [folder.name] if folder.name in names else nearest(folder.name, names):
            return f"did you mean {parent / near[0]}?"
    return "create a run with `manifold train`"


def open_run(folder: Path) -> TrainingRun:
    """Open a run folder. Raises TrainingError if it is not a run, or if a version of Manifold with other options made it."""
    content = read_config(folder)
    try:
        config = families.get(content["family"]).Config(**content["config"])
    except TrainingError as error:
        raise TrainingError(f"{folder / CONFIG}: {error.message}; {ANOTHER}", field=error.field) from None
    name = content.get(NAME)
    return TrainingRun(
        folder, content["family"], content["data"], content["preset"], config, name if isinstance(name, str) else None
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the records of a log. Incomplete lines, of a killed process or a full disk, are skipped."""
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
