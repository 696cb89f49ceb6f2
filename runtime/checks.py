"""The checks of `manifold check` beyond loading: every task runs, its bits do not depend on the batch, and the manifest is complete."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from manifold.runtime import diagnoses, priors, published, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ArtifactError, ManifoldError
from manifold.runtime.graphs import batches
from manifold.runtime.graphs.backends import known_device
from manifold.runtime.manifest import Manifest
from manifold.runtime.runner import example_inputs


def run_all(model: Model) -> list[str]:
    """Run every task at every batch size. Return the problems, one line each."""
    return [line for lines in _runs(model).values() for line in lines]


def _runs(model: Model) -> dict[str, list[str]]:
    """Return the problems of each task that has any."""
    problems: dict[str, list[str]] = {}
    for name in model.manifest.tasks:
        try:
            found = _run(model, name)
        except ManifoldError as error:
            found = [error.message.removeprefix(f"tasks.{name}: ")]
        if found:
            problems[name] = [f"tasks.{name}: {line}" for line in found]
    return problems


def _only_rounding(model: Model, name: str) -> bool:
    """Return whether a task runs, and its outputs differ between batches by rounding alone."""
    try:
        task = model.manifest.tasks[name]
        half = any(
            tensor.in_graph is not None and tensor.in_graph.dtype == "float16"
            for tensor in (*task.inputs, *task.outputs)
        )
        return not _run(model, name, batches.HALF if half else batches.ROUNDING)
    except ManifoldError:
        return False


def _run(model: Model, name: str, tolerance: float = 0.0) -> list[str]:
    task = model.manifest.tasks[name]
    inputs = example_inputs(task, model.manifest, batches.ROWS)
    run = functools.partial(model.run, name)
    if name in model.manifest.drawing:
        run(inputs)  # its bits differ from run to run in any batch
        return []
    mixing = batches.dependence(run, inputs, tolerance=tolerance)
    return [f"{line}; an item from this graph can differ between batches" for line in mixing]


def unrecorded(stored: Manifest, model: Model) -> list[str]:
    """Return the facts that the stored manifest lacks, one line each: checksums, and that graphs draw random numbers."""
    problems = [] if stored.files else ['files: the manifest has no checksums; "manifold check --seal" writes them']
    for name in sorted(model.manifest.drawing - stored.drawing):
        claimed = stored.tasks[name].reproducible or stored.reproducible
        problems.append(
            f"tasks.{name}: {draws(model, name)}, but the manifest {'says reproducible: true' if claimed else 'does not say so'}; "
            '"manifold check --seal" records reproducible: false'
        )
    return problems


def notes(folder: Path, model: Model) -> list[str]:
    """Return information about an artifact that has no problems, one line each."""
    lines = [
        f"tasks.{name}: {draws(model, name)}; its responses contain reproducible: false"
        for name in sorted(model.manifest.drawing)
    ]
    if extra := repository.left_over(folder, model.manifest):
        shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        lines.append(f"files: {shown}: these have no checksum and are not used")
    return lines


def draws(model: Model, task: str) -> str:
    """Return a sentence that says which operators of a task draw random numbers."""
    operators = model.runner.chance[task]
    by = ", ".join(operators.draws or operators.unsure) or "itself"
    return f"{model.manifest.tasks[task].graph} draws random numbers by {by}"


@dataclass(frozen=True)
class Checked:
    """The result of a check. `sheet` is a picture of sampled images, or a table of sampled rows, for a model that makes items."""

    problems: list[str]
    notes: list[str]
    manifest: Manifest  # as it is stored
    sheet: bytes | None = None


def check(folder: Path, device: str, *, seal: bool) -> Checked:
    """Check an artifact. With `seal`, seal it first and move fitted priors into a file.

    Raises ArtifactError for an artifact that cannot be loaded, or whose published version would be changed by sealing it. Raises Unavailable
    if something that it needs is not on this machine.
    """
    stored = _sealed(folder) if seal else manifests.read(folder)
    model = load(folder, device=known_device(device))
    if seal and model.manifest.drawing - stored.drawing:
        if published.is_recorded(folder):
            raise _would_change(folder)
        stored = repository.seal(folder, model.manifest.drawing)
    changed = published.problem_of(folder)
    differing = _runs(model)
    rounded = {name for name in differing if _only_rounding(model, name)}
    wrong = {name: lines for name, lines in differing.items() if name not in rounded}
    seen = diagnoses.of(model, set(wrong))
    lines = [line for each in wrong.values() for line in each]
    seen.warnings += [f"{line}, by rounding" for name in sorted(rounded) for line in differing[name]]
    problems = [*lines, *seen.problems, *unrecorded(stored, model), *([] if changed is None else [changed])]
    said = [*(f"warning: {line}" for line in seen.warnings), *notes(folder, model)]
    return Checked(problems, said, stored, None if seen.items is None else diagnoses.sheet(model, seen.items))


def _sealed(folder: Path) -> Manifest:
    """Seal an artifact, with its fitted priors in a file. Nothing is written into a published version. Raises ArtifactError if that would change."""
    if not published.is_recorded(folder):
        priors.move(folder)
        return repository.seal(folder)
    stored = manifests.read(folder)
    if priors.are_inside(stored) or stored.files != repository.records(folder):
        raise _would_change(folder)
    return stored


def _would_change(folder: Path) -> ArtifactError:
    return ArtifactError(
        f"{published.key_of(folder)}: this version is published, and sealing would change it; {published.RULE}"
    )
