"""The list of the models in a folder, from their manifests and file sizes. No graph is opened and no checksum is computed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("name", "version", "family", "items", "data", "size", "endpoints")
SHOWN = 3  # problems of a model in the table


@dataclass(frozen=True)
class ListedModel:
    """One model: its latest version, or the reason why it cannot be read."""

    name: str
    version: int | None = None
    versions: tuple[int, ...] = ()
    family: str = ""
    items: str = ""  # kind and shape of its data
    data: str = ""  # the data set that it was trained on
    bytes: int = 0  # size of all files of the version
    tasks: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())  # the model cannot be served as it is
    notes: tuple[str, ...] = field(default=())  # something that this installation lacks

    def as_dict(self) -> dict[str, Any]:
        """Return the model as JSON has it."""
        return dataclasses.asdict(self)


def of_folder(root: Path) -> list[ListedModel]:
    """Return the models in a folder, by name. Raises ArtifactError if the folder cannot be read."""
    from manifold.runtime import repository

    listing = repository.survey(root)
    found = [_read(root, name, versions) for name, versions in listing.versions.items()]
    found += [ListedModel(name, problems=(reason,)) for name, reason in listing.unreadable.items()]
    return sorted(found, key=lambda model: model.name)


def _read(root: Path, name: str, versions: list[int]) -> ListedModel:
    """Return the latest version of a model."""
    from manifold.runtime import manifest as manifests
    from manifold.runtime import operations, repository
    from manifold.runtime.errors import ManifoldError, reason

    version = versions[-1]
    folder = root / name / str(version)
    known = ListedModel(name, version, tuple(versions))
    try:
        sizes = {path: entry.stat().st_size for path, entry in repository.everything(folder)}
        known = dataclasses.replace(known, bytes=sum(sizes.values()))
        manifest = manifests.read(folder)
    except ManifoldError as error:
        return dataclasses.replace(known, problems=(error.message,))
    except OSError as error:
        return dataclasses.replace(known, problems=(reason(error),))
    return dataclasses.replace(
        known, family=str(manifest.family or ""), items=_items(manifest.spec), data=manifest.data_name or "",
        tasks=tuple(manifest.tasks), endpoints=tuple(operations.endpoints(manifest)), problems=tuple(_problems(folder, manifest, sizes)),
        notes=tuple(_notes(manifest)),
    )  # fmt: skip


def _items(spec: Any) -> str:
    """Return the kind of a model's items and their shape, such as image 28x28x1."""
    shape = tuple(spec.shape)
    if spec.pictures and len(shape) == 3:
        channels, height, width = shape
        return f"{spec.kind} {width}x{height}x{channels}"
    return f"{spec.kind} {'x'.join(map(str, shape))}"


def _problems(folder: Path, manifest: Any, sizes: dict[str, int]) -> list[str]:
    """Return what is wrong with the files of an artifact, as far as their sizes show it."""
    problems = []
    if (folder.parent.name, int(folder.name)) != (manifest.name, manifest.version):
        problems.append(f"the manifest is of {manifest.name} {manifest.version}")
    for name, record in manifest.files.items():
        if name not in sizes:
            problems.append(f"{name} is missing")
        elif sizes[name] != record.bytes:
            problems.append(f"{name} has {sizes[name]} bytes, the manifest says {record.bytes}")
    return problems


def _notes(manifest: Any) -> list[str]:
    """Return what this installation lacks to run a model."""
    from importlib.util import find_spec

    from manifold.runtime import extras

    module = {"onnx": "onnxruntime", "torchscript": "torch"}.get(manifest.backend)
    return [] if module is None or find_spec(module) else [extras.advice(module)]


def to_text(models: list[ListedModel]) -> str:
    """Return the models as a table, with the problems and notes of each below it."""
    rows = [COLUMNS, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for model in models:
        problems = [
            *model.problems[:SHOWN],
            *([f"and {len(model.problems) - SHOWN} more"] if len(model.problems) > SHOWN else []),
        ]
        lines += [f"{model.name}: problem: {' '.join(problem.split())}" for problem in problems]
        lines += [f"{model.name}: note: {note}" for note in model.notes]
    return "\n".join(lines)


def _row(model: ListedModel) -> tuple[str, ...]:
    can = ", ".join(model.endpoints or model.tasks) or ("-" if not model.problems else "not readable")
    size = f"{model.bytes / 1e6:.1f} MB"
    return (
        model.name,
        str(model.version or "-"),
        model.family or "-",
        model.items or "-",
        model.data or "-",
        size,
        can,
    )
