"""The form of a tensor in a graph, where it differs from the form in which the service uses it: type, axes, channels, values."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from manifold.runtime.errors import shown
from manifold.runtime.records import Record

GraphType = Literal[
    "float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
]
Activation = Literal["sigmoid", "tanh", "softmax", "log", "binary", "binary_log"]
BINARY = ("binary", "binary_log")  # the functions that make the logits of two classes of one number
LETTERS = "RGBAL"  # red, green, blue, alpha (1 is opaque), luminance
AXES = "NCHW"  # batch, channels, rows from the top, columns from the left
PICTURES = ("layout", "channels", "range", "mean", "std", "invert")  # the fields that only tensors with images can have


class GraphForm(Record):
    """The form of a tensor in its graph, if it differs from `dtype`, `shape` and the values of the manifest.

    The conversion of an output is: batch axis, type, layout, shape, activation, values (`range`, or `mean` and `std`, and `invert`), channels, `negate`.
    An input is converted in the opposite order. Values for an integer type are rounded and clipped.
    """

    dtype: GraphType | None = Field(default=None, description="type in the graph")
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        description="shape of one item in the graph, if the same values are arranged in another shape, such as [100, 1, 1] or [784]",
    )
    batch_axis: Annotated[int, Field(ge=0, le=7)] | Literal["none"] = Field(
        default=0,
        description="axis of the batch in the graph; none: the graph takes one item at a time, without an axis for the batch",
    )
    layout: str | None = Field(
        default=None,
        description="images: order of the axes in the graph, such as NHWC; without N, the graph takes one image at a time",
    )
    channels: str | tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="images: channels in the graph as letters (R, G, B, A for alpha, L for luminance), such as BGR or RGBA; or, for outputs with "
        "other channels, the places of those to show, such as [3, 2, 1]",
    )
    range: tuple[float, float] | None = Field(
        default=None,
        description="images: the values of black and white in the graph; by default those of `data`, [0, 255] for uint8, and [0, 1] for bool; other "
        "integer types need it",
    )
    mean: tuple[float, ...] | None = Field(
        default=None,
        description="images: mean of each channel in the order of the graph, or of the list of `channels`, of pixels in [0, 1]; the graph has "
        "(pixel - mean) / std",
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, description="images: standard deviation of each channel, of pixels in [0, 1]"
    )
    invert: bool = Field(default=False, description="images: true if the graph has white where the image is black")
    activation: Activation | None = Field(
        default=None,
        description="outputs: a function that is applied to the values of the graph; softmax is over the first axis after the batch; log turns "
        "probabilities into logits; binary makes the logits (0, x) of two classes of the logit x of the second one, and binary_log those of its probability",
    )
    negate: bool = Field(
        default=False, description="outputs: true to change the sign, such as that of a score of normality"
    )
    index: bool = Field(
        default=False,
        description="conditions on classes: the graph takes the number of the class instead of a weight per class",
    )
    none: int | None = Field(default=None, description="with `index`: the number that stands for no class")

    @property
    def given(self) -> list[str]:
        """The fields that are stated."""
        return [
            name for name in type(self).model_fields if getattr(self, name) != type(self).model_fields[name].default
        ]

    @property
    def is_single(self) -> bool:
        """True if the graph takes one item at a time."""
        return self.batch_axis == "none" or (self.layout is not None and "N" not in self.layout)

    @model_validator(mode="after")
    def _check(self) -> GraphForm:
        if self.layout is not None:
            self._check_layout(self.layout)
        if isinstance(self.channels, str) and (
            set(self.channels) - set(LETTERS)
            or len(set(self.channels)) != len(self.channels)
            or self.channels in ("", "A")
        ):
            raise ValueError(
                f"channels: {shown(self.channels)} is not a list of channels; use each of the letters R, G, B, A, L at most once, such as BGR or RGBA"
            )
        if self.channels == ():
            raise ValueError("channels: the list is empty; give the place of each channel, such as [3, 2, 1]")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(
                f"range: {list(self.range)} is not ascending; give [black, white] with black < white, and invert: true if white is the lower value"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean, std: only one of them is given; give both, one number per channel")
        if self.mean is not None and self.std is not None:
            if self.range is not None:
                raise ValueError("range: mean and std are given too; keep one of them")
            if max(self.mean, default=0) > 1:
                raise ValueError(
                    f"mean: {max(self.mean):g} is not the mean of pixels in [0, 1]; divide mean and std by the largest value of a pixel, such as 255"
                )
            if len(self.mean) != len(self.std):
                raise ValueError(f"std: {len(self.std)} numbers, but mean has {len(self.mean)}; give one per channel")
        if self.none is not None and not self.index:
            raise ValueError("none: it has no effect without index: true; add it, or remove none")
        if self.index and self.dtype == "bool":
            raise ValueError("dtype: the number of a class cannot be bool; use int64, int32 or a float type")
        return self

    def _check_layout(self, layout: str) -> None:
        letters = sorted(layout)
        if letters not in (sorted("NCHW"), sorted("CHW"), sorted("NHW"), sorted("HW")):
            raise ValueError(
                f"layout: {shown(layout)} is unknown; give the order of the letters N, C, H and W, such as NHWC; C can be left out for one channel, "
                "and N if the graph takes one image at a time"
            )
        if self.batch_axis != 0:
            raise ValueError("layout: batch_axis is given too; the layout states it, so remove it")
        if self.shape is not None and not layout.startswith("N"):
            raise ValueError(f"layout: {layout} cannot be combined with shape; the batch must be the first axis then")


class Constant(Record):
    """An input of the graph that always has the same value."""

    dtype: GraphType = "float32"
    value: tuple[Any, ...] | float = Field(description="a number, or numbers nested like the shape")
    batch: bool = Field(default=False, description="true to repeat the value for each item along a first axis")

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The value as an array of the graph's type."""
        return np.asarray(self.value, self.dtype)

    @model_validator(mode="after")
    def _check(self) -> Constant:
        try:
            plain = np.asarray(self.value, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"value: {shown(self.value)} is not a number or an array of numbers") from None
        if not np.isfinite(plain).all():
            raise ValueError("value: it contains NaN or an infinite number; all numbers must be finite")
        kind = np.dtype(self.dtype)
        low, high = (0, 1) if kind.kind == "b" else (-math.inf, math.inf)
        if kind.kind in "iu":
            low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        elif kind.kind == "f":
            low, high = -float(np.finfo(kind).max), float(np.finfo(kind).max)
        if plain.size and (
            plain.min() < low or plain.max() > high or (kind.kind in "iub" and (plain != np.rint(plain)).any())
        ):
            raise ValueError(
                f"value: {shown(self.value)} does not fit into {self.dtype}; change the value or the dtype"
            )
        return self
