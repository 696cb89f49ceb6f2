"""The publication of a candidate in a folder of models: all of its files, verified, by one rename."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime import lineage, published, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError
from manifold.runtime.sharing import candidates
from manifold.runtime.sharing.candidates import Candidate, listed


@dataclass(frozen=True)
class FolderShelf:
    """The versions of one model in a folder of models."""

    root: Path
    name: str

    def at(self, version: int) -> str:
        """Return the path of a version."""
        return str(self.root / self.name / str(version))

    def versions(self) -> list[int]:
        """Return the versions, ascending. Empty folders are left out."""
        folder = self.root / self.name
        return [each for each in repository.versions(folder) if any((folder / str(each)).iterdir())]

    def read(self, version: int) -> Candidate:
        """Return a version."""
        return candidates.read(self.root / self.name / str(version), self.at(version))

    def next(self) -> int:
        """Return the number of the next version. Numbers of published versions are never used twice."""
        return repository.next_version(self.root, self.name)


@dataclass(frozen=True)
class Installed:
    """The result: the folder of the artifact, and the version that was there already; None if the artifact is new."""

    folder: Path
    there: Candidate | None
    candidate: Candidate


def install(
    candidate: Candidate, root: Path, fill: Callable[[Path], None], *, renumber: bool, advice: str
) -> Installed:
    """Publish a candidate in the folder of models `root`. `fill` writes its files into a temporary folder.

    Nothing is left behind if this fails. Raises ArtifactError for files that do not match their checksums, and for a version that exists with
    other content. Raises InvalidValue for a model that cannot continue the one in the folder.
    """
    settled = candidates.settle(candidate, FolderShelf(root, candidate.manifest.name), renumber, advice)
    candidate = settled.candidate
    target = root / candidate.key
    if settled.there is not None:
        if problems := repository.verify(target, settled.there.manifest):
            about = f"{target}: is there already, but damaged; remove this folder and repeat the command:"
            raise ArtifactError(listed(about, problems))
        return Installed(target, settled.there, candidate)
    _check_allowed(candidate, root)
    with _removed_if_empty(root), repository.staging(root, candidate.manifest.name) as folder:
        (folder / manifests.FILE).write_bytes(candidate.raw)
        fill(folder)
        if problems := repository.verify(folder, candidate.manifest):
            raise ArtifactError(listed(f"{candidate.address}: the files do not match the manifest:", problems))
        publish = repository.publish_next if renumber else repository.publish
        return Installed(publish(folder, root, candidate.manifest), None, candidate)


def _check_allowed(candidate: Candidate, root: Path) -> None:
    """Raise an error if the record of published versions, or the model in the folder, does not allow this version."""
    recorded = published.read(root).get(candidate.key)
    if recorded is None:
        lineage.check_manifest(root, candidate.manifest)
    elif recorded != published.identity_of(candidate.stated):
        raise ArtifactError(
            f"{candidate.key}: {root / published.FILE} records other content for this version; {published.RULE}"
        )


@contextmanager
def _removed_if_empty(root: Path) -> Iterator[None]:
    """Remove the folder of models again if the block made it and fails."""
    existed = root.exists()
    try:
        yield
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise
