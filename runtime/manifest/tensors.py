"""The tensors of a task: names, types, shapes, and who fills each input."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from manifold.runtime.records import Record

Source = Literal[
    "normal", "uniform", "condition", "data", "mask", "latent", "codes", "temperature", "number", "integer", "tokens", "token_mask"
]  # fmt: skip
RANDOM: tuple[Source, ...] = ("normal", "uniform", "latent")  # the inputs that a seed can fill
NUMBERS: tuple[Source, ...] = ("number", "integer")  # the inputs that a request states by name
CONDITIONS: tuple[Source, ...] = ("condition", "tokens", "token_mask")  # the inputs that a condition fills

# the type of what is put into each input
SENT: dict[Source, str] = {
    "normal": "float32", "uniform": "float32", "condition": "float32", "data": "float32", "mask": "float32", "latent": "float32",
    "codes": "int64", "temperature": "float32", "number": "float32", "integer": "int64", "tokens": "int64", "token_mask": "float32",
}  # fmt: skip

Size = Annotated[int, Field(ge=1)]


class TensorSpec(Record):
    """One input or output. `role` is its name in this project, `name` its name in the graph (the same, where left out).

    `shape` leaves out the batch, which is always the first dimension and always free. Axes in `free` may be shorter than `shape` says: they
    have the length of the request, padded with zeros to the next of the task's buckets.
    """

    role: str = Field(min_length=1)
    name: str = ""
    dtype: Literal["float32", "int64"] = "float32"
    shape: tuple[Size, ...] = ()
    free: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="axes, 0 the first after the batch, that may be shorter; all free axes of a task have one length"
    )  # fmt: skip

    @cached_property
    def element(self) -> np.dtype[Any]:
        """The type of its numbers."""
        return np.dtype(self.dtype)

    @property
    def described(self) -> str:
        """The type and the shape of one item."""
        sizes = [f"1..{size}" if axis in (self.free or ()) else str(size) for axis, size in enumerate(self.shape)]
        return f"{self.dtype}[{', '.join(sizes)}]"

    @property
    def graph_name(self) -> str:
        """The tensor's name in the graph."""
        return self.name or self.role

    def sized(self, length: int | None) -> tuple[int, ...]:
        """Return the shape of one item whose free axes have a length; the whole shape for None."""
        free = () if length is None else self.free or ()
        return tuple(length or 0 if axis in free else size for axis, size in enumerate(self.shape))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether one item may have this shape."""
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
            raise ValueError(f"free: {list(free)} must be axes of the shape, 0 to {len(self.shape) - 1}")
        if len({self.shape[axis] for axis in free}) > 1:
            raise ValueError("free: axes of one tensor that are free have one length, so their largest sizes are equal")
        return self


class InputSpec(TensorSpec):
    """An input. `source` says who fills it: a seed (normal, uniform, latent) or the request."""

    source: Source
    missing: bool = Field(default=False, description="NaN is a value that is missing; of rows alone")
    default: float | None = Field(
        default=None, description="of a number or an integer: its value where a request names none"
    )
    minimum: float | None = Field(default=None, description="of a number or an integer")
    maximum: float | None = Field(default=None, description="of a number or an integer")
    example: tuple[Any, ...] | float | None = Field(
        default=None, description="a legal value of one item, nested as the shape; for /v2, and where the source alone does not say what is legal"
    )  # fmt: skip

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value of a number or an integer."""
        low = -math.inf if self.minimum is None else self.minimum
        return low, math.inf if self.maximum is None else self.maximum

    @model_validator(mode="after")
    def _check_number(self) -> InputSpec:
        if self.example is not None:
            self._check_example()
        stated = [name for name in ("default", "minimum", "maximum") if getattr(self, name) is not None]
        if stated and self.source not in NUMBERS:
            raise ValueError(
                f"{stated[0]}: belongs to inputs whose source is {' or '.join(NUMBERS)}, not {self.source}"
            )
        low, high = self.limits
        if low > high:
            raise ValueError("minimum must not be above maximum")
        for name in ("default", "example"):
            value = getattr(self, name)
            if self.source in NUMBERS and value is not None and not low <= value <= high:
                raise ValueError(f"{name}: {value:g} is not between {low:g} and {high:g}")
        if self.source == "integer" and any(getattr(self, name) != int(getattr(self, name)) for name in stated):
            raise ValueError("default, minimum and maximum of an integer must be whole numbers")
        return self

    def _check_example(self) -> None:
        """Raise ValueError for an example that is no item of the input's shape and type."""
        try:
            example = np.asarray(self.example, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"example: numbers nested as the shape {list(self.shape)} are needed") from None
        if example.shape != self.shape:
            raise ValueError(f"example: its shape is {list(example.shape)}, and the input's {list(self.shape)}")
        if not np.isfinite(example).all():
            raise ValueError("example: its numbers must be finite")
        if self.dtype == "int64" and (example != np.rint(example)).any():
            raise ValueError("example: whole numbers are needed")


class TaskSpec(Record):
    """One graph and what goes in and out."""

    graph: str = Field(description="file in the artifact's folder")
    method: str | None = Field(
        default=None, description="TorchScript only: the method of the module, forward where left out"
    )
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    min_rows: int = Field(
        default=1, ge=1, le=64, description="rows are padded to a multiple, for graphs whose bits depend on the batch"
    )
    max_rows: int = Field(default=1024, ge=1, description="more rows are run in pieces")
    buckets: tuple[Size, ...] | None = Field(
        default=None, description="lengths that free axes are padded to, ascending; powers of two up to the largest where left out"
    )  # fmt: skip
    reproducible: bool | None = Field(
        default=None, description="false if the graph draws random numbers itself; the loader finds out"
    )
    extra: tuple[str, ...] | None = Field(
        default=None, description="roles of outputs that no use case returns, only /v2 and the library"
    )

    def input(self, source: Source) -> InputSpec | None:
        """Return the first input with that source."""
        return self._first.get(source)

    @property
    def is_sampler(self) -> bool:
        """True if the task takes uniforms, one a step: an autoregressive sampler, with loops."""
        return self.input("uniform") is not None

    @cached_property
    def _first(self) -> dict[str, InputSpec]:
        return {spec.source: spec for spec in reversed(self.inputs)}

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
        """True if items are all that a run needs."""
        return self.sources == {"data"}

    @cached_property
    def latents(self) -> tuple[InputSpec, ...]:
        """The inputs that latents fill."""
        return tuple(spec for spec in self.inputs if spec.source == "latent")

    @cached_property
    def longest(self) -> int | None:
        """The largest length of the free axes; None if no input has any."""
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
                raise ValueError("roles must differ within the inputs and within the outputs")
        if self.max_rows % self.min_rows:
            raise ValueError("max_rows must be a multiple of min_rows")
        self._check_lengths()
        return self

    def _check_lengths(self) -> None:
        largest = {tensor.shape[axis] for tensor in (*self.inputs, *self.outputs) for axis in tensor.free or ()}
        if len(largest) > 1:
            raise ValueError(f"free: all free axes of a task have one length, not {sorted(largest)}")
        if largest and self.longest is None:
            raise ValueError("free: an output has the length of an input, and no input has a free axis")
        if self.buckets and (self.longest is None or list(self.buckets) != sorted({*self.buckets, self.longest})):
            raise ValueError("buckets: lengths of free axes, ascending, the last of them the largest")
