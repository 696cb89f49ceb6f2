"""The export steps that write the graphs of an artifact and check that their outputs equal torch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch

from manifold.runtime import checks, golden
from manifold.runtime import manifest as manifests
from manifold.runtime.engine import Model
from manifold.runtime.errors import ArtifactError
from manifold.runtime.graphs import batches
from manifold.runtime.manifest import TaskSpec
from manifold.runtime.runner import example_inputs, padded
from manifold.training.exporting import graphs
from manifold.training.exporting.context import Array, Context
from manifold.training.exporting.draft import TORCHSCRIPT_FILE

TOLERANCE = 1e-4  # largest difference from torch: absolute for values up to 1, relative above
AGREEING = 0.9  # share of a sampler's items that must agree with torch's
GOLDEN_ROWS = 5
GOLDEN_VALUES = 20_000  # largest number of values in one golden tensor, unless one item has more
GOLDEN_TOTAL = 2**15  # largest number of values of all golden tensors, unless two items have more
GOLDEN_ITEM = (
    2**17
)  # largest number of values of one item of a golden output; larger outputs are only compared with torch at export


def write_graphs(context: Context) -> None:
    """Write one graph for each task, and run its torch module on the examples."""
    tasks, examples = context.exported.tasks, context.examples
    tensors = {
        name: [torch.from_numpy(examples[name][spec.role][:3]) for spec in task.inputs] for name, task in tasks.items()
    }
    if context.manifest.backend == "onnx":
        models = {name: graphs.task_to_onnx(task, tensors[name]) for name, task in tasks.items()}
        files = graphs.save_onnx(models, context.folder)
        written = context.manifest.tasks
        context.update(tasks={name: spec.model_copy(update={"graph": files[name]}) for name, spec in written.items()})
    else:
        graphs.save_torchscript(tasks, tensors, context.folder / TORCHSCRIPT_FILE)
    context.expected = {task: tasks[task](inputs) for task, inputs in examples.items()}


def pad(context: Context) -> None:
    """Find the padding with which the bits of each task do not depend on the batch. Raises ArtifactError for graphs that draw random numbers."""
    trial = Model(context.folder, context.manifest.model_copy(update={"scoring": None}), "cpu", 1)
    if drawing := sorted(trial.manifest.drawing):
        draws = ", ".join(checks.draws(trial, task) for task in drawing)
        raise ArtifactError(
            f"{context.manifest.name}: {draws}; nothing was published; make the noise an input of the graph"
        )
    context.update(tasks={task: _padding(trial, task, context.examples[task]) for task in context.manifest.tasks})


@torch.no_grad()
def _padding(engine: Model, task: str, real: Mapping[str, Array]) -> TaskSpec:
    """Return the task with its padding, which is found by runs on real and on random inputs."""
    spec = engine.manifest.tasks[task]
    examples = [real, example_inputs(spec, engine.manifest, batches.ROWS, seed=1)]
    rows = batches.padding(functools.partial(engine.runner.padded_run, task), examples)
    if rows is None:
        raise ArtifactError(
            f"{task}: an item's output depends on the other items of its batch, with any padding; remove operations that mix items"
        )
    return padded(spec, rows)


def write_golden(context: Context) -> None:
    """Write a few inputs and outputs of each task as golden vectors.

    Outputs of loops that draw are omitted, as one different code changes the rest of an item (see runtime.golden). So are outputs of more
    than GOLDEN_ITEM values an item, such as the logits of all levels of a large image, which would be most of the artifact's bytes.
    """
    manifest = context.manifest
    assert manifest.golden is not None
    vectors: dict[str, Array] = {}
    sizes = {
        task: [math.prod(tensor.shape) for tensor in (*spec.inputs, *spec.outputs)]
        for task, spec in manifest.tasks.items()
    }
    whole = sum(size for each in sizes.values() for size in each if size <= GOLDEN_ITEM)
    most = max(2, GOLDEN_TOTAL // max(1, whole))
    for task, spec in manifest.tasks.items():
        rows = max(1, min(GOLDEN_ROWS, GOLDEN_VALUES // max(sizes[task]), most))
        vectors |= {f"{task}.in.{role}": array[:rows] for role, array in context.examples[task].items()}
        if task not in context.loops:
            compared = [
                tensor.role
                for tensor in spec.outputs
                if tensor.role not in manifests.TIED and math.prod(tensor.shape) <= GOLDEN_ITEM
            ]
            vectors |= {f"{task}.out.{role}": context.expected[task][role][:rows] for role in compared}
    np.savez_compressed(context.folder / manifest.golden.file, **vectors)  # type: ignore[arg-type]


def prove(context: Context) -> None:
    """Open the graphs in the engine. Raises ArtifactError if their outputs differ from torch's or from the golden vectors."""
    context.opened = engine = Model(context.folder, context.manifest, "cpu", 1)
    problems = [*_parity(context), *golden.replay(engine.run, context.folder, context.manifest, "cpu")]
    if problems:
        name, backend = context.manifest.name, context.manifest.backend
        head = f"{name}: the outputs of the {backend} graphs differ from torch's; nothing was published:"
        raise ArtifactError("\n".join([head, *(f"  {line}" for line in problems)]))


def _parity(context: Context) -> list[str]:
    """Return one line for each output in which the engine differs from torch."""
    problems: list[str | None] = []
    for task, inputs in context.examples.items():
        outputs, expected = context.engine.run(task, inputs), context.expected[task]
        drawn = task in context.loops
        for role in set(expected) - set(manifests.TIED):
            output, of_torch = (golden.compared(task, role, values[role]) for values in (outputs, expected))
            wrong = _difference(output, of_torch, AGREEING if drawn else 1.0)
            problems.append(wrong and f"{task}.{role}: {wrong}")
    return sorted(filter(None, problems))


def _difference(output: Array, expected: Array, share: float) -> str | None:
    """Describe how an output differs from torch's by more than the tolerance; return None if it does not. Codes must be equal.

    `share` is the share of items that must agree. It is below 1 for values and codes that a loop draws, as one different draw changes the
    rest of an item. In an image of thousands of codes, a uniform is now and then so close to a step of the CDF that rounding decides.
    """
    if expected.dtype.kind == "i":
        wrong = output != expected
        apart = int(wrong.reshape(len(wrong), -1).any(axis=1).sum())
        return f"{int(wrong.sum())} of {wrong.size} codes differ" if apart > round((1 - share) * len(wrong)) else None
    off = np.abs(output - expected) / np.maximum(1, np.abs(expected))
    worst = float(np.quantile(off.reshape(len(off), -1).max(axis=1), share))
    return None if worst <= TOLERANCE else f"differs by {worst:.2g}, allowed {TOLERANCE:g}"
