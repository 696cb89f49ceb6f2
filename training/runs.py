"""A run folder: resolved config, log, checkpoint. Files are written to a temporary name, flushed to disk and renamed, so that a kill
at any moment leaves the last good one readable. Checkpoints are safetensors: tensors by path, everything else as JSON in the header.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from runtime.repository import replacing
from training import families
from training.errors import TrainingError
from training.phases import Recipe

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


def open_run(folder: Path) -> Run:
    """Reads a run folder. Raises TrainingError where it is none."""
    try:
        content = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise TrainingError(f"{folder} is not a run: it has no {CONFIG}; `manifold train` makes runs") from None
    except json.JSONDecodeError as error:
        raise TrainingError(f"{folder / CONFIG} is not JSON: {error}") from None
    family = families.get(content["family"])
    return Run(
        folder, content["family"], content["data"], content["preset"], make_config(family.Config, content["config"])
    )


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
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(item, type(default[0])) for item in value):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(default):
        return value
    kind = f"list of {type(default[0]).__name__}" if isinstance(default, tuple) else type(default).__name__
    raise TrainingError(f"{key}: {value!r} is not a {kind}", field=key)


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
    """Saves nested dicts and lists of tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, "", tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"state": json.dumps(skeleton)})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` saved, on the CPU. Raises TrainingError where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _restore(skeleton, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise TrainingError(f"{path.parent} has no checkpoint yet; start it again with `manifold train`") from None
    except (SafetensorError, KeyError, TypeError) as error:
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
