"""The columns of a table, as a manifest describes them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from manifold.runtime.records import Record
from manifold.runtime.tables.values import Categories


class NumericColumn(Record):
    """A number. Encoded as s = (t(value) - mean) / scale with t the identity, log(1 + value), or a quantile transform.

    Beyond `clip`, s is held to it; if `beyond` is "log", log(1 + |s| - clip) is added, so that no two values look alike.

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
    clip: float = Field(default=10.0, gt=0, description="in units of `scale`; values beyond it carry a warning")
    beyond: Literal["log"] | None = Field(
        default=None,
        description="how values beyond `clip` are encoded: by the logarithm of what lies beyond, or all alike if absent",
    )
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
    """One of a list. Encoded as a one-hot block; a category never seen in training is a block of zeros, a missing one a block of NaN.

    A column that had one value in training has one category: the usual value is encoded as 1, any other as 0.
    """

    kind: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[str, ...] = Field(min_length=1, description="one, if the column was constant in training")

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.categories)

    @model_validator(mode="after")
    def _check(self) -> CategoricalColumn:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must differ")
        return self

    @cached_property
    def lookup(self) -> Categories:
        """The categories by name and by meaning."""
        return Categories(self.categories)


@dataclass(frozen=True)
class Carry:
    """The columns that are copied from rows to the output. No model looks at them."""

    id: str | None = None
    passed: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()  # those of them that a file must have

    @property
    def names(self) -> list[str]:
        """The names of the columns, each once."""
        return list(dict.fromkeys([*([] if self.id is None else [self.id]), *self.passed]))


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]
