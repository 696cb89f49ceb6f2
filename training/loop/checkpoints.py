"""The checkpoints, which are safetensors files: tensors by path, and all other values as JSON in the header. Nothing is pickled."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manifold.runtime.errors import reason
from manifold.runtime.repository import replacing
from manifold.training.errors import TrainingError


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Save nested dicts and lists of tensors and JSON values. Raises OSError if the disk is full; the previous file is then kept."""
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, "", tensors)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"state": json.dumps(skeleton)})
        except SafetensorError as error:
            raise _as_os_error(error, path) from error


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """Return the system's error. safetensors only has it in its text: `I/O error: No space left on device (os error 28)`."""
    match = re.search(r"\(os error (\d+)\)", str(error))
    number = int(match[1]) if match else errno.EIO
    return OSError(number, os.strerror(number), str(path))


def load(path: Path) -> dict[str, Any]:
    """Load the values that `save` wrote, on the CPU. Raises TrainingError if the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _restore(skeleton, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise TrainingError(f"{path.parent}: it has no checkpoint yet; start again with `manifold train`") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TrainingError(
            f"{path}: it is not a valid checkpoint ({reason(error)}); restore it, or start again with `manifold train`"
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
