"""The addition of page files to an artifact that is already published. The result is its next version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from manifold.runtime import revisions
from manifold.runtime.engine import Model
from manifold.runtime.errors import InvalidValue, UnsupportedTask, shown
from manifold.runtime.manifest import Manifest
from manifold.runtime.operations.capabilities import abilities
from manifold.training.data import Data
from manifold.training.exporting import page
from manifold.training.exporting.priors import reader_for
from manifold.training.runs import TrainingRun


def lacking(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of the page files that the artifact in `folder` lacks and that can be made without its run.

    Raises UnsupportedTask if no page file can be made from it.
    """
    names = page.possible(manifest)
    if not names:
        raise UnsupportedTask(
            f"{manifest.name}: it has no page: it neither makes items nor encodes them; {abilities(manifest)}",
            field="model",
        )
    present = page.read(folder)
    return [name for name in names if name not in present]


def check_run(run: TrainingRun, manifest: Manifest) -> None:
    """Raise InvalidValue if the artifact was not exported from this run, as far as its manifest records the run."""
    recorded = manifest.provenance.get("config")
    trained: Mapping[str, object] = recorded if isinstance(recorded, dict) else {}
    config = run.config.model_dump(mode="json")
    stated = {"family": (run.family, manifest.family)}
    resolved = {key: (config[key], trained[key]) for key in ("seed", "epochs", "batch_size", "lr") if key in trained}
    for key, (here, there) in {**stated, **resolved}.items():
        if here != there:
            raise InvalidValue(
                f"run: {run.folder} is not the run of {manifest.name}: its {key} is {shown(here)}, and {manifest.name} was trained with "
                f"{shown(there)}; give the folder of the run that was exported",
                field="run",
            )


def add_to_artifact(model: Model, data: Data, root: Path, run: TrainingRun | None = None) -> Path:
    """Publish the artifact in `root` as its next version, with the page files that it lacks. Files that it has are kept.

    Curves and samples by epoch are made from the run. Return the new folder, or the old one if there is nothing to add. Raises InvalidValue
    for data of another kind.
    """
    kept = page.read(model.folder)
    source = page.Source(model, data, reader_for(model, data))
    made = page.files(source, None if run is None else run.folder, kept)
    if made.keys() <= kept.keys():
        return model.folder

    def change(folder: Path, manifest: Manifest) -> Manifest:
        page.write(folder, made)
        return manifest

    return revisions.publish(model, root, change)
