"""The checks of `manifold check` beyond loading: every task runs, its bits do not depend on the batch, and the manifest says what it does."""

from __future__ import annotations

import functools
from pathlib import Path

from manifold.runtime import manifest as manifests
from manifold.runtime import priors, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.errors import ManifoldError
from manifold.runtime.graphs import batches
from manifold.runtime.manifest import Manifest
from manifold.runtime.runner import example_inputs


def run_all(model: Model) -> list[str]:
    """Run every task at every batch size. Return what is wrong, one line each."""
    problems = []
    for name in model.manifest.tasks:
        try:
            problems += [f"tasks.{name}: {line}" for line in _run(model, name)]
        except ManifoldError as error:
            message = error.message.removeprefix(f"tasks.{name}: ")
            problems.append(f"tasks.{name}: {message}")
    return problems


def _run(model: Model, name: str) -> list[str]:
    task = model.manifest.tasks[name]
    inputs = example_inputs(task, model.manifest, batches.ROWS)
    run = functools.partial(model.run, name)
    if name in model.manifest.drawing:
        run(inputs)  # its bits differ from run to run, in whatever batch
        return []
    mixing = batches.dependence(run, inputs)
    return [f"{line}; this graph cannot promise the same item in every batch" for line in mixing]


def unrecorded(stored: Manifest, model: Model) -> list[str]:
    """Return what the stored manifest leaves out, one line each: checksums, and that graphs draw random numbers."""
    problems = [] if stored.files else ['files: no checksums; "manifold check --seal" writes them']
    for name in sorted(model.manifest.drawing - stored.drawing):
        claimed = stored.tasks[name].reproducible or stored.reproducible
        problems.append(
            f"tasks.{name}: {draws(model, name)}, but the manifest {'says reproducible: true' if claimed else 'does not say so'}; "
            '"manifold check --seal" records reproducible: false'
        )
    return problems


def notes(folder: Path, model: Model) -> list[str]:
    """Return what is worth knowing of an artifact that is good."""
    lines = [
        f"tasks.{name}: {draws(model, name)}; its answers say reproducible: false"
        for name in sorted(model.manifest.drawing)
    ]
    if extra := repository.left_over(folder, model.manifest):
        shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        lines.append(f"files: {shown}: without a checksum; nothing reads them")
    return lines


def draws(model: Model, task: str) -> str:
    """Say that a task draws random numbers, and by what."""
    operators = model.runner.chance[task]
    by = ", ".join(operators.draws or operators.unsure) or "itself"
    return f"{model.manifest.tasks[task].graph} draws random numbers by {by}"


def check(folder: Path, device: str, *, seal: bool) -> tuple[list[str], list[str], Manifest]:
    """Check an artifact; if asked to, seal it first and move fitted priors into a file. Return problems, notes, and the manifest as stored.

    Raises ArtifactError for an artifact that cannot be loaded, Unavailable if something that it needs is not on this machine.
    """
    if seal:
        priors.move(folder)
    stored = repository.seal(folder) if seal else manifests.read(folder)
    model = load(folder, device=device)
    if seal and model.manifest.drawing - stored.drawing:
        stored = repository.seal(folder, model.manifest.drawing)
    return [*run_all(model), *unrecorded(stored, model)], notes(folder, model), stored
