"""Files that commands write. Paths are checked before the work begins, and files are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from manifold.runtime.errors import InvalidValue


def check_writable(*paths: Path | None, makes_folders: bool = False) -> None:
    """Raise InvalidValue for a path that cannot be written. None is skipped. With `makes_folders` the folder may be missing."""
    for path in paths:
        if path is not None:
            _check(path, makes_folders)


def check_suffix(path: Path | None, made: str, *suffixes: str) -> None:
    """Raise InvalidValue if the suffix of a file does not fit the format that the command writes. Devices and pipes are not checked.

    `made` names what the command writes, for the error.
    """
    if path is None or (path.exists() and not path.is_file()) or path.suffix.lower() in suffixes:
        return
    raise InvalidValue(
        f"{path}: {made} are written as {' or '.join(suffixes)}, not as {path.suffix or 'a file without a suffix'}; change the name of the file",
        field="out", valid=suffixes,
    )  # fmt: skip


def _check(path: Path, makes_folders: bool) -> None:
    if path.is_dir():
        raise InvalidValue(f"{path}: is a folder; give the path of a file", field="out")
    if path.exists() and not path.is_file():
        return  # a device or a pipe, such as /dev/stdout
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    while makes_folders and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.exists() and not folder.is_dir():
        raise InvalidValue(f"{folder}: is a file, not a folder; choose another folder, or remove the file", field="out")
    if not folder.is_dir():
        raise InvalidValue(
            f"{path}: No such file or directory: the folder {folder} does not exist; make it first", field="out"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidValue(
            f"{path}: the folder {folder} cannot be written; choose another folder, or change its permissions",
            field="out",
        )


def check_folder(path: Path) -> None:
    """Raise InvalidValue for a folder that cannot be written. It may be missing if it can be made."""
    _check(path / "file", makes_folders=True)


def check_recordable(model: str, models: Path) -> None:
    """Raise InvalidValue if the manifest of a model cannot be written. Figures are recorded there."""
    from manifold.runtime import manifest, repository

    check_writable(repository.find(model, models) / manifest.FILE)


def write(path: Path, content: bytes) -> None:
    """Write a file in one step, through a temporary file beside it. A missing folder is made."""
    from manifold.runtime.repository import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
