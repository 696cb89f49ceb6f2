"""The folder of artifacts: `ROOT/NAME/VERSION/`. Scans, chooses a version, verifies checksums, publishes by rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runtime import manifest as manifests
from runtime.errors import ArtifactError, UnknownModel
from runtime.manifest import FileRecord, Manifest


def scan(root: Path) -> dict[str, list[int]]:
    """Names with their versions, ascending. Folders that are not called like one are left alone."""
    if not root.is_dir():
        raise ArtifactError(
            f"{root}: there is no such folder; MANIFOLD_MODELS_DIR (or --models) names the folder of models"
        )
    found = {}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            if there := versions(folder):
                found[folder.name] = there
    return found


def versions(folder: Path) -> list[int]:
    """Those in the folder of a model, ascending; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())


def locate(path: Path) -> Path:
    """The folder of an artifact: `path` itself, or the latest version below it."""
    if (path / manifests.FILE).exists():
        return path
    there = versions(path)
    if not there:
        raise UnknownModel(
            f"{path}: no artifact there; one is a folder NAME/VERSION with a {manifests.FILE}", field="model"
        )
    return path / str(there[-1])


def find(name: str, root: Path) -> Path:
    """The folder of the artifact called `name` (or `name/version`) below root, else at the path `name`. Raises UnknownModel."""
    below = root / name
    return locate(Path(name) if Path(name).is_dir() and not below.is_dir() else below)


def trained_on(data: str, root: Path, task: str) -> tuple[list[str], dict[str, str | None]]:
    """Names of the artifacts with a task that were trained on a data set, and of all that have the task what each was trained on."""
    found = {}
    for name in scan(root):
        try:
            manifest = manifests.read(locate(root / name))
        except ArtifactError:  # whoever uses it will be told
            continue
        if task in manifest.tasks:
            found[name] = manifest.data_name
    return [name for name, trained in found.items() if trained == data], found


def digest(path: Path) -> FileRecord:
    """Checksum and size of a file."""
    with path.open("rb") as file:
        return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def records(folder: Path) -> dict[str, FileRecord]:
    """Checksums of every file in an artifact's folder but the manifest."""
    return {
        path.name: digest(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != manifests.FILE
    }


def checksum(files: Mapping[str, FileRecord]) -> str:
    """One SHA-256 over the checksums of an artifact's files: which bits are these."""
    return hashlib.sha256(
        "".join(f"{name} {record.sha256}\n" for name, record in sorted(files.items())).encode()
    ).hexdigest()


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files of an artifact, one line each; empty where all is well.

    A hand-written manifest may leave out `files`; then only their being there is checked.
    """
    problems = []
    for name, record in manifest.files.items():
        path = folder / name
        if Path(name).name != name:
            problems.append(f"files: {name!r} is outside the artifact's folder")
        elif not path.is_file():
            problems.append(f"files.{name}: missing")
        elif (found := digest(path)) != record:
            problems.append(
                f"files.{name}: altered: SHA-256 {found.sha256[:12]}… of {found.bytes} bytes, the manifest says {record.sha256[:12]}… of {record.bytes}"
            )
    for task, spec in manifest.tasks.items():
        if manifest.backend == "fake":
            continue
        if Path(spec.graph).name != spec.graph or not (folder / spec.graph).is_file():
            problems.append(f"tasks.{task}.graph: there is no file {spec.graph!r} in the artifact's folder")
        elif manifest.files and spec.graph not in manifest.files:
            problems.append(f"tasks.{task}.graph: {spec.graph!r} has no checksum under files")
    if folder.name.isdecimal() and (folder.parent.name, int(folder.name)) != (manifest.name, manifest.version):
        problems.append(
            f"name, version: the manifest says {manifest.name} {manifest.version}, the folder {folder.parent.name} {folder.name}"
        )
    return problems


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of an artifact that is there already, in place of the one it has."""
    with replacing(folder / manifests.FILE) as temporary:
        temporary.write_text(manifests.dumps(manifest))


def seal(folder: Path) -> Manifest:
    """Writes the checksums of what now lies in an artifact's folder into its manifest."""
    sealed = manifests.read(folder).model_copy(update={"files": records(folder)})
    save(folder, sealed)
    return sealed


@contextmanager
def staging(root: Path, name: str) -> Iterator[Path]:
    """A temporary folder on the repository's own disk, removed unless it was published."""
    (root / name).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=root / name))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not any((root / name).iterdir()):
            (root / name).rmdir()


def next_version(root: Path, name: str) -> int:
    """One more than the latest version."""
    return scan(root).get(name, [0])[-1] + 1 if root.is_dir() else 1


def publish(folder: Path, root: Path, manifest: Manifest) -> Path:
    """Renames a finished folder to `ROOT/NAME/VERSION`; never overwrites. Raises ArtifactError where that version exists."""
    target = root / manifest.name / str(manifest.version)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    try:
        folder.rename(target)  # a folder with something in it is never replaced by rename(2)
    except OSError as error:
        raise ArtifactError(f"{target} exists; artifacts are never overwritten") from error
    return target
