"""The artifact that is made of graphs from elsewhere: its manifest, its files, the check and the sheet."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifold.runtime import checks, lineage, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.errors import ArtifactError, InvalidValue, cut
from manifold.runtime.foreign.guesses import Guess, Wishes
from manifold.runtime.foreign.inspection import Foreign
from manifold.runtime.graphs import onnx_file
from manifold.runtime.manifest import Manifest

PREVIEW = "preview.png"
RESERVED = (
    PREVIEW,
    manifests.FILE,
    manifests.PRIORS_FILE,
    "points.npz",
)  # names of files that have another meaning in an artifact


@dataclass
class Imported:
    """A published artifact, with the reasons for its manifest and what the check found."""

    folder: Path
    manifest: Manifest
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def manifest_of(
    name: str, version: int, graphs: Sequence[Foreign], found: Sequence[Guess], wishes: Wishes, **texts: str
) -> dict[str, Any]:
    """Return the manifest of graphs whose tasks have been guessed. Raises InvalidValue if two graphs have the same task, or contradict each other."""
    content: dict[str, Any] = {
        "name": name,
        "version": version,
        **{key: text for key, text in texts.items() if text},
        "tasks": {},
    }
    if graphs[0].backend != "onnx":
        content["backend"] = graphs[0].backend
    for graph, one in zip(graphs, found, strict=True):
        if one.task in content["tasks"]:
            raise InvalidValue(
                f"{graph.path.name}: this is a second graph for the task {one.task}; state the tasks, such as --task encode",
                field="task",
            )
        task: dict[str, Any] = {"graph": f"{one.task}{graph.path.suffix}", "inputs": one.inputs, "outputs": one.outputs}
        if graph.method:
            task["method"] = graph.method
        if (rows := wishes.rows or one.rows) is not None:
            task |= {"min_rows": rows, "max_rows": rows}
        if one.constants:
            task["constants"] = one.constants
        content["tasks"][one.task] = task
        for section, value in one.sections.items():
            if section in content and content[section] != value:
                raise InvalidValue(
                    f"{graph.path.name}: its section {section} {value} differs from that of the other graphs, {content[section]}; state what differs, or "
                    "import the graphs as two models", field=section,
                )  # fmt: skip
            content[section] = value
    if wishes.classes:
        content["classes"] = list(wishes.classes)
    content["provenance"] = {
        "imported": {
            one.task: {"file": graph.path.name, "opset": graph.opset} for graph, one in zip(graphs, found, strict=True)
        }
    }
    return content


def place(graphs: Sequence[Foreign], found: Sequence[Guess], folder: Path) -> None:
    """Copy the graphs and their external weights into a folder. Raises ArtifactError if two graphs have different weights in files of the same name."""
    for graph, one in zip(graphs, found, strict=True):
        shutil.copyfile(graph.path, folder / f"{one.task}{graph.path.suffix}")
        for location in onnx_file.outline(graph.path).external if graph.backend == "onnx" else ():
            below = onnx_file.below(location)
            target = folder / location
            if target in (folder / f"{one.task}{graph.path.suffix}" for graph, one in zip(graphs, found, strict=True)):
                raise ArtifactError(
                    f"{graph.path.name}: its weights are in {cut(location)}, the name of a graph in an artifact; export it with weights in another file"
                )
            if location in RESERVED or location.startswith("page/"):
                raise ArtifactError(
                    f"{graph.path.name}: its weights are in {cut(location)}, the name of another file of an artifact; export it with weights in one file"
                )
            if below is None or not (graph.path.parent / below).is_file():
                raise ArtifactError(
                    f"{graph.path.name}: its weights are in {cut(location)}, which is not a file beside it; export it with weights in one file"
                )
            if target.exists() and repository.digest(target) != repository.digest(graph.path.parent / location):
                raise ArtifactError(
                    f"{cut(location)}: two graphs have different weights in files of this name; export one of them with weights in another file"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(graph.path.parent / location, target)


def publish(
    graphs: Sequence[Foreign], found: Sequence[Guess], wishes: Wishes, name: str, root: Path, **texts: str
) -> Imported:
    """Publish an artifact made of graphs, after its check, with a sheet of samples as preview.

    Raises ArtifactError with the problems of the check, one line each; nothing is published then.
    """
    lines = [line for one in found for line in one.lines]
    with repository.staging(root, name) as folder:
        content = manifest_of(name, repository.next_version(root, name), graphs, found, wishes, **texts)
        place(graphs, found, folder)
        (folder / manifests.FILE).write_text(manifests.text_of(content))
        try:
            manifest = manifests.read(folder)
        except ArtifactError as error:  # it names a file that the user does not see
            raise ArtifactError(
                error.message.replace(f"{folder / manifests.FILE}", f"{name}: the manifest that was made")
            ) from error
        lineage.check_manifest(root, manifest)
        first = checks.check(folder, "cpu", seal=True)
        if first.problems:
            raise ArtifactError(
                "\n".join(
                    [
                        f"{name}: the check found problems; nothing was published:",
                        *(f"  {line}" for line in first.problems),
                    ]
                )
            )
        if first.sheet is not None and manifest.spec.pictures:
            (folder / PREVIEW).write_bytes(first.sheet)
        sealed = repository.seal(folder, first.manifest.drawing)
        made = repository.publish_next(folder, root, sealed)
        return Imported(made, sealed, lines, [*first.notes, *_lost(root, name, made, sealed)])


def _lost(root: Path, name: str, folder: Path, manifest: Manifest) -> list[str]:
    """Return a warning if the version before has tasks that this one lacks: probably another model had the name."""
    earlier = [
        int(each.name) for each in (root / name).iterdir() if each.name.isdigit() and int(each.name) < manifest.version
    ]
    if not earlier:
        return []
    try:
        before = manifests.read(root / name / str(max(earlier)))
    except ArtifactError:
        return []  # it is damaged, which the service reports
    gone = sorted(set(before.tasks) - set(manifest.tasks))
    if not gone:
        return []
    return [
        f"warning: version {before.version} of {name} has the tasks {', '.join(gone)}, which version {manifest.version} lacks; if this is another model, "
        f"remove {folder} and import it under another --name"
    ]
