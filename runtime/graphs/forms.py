"""The conversion of tensors between the form in which the service uses them and the form that a foreign graph has.

The service uses float32 and int64 arrays with the batch first, images as (B, C, H, W), and a weight for each class. A manifest states under `in_graph`
how a tensor differs in the graph. The conversions cost little next to a network: casts, transposes and one multiplication per value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import GraphError, InvalidValue
from manifold.runtime.kinds import Kind
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec, TensorSpec
from manifold.runtime.manifest.graph_forms import AXES, BINARY, GraphForm

Array = NDArray[Any]
LUMINANCE = {"R": 0.299, "G": 0.587, "B": 0.114}  # ITU-R BT.601, as Pillow converts colours to grey
OWN = {1: "L", 3: "RGB"}  # the letters of the channels of images in the service
BYTES = (0.0, 255.0)  # the values of black and white in a graph with uint8 images


@dataclass(frozen=True)
class Form:
    """The conversion of one tensor. `own` is its shape in the service, without the batch."""

    tensor: TensorSpec
    stated: GraphForm
    spec: Kind | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in the graph."""
        return np.dtype(self.stated.dtype or ("int64" if self.stated.index else self.tensor.dtype))

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of one item in the graph, with the axes of an image in the order C, H, W. None stands for any size."""
        if self.stated.activation in BINARY and self.stated.shape is None:
            return ()
        return self._axes if self.stated.shape is None else self.stated.shape

    @property
    def _axes(self) -> tuple[int | None, ...]:
        """The shape of one item in the graph before `shape` joins or divides its axes."""
        if self.stated.index:
            return ()
        own = self.tensor.shape
        if self.stated.channels is None or len(own) != 3:
            return own
        count = len(self.stated.channels) if isinstance(self.stated.channels, str) or self._is_input else None
        return (count, *own[1:])

    @property
    def _is_input(self) -> bool:
        return isinstance(self.tensor, InputSpec)

    @property
    def dims(self) -> list[int | None]:
        """The dimensions of the whole tensor in the graph. None stands for the batch, and for a size that the manifest does not state."""
        if self.stated.layout is not None and self.stated.shape is None:
            return self._placed(self.stated.layout)
        dims: list[int | None] = list(self.shape)
        if self.stated.batch_axis != "none":
            dims.insert(self.stated.batch_axis, None)
        return dims

    def _placed(self, layout: str) -> list[int | None]:
        """Return the dimensions of images in the order of a layout."""
        sizes: dict[str, int | None] = {"N": None, **dict(zip("CHW", self._axes, strict=True))}
        return [sizes[letter] for letter in layout]

    @property
    def rows_axis(self) -> int | None:
        """The axis of the batch in the graph; None if the graph has none."""
        if self.stated.layout is not None:
            return self.stated.layout.find("N") if "N" in self.stated.layout else None
        return None if self.stated.batch_axis == "none" else self.stated.batch_axis

    # --- inputs ---------------------------------------------------------------------------------------------------------------

    def to_graph(self, array: Array) -> Array:
        """Convert an input (B, *shape) of the service into the form of the graph. Raises InvalidValue for a mixture of classes."""
        if self.stated.index:
            array = self._number(array)
        if self.spec is not None and self.spec.pictures:
            array = self._painted(array)
        if self.stated.shape is not None and self.stated.layout is None:
            array = array.reshape(len(array), *self.stated.shape)
        array = self._cast(array)
        if (layout := self.stated.layout) is not None:
            kept = AXES if "C" in layout else AXES.replace("C", "")
            array = array if "C" in layout else array[:, 0]
            if "N" not in layout:
                array, kept = array[0], kept.replace("N", "")
            array = np.ascontiguousarray(array.transpose([kept.index(letter) for letter in layout]))
            return array if self.stated.shape is None else array.reshape(len(array), *self.stated.shape)
        if self.stated.batch_axis == "none":
            return np.asarray(array[0])
        return np.ascontiguousarray(np.moveaxis(array, 0, self.stated.batch_axis)) if self.stated.batch_axis else array

    def _number(self, weights: Array) -> Array:
        """Return the numbers of the classes (B,) with these weights (B, K)."""
        number = weights.argmax(1)
        one = np.isclose(weights.max(1), 1, atol=1e-6) & (np.count_nonzero(weights, axis=1) == 1)
        if not one.all():
            without = ~weights.any(1)
            if self.stated.none is None or not (without | one).all():
                raise InvalidValue(
                    "condition: this model takes one class for each item, not a mixture of classes; give one class, or the weight 1 for one class",
                    field="condition",
                )
            number = np.where(without, self.stated.none, number)
        return np.asarray(number)

    def _cast(self, array: Array) -> Array:
        kind = self.dtype
        if kind.kind == "b":
            return array >= 0.5 if array.dtype.kind == "f" else array != 0
        if kind.kind in "iu" and array.dtype.kind == "f" and self._holds_rows:
            self._check_whole(array)
        if array.dtype != kind and (kind.kind in "iu" or kind == np.float16):
            array = self._held(np.rint(array) if kind.kind in "iu" and array.dtype.kind == "f" else array)
        return array.astype(kind, copy=False)

    @property
    def _holds_rows(self) -> bool:
        return (
            isinstance(self.tensor, InputSpec)
            and self.tensor.source == "data"
            and self.spec is not None
            and not self.spec.pictures
        )

    def _check_whole(self, array: Array) -> None:
        """Raise InvalidValue for a value of a row with a fraction, which the graph cannot take."""
        wrong = array[array != np.rint(array)]
        if wrong.size:
            raise InvalidValue(
                f"{self.tensor.role}: the graph takes whole numbers ({self.dtype}), but a value is {wrong[0]:g}; give whole numbers", field=self.tensor.role
            )  # fmt: skip

    def _held(self, array: Array) -> Array:
        """Return values that the type in the graph can hold: pixels are clipped, and other values outside raise InvalidValue."""
        limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else np.finfo(self.dtype)
        low, high = float(limits.min), float(limits.max)
        outside = (array < low) | (
            array >= high + (1 if self.dtype.kind in "iu" else 16)
        )  # float16 rounds 65519 to 65504
        if not outside.any():
            return array
        if self.spec is not None and self.spec.pictures:
            return np.clip(array.astype(np.float64), low, np.nextafter(high, 0) if high > limits.max else high)
        raise InvalidValue(
            f"{self.tensor.role}: the graph takes {self.dtype}, which cannot hold {array[outside][0]:g}; give values from {low:g} to {high:g}",
            field=self.tensor.role,
        )

    # --- outputs --------------------------------------------------------------------------------------------------------------

    def from_graph(self, array: Array, graph: str) -> Array:
        """Convert an output of the graph into the form of the service, (B, *shape). Raises GraphError if its shape is not the stated one."""
        dims = self.dims
        if array.ndim != len(dims) or any(
            size not in (None, have) for size, have in zip(dims, array.shape, strict=True)
        ):
            wanted = ", ".join(
                "B" if axis == self.rows_axis else "?" if size is None else str(size) for axis, size in enumerate(dims)
            )
            raise GraphError(
                f"{graph}: output {self.tensor.graph_name!r} has the shape {list(array.shape)} in the graph, but in_graph says [{wanted}]; make them equal",
                graph=graph, tensor=self.tensor.graph_name,
            )  # fmt: skip
        if array.dtype.kind == "f" and self.tensor.element.kind == "i":  # codes as numbers with a fraction
            if not np.isfinite(array).all():
                raise GraphError(
                    f"{graph}: output {self.tensor.graph_name!r} holds NaN or infinity, which are no whole numbers",
                    graph=graph, tensor=self.tensor.graph_name,
                )  # fmt: skip
            array = np.rint(array)
        array = array.astype(self.tensor.element, copy=False)
        if (layout := self.stated.layout) is not None:
            if self.stated.shape is not None:
                array = array.reshape(len(array), *(-1 if size is None else size for size in self._placed(layout)[1:]))
            if "N" not in layout:
                array, layout = array[None], "N" + layout
            if "C" not in layout:
                array, layout = array[..., None], layout + "C"
            array = array.transpose([layout.index(letter) for letter in AXES])
        elif self.stated.batch_axis == "none":
            array = array[None]
        else:
            array = np.moveaxis(array, self.stated.batch_axis, 0)
        if self.stated.activation in BINARY:
            array = array.reshape(len(array))
        elif self.stated.shape is not None and self.stated.layout is None:
            between = self.tensor.shape if self.stated.channels is None else (-1, *self.tensor.shape[1:])
            array = array.reshape(len(array), *between)
        array = _activated(array, self.stated.activation)
        if self.spec is not None and self.spec.pictures:
            array = self._plain(array)
        return -array if self.stated.negate else array

    # --- pixels ---------------------------------------------------------------------------------------------------------------

    @property
    def _values(self) -> tuple[float, float] | None:
        """The values of black and white in the graph; None if mean and standard deviation state them."""
        if self.stated.mean is not None:
            return None
        assert self.spec is not None and self.spec.limits is not None
        kinds = {np.dtype(np.uint8): BYTES, np.dtype(np.bool_): (0.0, 1.0)}
        return self.stated.range or kinds.get(self.dtype, self.spec.limits)

    @property
    def _keeps_values(self) -> bool:
        """Whether pixels have the same values in the graph as in the service."""
        assert self.spec is not None
        same = self._values == self.spec.limits and not self.stated.invert
        channels = self.stated.channels
        return same and (
            not isinstance(channels, str)
            or (not {*channels} & {"A"} and set(channels) == set(OWN[self.tensor.shape[0]]))
        )

    def _painted(self, x: Array) -> Array:
        """Convert images (B, C, H, W) of the service into channels and values of the graph."""
        letters = self.stated.channels
        if isinstance(letters, tuple):  # mean and std are in the order of the list, as for an output
            return self._toned(x)[:, np.argsort(letters)]
        return self._toned(x, letters)

    def _toned(self, x: Array, letters: str | None = None) -> Array:
        """Convert values, and channels by their letters, of images of the service into those of the graph."""
        assert self.spec is not None and self.spec.limits is not None
        own = OWN[self.tensor.shape[0]]
        if self._keeps_values:
            return x if letters is None else x[:, [own.index(letter) for letter in letters]]
        black, white = self.spec.limits
        x = (x - np.float32(black)) * np.float32(1 / (white - black))
        if self.stated.invert:
            x = 1 - x
        if letters is not None:
            x = np.stack([_channel(x, own, letter) for letter in letters], 1)
        return self._scaled(x)

    def _scaled(self, x: Array) -> Array:
        """Convert pixels in [0, 1] into values of the graph."""
        if (values := self._values) is None:
            mean, std = (
                np.asarray(numbers, np.float32)[:, None, None] for numbers in (self.stated.mean, self.stated.std)
            )
            return np.asarray((x - mean) / std)
        return np.asarray(x * np.float32(values[1] - values[0]) + np.float32(values[0]))

    def _plain(self, x: Array) -> Array:
        """Convert channels and values (B, C, H, W) of the graph into images of the service."""
        assert self.spec is not None and self.spec.limits is not None
        own, letters = OWN[self.tensor.shape[0]], self.stated.channels
        if isinstance(letters, tuple):
            if max(letters) >= x.shape[1]:
                raise GraphError(
                    f"output {self.tensor.graph_name!r} has {x.shape[1]} channels, but in_graph.channels names the place {max(letters)}; "
                    "count the places from 0"
                )  # fmt: skip
            x = x[:, list(letters)]
            letters = None
        if self._keeps_values:
            return x if letters is None else x[:, [letters.index(letter) for letter in own]]
        if (values := self._values) is None:
            mean, std = (
                np.asarray(numbers, np.float32)[:, None, None] for numbers in (self.stated.mean, self.stated.std)
            )
            x = x * std + mean
        else:
            x = (x - np.float32(values[0])) * np.float32(1 / (values[1] - values[0]))
        alpha = None
        if letters is not None:
            alpha = x[:, [letters.index("A")]] if "A" in letters else None
            x = np.stack([_channel(x, letters, letter) for letter in own], 1)
        if self.stated.invert:
            x = 1 - x
        if alpha is not None:
            x = x * alpha + (1 - alpha)  # over white
        black, white = self.spec.limits
        return np.asarray(x * np.float32(white - black) + np.float32(black))


def _channel(x: Array, have: str, letter: str) -> Array:
    """Return one channel (B, H, W) of pixels in [0, 1] with the channels `have`."""
    if letter in have:
        return np.asarray(x[:, have.index(letter)])
    if letter == "A":
        return np.ones_like(x[:, 0])
    if letter == "L":
        return np.asarray(sum(np.float32(weight) * x[:, have.index(name)] for name, weight in LUMINANCE.items()))
    return np.asarray(x[:, have.index("L")])


def _log(array: Array) -> Array:
    return np.asarray(np.log(np.maximum(array, np.finfo(np.float32).tiny)))


def _activated(array: Array, activation: str | None) -> Array:
    match activation:
        case "sigmoid":
            half = np.float32(0.5)
            return np.asarray(half * np.tanh(half * array) + half)  # it does not overflow
        case "tanh":
            return np.asarray(np.tanh(array))
        case "softmax":
            array = np.exp(array - array.max(1, keepdims=True))
            return np.asarray(array / array.sum(1, keepdims=True))
        case "log":
            return _log(array)
        case "binary":
            return np.stack([np.zeros_like(array), array], 1)
        case "binary_log":
            return np.stack([_log(1 - array), _log(array)], 1)
        case _:
            return array


class Forms:
    """The conversions of all tensors of a task that differ in the graph, and its constants."""

    def __init__(self, task: TaskSpec, manifest: Manifest) -> None:
        plain = GraphForm()
        self.graph = task.graph
        self.of = {
            tensor.graph_name: Form(tensor, tensor.in_graph or plain, manifest.held_in(tensor))
            for tensor in (*task.inputs, *task.outputs)
        }
        self.inputs = [tensor.graph_name for tensor in task.inputs if tensor.in_graph is not None]
        self.outputs = [tensor.graph_name for tensor in task.outputs if tensor.in_graph is not None]
        self.constants = {name: (constant.array, constant.batch) for name, constant in (task.constants or {}).items()}

    @property
    def differ(self) -> bool:
        """Whether any tensor differs in the graph."""
        return bool(self.inputs or self.outputs or self.constants)

    def to_graph(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Convert the inputs of a run, by their names in the graph."""
        rows = len(next(iter(inputs.values())))
        made = {name: self.of[name].to_graph(array) if name in self.inputs else array for name, array in inputs.items()}
        for name, (value, batch) in self.constants.items():
            made[name] = np.broadcast_to(value, (rows, *value.shape)) if batch else value
        return made

    def from_graph(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Convert the outputs of a run, by their names in the graph. Raises GraphError if they have other shapes than stated."""
        return {
            name: self.of[name].from_graph(np.asarray(array), self.graph) if name in self.outputs else array
            for name, array in outputs.items()
        }
