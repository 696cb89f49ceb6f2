"""The comparison of a graph's inputs and outputs with the manifest, and the form that a manifest could state if they differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifold.runtime.errors import GraphError, shown
from manifold.runtime.graphs import onnx_file
from manifold.runtime.graphs.forms import Form, Forms
from manifold.runtime.manifest import InputSpec, TaskSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import GraphForm

Dims = Sequence[int | str | None]  # the dimensions in a graph: a number for each fixed one

# from ONNX Runtime's names of types to numpy's
TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool", "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
LAYOUTS = ("NHWC", "NHW", "CHWN", "HWCN", "HWNC", "CNHW", "CHW", "HWC", "HW")  # the orders to try, beside NCHW


def check(path: Path, task: TaskSpec, forms: Forms, session: Any) -> int | None:
    """Return the number of rows that the graph needs in each run; None if any number is allowed.

    Raises GraphError with one line for each input or output that differs from the manifest.
    """
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    _check_names(path.name, task, inputs, outputs)
    scalars = _scalars(path, inputs)
    problems: list[tuple[TensorSpec, str]] = []
    rows: dict[str, int] = {}
    for spec in task.inputs:
        given = inputs[spec.graph_name]
        dims = [] if spec.graph_name in scalars else given.shape or None  # without a shape, any shape may fit
        form = forms.of[spec.graph_name]
        if problem := _problem("input", form, type_of(given.type), dims):
            problems.append((spec, problem))
        elif dims is not None and form.rows_axis is not None and isinstance(fixed := dims[form.rows_axis], int):
            rows[spec.graph_name] = fixed
    for output in task.outputs:  # shapes of outputs are only hints; ONNX Runtime does not enforce them
        kind = type_of(outputs[output.graph_name].type)
        if kind != forms.of[output.graph_name].dtype and (
            problem := _problem("output", forms.of[output.graph_name], kind, outputs[output.graph_name].shape or None)
        ):
            problems.append((output, problem))
    for name, (value, batch) in forms.constants.items():
        problems += [(task.inputs[0], line) for line in _constant_problems(name, value, batch, inputs[name])]
    if 0 in rows.values():
        problems.append((task.inputs[0], "the graph takes 0 rows; export it with a dynamic batch axis"))
    elif len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        problems.append(
            (
                task.inputs[0],
                f"the inputs have different numbers of rows in the graph ({listed}); export it with a dynamic batch axis",
            )
        )
    if problems:
        lines = "\n  ".join(line for _, line in problems)
        first = problems[0][0]
        raise GraphError(f"{path.name}: {lines}", graph=path.name, tensor=first.graph_name, expected=first.described)
    return next(iter(rows.values()), None)


def type_of(name: str) -> str:
    """Return numpy's name of a type such as `tensor(float)`; other types are returned unchanged."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return TYPES.get(inner, name)


def fits(wanted: Dims, dims: Dims | None) -> bool:
    """Return whether dimensions in the graph agree with wanted ones, of which None stands for any size."""
    if dims is None:
        return True
    return len(dims) == len(wanted) and all(
        size is None or not isinstance(have, int) or have == size for size, have in zip(wanted, dims, strict=True)
    )


def _agrees(form: Form, dims: Dims | None) -> bool:
    """Return whether a form agrees with dimensions in the graph. If only the axis of the batch is fixed, it is probably another axis."""
    if dims is None or not fits(form.dims, dims):
        return dims is None
    axis = form.rows_axis
    return axis is None or not isinstance(dims[axis], int) or all(isinstance(size, int) for size in dims)


def guess(form: Form, kind: str, dims: Dims | None, *, classes: int | None = None) -> dict[str, Any] | None:
    """Return the fields of `in_graph` with which a tensor agrees with the graph's type and dimensions; None if none of the usual forms does.

    `classes` is the number of classes, if the tensor is an input for a class.
    """
    for fields in ({}, *_candidates(form, dims, classes)):
        typed = {} if kind == form.tensor.dtype and "index" not in fields else {"dtype": kind}
        try:
            tried = Form(form.tensor, GraphForm(**{**typed, **fields}), form.spec)
        except ValueError:  # a type such as string, which no form has
            return None
        if _agrees(tried, dims) and (classes is None or fields or dims is not None):
            made = {**typed, **fields}
            return {
                name: value
                for name, value in made.items()
                if not (name == "dtype" and value == "int64" and "index" in made)
            }
    return None


