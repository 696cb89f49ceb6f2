"""An artifact on its way to a place, and its comparison with the versions that the place has."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError, InvalidValue, shown
from manifold.runtime.manifest import Manifest
from manifold.runtime.sharing.addresses import wrong_files

LISTED = 20  # problems of files in a message


@dataclass(frozen=True)
class Candidate:
    """The manifest of an artifact, as it is stored and as it is read. `address` is the place that it comes from."""

    address: str
    raw: bytes
    manifest: Manifest

    @property
    def stated(self) -> dict[str, Any]:
        """The fields of the manifest as they are stored."""
        fields: dict[str, Any] = json.loads(self.raw)
        return fields

    @property
    def key(self) -> str:
        """The name and the version, in the form NAME/VERSION."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def content(self) -> dict[str, Any]:
        """The parts of the manifest that do not change under one version, without its name and number. It has the checksum of every file."""
        return self.manifest.model_dump(mode="json", exclude_none=True, exclude={"name", "version", "metrics"})

    def named(self, name: str | None = None, version: int | None = None) -> Candidate:
        """Return the candidate with another name or version. The stored text is kept if nothing changes."""
        changes = {"name": name or self.manifest.name, "version": version or self.manifest.version}
        if all(getattr(self.manifest, key) == value for key, value in changes.items()):
            return self
        raw = manifests.text_of({**self.stated, **changes}).encode()
        return replace(self, raw=raw, manifest=self.manifest.model_copy(update=changes))

    def with_figures_of(self, other: Candidate) -> Candidate:
        """Return the candidate with the figures of another one. All other fields stay as they are stored."""
        raw = manifests.text_of({**self.stated, "metrics": other.stated.get("metrics", [])}).encode()
        return replace(self, raw=raw, manifest=self.manifest.model_copy(update={"metrics": other.manifest.metrics}))


def read(folder: Path, address: str) -> Candidate:
    """Read the manifest in a folder. Errors name the address instead of the folder. Raises ArtifactError."""
    try:
        manifest = manifests.read(folder)
    except ArtifactError as error:
        raise ArtifactError(error.message.replace(str(folder), address)) from None
    return Candidate(address, (folder / manifests.FILE).read_bytes(), manifest)


def check_files(candidate: Candidate) -> None:
    """Raise ArtifactError if the manifest has no checksums, or lists files that must not be written into a folder."""
    files = candidate.manifest.files
    if not files:
        raise ArtifactError(
            f"{candidate.address}: the manifest has no checksums, so the files cannot be verified; seal the artifact with "
            f"`manifold check --seal` where it was made, and push it again"
        )
    if problems := list(wrong_files(files)):
        raise ArtifactError(listed(f"{candidate.address}: refused:", problems))


def listed(about: str, problems: list[str]) -> str:
    """Return a message with one line for each problem, at most LISTED."""
    more = [f"  and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return "\n".join([about, *(f"  {problem}" for problem in problems[:LISTED]), *more])


class Shelf(Protocol):
    """The versions of one model at a place."""

    def at(self, version: int) -> str:
        """Return the address of a version."""

    def versions(self) -> list[int]:
        """Return the versions, ascending."""

    def read(self, version: int) -> Candidate:
        """Return a version. Raises ArtifactError if it is damaged."""

    def next(self) -> int:
        """Return the number of the next version."""


@dataclass(frozen=True)
class Settled:
    """A candidate with the number that it has at a place, and the version that is there already; None if it is new."""

    candidate: Candidate
    there: Candidate | None


def settle(candidate: Candidate, shelf: Shelf, renumber: bool, advice: str) -> Settled:
    """Decide under which version a candidate is published. With `renumber` it is the next one, unless a version has the same content.

    Raises ArtifactError if the number is taken by other content; `advice` says what to do then.
    """
    if renumber:
        for version in reversed(shelf.versions()):
            with contextlib.suppress(ArtifactError):  # a damaged version is not the same
                if (there := shelf.read(version)).content == candidate.content:
                    return Settled(candidate.named(version=version), there)
        return Settled(candidate.named(version=shelf.next()), None)
    version = candidate.manifest.version
    if version not in shelf.versions():
        return Settled(candidate, None)
    there = shelf.read(version)
    if there.content != candidate.content:
        raise ArtifactError(
            f"{shelf.at(version)}: exists with other content, and an artifact never changes under one version; {advice}"
        )
    return Settled(candidate, there)


def check_continues(candidate: Candidate, shelf: Shelf) -> None:
    """Raise InvalidValue if the latest readable version at a place is of another model, or of another kind of items."""
    for version in reversed(shelf.versions()):
        try:
            before = shelf.read(version).manifest
        except ArtifactError:  # a damaged version says nothing about the model
            continue
        after = candidate.manifest
        if before.name != after.name or before.spec.kind != after.spec.kind:
            raise InvalidValue(
                f"target: {shelf.at(version)} is {shown(before.name)}, a model of {before.spec.noun}, and this one is {shown(after.name)}, a model of "
                f"{after.spec.noun}; push it to another repository or sub-folder",
                field="target",
            )
        return
