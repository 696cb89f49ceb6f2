"""The folder of artifacts, `ROOT/NAME/VERSION/`: listing, choice of a version, verification of checksums, publication by rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import published
from manifold.runtime.errors import ArtifactError, GraphError, UnknownModel, cut, nearest, shown
from manifold.runtime.graphs import onnx_file
from manifold.runtime.locks import held, locked
from manifold.runtime.manifest import PRIORS_FILE, FileRecord, Manifest, Metric

VERSION = re.compile(r"[1-9][0-9]{0,8}")
PLAIN = re.compile(
    r"[a-z0-9][a-z0-9_-]{0,63}"
)  # a file with such a name was probably meant to be a model's folder; README.md was not
USUAL = Path("models")  # the folder of models that users forget to name
STAGING = ".staging-"
OLD_SECONDS = 86_400  # on a file system without locks, the age at which a staging folder counts as abandoned
READABLE = "give the user that runs Manifold permission to read it"


@dataclass(frozen=True)
class Listing:
    """The content of a folder of artifacts."""

    versions: dict[str, list[int]] = field(default_factory=dict)  # by name, ascending
    unreadable: dict[str, str] = field(default_factory=dict)  # models whose versions are unknown, with the reason


def scan(root: Path) -> dict[str, list[int]]:
    """Return the names with their versions, ascending. Folders that cannot be read are left out. Raises the same errors as `survey`."""
    return survey(root).versions


def survey(root: Path) -> Listing:
    """Return the content of the folder of artifacts. Files with a suffix and folders without versions are ignored.

    Raises ArtifactError if `root` itself cannot be read. A single model that cannot be read is part of the listing.
    """
    try:
        names = sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{root}: the folder does not exist; set MANIFOLD_MODELS_DIR (or --models) to the folder of models"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{root}: cannot be read: {error.strerror}; {READABLE}") from None
    listing = Listing()
    for name in names:
        if not name.startswith("."):
            _add(listing, root / name)
    return listing


def _add(listing: Listing, folder: Path) -> None:
    """Add one model to the listing, with a name that can be encoded as UTF-8."""
    name = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
    there, reason = look_into(folder)
    if reason is not None:
        listing.unreadable[name] = reason
    elif there:
        listing.versions[name] = there


def look_into(folder: Path) -> tuple[list[int], str | None]:
    """Return the versions of a model, ascending, and None; or an empty list and the reason why the versions are unknown."""
    legal = re.fullmatch(manifests.NAME, folder.name) is not None
    try:
        there = versions(folder)
    except OSError as error:  # a folder such as lost+found is not a model
        return [], f"its folder cannot be read: {error.strerror}; {READABLE}" if legal else None
    if there and not legal:
        return [], "its folder does not have a valid name: use at most 64 letters, digits, '.', '_' and '-'"
    if not there and folder.is_symlink() and not folder.exists():
        return [], "its folder is a symbolic link to a target that does not exist; correct the link"
    if not there and PLAIN.fullmatch(folder.name) and folder.is_file():
        return [], "it is a file; put a model into a folder NAME/VERSION"
    return there, None


def versions(folder: Path) -> list[int]:
    """Return the versions in the folder of a model, ascending; empty if the folder does not exist. Raises OSError if it cannot be read."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise
    return sorted(int(name) for name in names if VERSION.fullmatch(name))


def locate(path: Path) -> Path:
    """Return the folder of an artifact: `path` itself, or the latest version below it.

    Raises UnknownModel if there is none, with the nearest name or the versions that exist.
    """
    if os.path.exists(path / manifests.FILE):  # unlike Path.exists, it returns false for names that are too long
        return path
    there = versions(path)
    if not there:
        raise _unknown(path)
    return path / str(there[-1])


