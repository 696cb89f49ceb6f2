"""From a run to a published artifact. Nothing is published that was not checked through the runtime's own engine first.

Order: graphs, golden vectors, batch sizes (1, 2, 3, 5, 64), parity with torch, calibration, preview, checksums, a full load, rename.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.runtime import checks, golden, repository
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model, example_inputs, load, padded
from manifold.runtime.errors import ArtifactError, shown
from manifold.runtime.graphs import batches
from manifold.runtime.manifest import Golden, Manifest, Metric, Scoring, TaskSpec
from manifold.runtime.operations import CAN, softmax
from manifold.runtime.scores import calibration
from manifold.training import datasets, families
from manifold.training.data import Data
from manifold.training.data.parts import first
from manifold.training.errors import TrainingError
from manifold.training.exporting import classes, folds, graphs, priors
from manifold.training.exporting.tasks import Exports, Task
from manifold.training.networks.layers import fix_norms
from manifold.training.runs import METRICS, Run, load_checkpoint, read_config
from manifold.training.train import trained_model

Array = NDArray[Any]
FORMATS = {"onnx": "onnx", "torchscript": "torchscript"}
TOLERANCE = 1e-4  # of parity with torch, for values up to one; relative above
DRAWING = ("sample", "impute")  # the tasks whose loops draw
MOST = 0.9  # of the items
GOLDEN_ROWS = 5
GOLDEN_VALUES = 20_000  # of one tensor at most
PREVIEW_SEED, PREVIEW_ITEMS = 0, 64
TORCHSCRIPT_FILE = "model.pt"


def export(
    run: Run, name: str, root: Path, *, backend: str = "onnx", data: Data | None = None, description: str = ""
) -> Path:
    """Publishes the run's averaged weights as `ROOT/NAME/<next version>` and returns that folder.

    Raises TrainingError for a run without a checkpoint, ArtifactError where graph and torch disagree.
    """
    if backend not in FORMATS:
        raise TrainingError(
            f"format: unknown {backend!r}; valid are {', '.join(FORMATS)}", field="format", valid=list(FORMATS)
        )
    check_name(name)
    data = data or datasets.load(run.data)
    model = trained_model(run, data)
    with torch.no_grad():
        exported = families.get(run.family).exports(model, run.config, data)
    if run.config.stored == "float16":
        for task in exported.tasks.values():
            fix_norms(task.module)
    with repository.staging(root, name) as folder:
        manifest = _draft(run, name, repository.next_version(root, name), backend, data, exported, description)
        examples = {task: example_inputs(spec, manifest, batches.ROWS) for task, spec in manifest.tasks.items()}
        for inputs in examples.values():  # real items where the task takes data
            if "data" in inputs:
                inputs["data"] = np.resize(
                    data.inputs(first(data.test, batches.ROWS)), inputs["data"].shape
                )  # repeats if there are few
        _write_graphs(exported.tasks, examples, folder, backend)
        expected = {task: exported.tasks[task](inputs) for task, inputs in examples.items()}
        trial = Model(folder, manifest.model_copy(update={"scoring": None}), "cpu", 1)
        if drawing := sorted(trial.manifest.drawing):
            raise ArtifactError(
                f"{name}: {', '.join(checks.draws(trial, task) for task in drawing)}; make the noise an input; nothing was published"
            )
        manifest = manifest.model_copy(
            update={"tasks": {task: _padding(trial, task, examples[task]) for task in manifest.tasks}}
        )
        loops = DRAWING if exported.autoregressive or exported.sampler else ()
        _write_golden(folder, manifest, examples, expected, loops)
        engine = Model(folder, manifest, "cpu", 1)
        if problems := [
            *_parity(engine, examples, expected, loops),
            *golden.replay(engine.run, folder, manifest, "cpu"),
        ]:
            raise ArtifactError(
                "\n".join(
                    [
                        f"{name}: the {backend} graphs do not give what torch gives; nothing was published:",
                        *(f"  {line}" for line in problems),
                    ]
                )
            )
        if manifest.latent is not None and manifest.latent.priors and "encode" in manifest.tasks:
            means = priors.posterior_means(engine, data, data.train)
            manifest = manifest.model_copy(update={"latent": priors.added(manifest.latent, priors.fit(means))})
        if manifest.scoring is not None:
            manifest = manifest.model_copy(update={"scoring": _calibrate(engine, run, data, folder)})
        if manifest.classification is not None:
            manifest = _calibrate_classes(engine, manifest, data)
        (folder / "preview.png").write_bytes(preview(engine, data))
        manifest = manifest.model_copy(update={"files": repository.records(folder)})
        (folder / manifests.FILE).write_text(manifests.dumps(manifest))
        load(folder, device="cpu")
        return repository.publish_next(folder, root, manifest)


def check_name(name: str) -> None:
    """Raise TrainingError for a name that no artifact can have."""
    if not re.fullmatch(manifests.NAME, name):
        raise TrainingError(f"name: {shown(name)} must be letters, digits, '.', '_' and '-', at most 64", field="name")


# --- manifest -----------------------------------------------------------------------------------------------------------------


def _draft(
    run: Run, name: str, version: int, backend: str, data: Data, exported: Exports, description: str
) -> Manifest:
    tasks = {}
    for task, part in exported.tasks.items():
        graph, method = (f"{task}.onnx", None) if backend == "onnx" else (TORCHSCRIPT_FILE, task)
        tasks[task] = TaskSpec(
            graph=graph, method=method, inputs=tuple(part.inputs), outputs=tuple(part.outputs), max_rows=part.max_rows
        )
    metrics_file = run.folder / METRICS
    metrics = _metrics(metrics_file) if metrics_file.exists() else []
    config = read_config(run.folder)
    state = load_checkpoint(run.checkpoint)
    spent = {"spent": state["spent"]} if "spent" in state else {}  # of runs that counted it
    provenance = {
        "family": run.family, "data": data.protocol, "preset": run.preset, "config": config["config"], "torch": config.get("torch", "unknown"),
        "weights": f"moving average, decay {run.config.ema}", "exported": calibration.now(), "finished": metrics_file.exists(), **spent, **exported.extra,
    }  # fmt: skip
    names = data.classes if exported.classes and data.classes else None
    return Manifest(
        name=name, version=version, family=run.family, license=data.licence,
        description=description or exported.description, backend=backend, data=exported.spec or data.spec,
        classes=names, class_prior=None, conditions=exported.conditions, latent=exported.latent, codes=exported.codes, tasks=tasks, scoring=exported.scoring,
        classification=exported.classification,
        golden=Golden(sampler=exported.sampler), metrics=tuple(metrics), provenance=provenance,
    )  # fmt: skip


def _metrics(path: Path) -> list[Metric]:
    """Return the figures of a run. Raises TrainingError for a file of another shape."""
    try:
        return [Metric.model_validate(metric) for metric in json.loads(path.read_text())]
    except (ValueError, TypeError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise TrainingError(
            f"{path}: is no list of figures: {first}; remove it, and `manifold resume` writes it anew"
        ) from None


# --- graphs -------------------------------------------------------------------------------------------------------------------


def _write_graphs(
    tasks: Mapping[str, Task], examples: Mapping[str, Mapping[str, Array]], folder: Path, backend: str
) -> None:
    tensors = {
        name: [torch.from_numpy(examples[name][spec.role][:3]) for spec in task.inputs] for name, task in tasks.items()
    }
    if backend == "onnx":
        graphs.save_onnx({name: graphs.task_to_onnx(task, tensors[name]) for name, task in tasks.items()}, folder)
    else:
        graphs.save_torchscript(tasks, tensors, folder / TORCHSCRIPT_FILE)


@torch.no_grad()
def _padding(engine: Model, task: str, real: Mapping[str, Array]) -> TaskSpec:
    """The task with the padding it needs for its bits not to depend on the batch, tried on real and on random inputs."""
    spec = engine.manifest.tasks[task]
    examples = [real, example_inputs(spec, engine.manifest, batches.ROWS, seed=1)]
    rows = batches.padding(functools.partial(engine.padded_run, task), examples)
    if rows is None:
        raise ArtifactError(f"{task}: its bits depend on the batch, however its rows are padded: it mixes rows")
    return padded(spec, rows)


def _write_golden(
    folder: Path,
    manifest: Manifest,
    examples: Mapping[str, Mapping[str, Array]],
    expected: Mapping[str, Mapping[str, Array]],
    loops: Sequence[str],
) -> None:
    """A few rows in and out of each task. What loops draw is not golden: one flipped code changes the rest (see runtime.golden)."""
    assert manifest.golden is not None
    vectors: dict[str, Array] = {}
    for task, spec in manifest.tasks.items():
        widest = max(math.prod(tensor.shape) for tensor in (*spec.inputs, *spec.outputs))
        rows = max(1, min(GOLDEN_ROWS, GOLDEN_VALUES // widest))
        vectors |= {f"{task}.in.{role}": array[:rows] for role, array in examples[task].items()}
        if task not in loops:
            compared = [tensor.role for tensor in spec.outputs if tensor.role not in manifests.TIED]
            vectors |= {f"{task}.out.{role}": expected[task][role][:rows] for role in compared}
    np.savez_compressed(folder / manifest.golden.file, **vectors)  # type: ignore[arg-type]


def _parity(
    engine: Model,
    examples: Mapping[str, Mapping[str, Array]],
    expected: Mapping[str, Mapping[str, Array]],
    loops: Sequence[str],
) -> list[str]:
    """Where the engine differs from torch by more than the tolerance; codes must be equal.

    Of values that a loop draws, most items must agree: a component that flips at a step of its CDF changes the rest of its item.
    """
    problems = []
    for task, inputs in examples.items():
        outputs = engine.run(task, inputs)
        for role, array in expected[task].items():
            if role in manifests.TIED:
                continue
            if array.dtype.kind == "i":
                wrong = int((outputs[role] != array).sum())
                problems += [f"{task}.{role}: {wrong} of {array.size} codes differ"] if wrong else []
                continue
            off = np.abs(outputs[role] - array) / np.maximum(1, np.abs(array))
            worst = float(off.max())
            if task in loops and not any(values.dtype.kind == "i" for values in expected[task].values()):
                worst = float(np.quantile(off.reshape(len(off), -1).max(axis=1), MOST))
            problems += (
                [f"{task}.{role}: differs by {worst:.2g}, allowed {TOLERANCE:g}"] if not worst <= TOLERANCE else []
            )
    return problems


# --- calibration, preview -----------------------------------------------------------------------------------------------------


def _calibrate(engine: Model, run: Run, data: Data, folder: Path) -> Scoring:
    """Scores of the calibration part, which training never saw, through the engine; of a small set, of every training item by folds."""
    about = engine.manifest.scoring
    assert about is not None
    if data.folds:
        scores = folds.scores(run, data, engine.manifest)
        source = f"{len(data.train)} training items, each by a model trained on the other {data.folds - 1} of {data.folds} folds"
    else:
        known = {"classes": priors.told(engine.manifest, data, data.calibration)} if engine.manifest.conditions else {}
        scores = engine.score(data.inputs(data.calibration), **known)
        source = str(data.protocol.get("calibration", f"{len(data.calibration)} items"))
    return calibration.write(about, scores, folder, source=source, spec=data.spec)


def _calibrate_classes(engine: Model, manifest: Manifest, data: Data) -> Manifest:
    """The temperature from the calibration part, and figures of the test part under it."""
    assert manifest.classification is not None
    temperature, source = 1.0, "not fitted: there is no calibration part"
    if len(data.calibration):
        energies = classes.energies(engine, data, data.calibration)
        temperature = classes.fit_temperature(energies, data.calibration.labels)
        source = str(data.protocol.get("calibration", f"{len(data.calibration)} items"))
    about = manifest.classification.model_copy(update={"temperature": round(temperature, 4), "source": source})
    probabilities = softmax(classes.energies(engine, data, data.test) / about.temperature)
    prior = "uniform" if manifest.class_prior is None else list(manifest.class_prior)
    protocol = {
        **data.protocol,
        "n": len(data.test),
        "class_prior": prior,
        "by": about.term or "logits",
        "temperature": about.temperature,
    }
    figures = classes.figures(probabilities, data.test.labels, protocol)
    return manifest.model_copy(update={"classification": about, "metrics": (*manifest.metrics, *figures)})


def preview(engine: Model, data: Data) -> bytes:
    """Return a PNG that shows what the model makes. If it makes nothing but features, the PNG shows the test items it is least right about."""
    spec = data.spec
    real = data.inputs(first(data.test, spec.previewed))
    if CAN["sample"](engine.manifest):
        n = min(spec.previewed, len(data.test)) if spec.parts else PREVIEW_ITEMS
        return spec.preview(engine.sample(n, seed=PREVIEW_SEED).data, real)
    logits = engine.run("features", {"data": data.inputs(data.test)})["logits"].astype(np.float64)
    labels = data.test.labels[:, None]
    margin = np.take_along_axis(logits, labels, axis=1)[:, 0] - logits.max(axis=1)
    worst = np.argsort(margin, kind="stable")[:PREVIEW_ITEMS]
    return spec.preview(data.inputs(data.test.batch(worst)), real)
