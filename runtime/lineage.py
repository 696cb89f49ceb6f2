"""The rule for the next version of an artifact: it takes the same items as the earlier versions and has the same family.

Clients request a model by its name and get the latest version, so another kind of model needs another name. A shipped model, which the record of
published versions contains, also stays a model of the same data set.
"""

from __future__ import annotations

from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import published, repository
from manifold.runtime.errors import ArtifactError, InvalidValue, cut, shown
from manifold.runtime.kinds.base import Kind
from manifold.runtime.manifest import Manifest

LISTED = 200  # longest list of columns in a message, in characters


def check(root: Path, name: str, family: str | None, items: Kind | str, data: str | None = None) -> None:
    """Raise InvalidValue if a model cannot be the next version of the artifact `name` in the folder `root`.

    `items` is the spec of its items, or only their noun (images, rows) before the data are read. `data` is the name of its data set, which is
    compared for shipped models; None if it is not known.
    """
    before, shipped = _latest(root / name), name in published.versions(root)
    if before is None:
        if shipped:
            _refuse(name, f"{root / published.FILE} reserves this name for a shipped model, which is not in the folder")
        return
    if isinstance(items, str):
        same = items == before.spec.noun
    else:
        same = (items.kind, items.parts or items.shape) == (before.spec.kind, before.spec.parts or before.spec.shape)
    made = items if isinstance(items, str) else _described(items)
    held = _described(before.spec)
    if not same or family != before.family:
        _refuse(
            name, f"{root / name} holds a model of {held} (family {before.family}), and this one is of {made} (family {family})"
        )  # fmt: skip
    if shipped and data is not None and data != before.data_name:
        _refuse(
            name,
            f"{root / name} is a shipped model of the data set {cut(str(before.data_name))}, and the data of this one are {shown(data)}",
        )


def check_manifest(root: Path, manifest: Manifest) -> None:
    """Raise InvalidValue if the model of a manifest cannot be the next version of its artifact in the folder `root`."""
    check(root, manifest.name, manifest.family, manifest.spec, manifest.data_name or "")


def _refuse(name: str, why: str) -> None:
    raise InvalidValue(f"name: {why}; choose another name, such as my-{name}", field="name")


def _latest(folder: Path) -> Manifest | None:
    """Return the manifest of the latest version that can be read; None if there is none."""
    for version in reversed(repository.versions(folder)):
        try:
            return manifests.read(folder / str(version))
        except (ArtifactError, OSError):  # a damaged version says nothing about the model
            continue
    return None


def _described(spec: Kind) -> str:
    """Return items with their size or their columns, such as images of 28x28x1."""
    if spec.parts is not None:
        return f"{spec.noun} with the columns {cut(', '.join(map(cut, spec.parts)), LISTED)}"
    return f"{spec.noun} of {'x'.join(map(str, reversed(spec.shape)))}"
