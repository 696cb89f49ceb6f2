"""The draft of the manifest, with the values that are known before the graphs are run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from manifold.runtime.errors import command
from manifold.runtime.manifest import Golden, Manifest, Metric, TaskSpec
from manifold.runtime.manifest.file import lines_of
from manifold.runtime.scores import calibration
from manifold.training.data import Data
from manifold.training.errors import TrainingError
from manifold.training.exporting.tasks import Exports
from manifold.training.loop import checkpoints
from manifold.training.runs import METRICS, ResolvedRun, read_config

TORCHSCRIPT_FILE = "model.pt"


def draft(
    run: ResolvedRun, name: str, version: int, backend: str, data: Data, exported: Exports, description: str, decay: float | None = None
) -> Manifest:  # fmt: skip
    """Return the manifest of a run's artifact, without calibration, fitted priors and checksums. `decay` selects one of two moving averages.

    Raises TrainingError if the family's exports do not form a valid manifest.
    """
    try:
        return _manifest(run, name, version, backend, data, exported, description, decay)
    except ValidationError as error:
        raise TrainingError(
            "\n".join(
                [
                    f"family: the exports of {run.family} do not form a valid manifest; correct its `exports`:",
                    *lines_of(error),
                ]
            )
        ) from None


def _manifest(
    run: ResolvedRun, name: str, version: int, backend: str, data: Data, exported: Exports, description: str, decay: float | None
) -> Manifest:  # fmt: skip
    state = checkpoints.load(run.checkpoint)
    chosen = state.get("decays", [run.config.ema])[0]
    is_chosen = decay is None or decay == chosen
    return Manifest(
        name=name,
        version=version,
        family=run.family,
        license=data.licence,
        description=description or exported.description,
        backend=backend,
        data=exported.spec or data.spec,
        classes=data.classes if exported.classes and data.classes else None,
        class_prior=None,
        class_optional=True if exported.classes and data.classes and exported.optional_class else None,
        conditions=exported.conditions,
        latent=exported.latent,
        codes=exported.codes,
        path=exported.path,
        tasks=_tasks(exported, backend),
        scoring=exported.scoring,
        classification=exported.classification,
        golden=Golden(sampler=exported.sampler),
        metrics=tuple(_metrics(run.folder / METRICS)) if is_chosen else (),  # they are those of the chosen average
        provenance=_provenance(run, state, data, exported, chosen if decay is None else decay),
    )


def _tasks(exported: Exports, backend: str) -> dict[str, TaskSpec]:
    tasks = {}
    for name, task in exported.tasks.items():
        graph, method = (f"{name}.onnx", None) if backend == "onnx" else (TORCHSCRIPT_FILE, name)
        tasks[name] = TaskSpec(
            graph=graph,
            method=method,
            inputs=tuple(task.inputs),
            outputs=tuple(task.outputs),
            max_rows=task.max_rows,
            any_mask=task.any_mask or None,
        )
    return tasks


def _provenance(
    run: ResolvedRun, state: Mapping[str, Any], data: Data, exported: Exports, decay: float
) -> dict[str, Any]:
    return {
        "family": run.family,
        "data": data.protocol,
        "preset": run.preset,
        "config": run.config.model_dump(mode="json"),
        "torch": read_config(run.folder).get("torch", "unknown"),
        "weights": f"moving average, decay {decay}",
        "exported": calibration.now(),
        "finished": (run.folder / METRICS).exists(),
        **({"spent": state["spent"]} if "spent" in state else {}),  # absent in older runs
        **exported.extra,
    }


def _metrics(path: Path) -> list[Metric]:
    """Return the figures of a run, empty if it is not finished. Raises TrainingError if the file has another structure."""
    if not path.exists():
        return []
    try:
        return [Metric.model_validate(metric) for metric in json.loads(path.read_text())]
    except (ValueError, TypeError, RecursionError) as error:
        first = lines_of(error, Metric)[0].strip() if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise TrainingError(
            f"{path}: it is not a list of metrics: {first}; remove it and write it again with `{command('resume', path.parent)}`"
        ) from None
