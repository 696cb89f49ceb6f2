"""Pushing: an artifact to a folder of models, or to a repository of the Hub, with a model card beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import published, repository
from manifold.runtime.errors import ArtifactError, InvalidValue, command, cut
from manifold.runtime.sharing import candidates, card, installing
from manifold.runtime.sharing.addresses import HubAddress, joined
from manifold.runtime.sharing.candidates import Candidate, listed
from manifold.runtime.sharing.installing import FolderShelf

ADVICE = "push it as the next version there with --next"
NAMED = 5  # files or fields that a note lists


@dataclass(frozen=True)
class Wishes:
    """The options of a push: see the command."""

    renumber: bool = False
    private: bool = True
    license: str | None = None
    replace_card: bool = False


@dataclass(frozen=True)
class Pushed:
    """The result: where the artifact is, whether it was there already, and notes for the user."""

    place: str
    there: bool
    notes: tuple[str, ...]


def push(folder: Path, place: Path | HubAddress, wishes: Wishes, tell: Callable[[str], None]) -> Pushed:
    """Copy an artifact to a place. Raises ArtifactError if its files do not match their checksums."""
    candidate = sealed(folder)
    notes = [*_notes(folder, candidate)]
    if isinstance(place, Path):
        done = _to_folder(folder, candidate, place, wishes, tell)
    else:
        done = _to_hub(folder, candidate, place, wishes, tell)
    return Pushed(done.place, done.there, (*notes, *done.notes))


def sealed(folder: Path) -> Candidate:
    """Return an artifact whose files all match their checksums. Raises ArtifactError for any other one."""
    candidate = candidates.read(folder, str(folder))
    if not candidate.manifest.files:
        raise ArtifactError(
            f"{folder}: the manifest has no checksums, so others could not verify the files; seal the artifact with `{command('check', '--seal', folder)}`"
        )
    if problems := repository.verify(folder, candidate.manifest):
        advice = f"restore the files; if they are as they should be, seal the artifact with `{command('check', '--seal', folder)}`:"
        raise ArtifactError(listed(f"{folder}: not pushed, as its files do not match the manifest; {advice}", problems))
    if changed := published.problem_of(folder):
        raise ArtifactError(changed)
    candidates.check_files(candidate)
    return candidate


def _notes(folder: Path, candidate: Candidate) -> list[str]:
    notes = []
    if extra := repository.left_over(folder, candidate.manifest):
        notes.append(f"not pushed, as the manifest does not list them: {_some(extra)}")
    if paths := card.private_paths(candidate.manifest):
        notes.append(f"the manifest contains paths of your machine, which are readable at the target: {_some(paths)}")
    return notes


def _some(texts: list[str]) -> str:
    return ", ".join(map(cut, texts[:NAMED])) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def _card(
    old: str | None, manifest: manifests.Manifest, address: str, versions: list[int], wishes: Wishes
) -> tuple[str | None, list[str]]:
    """Return the card to write, and notes. None if the present one stays: it is the user's, or describes a later version."""
    if manifest.version < max(versions):
        return None, []
    new = card.build(manifest, address, versions, wishes.license)
    made = card.merged(None if wishes.replace_card else old, new)
    if made is None:
        return None, [f"{card.FILE} was not made by `manifold push` and is kept; --replace-card replaces it"]
    return (None if made == old else made), []


# --- a folder of models -------------------------------------------------------------------------------------------------------


def _to_folder(folder: Path, candidate: Candidate, root: Path, wishes: Wishes, tell: Callable[[str], None]) -> Pushed:
    _check_root(folder, root)

    def fill(staged: Path) -> None:
        for path, record in candidate.manifest.files.items():
            tell(f"{path}, {record.bytes} bytes")
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, staged / path)

    done = installing.install(candidate, root, fill, renumber=wishes.renumber, advice=ADVICE)
    notes = []
    if done.there is not None and done.there.manifest.metrics != candidate.manifest.metrics:
        with repository.replacing(done.folder / manifests.FILE) as temporary:
            temporary.write_bytes(done.there.with_figures_of(candidate).raw)
        notes.append("its figures there were replaced by the present ones")
    path = done.folder.parent / card.FILE
    old = path.read_text(errors="replace") if path.is_file() else None
    versions = FolderShelf(root, candidate.manifest.name).versions()
    text, more = _card(old, done.candidate.manifest, str(done.folder), versions, wishes)
    if text is not None:
        with repository.replacing(path) as temporary:
            temporary.write_text(text)
    return Pushed(str(done.folder), done.there is not None, (*notes, *more))


def _check_root(folder: Path, root: Path) -> None:
    """Raise InvalidValue if a target is not the folder of models of another place."""
    if root.exists() and not root.is_dir():
        raise InvalidValue(f"target: {root} is a file; give a folder of models", field="target")
    if (root / manifests.FILE).exists():
        raise InvalidValue(
            f"target: {root} is an artifact; give the folder of models that contains NAME/VERSION", field="target"
        )
    if repository.versions(root):
        raise InvalidValue(
            f"target: {root} is the folder of one model; give the folder of models above it", field="target"
        )
    if folder.resolve().parent.parent == root.resolve():
        raise InvalidValue(f"target: the model is in {root} already; give another folder", field="target")


# --- the Hub ------------------------------------------------------------------------------------------------------------------


def _to_hub(
    folder: Path, candidate: Candidate, address: HubAddress, wishes: Wishes, tell: Callable[[str], None]
) -> Pushed:
    from manifold.runtime.sharing import hub

    place, new = hub.Repository.open_or_make(address, private=wishes.private)
    if place.has(manifests.FILE):
        raise InvalidValue(
            f"target: {address} is an artifact itself; push to a sub-folder, such as {address.at(candidate.manifest.name)}",
            field="target",
        )
    shelf = hub.HubShelf(place)
    candidates.check_continues(candidate, shelf)
    settled = candidates.settle(candidate, shelf, wishes.renumber, ADVICE)
    key = str(settled.candidate.manifest.version)
    notes = [f"the repository was made, and is {'private' if wishes.private else 'public'}"] if new else []
    files: dict[str, Path | bytes] = {}
    if settled.there is None:
        files = {joined(key, path): folder / path for path in candidate.manifest.files}
        files[joined(key, manifests.FILE)] = settled.candidate.raw
    elif settled.there.manifest.metrics != candidate.manifest.metrics:
        files[joined(key, manifests.FILE)] = settled.there.with_figures_of(candidate).raw
        notes.append("its figures there were replaced by the present ones")
    versions = sorted({*shelf.versions(), settled.candidate.manifest.version})
    text, more = _card(shelf.text(card.FILE), settled.candidate.manifest, place.at(key), versions, wishes)
    if text is not None:
        files[card.FILE] = text.encode()
    if files:
        size = sum(record.bytes for record in candidate.manifest.files.values()) if settled.there is None else 0
        tell(f"{len(files)} files, {size} bytes, to {address}")
        place.commit_files(
            files, f"Add {settled.candidate.key}" if settled.there is None else f"Renew {settled.candidate.key}"
        )
    return Pushed(place.page(key), settled.there is not None, (*notes, *more))