def _unknown(path: Path) -> UnknownModel:
    """Return the error for a path without an artifact."""
    shape = f"an artifact is a folder NAME/VERSION with a {manifests.FILE}"
    if path.name == manifests.FILE and os.path.isfile(path):
        return UnknownModel(f"{cut(str(path))}: is a file; give its folder {path.parent}", field="model")
    if os.path.exists(path):
        return UnknownModel(f"{cut(str(path))}: contains no artifact; {shape}", field="model")
    if there := _versions_of(path.parent):
        return UnknownModel(
            f"{cut(str(path))}: {path.parent} has no version {cut(path.name)}; it has {', '.join(map(str, there))}",
            field="model", valid=there,
        )  # fmt: skip
    versioned = VERSION.fullmatch(path.name) is not None and not os.path.exists(path.parent)
    name = path.parent if versioned else path
    for root in (name.parent, USUAL / name.parent):
        names = _names(root)
        near = [name.name] if name.name in names else nearest(name.name, names)
        if near:
            similar = [str(root / each) for each in near]
            others = f" Also similar: {', '.join(similar[1:])}" if similar[1:] else ""
            return UnknownModel(
                f"{cut(str(path))}: there is no such folder; did you mean {similar[0]}?{others}",
                field="model", valid=similar,
            )  # fmt: skip
    names = [str(name.parent / each) for each in _names(name.parent)]
    return UnknownModel(
        f"{cut(str(path))}: there is no such folder; {'give one of these models' if names else shape}",
        field="model", valid=names or None,
    )  # fmt: skip


def _versions_of(folder: Path) -> list[int]:
    """Return the versions of a model; empty if the folder cannot be read."""
    try:
        return versions(folder)
    except OSError:  # the error about the path itself is more useful
        return []


def _names(root: Path) -> list[str]:
    """Return the names of the models in a folder; empty if it cannot be read."""
    try:
        return list(scan(root))
    except ArtifactError:  # the error about the path itself is more useful
        return []


def find(name: str, root: Path) -> Path:
    """Return the folder of the artifact `name` (or `name/version`) below root, else at the path `name`. Raises UnknownModel."""
    below = root / name
    if not root.is_dir() and not os.path.exists(below) and not _is_path(name):
        working = "" if root.is_absolute() else f" in the working folder {Path.cwd()}; run the command in the clone, or"
        raise UnknownModel(
            f"{root}: there is no such folder{working or ';'} give the folder of models with --models", field="model"
        )
    return locate(Path(name) if Path(name).is_dir() and not below.is_dir() else below)


def _is_path(name: str) -> bool:
    """Return whether a name of a model is the path of a folder, or lies in a folder that exists."""
    return Path(name).is_dir() or (Path(name).parent != Path() and Path(name).parent.is_dir())


def with_checksum(start: str, root: Path) -> str:
    """Return NAME/VERSION of the artifact below `root` whose checksum starts with `start`. Raises UnknownModel if there is none."""
    for name, numbers in scan(root).items():
        for version in numbers:
            with contextlib.suppress(ArtifactError):  # a damaged artifact cannot be the one that is searched
                if checksum(manifests.read(root / name / str(version)).files).startswith(start):
                    return f"{name}/{version}"
    raise UnknownModel(
        f"model: no artifact in {root} has the checksum {start}…, with which the file was made; put the artifact that made it there",
        field="model",
    )


def trained_on(data: str, root: Path, task: str) -> tuple[list[str], dict[str, str | None]]:
    """Return the artifacts that have a task and were trained on a data set, and the data set of every artifact with the task, by name."""
    data_names = {}
    for name in scan(root):
        try:
            manifest = manifests.read(locate(root / name))
        except ArtifactError:  # reported when the artifact is used
            continue
        if task in manifest.tasks:
            data_names[name] = manifest.data_name
    return [name for name, trained in data_names.items() if trained == data], data_names


