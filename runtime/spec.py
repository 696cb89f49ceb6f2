"""What the data is, as the outside world sees it: images or rows. Part of the manifest.

Arrays at the graph's edge are described here; turning pixels and rows into them is the work of runtime.codecs and runtime.rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """Immutable, and unknown keys are refused: a typo is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageSpec(Record):
    """Images. At the graph's edge they are float32 (B, channels, height, width) in `range`; outside they are uint8 0..255."""

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    range: tuple[float, float] = Field(default=(0.0, 1.0), description="what 0 and 255 become at the graph's edge")
    levels: int = Field(
        default=256, ge=2, le=256, description="grey levels the model distinguishes; the graph rounds to them"
    )
    background: float | None = Field(default=None, ge=0, le=1, description="what empty space is, 0 black to 1 white")
    invert: bool = Field(
        default=False, description="images whose border is nearer to the opposite of `background` are inverted"
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item at the graph's edge."""
        return (self.channels, self.height, self.width)

    @model_validator(mode="after")
    def _check(self) -> ImageSpec:
        if self.range[0] >= self.range[1]:
            raise ValueError("range must be [low, high] with low < high")
        if self.invert and self.background is None:
            raise ValueError("invert needs a background to compare with")
        return self


class NumericColumn(Record):
    """A number. Encoded as clip((t(value) - mean) / scale, -clip, clip) with t the identity, log(1 + value), or a quantile transform.

    The logarithm is mirrored below 0, so that every number has one: -log(1 - value). The quantile transform takes `knots`, quantiles of the
    training rows, to `scores`, the normal quantiles of their shares, straight between them, and beyond the ends goes on at `slope`: a value
    outside the training range is never made usual.
    """

    kind: Literal["numeric"] = "numeric"
    name: str
    transform: Literal["identity", "log1p", "quantile"] = "identity"
    knots: tuple[float, ...] | None = Field(default=None, description="of the quantile transform, ascending")
    scores: tuple[float, ...] | None = Field(default=None, description="what the knots become, ascending")
    slope: float | None = Field(default=None, gt=0, description="beyond the knots")
    mean: float
    scale: float = Field(gt=0)
    clip: float = Field(default=10.0, gt=0, description="in units of `scale`; clipped values carry a warning")
    minimum: float = Field(description="smallest value in training; values made by the model are held to it")
    maximum: float
    decimals: int | None = Field(default=None, ge=0, le=12, description="values made by the model are rounded to it")
    unit: str | None = None

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return 1

    @model_validator(mode="after")
    def _check(self) -> NumericColumn:
        if self.minimum > self.maximum:
            raise ValueError("minimum must not be above maximum")
        given = [part is not None for part in (self.knots, self.scores, self.slope)]
        if given != [self.transform == "quantile"] * 3:
            raise ValueError("knots, scores and slope belong to the transform quantile, all three")
        for part in (self.knots, self.scores):
            if part is not None and (
                len(part) < 2
                or len(part) != len(self.knots or ())
                or any(low >= high for low, high in itertools.pairwise(part))
            ):
                raise ValueError("knots and scores must be of the same number, at least two, and ascend")
        return self


class CategoricalColumn(Record):
    """One of a list. Encoded as a one-hot block; a category never seen in training is a block of zeros, a missing one a block of NaN."""

    kind: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[str, ...] = Field(min_length=2)

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.categories)

    @model_validator(mode="after")
    def _check(self) -> CategoricalColumn:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must differ")
        return self


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]


class TableSpec(Record):
    """Rows. At the graph's edge they are float32 (B, width), the encoded columns side by side.

    Where a task's input says that it takes missing values, they are NaN there: such a column costs no nats and tells the encoder nothing.
    """

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...] = Field(min_length=1)
    ignored: dict[str, str] = Field(
        default_factory=dict, description="columns that rows may have and the model does not look at, and why"
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item at the graph's edge."""
        return (sum(column.width for column in self.columns),)

    @property
    def names(self) -> list[str]:
        """Column names, in order."""
        return [column.name for column in self.columns]

    def blocks(self) -> Iterator[tuple[NumericColumn | CategoricalColumn, slice]]:
        """Each column with its place among the encoded columns."""
        start = 0
        for column in self.columns:
            yield column, slice(start, start + column.width)
            start += column.width

    @model_validator(mode="after")
    def _check(self) -> TableSpec:
        if len(set(self.names)) != len(self.names) or set(self.names) & set(self.ignored):
            raise ValueError("column names must differ")
        return self


DataSpec = Annotated[ImageSpec | TableSpec, Field(discriminator="kind")]
