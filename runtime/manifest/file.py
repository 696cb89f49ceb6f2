"""The manifest file: reading, writing, and its JSON schema."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest.document import Manifest
from manifold.runtime.problems import field_of, names_at, sentence, unknown

FILE = "manifest.json"


MAX_BYTES = 16 * 2**20  # limit for a manifest; the largest shipped one has 0.5 MB


NUMBERS = re.compile(r"\[\s+-?[\d.][\d.eE+-]*(?:,\s+-?[\d.][\d.eE+-]*)*\s+\]")


def read(path: Path) -> Manifest:
    """Read and validate the manifest at `path`, which may be the file or its folder.

    Raises ArtifactError with one line for each invalid field.
    """
    try:
        path = path / FILE if path.is_dir() else path
        return Manifest.model_validate_json(_content(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: not found; an artifact is a folder NAME/VERSION that contains {FILE}") from None
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read: {error.strerror or error}; check the file and its permissions"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":  # no field has been read
            raise ArtifactError(f"{path}: {sentence(first)}") from None
        lines = lines_of(error)
        count = "1 field is" if len(lines) == 1 else f"{len(lines)} fields are"
        raise ArtifactError("\n".join([f"{path}: {count} wrong:", *lines])) from None


def stated(path: Path) -> dict[str, Any]:
    """Return the fields of a manifest as they are in the file, without defaults. `path` may be the file or its folder. Raises ArtifactError."""
    read(path)
    content: dict[str, Any] = json.loads(_content(path / FILE if path.is_dir() else path))
    return content


def lines_of(error: ValidationError, shape: type[BaseModel] = Manifest) -> list[str]:
    """Return the problems of a manifest, or of a part with another `shape`, one indented line for each field."""
    problems = error.errors()
    causes = [problem["loc"] for problem in problems]
    return [
        f"  {line}"
        for problem in problems
        if not (problem["type"] == "too_short" and any(_below(loc, problem["loc"]) for loc in causes))
        for line in _lines(problem, shape)
    ]


def _lines(problem: Mapping[str, Any], shape: type[BaseModel]) -> list[str]:
    """Return the lines of a problem. A check of the whole manifest may find several; each of its lines starts with the field."""
    loc = problem["loc"]
    if problem["type"] == "extra_forbidden":
        message = unknown(str(loc[-1]), names_at(shape, loc))
    else:
        message = sentence(problem)
    return [f"{field_of(shape, problem)}: {message}"] if loc else message.splitlines()


def _below(loc: tuple[int | str, ...], whole: tuple[int | str, ...]) -> bool:
    """Return whether a place lies within another.

    A list whose only element is invalid is also reported as too short. That second problem is not useful.
    """
    return len(loc) > len(whole) and loc[: len(whole)] == whole


def _content(path: Path) -> bytes:
    """Return the bytes of a manifest. Raises ArtifactError for a pipe or a device (it might never end), and for more than MAX_BYTES."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ArtifactError(f"{path}: is not a regular file; put the manifest itself there")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{path}: is larger than the limit of {MAX_BYTES} bytes; store large arrays in npz files")
    return content


def dumps(manifest: Manifest) -> str:
    """Return the manifest as JSON text for the file, with its defaults."""
    return text_of(manifest.model_dump(mode="json", exclude_none=True))


def text_of(fields: Mapping[str, Any]) -> str:
    """Return the fields of a manifest as JSON text for the file, with each list of numbers on one line."""
    text = json.dumps(fields, indent=1, ensure_ascii=False)
    return NUMBERS.sub(lambda match: re.sub(r"\s+", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the manifest."""
    return Manifest.model_json_schema()
