"""The export of a run to a published artifact, as a list of steps. The runtime's engine checks every artifact before it is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from manifold.evaluation import codecs
from manifold.runtime import lineage, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import load
from manifold.runtime.errors import command, shown
from manifold.runtime.manifest.figures import BITS
from manifold.training import families
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.calibrated import calibrate_classes, calibrate_scores, fit_priors
from manifold.training.exporting.checked import pad, prove, write_golden, write_graphs
from manifold.training.exporting.context import Context, Step, examples
from manifold.training.exporting.draft import draft
from manifold.training.exporting.page import write_page
from manifold.training.exporting.shown import write_preview
from manifold.training.exporting.stored import compare_codecs
from manifold.training.exporting.tasks import Exports
from manifold.training.networks.layers import fix_norms
from manifold.training.outlines import FORMATS
from manifold.training.outlines import check_name as check_name  # for callers of this module
from manifold.training.runs import TrainingRun
from manifold.training.train import trained_model


def seal(context: Context) -> None:
    """Write the manifest with the checksums of all other files."""
    context.update(files=repository.records(context.folder))
    (context.folder / manifests.FILE).write_text(manifests.dumps(context.manifest))


def load_whole(context: Context) -> None:
    """Load the artifact with all checks of the service."""
    load(context.folder, device="cpu")


STEPS: dict[Step, str] = {  # in order, with the text of the progress
    write_graphs: "write the graphs",
    pad: "make the outputs independent of the batch size",
    write_golden: "write the golden vectors",
    prove: "compare the graphs with PyTorch",
    fit_priors: "fit priors to the latents",
    calibrate_scores: "calibrate the anomaly score",
    calibrate_classes: "calibrate the classes",
    compare_codecs: "compare the bits per dimension with lossless codecs",
    write_preview: "draw the preview",
    write_page: "write the files of the page",
    seal: "write the manifest with the checksums",
    load_whole: "load the model with all checks of the service",
}


def export(
    run: TrainingRun, name: str, root: Path, *, backend: str = "onnx", data: Data | None = None, description: str = "",
    decay: float | None = None, tell: Callable[[str], None] = lambda text: None,
) -> Path:  # fmt: skip
    """Publish the run's averaged weights as `ROOT/NAME/<next version>`. Return this folder. `tell` gets the text of each step as it begins.

    `decay` selects one of two moving averages, by default the one that the run has chosen. The run's figures are those of the chosen one.
    Raises TrainingError for a run without a checkpoint, InvalidValue for the name of another kind of model, and ArtifactError if the graphs'
    outputs differ from torch's.
    """
    if backend not in FORMATS:
        raise TrainingError(
            f"format: unknown format {shown(backend)}; valid are {', '.join(FORMATS)}",
            field="format",
            valid=list(FORMATS),
        )
    check_name(name)
    if not run.checkpoint.exists():
        raise TrainingError(
            f"{run.folder}: there is no {run.checkpoint.name} to export; `{command('resume', run.folder)}` trains the run to its end"
        )
    tell("load the data and the trained weights")
    data = data or run.load_data()
    run.check_data(data)
    resolved = run.resolved(data)
    exported = exports(resolved, data, decay)
    with repository.staging(root, name) as folder:
        version = repository.next_version(root, name)
        manifest = draft(resolved, name, version, backend, data, exported, description, decay)
        lineage.check_manifest(root, manifest)
        context = Context(resolved, data, exported, folder, manifest, examples(manifest, data))
        for step, text in STEPS.items():
            tell(text)
            step(context)
        if any(metric.name == BITS for metric in context.manifest.metrics) and (note := codecs.missing()):
            tell(note)
        return repository.publish_next(folder, root, context.manifest)


def exports(run: TrainingRun, data: Data, decay: float | None = None) -> Exports:
    """Return the exports of a trained run. `decay` selects one of two moving averages."""
    resolved = run.resolved(data)
    config, model = resolved.config, trained_model(resolved, data, decay)
    with torch.no_grad():
        exported = families.get(run.family).exports(model, config, data)
    if config.stored == "float16":
        for task in exported.tasks.values():
            fix_norms(task.module)
    return exported