def _candidates(form: Form, dims: Dims | None, classes: int | None) -> Iterator[dict[str, Any]]:
    own = form.tensor.shape
    if classes is not None:
        yield from ({"index": True}, {"index": True, "shape": (1,)}, {"index": True, "batch_axis": "none"})
    if form.spec is not None and form.spec.pictures and len(own) == 3:
        channels = (
            {},
            {"channels": "RGBA"},
            *({"channels": each} for each in (("LA", "RGB") if own[0] == 1 else ("L",))),
        )
        for letters in channels:
            yield from (
                {**letters, **({} if layout == "NCHW" else {"layout": layout})} for layout in ("NCHW", *LAYOUTS)
            )
    if dims is not None and len(dims) > 1 and all(isinstance(size, int) for size in dims[1:]):
        shape = tuple(int(size) for size in dims[1:] if isinstance(size, int))
        if np.prod(shape) == np.prod(own):
            yield {"shape": shape}
    yield from ({"batch_axis": axis} for axis in range(1, len(own) + 1))
    yield {"batch_axis": "none"}
    if not own:
        yield {"shape": (1,)}


def _problem(what: str, form: Form, kind: str, dims: Dims | None) -> str | None:
    """Return the difference between a tensor in the graph and the manifest; None if there is none."""
    spec = form.tensor
    agrees = _agrees(form, dims)
    fixed = [axis for axis in spec.free or () if dims is not None and agrees and isinstance(dims[axis + 1], int)]
    shape = "" if dims is None else _shown(dims)
    if fixed and kind == form.dtype:
        return (
            f"{what} {spec.graph_name!r} is {kind}{shape} in the graph: axis {fixed[0]} after the batch is fixed, but the "
            f"manifest says that it is free; export the graph with a dynamic axis, or remove `free`"
        )
    if kind == form.dtype and agrees:
        return None
    said = (
        f"{spec.described} (without the batch)"
        if spec.in_graph is None
        else f"{form.dtype}{_shown(form.dims)} in its in_graph"
    )
    found = None if spec.free else guess(form, kind, dims, classes=spec.shape[0] if _is_condition(spec) else None)
    advice = (
        "make them equal"
        if not found
        else f'state the form in the graph, "in_graph": {json.dumps(found)}, or make them equal'
    )
    return f"{what} {spec.graph_name!r} is {kind}{shape} in the graph, but the manifest says {said}; {advice}"


def _is_condition(spec: TensorSpec) -> bool:
    return isinstance(spec, InputSpec) and spec.source == "condition" and len(spec.shape) == 1


def _constant_problems(name: str, value: np.ndarray[Any, Any], batch: bool, given: Any) -> Iterator[str]:
    wanted: list[int | None] = [*([None] if batch else []), *value.shape]
    kind = type_of(given.type)
    if kind != value.dtype or (given.shape and not fits(wanted, given.shape)):
        yield (
            f"constant {name!r} is {kind}{_shown(given.shape)} in the graph, but the manifest says {value.dtype}{_shown(wanted)}; "
            "correct its dtype, value or batch"
        )


def _shown(dims: Dims) -> str:
    """Return dimensions as text, with names for the free ones."""
    names = ["B", *"?" * len(dims)]
    return f"[{', '.join(str(name if dim is None else dim) for dim, name in zip(dims, names, strict=False))}]"


def _scalars(path: Path, inputs: Mapping[str, Any]) -> set[str]:
    """Return the inputs of rank 0. ONNX Runtime does not distinguish them from inputs without a shape."""
    return set() if all(tensor.shape for tensor in inputs.values()) else onnx_file.read(path).graph.scalars


def _check_names(graph: str, task: TaskSpec, inputs: Collection[str], outputs: Collection[str]) -> None:
    kinds: tuple[tuple[str, Sequence[TensorSpec], Collection[str]], ...] = (
        ("input", task.inputs, inputs), ("output", task.outputs, outputs),
    )  # fmt: skip
    for kind, specs, have in kinds:
        for spec in specs:
            if spec.graph_name not in have:
                raise GraphError(
                    f"{graph}: has no {kind} {shown(spec.graph_name)} (role {shown(spec.role)}); it has {', '.join(sorted(have))}",
                    graph=graph, tensor=spec.graph_name, expected=spec.described,
                )  # fmt: skip
    constants = task.constants or {}
    for name in constants:
        if name not in inputs:
            raise GraphError(
                f"{graph}: has no input {shown(name)}, which is a constant of the manifest; it has {', '.join(sorted(inputs))}",
                graph=graph,
            )
    if missing := set(inputs) - {spec.graph_name for spec in task.inputs} - set(constants):
        raise GraphError(
            f"{graph}: the input(s) {', '.join(sorted(missing))} are not in the manifest; add them to the inputs of the task, or to its constants",
            graph=graph,
            tensor=min(missing),
        )