def digest(path: Path) -> FileRecord:
    """Return the checksum and the size of a file."""
    with path.open("rb") as file:
        return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def everything(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file below the folder of an artifact, with its relative path (separated by `/`).

    Hidden folders are left out: they belong to tools, or to Kubernetes, which uses them to update mounted folders. Links to folders are not
    followed.
    """
    waiting = [""]
    for below in waiting:  # the list grows in the loop
        try:
            entries = os.scandir(folder / below)
        except PermissionError:
            if below:
                continue  # if a file in it is needed, it is reported as missing later
            raise
        with entries:
            for entry in entries:
                if _is_file(entry):
                    yield f"{below}{entry.name}", entry
                elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    waiting.append(f"{below}{entry.name}/")


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link to a file. DirEntry.is_file raises OSError for a link to itself."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def files(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file of an artifact except its manifest, in the form of `everything`."""
    return ((name, entry) for name, entry in everything(folder) if name != manifests.FILE)


def records(folder: Path) -> dict[str, FileRecord]:
    """Return the checksums of all files of an artifact except the manifest, by path. Raises ArtifactError for a link to a file outside."""
    checksums = {}
    for name in sorted(name for name, _ in files(folder)):
        if not _inside(folder, name):
            raise ArtifactError(
                f"{folder / name}: is a link to a file outside the artifact's folder; copy the file into the folder"
            )
        checksums[name] = digest(folder / name)
    return checksums


def _inside(folder: Path, name: str) -> bool:
    """Return whether a file is inside the folder after links are resolved."""
    path = folder / name
    return ("/" not in name and not path.is_symlink()) or path.resolve().is_relative_to(folder.resolve())


def place(folder: Path, name: str) -> str | None:
    """Return the problem of a file name in a manifest; None if the file exists in the folder."""
    parts = name.split("/")
    if not name or name.startswith("/") or not set(parts).isdisjoint(("", ".", "..")) or "\0" in name:
        return f"there is no file {shown(name)} in the artifact's folder: the path leads out of the folder"
    if not os.path.isfile(folder / name):  # unlike Path.is_file, it returns false if access is denied
        return f"there is no file {shown(name)} in the artifact's folder"
    if not _inside(folder, name):
        return f"{shown(name)} is a link to a file outside the artifact's folder"
    return None


def copy(source: Path, target: Path) -> None:
    """Copy all files of an artifact except its manifest, with their folders."""
    for name, _ in files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)


def checksum(files: Mapping[str, FileRecord]) -> str:
    """Return one SHA-256 over the checksums of an artifact's files. It identifies the artifact.

    Priors are left out: they may be fitted after an artifact is published, and a recipe names the prior that it used.
    """
    lines = (f"{name} {record.sha256}\n" for name, record in sorted(files.items()) if name != PRIORS_FILE)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def verify(folder: Path, manifest: Manifest) -> list[str]:
    """Return the problems of the files of an artifact, one line each.

    Every file that the artifact needs must be in its folder and listed under `files`: the graphs, the weights that they refer to, golden
    vectors and calibration. A hand-written manifest may leave out `files`; then the files only need to exist.
    """
    problems = [f"{name}: is not a regular file" for name in irregular(folder)]
    problems += [*_altered(folder, manifest), *_unlisted(folder, manifest)]
    if folder.name.isdecimal() and (folder.parent.name, int(folder.name)) != (manifest.name, manifest.version):
        problems.append(
            f"name, version: the manifest says {manifest.name} {manifest.version}, but the folder is {folder.parent.name}/{folder.name}; make them equal"
        )
    return problems


