"""The files of an artifact for pages: its preview, a sheet, samples by epoch, training curves, and latents of test items.

Export writes the preview to the top level of an artifact and the others to its folder `page` (docs/reference/artifact.md lists them). An artifact
may have any of them or none. They are read when they are requested. A file that is too large, damaged, or not the one that the manifest has a
checksum of gives the error Unavailable; the model itself is still served.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime.errors import NotFound, Unavailable, shown
from manifold.runtime.manifest import Manifest

MAX_BYTES = {".png": 16 * 2**20, ".csv": 2**20, ".json": 2**20, ".npz": 2**20}  # largest file that is read, by suffix
MEDIA_TYPES = {".png": "image/png", ".csv": "text/csv; charset=utf-8"}
PNG = b"\x89PNG\r\n\x1a\n"
AGAIN = "export the model again, or restore the file"


@dataclass(frozen=True)
class Subject:
    """A subject of a page: the path of its file, or the paths of which the first that exists counts, and its name in errors."""

    what: str
    made: str  # the end of the error about an artifact without the file
    paths: tuple[str, ...]


EXPORTED = "it is made when a model is exported"
SUBJECTS = {
    "preview": Subject("preview", EXPORTED, ("preview.png",)),
    "points": Subject("points file", f"{EXPORTED} that encodes items to latents", ("page/points.npz",)),
    "curves": Subject("file of training curves", EXPORTED, ("page/curves.json",)),
    "sheet": Subject("sheet", EXPORTED, ("page/sheet.png", "page/sheet.csv")),
    "epochs": Subject(
        "picture of samples by epoch", f"{EXPORTED} whose training kept checkpoints", ("page/epochs.png",)
    ),
    "listed": Subject("list of epochs", EXPORTED, ("page/epochs.json",)),  # the epochs of the rows of that picture
}
PUBLIC = tuple(name for name in SUBJECTS if name != "listed")  # the subjects with a checksum in the summary of a model


@dataclass(frozen=True)
class PageFile:
    """The content of a file, with its path in the artifact and its checksum."""

    path: str
    content: bytes
    sha256: str

    @property
    def media_type(self) -> str:
        """The media type of a picture or a table."""
        return MEDIA_TYPES[Path(self.path).suffix]


def checksums(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the checksums of the files that an artifact has, by subject. Files without a checksum in the manifest are read."""
    found = {}
    for name in PUBLIC:
        for path in SUBJECTS[name].paths:
            recorded = manifest.files.get(path)
            if recorded is not None:
                found[name] = recorded.sha256
                break
            content = _content(folder / path)
            if isinstance(content, bytes):
                found[name] = _sha256(content)
                break
    return found


def read(folder: Path, manifest: Manifest | None, subject: str, field: str) -> PageFile:
    """Return the file of a subject. Raise NotFound if the artifact has none, and Unavailable if the file cannot be used.

    `field` is the name of the model in errors: `name` in a path, `model` in a message.
    """
    file = find(folder, manifest, subject, field)
    if file is None:
        about = SUBJECTS[subject]
        raise NotFound(f"{folder.parent.name} has no {about.what}; {about.made}", field=field)
    return file


def find(folder: Path, manifest: Manifest | None, subject: str, field: str) -> PageFile | None:
    """Return the file of a subject; None if the artifact has none. Raise Unavailable if the file cannot be used."""
    for path in SUBJECTS[subject].paths:
        content = _content(folder / path)
        if isinstance(content, str):
            raise unusable(folder, subject, field, content)
        if content is not None:
            return _checked(folder, manifest, subject, field, PageFile(path, content, _sha256(content)))
    return None


def unusable(folder: Path, subject: str, field: str, reason: str) -> Unavailable:
    """Return the error for a file that cannot be used."""
    return Unavailable(f"the {SUBJECTS[subject].what} of {folder.parent.name} cannot be read: {reason}", field=field)


def _checked(folder: Path, manifest: Manifest | None, subject: str, field: str, file: PageFile) -> PageFile:
    """Return the file. Raise Unavailable if it is not the file of the manifest's checksum, or not of its format."""
    recorded = manifest.files.get(file.path) if manifest is not None else None
    if recorded is not None and recorded.sha256 != file.sha256:
        raise unusable(folder, subject, field, f"{file.path} does not have the checksum in the manifest; {AGAIN}")
    if file.path.startswith("page/") and file.path.endswith(".png") and not file.content.startswith(PNG):
        raise unusable(
            folder, subject, field, f"{file.path} is no PNG: it starts with {shown(file.content[:8])}; {AGAIN}"
        )
    return file


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes | str | None:
    """Return the content of a file; None if there is no such file, and the reason as text if it cannot be read."""
    limit = MAX_BYTES[path.suffix]
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return str(error.strerror)
    return content if len(content) <= limit else f"{path.name} has more than {limit} bytes; {AGAIN}"
