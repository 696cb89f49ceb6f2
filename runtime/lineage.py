"""The rule for the next version of an artifact: a model of images does not continue a model of rows, and a shipped model stays what it is.

Clients request a model by its name and get the latest version. A version of a shipped model, which the record of published versions contains, has
the same family, items and data set as the version before. Your own models may change in all of these, except in the kind of items.
"""

from __future__ import annotations

import itertools
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
    before, shipped = latest(root / name), name in published.versions(root)
    if before is None:
        if shipped:
            _refuse(
                root,
                name,
                f"{root / published.FILE} reserves this name for a shipped model, which is not in the folder",
            )
        return
    made = items if isinstance(items, str) else _described(items)
    held = _described(before.spec)
    if not _same(items, before.spec, shipped) or (shipped and family != before.family):
        which = f"{root / name} holds a {'shipped ' if shipped else ''}model of {held}"
        _refuse(root, name, f"{which} (family {before.family}), and this one is of {made} (family {family})")
    if shipped and data is not None and data != before.data_name:
        _refuse(
            root,
            name,
            f"{root / name} is a shipped model of the data set {cut(str(before.data_name))}, and the data of this one are {shown(data)}",
        )


def _same(items: Kind | str, before: Kind, whole: bool) -> bool:
    """Return whether items are of the same kind. With `whole`, their sizes or columns must be equal, too."""
    if isinstance(items, str):
        return items == before.noun
    return items.kind == before.kind and (not whole or (items.parts or items.shape) == (before.parts or before.shape))


def check_manifest(root: Path, manifest: Manifest) -> None:
    """Raise InvalidValue if the model of a manifest cannot be the next version of its artifact in the folder `root`."""
    check(root, manifest.name, manifest.family, manifest.spec, manifest.data_name or "")


def _refuse(root: Path, name: str, why: str) -> None:
    raise InvalidValue(f"name: {why}; choose another name, such as {_free(root, name)}", field="name")


def _free(root: Path, name: str) -> str:
    """Return a name that starts with my- and that no model in the folder `root` has."""
    own = (name if name.startswith("my-") else f"my-{name}")[:60]  # at most 64 characters with a number
    taken = published.versions(root)
    candidates = itertools.chain((own,), (f"{own}-{number}" for number in itertools.count(2)))
    return next(each for each in candidates if each not in taken and not (root / each).exists())


def latest(folder: Path) -> Manifest | None:
    """Return the manifest of the latest version of an artifact that can be read; None if there is none."""
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
