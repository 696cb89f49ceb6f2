"""The tensors of a task: names, types, shapes, and the source of each input."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from manifold.runtime.errors import shown
from manifold.runtime.manifest.graph_forms import Constant, GraphForm
from manifold.runtime.records import Record

Source = Literal[
    "normal", "uniform", "condition", "data", "mask", "latent", "codes", "temperature", "number", "integer", "tokens", "token_mask",
    "state",
]  # fmt: skip
RANDOM: tuple[Source, ...] = ("normal", "uniform", "latent")  # inputs that a seed can fill
NUMBERS: tuple[Source, ...] = ("number", "integer")  # inputs that a request states by name
CONDITIONS: tuple[Source, ...] = ("condition", "tokens", "token_mask")  # inputs that a condition fills

# the type of the arrays that are sent to each input
SENT: dict[Source, str] = {
    "normal": "float32", "uniform": "float32", "condition": "float32", "data": "float32", "mask": "float32", "latent": "float32",
    "codes": "int64", "temperature": "float32", "number": "float32", "integer": "int64", "tokens": "int64", "token_mask": "float32",
    "state": "float32",
}  # fmt: skip

Size = Annotated[int, Field(ge=1)]


def listed(numbers: Iterable[float]) -> str:
    """Return numbers as text, such as 4, 8, 16."""
    return ", ".join(f"{number:g}" for number in numbers)


class TensorSpec(Record):
    """One input or output. `role` is its name in this project, `name` its name in the graph (by default the same).

    An output of a TorchScript method that returns a tuple can be named output0, output1, and so on; the others are then not used.

    `shape` does not contain the batch axis, which is always first and always free. Axes in `free` may be shorter than in `shape`: they have
    the length of the request, padded with zeros to the next length in the buckets of the task.
    """

    role: str = Field(min_length=1)
    name: str = ""
    dtype: Literal["float32", "int64"] = "float32"
    shape: tuple[Size, ...] = ()
    free: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="axes that may be shorter (0 is the first one after the batch); all free axes of a task have the same length"
    )  # fmt: skip
    in_graph: GraphForm | None = Field(default=None, description="the form of the tensor in the graph, if it differs")

    @cached_property
    def element(self) -> np.dtype[Any]:
        """The numpy type of the values."""
        return np.dtype(self.dtype)

    @property
    def described(self) -> str:
        """The type and shape of one item, as text."""
        sizes = [f"1..{size}" if axis in (self.free or ()) else str(size) for axis, size in enumerate(self.shape)]
        return f"{self.dtype}[{', '.join(sizes)}]"

    @property
    def graph_name(self) -> str:
        """The name of the tensor in the graph."""
        return self.name or self.role

    def sized(self, length: int | None) -> tuple[int, ...]:
        """Return the shape of one item with free axes of a given length; the full shape if the length is None."""
        free = () if length is None else self.free or ()
        return tuple(length or 0 if axis in free else size for axis, size in enumerate(self.shape))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether this shape is allowed for one item."""
        if not self.free:
            return shape == self.shape
        return len(shape) == len(self.shape) and all(
            1 <= size <= largest if axis in self.free else size == largest
            for axis, (size, largest) in enumerate(zip(shape, self.shape, strict=True))
        )

    @model_validator(mode="after")
    def _check_free(self) -> TensorSpec:
        free = self.free or ()
        if any(axis >= len(self.shape) for axis in free):
            raise ValueError(
                f"free: {list(free)} are not all axes of the shape {list(self.shape)}; count from 0, without the batch"
            )
        if len({self.shape[axis] for axis in free}) > 1:
            raise ValueError(
                f"free: the sizes of the free axes {list(free)} differ in the shape {list(self.shape)}; they must be equal"
            )
        if self.in_graph is not None and self.free and {"shape", "layout", "batch_axis"} & set(self.in_graph.given):
            raise ValueError(
                "in_graph: a tensor with free axes can only differ in type and values; remove shape, layout and batch_axis"
            )
        return self


