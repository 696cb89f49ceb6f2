"""The checks of `in_graph` and of constants: whether each field applies to its tensor. Each check yields its problems as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from manifold.runtime.errors import shown
from manifold.runtime.manifest.conditions import Classes
from manifold.runtime.manifest.graph_forms import BINARY, PICTURES, GraphForm
from manifold.runtime.manifest.tensors import InputSpec, TaskSpec, TensorSpec

if TYPE_CHECKING:
    from manifold.runtime.kinds import Kind
    from manifold.runtime.manifest.document import Manifest

VALUES = ("channels", "range", "mean", "std", "invert")  # the fields of PICTURES that a mask cannot have


def of_task(manifest: Manifest, name: str, task: TaskSpec) -> Iterator[str]:
    """Yield the problems of all tensors and constants of a task."""
    for tensor in (*task.inputs, *task.outputs):
        if tensor.in_graph is not None:
            where = f"tasks.{name}.{tensor.role}.in_graph"
            yield from (f"{where}{problem}" for problem in _of_tensor(manifest, tensor, tensor.in_graph))
    names = {tensor.graph_name for tensor in task.inputs}
    for constant in task.constants or {}:
        if constant in names:
            yield f"tasks.{name}.constants: {shown(constant)} is also an input of the manifest; remove one of them"


def _of_tensor(manifest: Manifest, tensor: TensorSpec, form: GraphForm) -> Iterator[str]:
    is_input = isinstance(tensor, InputSpec)
    given = set(form.given)
    for name in ("activation", "negate"):
        if name in given and is_input:
            yield f".{name}: it is for outputs only; remove it"
        elif name in given and tensor.dtype != "float32":
            yield f".{name}: it is for numbers only, not for {tensor.dtype}; remove it"
    yield from _of_activation(manifest, tensor, form)
    yield from _of_binary(tensor, form)
    if form.index and not (is_input and _takes_classes(manifest, tensor)):
        yield ".index: it is for inputs that take classes only; remove it, or name the classes in `classes`"
    elif form.index and form.none is None and manifest.class_optional:
        yield ".none: the class is optional; give the number that stands for no class"
    if form.index and len(tensor.shape) == 1 and (kind := np.dtype(form.dtype or "int64")).kind in "iu":
        numbers = (tensor.shape[0] - 1, *(() if form.none is None else (form.none,)))
        if min(numbers) < np.iinfo(kind).min or max(numbers) > np.iinfo(kind).max:
            yield f".dtype: {kind} cannot hold the numbers of all {tensor.shape[0]} classes and none; use another type or number"
    if form.index and form.shape not in (None, (1,)):
        yield f".shape: {list(form.shape or ())} is not a shape for the number of a class; give [1], or leave it out"
    elif (
        form.shape is not None
        and not form.index
        and form.channels is None
        and form.activation not in BINARY
        and math.prod(form.shape) != math.prod(tensor.shape)
    ):
        yield (
            f".shape: {list(form.shape)} has {math.prod(form.shape)} values, but the shape {list(tensor.shape)} has {math.prod(tensor.shape)}; "
            "make them equal"
        )
    if isinstance(tensor, InputSpec) and tensor.missing and np.dtype(form.dtype or "float32").kind != "f":
        yield f".dtype: {form.dtype} has no NaN, which marks missing values; use a float type, or remove `missing`"
    if form.batch_axis != "none" and form.batch_axis > len(form.shape if form.shape is not None else tensor.shape):
        yield f".batch_axis: {form.batch_axis} is not an axis of the tensor; count from 0"
    pictures = _pictures(manifest, tensor)
    if wrong := [
        name for name in PICTURES if name in given and (pictures is None or (name in VALUES and _is_mask(tensor)))
    ]:
        yield f".{wrong[0]}: it is for images only; remove it"
    elif pictures is not None:
        yield from _of_images(tensor, form)


def _of_activation(manifest: Manifest, tensor: TensorSpec, form: GraphForm) -> Iterator[str]:
    if form.activation in ("softmax", "log") and not tensor.shape:
        yield f".activation: {form.activation} is for the numbers of several classes, but the output has one number for each item; remove it"
    elif form.activation in ("softmax", "log") and _pictures(manifest, tensor) is not None:
        yield f".activation: {form.activation} is for the numbers of classes, not for images; use sigmoid or tanh"


def _of_binary(tensor: TensorSpec, form: GraphForm) -> Iterator[str]:
    if form.activation in BINARY and tensor.shape != (2,):
        yield f".activation: {form.activation} is for outputs with the logits of two classes; remove it, or give the output the shape [2]"
    elif form.activation in BINARY and form.shape is not None and math.prod(form.shape) != 1:
        yield f".shape: {list(form.shape)} has several values, but {form.activation} needs one number for each item; give [1], or leave it out"


def _takes_classes(manifest: Manifest, tensor: TensorSpec) -> bool:
    return (
        isinstance(tensor, InputSpec)
        and tensor.source == "condition"
        and isinstance(manifest.condition_of(tensor), Classes)
    )


def _is_mask(tensor: TensorSpec) -> bool:
    return isinstance(tensor, InputSpec) and tensor.source == "mask"


def _pictures(manifest: Manifest, tensor: TensorSpec) -> Kind | None:
    """Return the kind of the images that a tensor holds; None for other tensors."""
    spec = manifest.spec if _is_mask(tensor) else manifest.held_in(tensor)
    return spec if spec is not None and spec.pictures and len(tensor.shape) == 3 else None


def _of_images(tensor: TensorSpec, form: GraphForm) -> Iterator[str]:
    whole = form.dtype is not None and np.dtype(form.dtype).kind in "iu" and form.dtype != "uint8"
    if whole and form.range is None and not _is_mask(tensor):
        yield f".range: pixels of the type {form.dtype} would be rounded to the range of `data`; state their range, such as [0, 255]"
    if form.mean is not None and form.dtype is not None and np.dtype(form.dtype).kind != "f":
        yield f".mean: {form.dtype} cannot hold pixels after mean and standard deviation; use a float type, or remove mean and std"
    own = tensor.shape[0]
    count = own if form.channels is None else len(form.channels)
    letters = form.channels if isinstance(form.channels, str) else ""
    if letters and "L" not in letters and not set("RGB") <= set(letters):
        yield f".channels: {letters} has neither L nor all of R, G and B; for other channels of an output, give the places of those to show, such as [0, 1, 2]"
    if isinstance(form.channels, tuple):
        if len(form.channels) != own:
            yield f".channels: {list(form.channels)} names {len(form.channels)} channels, but the images have {own}; name {own}"
        elif isinstance(tensor, InputSpec) and sorted(form.channels) != list(range(own)):
            yield f".channels: an input needs all channels of the graph, each once: an order of {list(range(own))}; or give letters, such as RGBA"
        if form.shape is not None:
            yield ".channels: a list cannot be combined with shape; use layout"
    if form.mean is not None and len(form.mean) != count:
        yield f".mean: {len(form.mean)} numbers, but the graph has {count} channels; give one number per channel"
    if form.mean is not None and "A" in letters:
        yield ".mean: a mean cannot be combined with an alpha channel; use range"
    if form.layout is not None and "C" not in form.layout and count != 1:
        yield f".layout: {form.layout} has no axis for the {count} channels; add C"
    if (
        form.shape is not None
        and form.channels is not None
        and math.prod(form.shape) != count * math.prod(tensor.shape[1:])
    ):
        yield f".shape: {list(form.shape)} does not have the values of {count} channels of {tensor.shape[1]}x{tensor.shape[2]}; correct it"
