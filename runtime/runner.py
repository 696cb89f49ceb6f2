"""The runs of a model's tasks. `Runner` opens the graphs of an artifact, checks inputs and outputs, and divides large batches.

`Model` (runtime.engine) is the interface for users. The service, training and checks also use this one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import lengths, operations
from manifold.runtime.errors import GraphError, InvalidValue, UnsupportedTask, nearest, shown
from manifold.runtime.graphs import batches
from manifold.runtime.graphs.backends import Graph, OnnxGraph, open_backend
from manifold.runtime.graphs.forms import Forms
from manifold.runtime.kinds.base import BELOW_ONE
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec
from manifold.runtime.manifest.conditions import BYTES, Item, Values
from manifold.runtime.operations import Run

Array = NDArray[Any]
T = TypeVar("T")

LARGE = 128 * 128 * 3  # values in an input above which padding is not tried again
EXTREMES = 4  # number of rows from which examples contain the first and the last class or code; in fewer, all rows must differ between seeds
LARGE_OUTPUT = 2**19  # values in an output above which it is not tried: 64 rows would take more than 128 MiB


class Runner:
    """The graphs of a loaded artifact, and how they are run. Thread-safe."""

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int) -> None:
        self.manifest = manifest
        backend = open_backend(folder, manifest, device, threads)
        self.device, self.note = backend.device, backend.note
        self.fixed: set[str] = set()  # the tasks whose graphs need a certain number of rows
        self.graphs: dict[str, Graph] = {}
        for name, task in manifest.tasks.items():
            self.graphs[name], rows = backend.open(task, Forms(task, manifest))
            self._fix(name, 1 if task.is_single else rows)
        self.chance = {name: backend.chance(task) for name, task in manifest.tasks.items()}
        self._judge()

    def run(self, task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one task on arrays by role, (B, *shape) each. Return its outputs by role.

        Batches are padded to the task's `min_rows` and divided into pieces of `max_rows`; the results do not depend on that. Raises
        UnsupportedTask for a task that the model lacks, InvalidValue for inputs that differ from the manifest or lie too far from the
        training data, and ArtifactError for outputs that differ from the manifest.
        """
        self.check(task, inputs)
        spec = self.manifest.tasks[task]
        length = lengths.of(spec, inputs)
        outputs = self.compute(task, inputs if length is None else lengths.padded(spec, inputs, length))
        outputs = lengths.cut(spec, outputs, length)
        if role := not_finite(outputs):
            raise self.strange(role)
        return outputs

    def check(self, task: str, inputs: Mapping[str, Array]) -> int:
        """Return the number of rows of the inputs of a task. Raises the errors of `run` for wrong inputs."""
        spec = self.manifest.task(task)
        if spec is None:
            near = nearest(str(task), self.manifest.tasks)
            suggested = f"did you mean {near[0]}? " if near else ""
            raise UnsupportedTask(
                f"task: {self.manifest.name} has no task {shown(task)}; {suggested}it has {', '.join(self.manifest.tasks)}",
                field="model",
                valid=list(self.manifest.tasks),
            )
        return check_inputs(spec, inputs)

    def compute(self, task: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a task on inputs that `check` has passed. The outputs may hold numbers that are not finite."""
        outputs = self._run(task, self.manifest.tasks[task], inputs)
        self._check_codes(self.manifest.tasks[task], outputs)
        return outputs

    def has_fixed_cost(self, task: str) -> bool:
        """Return whether the shapes of a task's inputs bound its time, whatever the values are."""
        spec = self.manifest.tasks[task]
        bounded = spec.longest is None and not spec.is_sampler  # the time of one length says nothing about another
        return bool(getattr(self.graphs[task], "fixed_cost", False)) and bounded

    def strange(self, role: str) -> InvalidValue:
        """Return the error for an item whose output is not finite."""
        return InvalidValue(
            f"{self.manifest.name}: the output {role} is not finite for this input; give an input closer to the training data"
        )

    def _check_codes(self, spec: TaskSpec, outputs: Mapping[str, Array]) -> None:
        """Raise GraphError for codes outside the levels of the manifest."""
        if self.manifest.codes is None or "codes" not in outputs:
            return
        codes, levels = outputs["codes"], self.manifest.codes.levels
        wrong = codes[(codes < 0) | (codes >= levels)]
        if wrong.size:
            raise GraphError(
                f"{spec.graph}: output 'codes' holds {wrong[0]}, but the manifest says {levels} levels, so that codes are from 0 to {levels - 1}; correct "
                "codes.levels, which --levels of manifold import states, or the graph",
                graph=spec.graph,
            )

    def _fix(self, name: str, rows: int | None) -> None:
        """Pad and divide the batches of a task into runs of a fixed number of rows; None if any number is allowed."""
        if rows is not None:
            self.fixed.add(name)
            task = self.manifest.tasks[name].model_copy(update={"min_rows": rows, "max_rows": rows})
            self.manifest = self.manifest.model_copy(update={"tasks": {**self.manifest.tasks, name: task}})

    def _judge(self) -> None:
        """Mark the tasks whose operators draw random numbers as not reproducible. Raises GraphError if operators mix the rows of a batch."""
        for name, operators in self.chance.items():
            if operators.mixes:
                graph = self.manifest.tasks[name].graph
                raise GraphError(
                    f"tasks.{name}: {graph} mixes the rows of a batch by {', '.join(operators.mixes)} in training mode, so that one request would "
                    "change another's answer; export it in evaluation mode (model.eval())",
                    graph=graph,
                )
        self._mark([name for name, operators in self.chance.items() if operators.draws])

    def _mark(self, drawing: Sequence[str]) -> None:
        self.manifest = self.manifest.with_drawing(self.manifest.drawing | set(drawing)) if drawing else self.manifest

    def steady(self) -> None:
        """Try by runs whether an item's bits depend on its batch on this machine, and act on the result.

        If they do, batches are padded further than the manifest says. If no padding helps, there are three cases. The graph draws random
        numbers by itself: it is marked as not reproducible. Its rows influence each other: it is refused with a GraphError. Its bits depend
        only on the number of rows: it is served unchanged, and `manifold check` reports it. For large images or outputs, two rows are tried
        instead of 64, and no padding.
        """
        for name, task in list(self.manifest.tasks.items()):
            if name in self.manifest.drawing:
                continue  # its bits differ anyway
            largest = [max(math.prod(tensor.shape) for tensor in tensors) for tensors in (task.inputs, task.outputs)]
            if largest[0] > LARGE or largest[1] > LARGE_OUTPUT or name in self.fixed:
                self._check_runs(name, task, 2)
                continue
            if self.chance[name].unsure and not batches.repeats(
                self.padded_run(name, task.min_rows), example_inputs(task, self.manifest, task.min_rows)
            ):
                self._mark([name])
                continue
            rows = batches.padding(
                functools.partial(self.padded_run, name),
                [example_inputs(task, self.manifest, min(batches.ROWS, task.max_rows))],
                least=task.min_rows,
                thorough=False,
            )
            if (trim := getattr(self.graphs[name], "trim", None)) is not None:
                example = example_inputs(task, self.manifest, task.min_rows)
                trim({tensor.graph_name: example[tensor.role] for tensor in task.inputs})
            if rows is None:
                self._check_runs(name, task, 4)
                if isinstance(graph := self.graphs[name], OnnxGraph):
                    graph.divided = False  # division by time would give other bits on a busier machine
            elif rows > task.min_rows:
                tasks = {**self.manifest.tasks, name: padded(self.manifest.tasks[name], rows)}
                self.manifest = self.manifest.model_copy(update={"tasks": tasks})

    def _check_runs(self, name: str, task: TaskSpec, rows: int) -> None:
        """Mark a task that draws, or raise GraphError for one whose rows influence each other, by runs of a few rows."""
        rows = min(-(-rows // task.min_rows) * task.min_rows, task.max_rows)
        run = self.padded_run(name, task.min_rows)
        inputs, others = (example_inputs(task, self.manifest, rows, seed) for seed in (0, 1))
        if not batches.repeats(run, inputs):
            self._mark([name])
        elif rows > 1 and (influences := batches.influence(run, inputs, others)):
            raise GraphError(
                f"tasks.{name}: {task.graph} mixes the rows of a batch: {'; '.join(influences)}, so that one request would change another's answer; "
                "correct the graph, or set max_rows 1 to run each row by itself (--rows 1 of manifold import)",
                graph=task.graph,
            )
        elif rows > 1 and name in self.fixed and (changes := batches.place(run, inputs)):
            raise GraphError(
                f"tasks.{name}: {task.graph} treats the rows of a batch differently: {'; '.join(changes)}, so that an answer would depend on other requests; "
                "export it with a batch of 1 or a dynamic batch axis",
                graph=task.graph,
            )

    def padded_run(self, task: str, rows: int) -> batches.Run:
        """Return the run of a task whose batches are padded to a multiple of `rows`, whatever the manifest says."""
        return functools.partial(self._run, task, padded(self.manifest.tasks[task], rows))

    def _run(self, task: str, spec: TaskSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        if (once := (*spec.shared, *spec.singles)) and rows > 1:
            kinds, which = np.unique(np.stack([inputs[role] for role in once], 1), axis=0, return_inverse=True)
            if len(kinds) > 1:
                return self._run_apart(task, spec, inputs, which.reshape(-1))
        pieces = [
            self._run_piece(task, spec, inputs, start, min(start + spec.max_rows, rows))
            for start in range(0, rows, spec.max_rows)
        ]
        return joined(pieces)

    def _run_apart(
        self, task: str, spec: TaskSpec, inputs: Mapping[str, Array], which: NDArray[np.int64]
    ) -> dict[str, Array]:
        """Run the rows of each kind by themselves. `which` (B,) is the kind of each row."""
        order = np.argsort(which, kind="stable")
        parts = [np.flatnonzero(which == kind) for kind in range(which.max() + 1)]
        done = joined([self._run(task, spec, {role: array[rows] for role, array in inputs.items()}) for rows in parts])
        return {role: array[np.argsort(order)] for role, array in done.items()}

    def _run_piece(
        self, task: str, spec: TaskSpec, inputs: Mapping[str, Array], start: int, stop: int
    ) -> dict[str, Array]:
        rows = stop - start
        padding = -rows % spec.min_rows
        given = {tensor.graph_name: _padded(inputs[tensor.role][start:stop], padding) for tensor in spec.inputs}
        outputs = self.graphs[task](given)
        results = {}
        for tensor in spec.outputs:
            array = np.asarray(outputs[tensor.graph_name])
            if array.shape[:1] != (rows + padding,) or not tensor.fits(array.shape[1:]) or array.dtype != tensor.dtype:
                needed = f"{tensor.dtype}{[rows + padding, *tensor.shape]}"
                raise GraphError(
                    f"{spec.graph}: output {tensor.role!r} is {array.dtype}{list(array.shape)}, the manifest says {needed}",
                    graph=spec.graph, tensor=tensor.graph_name, expected=needed,
                )  # fmt: skip
            results[tensor.role] = np.ascontiguousarray(array[:rows])
        return results

    def drive(self, steps: Generator[Run, dict[str, Array], T]) -> T:
        """Run a use case to its end and return its result."""
        return operations.drive(steps, self.run)


def joined(pieces: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Join the arrays by role of several runs into those of one."""
    if len(pieces) == 1:
        return dict(pieces[0])
    return {role: np.concatenate([piece[role] for piece in pieces]) for role in pieces[0]}


def not_finite(outputs: Mapping[str, Array]) -> str | None:
    """Return the role of an output that holds a number that is not finite; None if all are finite."""
    return next(
        (role for role, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()), None
    )


def check_inputs(spec: TaskSpec, inputs: Mapping[str, Array]) -> int:
    """Return the number of rows of the inputs. Raises InvalidValue if they differ from the task's tensors."""
    rows = {len(array) for array in inputs.values() if array.ndim}
    if inputs.keys() != spec.input_roles or len(rows) != 1 or 0 in rows:
        raise InvalidValue(
            f"inputs: the inputs {', '.join(tensor.role for tensor in spec.inputs)} are needed, with the same number of rows, at least one; "
            f"given are {', '.join(f'{role} {list(array.shape)}' for role, array in inputs.items()) or 'none'}",
            field="inputs",
        )
    for tensor in spec.inputs:
        array = inputs[tensor.role]
        if array.dtype != tensor.element or not tensor.fits(array.shape[1:]):
            wanted = tensor.described.replace("[", "[n, ").replace(", ]", "]")
            raise InvalidValue(
                f"input {tensor.role!r} is {array.dtype}{list(array.shape)}; give {wanted} for n items",
                field=tensor.role,
            )
        if array.dtype.kind == "f" and (np.isinf(array).any() if tensor.missing else not np.isfinite(array).all()):
            raise InvalidValue(f"input {tensor.role!r} holds NaN or infinity; give finite numbers", field=tensor.role)
    return rows.pop()


def _padded(array: Array, padding: int) -> Array:
    """Repeat the last row at the end: zeros could be slower (denormals) or give numbers that are not finite."""
    return np.concatenate([array, array[-1:].repeat(padding, axis=0)]) if padding else array


def padded(task: TaskSpec, rows: int) -> TaskSpec:
    """Return the task with its batches padded to a multiple of `rows`, and divided into pieces that are such multiples."""
    return task.model_copy(update={"min_rows": rows, "max_rows": max(rows, task.max_rows // rows * rows)})


def example_inputs(task: TaskSpec, manifest: Manifest, rows: int, seed: int = 0) -> dict[str, Array]:
    """Return valid inputs for a task, drawn from a seed, for warm-ups and checks. Their rows differ, except for numbers.

    A number that is shared by the rows of a run, such as the steps of a solver, has its smallest value, with which a run is short.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    return {tensor.role: _example(tensor, manifest, rows, generator) for tensor in task.inputs}


def stated_example(tensor: InputSpec) -> Array | None:
    """Return the example that a manifest states for an input, (1, *shape); None if it states none."""
    return None if tensor.example is None else np.asarray(tensor.example, tensor.dtype)[None]


def _example(tensor: InputSpec, manifest: Manifest, rows: int, generator: np.random.Generator) -> Array:
    shape = (rows, *tensor.shape)
    match tensor.source:
        case "normal" | "latent" | "state":
            values: Array = generator.standard_normal(shape)
        case "codes":
            levels = manifest.codes.levels if manifest.codes else 2
            values = generator.integers(0, levels, shape)
            if rows >= EXTREMES:
                values.flat[0], values.flat[-1] = 0, levels - 1
        case "temperature" | "token_mask":
            values = np.ones(shape)
        case "number" | "integer":
            stated = tensor.example if tensor.default is None else tensor.default
            values = np.full(shape, min(tensor.choices) if tensor.shared and tensor.choices else stated)
        case "tokens":
            values = generator.integers(0, BYTES, shape)
        case "mask":
            values = generator.integers(0, 2, shape)
        case "condition":
            values = _example_condition(tensor, manifest, rows, generator)
        case "data":
            values = manifest.spec.example(rows, generator)
            if (
                tensor.in_graph is not None
                and np.dtype(tensor.in_graph.dtype or "float32").kind in "iu"
                and not manifest.spec.pictures
            ):
                values = np.rint(values)  # the graph takes whole numbers
        case _:
            values = np.minimum(generator.random(shape, np.float32), np.float32(BELOW_ONE))
    return values.astype(tensor.dtype)


def _example_condition(tensor: InputSpec, manifest: Manifest, rows: int, generator: np.random.Generator) -> Array:
    condition = manifest.condition_of(tensor)
    if isinstance(condition, Item):
        return condition.data.example(rows, generator)
    legal = np.asarray(condition.examples) if isinstance(condition, Values) else np.eye(tensor.shape[0])
    chosen = generator.integers(0, len(legal), rows)
    if rows >= EXTREMES:
        chosen[0], chosen[-1] = 0, len(legal) - 1
    return legal[chosen]
