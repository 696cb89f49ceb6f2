"""The models that a folder of artifacts ships: the versions in its record of published versions. All other models in the folder are private.

A folder without a record ships everything in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import published, repository
from manifold.runtime.errors import ArtifactError, UnknownModel
from manifold.runtime.locks import locked


def versions(root: Path) -> dict[str, list[int]]:
    """Return the names of the shipped models with their versions in the folder, ascending."""
    present, recorded = repository.scan(root), published.versions(root)
    if not recorded:
        return present
    both = {
        name: [version for version in there if version in recorded.get(name, ())] for name, there in present.items()
    }
    return {name: numbers for name, numbers in both.items() if numbers}


def latest(root: Path) -> dict[str, Path]:
    """Return the folder of the latest shipped version of each model, by name."""
    return {name: root / name / str(numbers[-1]) for name, numbers in versions(root).items()}


def problems(root: Path) -> Iterator[str]:
    """Yield one line for each version whose content is not the one that was published."""
    for name, numbers in versions(root).items():
        for version in numbers:
            if (problem := published.problem_of(root / name / str(version), root)) is not None:
                yield problem


def renew(root: Path, new: Collection[str] = ()) -> list[str]:
    """Add versions to the record that it does not have yet. Return them as NAME/VERSION.

    They are versions of the models in the record and of those named in `new`; without a record, of all models. Raises ArtifactError if a
    recorded version has changed or a version to add is not sealed, and UnknownModel for a name in `new` that is not in the folder.
    """
    with locked(root):
        if found := list(problems(root)):
            raise ArtifactError("\n".join(found))
        recorded, present = published.read(root), repository.scan(root)
        if missing := sorted(set(new) - present.keys()):
            raise UnknownModel(f"add: there is no model {missing[0]} in {root}; choose one of its models", field="add")
        names = {*published.versions(root), *new} if recorded else present.keys()
        wanted = [f"{name}/{version}" for name in sorted(names) for version in present.get(name, ())]
        added = {key: _sealed(root / key) for key in wanted if key not in recorded}
        with repository.replacing(root / published.FILE) as temporary:
            temporary.write_text(json.dumps(dict(sorted({**recorded, **added}.items())), indent=1) + "\n")
    return list(added)


def _sealed(folder: Path) -> str:
    """Return the identity of an artifact. Raises ArtifactError for one without checksums, whose identity would not depend on its graphs."""
    if not manifests.read(folder).files:
        raise ArtifactError(
            f"{published.key_of(folder)}: has no checksums, so it cannot be published; seal it with `manifold check --seal {folder}`"
        )
    return published.identity(folder)
