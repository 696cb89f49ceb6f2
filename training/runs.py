"""A run folder: resolved config, log, checkpoint. Files are written to a temporary name, flushed to disk and renamed, so that a kill
at any moment leaves the last good one readable. Checkpoints are safetensors: tensors by path, everything else as JSON in the header.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manifold.runtime.errors import shown
from manifold.runtime.locks import held
from manifold.runtime.repository import replacing
from manifold.training import families
from manifold.training.errors import TrainingError
from manifold.training.phases import Recipe

KEYS = {"family": str, "data": str, "preset": str, "config": dict}  # of a run's config file
WORDS = {str: "a text", dict: "an object"}
ANOTHER = "the file was edited, or the run was made by another version of Manifold"
ALARMS, GOOD = "alarms.jsonl", "good.safetensors"
CONFIG, LOG, CHECKPOINT, METRICS = "config.json", "log.jsonl", "checkpoint.safetensors", "metrics.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says about itself."""

    folder: Path
    family: str
    data: str
    preset: str
    config: Recipe

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def good(self) -> Path:
        """The last state that no watch had anything against, where one may go back to it."""
        return self.folder / GOOD

    @contextmanager
    def sole(self) -> Iterator[None]:
        """Keep other processes from training this run, for the block. Raises TrainingError if one does. Half-written files of killed ones are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder) as free:
            if free is False:
                raise TrainingError(f"{self.folder}: another process is training this run; --out names another folder")
            for name in (CONFIG, LOG, CHECKPOINT, METRICS, GOOD) if free else ():
                for left in self.folder.glob(f".{name}.*"):
                    left.unlink(missing_ok=True)
            yield

    def save(self) -> None:
        """Writes the resolved config."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "family": self.family,
            "data": self.data,
            "preset": self.preset,
            "torch": torch.__version__,
            "config": dataclasses.asdict(self.config),
        }
        with replacing(self.folder / CONFIG) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return what the config file of a run says. Raises TrainingError if the folder is no run, or the file is of another shape."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} is not a run: it has no {CONFIG}; `manifold train` makes runs") from None
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise TrainingError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: {shown(content)} is not an object with the keys {', '.join(KEYS)}")
    for key, kind in KEYS.items():
        if not isinstance(content.get(key), kind):
            there = f"{shown(content[key])} is not {WORDS[kind]}" if key in content else "is missing"
            raise TrainingError(f"{path}: {key}: {there}; {ANOTHER}", field=key)
    return content


def open_run(folder: Path) -> Run:
    """Read a run folder. Raises TrainingError if it is none, or was made by a version of Manifold with other keys."""
    content = read_config(folder)
    try:
        config = make_config(families.get(content["family"]).Config, content["config"])
    except TrainingError as error:
        raise TrainingError(f"{folder / CONFIG}: {error.message}; {ANOTHER}", field=error.field) from None
    return Run(folder, content["family"], content["data"], content["preset"], config)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log. A line that was half written when a process was killed or the disk was full is left out."""
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def make_config(cls: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """A config from JSON values. Raises TrainingError for unknown keys and wrong types, listing the valid ones."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    resolved = {}
    for key, value in values.items():
        if key not in fields:
            raise TrainingError(f"unknown key {key!r}; valid are {', '.join(fields)}", field=key, valid=list(fields))
        resolved[key] = _coerce(key, value, fields[key].default)
    return cls(**resolved)


def _coerce(key: str, value: Any, default: Any) -> Any:
    """JSON has no tuples and writes whole floats as integers; everything else must have the default's type."""
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, int) and not -(2**63) <= each < 2**63:
            raise TrainingError(f"{key}: {shown(each)} is beyond 64 bits", field=key)
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(item, type(default[0])) for item in value):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(default):
        return value
    kind = f"list of {type(default[0]).__name__}" if isinstance(default, tuple) else type(default).__name__
    raise TrainingError(f"{key}: {shown(value)} is not a {kind}", field=key)


def parse_overrides(cls: type[Recipe], settings: list[str]) -> dict[str, Any]:
    """`key=value` pairs from the command line, values read as JSON where they are JSON."""
    values = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise TrainingError(f"--set {setting}: write key=value", field=key)
        try:
            values[key] = json.loads(text.lower() if text in ("True", "False") else text)
        except json.JSONDecodeError:
            values[key] = text
    dataclasses.asdict(make_config(cls, values))  # complain about keys and types here, by name
    return values


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save nested dicts and lists of tensors and JSON values. Raises OSError if the disk is full; the file that was there is kept then."""
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, "", tensors)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"state": json.dumps(skeleton)})
        except SafetensorError as error:
            raise _as_os_error(error, path) from error


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """Return what the system said, which safetensors has in its text alone: `I/O error: No space left on device (os error 28)`."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number), str(path))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` saved, on the CPU. Raises TrainingError where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _restore(skeleton, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise TrainingError(f"{path.parent} has no checkpoint yet; start it again with `manifold train`") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}); it was not written by this project, or the disk failed"
        ) from error
    return state


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _restore(skeleton: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = skeleton.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {key: _restore(item, tensors) for key, item in content}
        case "list":
            return [_restore(item, tensors) for item in content]
    return content
