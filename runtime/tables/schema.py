"""The description of the columns of a table in a manifest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from manifold.runtime.records import Record
from manifold.runtime.tables.values import Categories


class NumericColumn(Record):
    """A column of numbers, encoded as s = (t(value) - mean) / scale. t is the identity, log(1 + value), or a quantile transform.

    If |s| is above `clip`, s is clipped to it. If `beyond` is "log", log(1 + |s| - clip) is added, so that different values stay different.

    Below 0 the logarithm is mirrored, -log(1 - value), so that it is defined for all numbers. The quantile transform maps `knots`, quantiles
    of the training rows, to `scores`, the normal quantiles of their shares. It is linear between the knots and continues with `slope` outside,
    so that values outside the training range stay unusual.
    """

    kind: Literal["numeric"] = "numeric"
    name: str
    transform: Literal["identity", "log1p", "quantile"] = "identity"
    knots: tuple[float, ...] | None = Field(default=None, description="quantile transform only: its inputs, ascending")
    scores: tuple[float, ...] | None = Field(
        default=None, description="quantile transform only: the outputs at the knots, ascending"
    )
    slope: float | None = Field(default=None, gt=0, description="quantile transform only: the slope outside the knots")
    mean: float
    scale: float = Field(gt=0)
    clip: float = Field(
        default=10.0,
        gt=0,
        description="limit for |s|, the distance from the mean in units of `scale`; values above it get a warning",
    )
    beyond: Literal["log"] | None = Field(
        default=None,
        description="log: values beyond `clip` are compressed by a logarithm; if absent, they are clipped and get the same encoding",
    )
    minimum: float = Field(description="smallest value in training; values made by the model are clipped to it")
    maximum: float = Field(description="largest value in training; values made by the model are clipped to it")
    decimals: int | None = Field(
        default=None, ge=0, le=12, description="number of decimals to which values made by the model are rounded"
    )
    unit: str | None = None

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        return 1

    @model_validator(mode="after")
    def _check(self) -> NumericColumn:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum: {self.minimum:g} is above the maximum {self.maximum:g}; exchange them")
        given = [part is not None for part in (self.knots, self.scores, self.slope)]
        if given != [self.transform == "quantile"] * 3:
            raise ValueError(
                f"transform: it is {self.transform!r}; give knots, scores and slope together for 'quantile', and none of them otherwise"
            )
        for part in (self.knots, self.scores):
            if part is not None and (
                len(part) < 2
                or len(part) != len(self.knots or ())
                or any(low >= high for low, high in itertools.pairwise(part))
            ):
                raise ValueError(
                    f"knots, scores: {len(self.knots or ())} and {len(self.scores or ())} numbers; give the same number of each, at least two, ascending"
                )
        return self


class CategoricalColumn(Record):
    """A column of categories, encoded as one-hot blocks. An unknown category is a block of zeros, a missing value a block of NaN.

    A column that was constant in training has one category: this value is encoded as 1, any other as 0.
    """

    kind: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[str, ...] = Field(
        min_length=1, description="the categories; only one if the column was constant in training"
    )

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        return len(self.categories)

    @model_validator(mode="after")
    def _check(self) -> CategoricalColumn:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories: two categories are equal; list each once")
        return self

    @cached_property
    def lookup(self) -> Categories:
        """The categories, to be found by name or by meaning."""
        return Categories(self.categories)


@dataclass(frozen=True)
class Carry:
    """The columns that are copied from rows to the output. The model does not use them."""

    id: str | None = None
    passed: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()  # the columns among them that a file must have

    @property
    def names(self) -> list[str]:
        """The names of the columns, each once."""
        return list(dict.fromkeys([*([] if self.id is None else [self.id]), *self.passed]))


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]