class InputSpec(TensorSpec):
    """An input. `source` says how it is filled: from a seed (normal, uniform, latent) or by the request."""

    source: Source
    missing: bool = Field(default=False, description="true if NaN marks a missing value; for rows only")
    default: float | None = Field(
        default=None, description="number and integer only: the value if a request gives none"
    )
    minimum: float | None = Field(default=None, description="number and integer only: the smallest valid value")
    maximum: float | None = Field(default=None, description="number and integer only: the largest valid value")
    choices: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="number and integer only: the valid values, if only some are"
    )
    shared: bool | None = Field(
        default=None,
        description="number and integer only: true if the graph needs one value for all rows; rows with other values are run separately",
    )
    example: tuple[Any, ...] | float | None = Field(
        default=None, description="a valid value of one item, nested like the shape; needed if the source alone does not determine valid values, and for /v2"
    )  # fmt: skip

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest valid value of a number or an integer."""
        if self.choices is not None:
            return min(self.choices), max(self.choices)
        low = -math.inf if self.minimum is None else self.minimum
        return low, math.inf if self.maximum is None else self.maximum

    @property
    def stated(self) -> dict[str, Any]:
        """The default, the limits and the choices that a number or an integer has, as a request states them: integers without a point."""
        kind = int if self.source == "integer" else float
        numbers = {"default": self.default, "minimum": self.minimum, "maximum": self.maximum}
        found: dict[str, Any] = {name: kind(value) for name, value in numbers.items() if value is not None}
        return found if self.choices is None else {**found, "choices": [kind(each) for each in self.choices]}

    @model_validator(mode="after")
    def _check_number(self) -> InputSpec:
        if self.example is not None:
            self._check_example()
        if self.source not in NUMBERS and (self.choices is not None or self.shared is not None):
            raise ValueError(
                f"choices, shared: only inputs with the source {' or '.join(NUMBERS)} can have them, not {self.source}; remove them"
            )
        if self.shared and self.choices is None:
            raise ValueError(
                "shared: the input has no choices; list the valid values as choices, since each is queued by itself"
            )
        if self.choices is not None:
            self._check_choices(self.choices)
        stated = [name for name in ("default", "minimum", "maximum") if getattr(self, name) is not None]
        if stated and self.source not in NUMBERS:
            raise ValueError(
                f"{stated[0]}: only inputs with the source {' or '.join(NUMBERS)} can have it, not {self.source}; remove it"
            )
        low, high = self.limits
        if low > high:
            raise ValueError(f"minimum: {low:g} is above the maximum {high:g}; exchange them")
        for name in ("default", "example"):
            value = getattr(self, name)
            if self.source in NUMBERS and value is not None and not low <= value <= high:
                raise ValueError(f"{name}: {value:g} is out of range; give a number from {low:g} to {high:g}")
        if self.source == "integer" and any(getattr(self, name) != int(getattr(self, name)) for name in stated):
            raise ValueError(f"{', '.join(stated)}: not all are whole numbers; an integer needs whole numbers")
        return self

    def _check_choices(self, choices: tuple[float, ...]) -> None:
        """Raise ValueError for a list of valid values that contradicts the other fields."""
        if self.minimum is not None or self.maximum is not None:
            raise ValueError("choices: minimum and maximum are given too; give either the valid values or their range")
        if self.source == "integer" and any(value != int(value) for value in choices):
            raise ValueError(
                f"choices: {shown(list(choices))} are not all whole numbers; an integer needs whole numbers"
            )
        if self.default is not None and self.default not in choices:
            raise ValueError(f"default: {self.default:g} is not among the choices; give one of {listed(choices)}")

    def _check_example(self) -> None:
        """Raise ValueError for an example that does not have the shape and type of the input."""
        try:
            example = np.asarray(self.example, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"example: {shown(self.example)} is not an array of numbers; nest numbers like the shape {list(self.shape)}"
            ) from None
        if example.shape != self.shape:
            raise ValueError(
                f"example: its shape is {list(example.shape)}; it must be the shape of the input, {list(self.shape)}"
            )
        if not np.isfinite(example).all():
            raise ValueError("example: it contains NaN or an infinite number; all numbers must be finite")
        if self.dtype == "int64" and (example != np.rint(example)).any():
            raise ValueError(
                f"example: {shown(self.example)} is not only whole numbers; an int64 input needs whole numbers"
            )


class TaskSpec(Record):
    """One graph with its inputs and outputs."""

    graph: str = Field(description="file name in the folder of the artifact")
    method: str | None = Field(
        default=None, description="TorchScript only: the method of the module; forward by default"
    )
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    min_rows: int = Field(
        default=1,
        ge=1,
        le=64,
        description="batches are padded to a multiple of this size, for graphs whose output bits depend on the batch size",
    )
    max_rows: int = Field(default=1024, ge=1, description="largest batch size of one run; larger batches are split")
    buckets: tuple[Size, ...] | None = Field(
        default=None, description="lengths that free axes are padded to, ascending; by default powers of two up to the largest length"
    )  # fmt: skip
    reproducible: bool | None = Field(
        default=None, description="false if the graph draws random numbers itself; the loader detects this"
    )
    constants: dict[str, Constant] | None = Field(
        default=None, description="inputs of the graph that always have the same value, by their names in the graph"
    )
    extra: tuple[str, ...] | None = Field(
        default=None, description="roles of outputs that only /v2 and the library return"
    )

    any_mask: bool | None = Field(
        default=None,
        description="impute only: true if each unknown value is drawn given all known ones, so that one completion is enough",
    )

    def input(self, source: Source) -> InputSpec | None:
        """Return the first input with a source; None if there is none."""
        return self._first.get(source)

    @property
    def is_sampler(self) -> bool:
        """True for an autoregressive sampler: it takes uniforms, one per step, and its graph has loops."""
        return self.input("uniform") is not None

    @cached_property
    def _first(self) -> dict[str, InputSpec]:
        return {spec.source: spec for spec in reversed(self.inputs)}

    @cached_property
    def singles(self) -> tuple[str, ...]:
        """The roles of numbers that the graph takes once for all rows of a run."""
        return tuple(
            spec.role
            for spec in self.inputs
            if spec.in_graph is not None and spec.in_graph.is_single and spec.source in ("temperature", *NUMBERS)
        )

    @cached_property
    def is_single(self) -> bool:
        """True if the graph takes one item at a time."""
        return any(
            tensor.in_graph is not None and tensor.in_graph.is_single and tensor.role not in self.singles
            for tensor in (*self.inputs, *self.outputs)
        )

    @property
    def roles(self) -> list[str]:
        """The roles of the outputs."""
        return [spec.role for spec in self.outputs]

    @cached_property
    def sources(self) -> frozenset[str]:
        """The sources of the inputs."""
        return frozenset(spec.source for spec in self.inputs)

    @cached_property
    def input_roles(self) -> frozenset[str]:
        """The roles of the inputs."""
        return frozenset(spec.role for spec in self.inputs)

    @cached_property
    def takes_data_alone(self) -> bool:
        """True if a run needs only items."""
        return self.sources == {"data"}

    @cached_property
    def latents(self) -> tuple[InputSpec, ...]:
        """The inputs that latents fill."""
        return tuple(spec for spec in self.inputs if spec.source == "latent")

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The roles of the inputs that must have one value in a run."""
        return tuple(spec.role for spec in self.inputs if spec.shared)

    @cached_property
    def longest(self) -> int | None:
        """The largest length of the free axes; None if no input has a free axis."""
        return next((tensor.shape[axis] for tensor in self.inputs for axis in tensor.free or ()), None)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that free axes are padded to, ascending."""
        if self.longest is None or self.buckets:
            return self.buckets or ()
        return (*(2**power for power in range(self.longest.bit_length()) if 2**power < self.longest), self.longest)

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        for tensors in (self.inputs, self.outputs):
            roles = [tensor.role for tensor in tensors]
            if len(set(roles)) != len(roles):
                raise ValueError(
                    f"inputs, outputs: two roles are equal in {roles}; give each input and each output its own role"
                )
        if self.max_rows % self.min_rows:
            raise ValueError(
                f"max_rows: {self.max_rows} is not a multiple of min_rows; use a multiple of {self.min_rows}"
            )
        self._check_lengths()
        return self

    def _check_lengths(self) -> None:
        largest = {tensor.shape[axis] for tensor in (*self.inputs, *self.outputs) for axis in tensor.free or ()}
        if len(largest) > 1:
            raise ValueError(
                f"free: the free axes have the sizes {sorted(largest)}; all free axes of a task must have the same size"
            )
        if largest and self.longest is None:
            raise ValueError(
                "free: an output has a free axis, but no input has one; an output gets its length from an input"
            )
        if self.buckets and (self.longest is None or list(self.buckets) != sorted({*self.buckets, self.longest})):
            raise ValueError(
                f"buckets: {list(self.buckets)} is not valid; list the lengths in ascending order and end with the size of the free axes"
            )
