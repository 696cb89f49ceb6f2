"""Files that commands write. Paths are checked before the work whose result they are to hold, and files are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from manifold.runtime.errors import InvalidValue


def check_writable(*paths: Path | None, makes_folders: bool = False) -> None:
    """Raise InvalidValue for an output that cannot be written. None is skipped. With `makes_folders` its folder may be missing."""
    for path in paths:
        if path is not None:
            _check(path, makes_folders)


def check_suffix(path: Path | None, made: str, *suffixes: str) -> None:
    """Raise InvalidValue for a file whose suffix says another format than the command writes. A device or a pipe has none to check.

    `made` is what the command writes, for the error.
    """
    if path is None or (path.exists() and not path.is_file()) or path.suffix.lower() in suffixes:
        return
    raise InvalidValue(
        f"{path}: {made} are written as {' or '.join(suffixes)}, not as {path.suffix or 'a file without a suffix'}; name such a file",
        field="out", valid=suffixes,
    )  # fmt: skip


def _check(path: Path, makes_folders: bool) -> None:
    if path.is_dir():
        raise InvalidValue(f"{path}: is a folder; name a file", field="out")
    if path.exists() and not path.is_file():
        return  # a device or a pipe, such as /dev/stdout
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    while makes_folders and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InvalidValue(f"{path}: No such file or directory: there is no folder {folder}", field="out")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidValue(f"{path}: the folder {folder} cannot be written", field="out")


def check_recordable(model: str, models: Path) -> None:
    """Raise InvalidValue if the manifest of an artifact, in which figures are to be recorded, cannot be written."""
    from manifold.runtime import manifest, repository

    check_writable(repository.find(model, models) / manifest.FILE)


def write(path: Path, content: bytes) -> None:
    """Write a file, through a temporary one beside it. A missing folder is made."""
    from manifold.runtime.repository import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
