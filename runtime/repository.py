"""The folder of artifacts: `ROOT/NAME/VERSION/`. Scans, chooses a version, verifies checksums, publishes by rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runtime import manifest as manifests
from runtime import onnx_file
from runtime.errors import ArtifactError, GraphError, UnknownModel, shown
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


def everything(folder: Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file below an artifact's folder, by its path with `/` from there.

    Hidden folders are left out: they belong to tools, and to Kubernetes' way of changing a mounted folder. Links to folders are not followed.
    """
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_file():
                yield f"{below}{entry.name}", entry
            elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from everything(folder / entry.name, f"{below}{entry.name}/")


def files(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file of an artifact but its manifest, as `everything` does."""
    return ((name, entry) for name, entry in everything(folder) if name != manifests.FILE)


def records(folder: Path) -> dict[str, FileRecord]:
    """Return the checksums of every file of an artifact but the manifest, by path. Raises ArtifactError for a link that leads out of it."""
    found = {}
    for name in sorted(name for name, _ in files(folder)):
        if not _inside(folder, name):
            raise ArtifactError(f"{folder / name}: a link that leads out of the artifact's folder; put the file there")
        found[name] = digest(folder / name)
    return found


def _inside(folder: Path, name: str) -> bool:
    """Whether a file lies in the folder once links are followed."""
    path = folder / name
    return ("/" not in name and not path.is_symlink()) or path.resolve().is_relative_to(folder.resolve())


def place(folder: Path, name: str) -> str | None:
    """Say what is wrong with a file's name in a manifest: None if it names a file within the folder that is there."""
    parts = name.split("/")
    if not name or name.startswith("/") or not set(parts).isdisjoint(("", ".", "..")) or "\0" in name:
        return f"there is no file {shown(name)} in the artifact's folder: the name leads out of it"
    if not (folder / name).is_file():
        return f"there is no file {shown(name)} in the artifact's folder"
    if not _inside(folder, name):
        return f"{shown(name)} is a link that leads out of the artifact's folder"
    return None


def copy(source: Path, target: Path) -> None:
    """Copy every file of an artifact but its manifest, with the folders that they lie in."""
    for name, _ in files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)


def checksum(files: Mapping[str, FileRecord]) -> str:
    """One SHA-256 over the checksums of an artifact's files: which bits are these."""
    return hashlib.sha256(
        "".join(f"{name} {record.sha256}\n" for name, record in sorted(files.items())).encode()
    ).hexdigest()


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files of an artifact, one line each; nothing if all is well.

    Every file that the artifact is read from must lie in its folder and be listed under `files`: the graphs, the weights that they refer to,
    golden vectors and calibration. A hand-written manifest may leave out `files`; then the files only need to be there.
    """
    problems = [*_altered(folder, manifest), *_unlisted(folder, manifest)]
    if folder.name.isdecimal() and (folder.parent.name, int(folder.name)) != (manifest.name, manifest.version):
        problems.append(
            f"name, version: the manifest says {manifest.name} {manifest.version}, the folder {folder.parent.name} {folder.name}"
        )
    return problems


def _altered(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the files that have a checksum."""
    for name, record in manifest.files.items():
        if wrong := place(folder, name):
            yield f"files.{name}: {wrong if (folder / name).is_file() else 'missing'}"
        elif (found := digest(folder / name)) != record:
            yield (
                f"files.{name}: altered: SHA-256 {found.sha256[:12]}… of {found.bytes} bytes, the manifest says {record.sha256[:12]}… of {record.bytes}"
            )


def _unlisted(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the files that the artifact is read from."""
    for where, name in dict.fromkeys(_named(manifest)):
        if wrong := place(folder, name):
            yield f"{where}: {wrong}"
        elif "/" in name and where.endswith(".graph"):
            yield f"{where}: there is no file {shown(name)} in the artifact's folder: graphs lie at its top"
        elif manifest.files and name not in manifest.files:
            yield f"{where}: {shown(name)} has no checksum under files"
        elif where.endswith(".graph") and manifest.backend == "onnx":
            yield from _weights(folder, manifest, where, name)


def _named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the files that a manifest names, each with the field that names it."""
    if manifest.backend != "fake":
        for task, spec in manifest.tasks.items():
            yield f"tasks.{task}.graph", spec.graph
    if manifest.golden is not None:
        yield "golden.file", manifest.golden.file
    if manifest.scoring is not None and manifest.scoring.calibration is not None:
        yield "scoring.calibration.file", manifest.scoring.calibration.file


def _weights(folder: Path, manifest: Manifest, where: str, graph: str) -> Iterator[str]:
    """Yield what is wrong with the files of weights that an ONNX graph refers to."""
    try:
        locations = onnx_file.outline(folder / graph).external
    except GraphError:
        return  # it is refused when it is opened, which says more about it
    for location in locations:
        name = onnx_file.below(location)
        if name is None:
            yield f"{where}: weights of {graph}: {shown(location)} is outside the artifact's folder"
        elif wrong := place(folder, name):
            yield f"{where}: weights of {graph}: {wrong}"
        elif manifest.files and name not in manifest.files:
            yield f"{where}: weights of {graph}: {shown(name)} has no checksum under files; `manifold check --seal` writes it"


def left_over(folder: Path, manifest: Manifest) -> list[str]:
    """Return the files in a sealed artifact's folder that have no checksum. Nothing reads them, so the loader ignores them."""
    return sorted(name for name, _ in files(folder) if name not in manifest.files) if manifest.files else []


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


def seal(folder: Path, drawing: Collection[str] = ()) -> Manifest:
    """Write the checksums of what now lies in an artifact's folder into its manifest, and which tasks were found to draw random numbers."""
    sealed = manifests.read(folder).model_copy(update={"files": records(folder)}).with_drawing(drawing)
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
    for name, _ in everything(folder):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    try:
        folder.rename(target)  # a folder with something in it is never replaced by rename(2)
    except OSError as error:
        raise ArtifactError(f"{target} exists; artifacts are never overwritten") from error
    return target
