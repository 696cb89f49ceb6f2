"""The places that artifacts are pulled from: a folder of models, the folder of one model, or an artifact."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, InvalidValue, UnknownModel, cut, shown
from manifold.runtime.sharing.addresses import FORM, HUB, PART, joined

PIECE = 2**20  # bytes that are copied at a time


class Source(Protocol):
    """A place with artifacts. Paths are relative to it and separated by `/`; the place itself is an empty path."""

    def at(self, below: str) -> str:
        """Return the address of a folder, in the form that the command line takes."""

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders in a folder."""

    def has(self, path: str) -> bool:
        """Return whether a file exists."""

    def sizes(self, below: str) -> dict[str, int]:
        """Return the sizes in bytes of all files below a folder, by path relative to it."""

    def fetch(self, path: str, target: Path, limit: int) -> None:
        """Write a file to `target`. Raises ArtifactError for a link, and for a file with more than `limit` bytes."""


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine or on a network share."""

    root: Path

    def at(self, below: str) -> str:
        """Return the path of a folder."""
        return str(self.root / below)

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders in a folder, without hidden ones. A sub-folder that cannot be read has none."""
        try:
            with os.scandir(self.root / below) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
        except PermissionError:
            if below:  # such as lost+found, which is not a model
                return []
            raise

    def has(self, path: str) -> bool:
        """Return whether a file exists."""
        return os.path.isfile(self.root / path)

    def sizes(self, below: str) -> dict[str, int]:
        """Return the sizes of all files below a folder."""
        return {name: entry.stat().st_size for name, entry in repository.everything(self.root / below)}

    def fetch(self, path: str, target: Path, limit: int) -> None:
        """Copy a file. The folder of the artifact may be a link, but nothing in it."""
        folder, name = self.root, path
        if (split := self._artifact(path)) is not None:
            folder, name = self.root / split, path[len(split) :].lstrip("/")
        steps = [folder.joinpath(*Path(name).parts[: count + 1]) for count in range(len(Path(name).parts))]
        if any(step.is_symlink() for step in steps):
            raise ArtifactError(f"{folder / name}: is a link; replace it by a copy of the file")
        try:
            copy_limited(folder / name, target, limit)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ArtifactError(f"{folder / name}: is a link; replace it by a copy of the file") from None
            raise

    def _artifact(self, path: str) -> str | None:
        """Return the folder of the artifact that a file is in; None if there is no manifest above it."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts))]
        return next((each for each in above if self.has(joined(each, manifests.FILE))), None)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one. DirEntry.is_dir raises OSError for a link to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def copy_limited(source: Path, target: Path, limit: int) -> None:
    """Copy a regular file that has at most `limit` bytes. Raises ArtifactError for a larger one, a pipe or a device; OSError for a link."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(source, "rb", opener=lambda name, _: os.open(name, flags)) as file, target.open("wb") as copy:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ArtifactError(f"{source}: is not a regular file")
        left = limit
        while piece := file.read(min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise ArtifactError(f"{source}: has more than the {limit} bytes that it should have")
            copy.write(piece)


def folder(path: Path) -> FolderSource:
    """Return a folder as a source. Raises UnknownModel if there is none."""
    if not path.is_dir():
        hint = (
            f" For a repository of Hugging Face, write {HUB}{path}."
            if not path.is_absolute() and len(path.parts) == 2 and all(map(PART.fullmatch, path.parts))
            else f" Give a folder, or {FORM}."
        )
        what = "is a file; give its folder." if path.is_file() else f"there is no such folder.{hint}"
        raise UnknownModel(f"{cut(str(path))}: {what}", field="source")
    return FolderSource(path)


def artifacts(source: Source) -> dict[str, list[str]]:
    """Return the folders of the artifacts at a place by the folder of their model, versions ascending."""
    if source.has(manifests.FILE):
        return {"": [""]}
    if own := _versions(source, ""):
        return {"": own}
    names = [name for name in source.folders("") if re.fullmatch(manifests.NAME, name)]
    return {name: found for name in names if (found := _versions(source, name))}


def _versions(source: Source, below: str) -> list[str]:
    numbers = sorted(int(name) for name in source.folders(below) if repository.VERSION.fullmatch(name))
    paths = [joined(below, str(number)) for number in numbers]
    return [path for path in paths if source.has(joined(path, manifests.FILE))]


def addresses(source: Source) -> Iterator[tuple[str, int]]:
    """Yield the address of each artifact at a place, and the size of its files in bytes."""
    for found in artifacts(source).values():
        for path in found:
            yield source.at(path), sum(source.sizes(path).values())


def latest(source: Source) -> str:
    """Return the folder of the latest version of the only model at a place.

    Raises UnknownModel if there is no artifact, and InvalidValue if there are several models.
    """
    found = artifacts(source)
    if not found:
        raise UnknownModel(
            f"{source.at('')}: contains no artifact; give an artifact (a folder with a {manifests.FILE}), the folder of a model with its versions, or "
            "a folder of models",
            field="source",
        )
    if len(found) > 1:
        raise InvalidValue(
            f"{source.at('')}: has {len(found)} models; name one, such as {source.at(next(iter(found)))}",
            field="source", valid=[shown(name)[1:-1] for name in found],
        )  # fmt: skip
    return next(iter(found.values()))[-1]
