"""Pulling: an artifact from a folder or a repository of the Hub into a folder of models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.errors import ArtifactError, shown
from manifold.runtime.sharing import candidates, installing, sources
from manifold.runtime.sharing.addresses import HubAddress, joined
from manifold.runtime.sharing.candidates import Candidate, listed
from manifold.runtime.sharing.sources import Source

NAMED = 5  # files that a note lists
ADVICE = "pull it under another name with --name, or as the next version with --next"


@dataclass(frozen=True)
class Pulled:
    """The result: the folder of the artifact, whether it was there already, and notes for the user."""

    folder: Path
    there: bool
    notes: tuple[str, ...]


def open_source(place: Path | HubAddress) -> Source:
    """Return the source at an address. Raises UnknownModel if it does not exist, and Unavailable if the Hub cannot be reached."""
    if isinstance(place, Path):
        return sources.folder(place)
    from manifold.runtime.sharing import hub

    return hub.Repository.open(place)


def pull(
    source: Source, root: Path, *, name: str | None = None, renumber: bool = False, tell: Callable[[str], None]
) -> Pulled:
    """Copy the latest version at a source into the folder of models `root`. Every file is compared with its checksum.

    `name` is the name that the model gets; by default it keeps its own. With `renumber` it becomes the next version of that model.
    """
    below = sources.latest(source)
    candidate = read(source, below)
    candidates.check_files(candidate)
    left_out: list[str] = []

    def fill(folder: Path) -> None:
        sizes = source.sizes(below)
        left_out.extend(sorted(sizes.keys() - candidate.manifest.files.keys() - {manifests.FILE}))
        _check_sizes(candidate, sizes)
        for path, record in candidate.manifest.files.items():
            tell(f"{path}, {record.bytes} bytes")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            source.fetch(joined(below, path), folder / path, record.bytes)

    done = installing.install(candidate.named(name), root, fill, renumber=renumber, advice=ADVICE)
    return Pulled(done.folder, done.there is not None, tuple(_notes(candidate, done, left_out)))


def read(source: Source, below: str) -> Candidate:
    """Read the manifest of an artifact at a source. Raises ArtifactError if it is damaged, or of another version than its folder."""
    with tempfile.TemporaryDirectory(prefix="manifold-") as folder:
        source.fetch(joined(below, manifests.FILE), Path(folder) / manifests.FILE, manifests.MAX_BYTES)
        candidate = candidates.read(Path(folder), source.at(below))
    number = below.rpartition("/")[2]
    if repository.VERSION.fullmatch(number) and int(number) != candidate.manifest.version:
        raise ArtifactError(
            f"{candidate.address}: the manifest says version {candidate.manifest.version}, but the folder is {number}; make them equal"
        )
    return candidate


def _check_sizes(candidate: Candidate, sizes: dict[str, int]) -> None:
    """Raise ArtifactError for files that are missing, unlisted, or of another size, before the first one is copied."""
    named = dict.fromkeys(name for _, name in repository.named(candidate.manifest))
    problems = [f"{name}: has no checksum under files" for name in named if name not in candidate.manifest.files]
    for path, record in candidate.manifest.files.items():
        if path not in sizes:
            problems.append(f"files.{path}: missing")
        elif sizes[path] != record.bytes:
            problems.append(f"files.{path}: has {sizes[path]} bytes, but the manifest says {record.bytes}")
    if problems:
        raise ArtifactError(listed(f"{candidate.address}: the files do not match the manifest:", problems))


def _notes(candidate: Candidate, done: installing.Installed, left_out: list[str]) -> list[str]:
    notes = []
    if left_out:
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        notes.append(
            f"not pulled, as the manifest does not list them: {', '.join(shown(name)[1:-1] for name in left_out[:NAMED])}{more}"
        )
    if done.there is not None and done.there.manifest.metrics != candidate.manifest.metrics:
        notes.append("its figures differ from those at the source; those in the folder are kept")
    if candidate.manifest.backend == "torchscript":
        notes.append("its graphs are TorchScript, and these are programs: run them only if you trust their source")
    return notes