def _altered(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the problems of the files that have a checksum."""
    for name, record in manifest.files.items():
        if wrong := place(folder, name):
            yield f"files.{name}: {wrong if os.path.isfile(folder / name) else 'missing'}"
        elif (actual := digest(folder / name)) != record:
            yield (
                f"files.{name}: altered: it has SHA-256 {actual.sha256[:12]}… and {actual.bytes} bytes, but the manifest says {record.sha256[:12]}… and "
                f"{record.bytes}"
            )


def _unlisted(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the problems of the files that the manifest names."""
    for where, name in dict.fromkeys(named(manifest)):
        if wrong := place(folder, name):
            yield f"{where}: {wrong}"
        elif "/" in name and where.endswith(".graph"):
            yield f"{where}: {shown(name)} is in a sub-folder; put graphs directly into the artifact's folder"
        elif manifest.files and name not in manifest.files:
            yield f"{where}: {shown(name)} has no checksum under files; `manifold check --seal` writes it"
        elif where.endswith(".graph") and manifest.backend == "onnx":
            yield from _weights(folder, manifest, where, name)


def named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the files that a manifest names, each with its field."""
    if manifest.backend != "fake":
        for task, spec in manifest.tasks.items():
            yield f"tasks.{task}.graph", spec.graph
    for role, latent in manifest.latents.items():
        for name, prior in latent.fitted():
            if prior.file is not None:
                yield (
                    f"{'latent' if not manifest.has_named_latents else f'latent.{role}'}.priors.{name}.file",
                    prior.file,
                )
    if manifest.golden is not None:
        yield "golden.file", manifest.golden.file
    if manifest.scoring is not None and manifest.scoring.calibration is not None:
        yield "scoring.calibration.file", manifest.scoring.calibration.file


def _weights(folder: Path, manifest: Manifest, where: str, graph: str) -> Iterator[str]:
    """Yield the problems of the files of weights that an ONNX graph refers to."""
    try:
        locations = onnx_file.outline(folder / graph).external
    except GraphError:
        return  # the error when the graph is opened has more details
    for location in locations:
        name = onnx_file.below(location)
        if name is None:
            yield f"{where}: weights of {graph}: {shown(location)} is outside the artifact's folder"
        elif wrong := place(folder, name):
            yield f"{where}: weights of {graph}: {wrong}"
        elif manifest.files and name not in manifest.files:
            yield f"{where}: weights of {graph}: {shown(name)} has no checksum under files; `manifold check --seal` writes it"


def left_over(folder: Path, manifest: Manifest) -> list[str]:
    """Return the files in the folder of a sealed artifact that have no checksum. The loader ignores them."""
    return sorted(name for name, _ in files(folder) if name not in manifest.files) if manifest.files else []


def irregular(folder: Path) -> list[str]:
    """Return the names of pipes, sockets and devices in a folder. Reading one could block or never end."""
    with os.scandir(folder) as entries:
        return sorted(
            each.name for each in entries if not _is_file(each) and os.path.exists(each.path) and not each.is_dir()
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`. It replaces `path` when the block ends without an error.

    If `path` is a symbolic link, its target is replaced. Devices and pipes, such as /dev/stdout, are written directly.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of an existing artifact."""
    with replacing(folder / manifests.FILE) as temporary:
        temporary.write_text(manifests.dumps(manifest))


def save_metrics(folder: Path, metrics: Iterable[Metric]) -> Manifest:
    """Replace the figures in the manifest of an artifact. All other fields stay as they are in the file. Return the manifest."""
    figures = [metric.model_dump(mode="json", exclude_none=True) for metric in metrics]
    with replacing(folder / manifests.FILE) as temporary:
        temporary.write_text(manifests.text_of({**manifests.stated(folder), "metrics": figures}))
    return manifests.read(folder)


def seal(folder: Path, drawing: Collection[str] = ()) -> Manifest:
    """Write the checksums of all files of an artifact into its manifest, and mark the tasks in `drawing` as not reproducible."""
    sealed = manifests.read(folder).model_copy(update={"files": records(folder)}).with_drawing(drawing)
    save(folder, sealed)
    return sealed


@contextmanager
def staging(root: Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder on the disk of the repository. It is removed unless it is published. Folders of killed commands are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with locked(root):  # so that no other command removes the folder before its lock is held
            _sweep(root)
            (root / name).mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=root / name))
            stack.enter_context(held(folder))
        try:
            yield folder
        except OSError as error:
            if error.filename is None:  # some libraries do not say which disk is full
                error.filename = str(root / name)
            raise
        finally:
            _discard(root, folder)


def _discard(root: Path, folder: Path) -> None:
    """Remove a staging folder, and the model's folder if nothing else is in it."""
    with locked(root):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def _sweep(root: Path) -> None:
    """Remove staging folders that ended commands left behind: those whose lock is free or, without locks, those that are old."""
    for folder in root.glob(f"*/{STAGING}*"):
        with contextlib.suppress(OSError):  # the folder of another user
            with held(folder) as free:
                left = time.time() - folder.stat().st_mtime > OLD_SECONDS if free is None else free
            if left:
                shutil.rmtree(folder, ignore_errors=True)
                folder.parent.rmdir()


def next_version(root: Path, name: str) -> int:
    """Return one more than the latest version, in the folder or in the record of published versions.

    Raises OSError if the model's folder cannot be read, and ArtifactError for a damaged record.
    """
    return max([*versions(root / name), *published.versions(root).get(name, ())], default=0) + 1


def publish_next(folder: Path, root: Path, manifest: Manifest) -> Path:
    """Publish an artifact with the version in its manifest. If another command has used it meanwhile, the next version is used and written."""
    with locked(root):
        version = max(manifest.version, next_version(root, manifest.name))
        if version != manifest.version:
            manifest = manifest.model_copy(update={"version": version})
            save(folder, manifest)
        return publish(folder, root, manifest)


def publish(folder: Path, root: Path, manifest: Manifest) -> Path:
    """Rename a finished folder to `ROOT/NAME/VERSION`. Raises ArtifactError if that version exists; it is never overwritten."""
    target = root / manifest.name / str(manifest.version)
    for name, _ in everything(folder):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)
    try:
        folder.rename(target)  # rename(2) never replaces a folder that is not empty
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise ArtifactError(f"{target}: exists; artifacts are never overwritten, so publish a new version") from error
    return target
