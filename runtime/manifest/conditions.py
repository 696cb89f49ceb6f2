"""Conditions of a model: classes, real values, texts, items such as images, or several of these."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from manifold.runtime.kinds import DataSpec
from manifold.runtime.records import Record

BYTES = 256  # tokens of the tokenizer `bytes`


class Values(Record):
    """Real values, as the columns of a vector."""

    kind: Literal["values"] = "values"
    names: tuple[str, ...] = Field(min_length=1)
    examples: tuple[tuple[float, ...], ...] = Field(
        min_length=1, description="rows of the training part: what is drawn from where a request gives none"
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """One value for each name."""
        return (len(self.names),)

    @model_validator(mode="after")
    def _check(self) -> Values:
        if any(len(row) != len(self.names) or not all(map(math.isfinite, row)) for row in self.examples):
            raise ValueError(f"examples: each needs {len(self.names)} finite numbers")
        return self


class Classes(Record):
    """Classes, as weights that add up to 1."""

    kind: Literal["classes"] = "classes"
    names: tuple[str, ...] = Field(min_length=1)
    prior: tuple[float, ...] | None = Field(default=None, description="uniform where left out")

    @property
    def shape(self) -> tuple[int, ...]:
        """One weight for each class."""
        return (len(self.names),)

    @property
    def weights(self) -> list[float]:
        """The prior, normalised."""
        prior = self.prior or (1.0,) * len(self.names)
        return [weight / sum(prior) for weight in prior]

    def problems(self) -> list[str]:
        """Return what is wrong with names and prior, by field of the short form."""
        problems = []
        if len(set(self.names)) != len(self.names):
            problems.append("classes: names must differ")
        if self.prior is not None and len(self.prior) != len(self.names):
            problems.append("class_prior: needs one weight a class")
        elif self.prior is not None and not _is_distribution(self.prior):
            problems.append("class_prior: weights must be at least 0 and add up to 1")
        return problems


class Text(Record):
    """Texts, as tokens and a mask of those that are there: inputs with the sources `tokens` and `token_mask`."""

    kind: Literal["text"] = "text"
    tokenizer: Literal["bytes"] = Field(default="bytes", description="bytes: the bytes of UTF-8, 0 to 255")
    examples: tuple[str, ...] = Field(min_length=1, description="what is drawn from where a request gives none")


class Item(Record):
    """An item of some kind of data, such as an image or a series."""

    kind: Literal["item"] = "item"
    data: DataSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """The item's shape."""
        return self.data.shape


Condition = Annotated[Classes | Values | Text | Item, Field(discriminator="kind")]


class Several(Record):
    """Several conditions. The role of each input that they fill is the name of its part."""

    kind: Literal["several"] = "several"
    parts: dict[str, Condition] = Field(min_length=1)


def _is_distribution(weights: tuple[float, ...]) -> bool:
    return all(weight >= 0 for weight in weights) and math.isclose(sum(weights), 1, rel_tol=1e-6)
