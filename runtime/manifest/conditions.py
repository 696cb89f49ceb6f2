"""The conditions of a model: classes, real values, texts, items such as images, or several of these."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from manifold.runtime.kinds import DataSpec
from manifold.runtime.records import Record

BYTES = 256  # vocabulary size of the tokenizer `bytes`
NO_CLASS = "none"  # the name that requests use for "no class", if the class is optional


class Values(Record):
    """Real values, given as a vector with named columns."""

    kind: Literal["values"] = "values"
    names: tuple[str, ...] = Field(min_length=1)
    examples: tuple[tuple[float, ...], ...] = Field(
        min_length=1, description="rows of the training split; if a request gives no values, one of them is drawn"
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """One value for each name."""
        return (len(self.names),)

    @model_validator(mode="after")
    def _check(self) -> Values:
        if any(len(row) != len(self.names) or not all(map(math.isfinite, row)) for row in self.examples):
            raise ValueError(
                f"examples: a row is not {len(self.names)} finite numbers; give one number for each of {', '.join(self.names)}"
            )
        return self


class Classes(Record):
    """Classes, given as weights that add up to 1, or to less if the class is optional: the rest is the weight of "no class"."""

    kind: Literal["classes"] = "classes"
    names: tuple[str, ...] = Field(min_length=1)
    prior: tuple[float, ...] | None = Field(default=None, description="one weight per class; uniform by default")
    optional: bool | None = Field(
        default=None,
        description="true if the model also makes items without a class: the class `none`, whose weights are all 0",
    )

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
        """Return the problems of names and prior, with the field names of the short form."""
        problems = []
        if len(set(self.names)) != len(self.names):
            problems.append("classes: two classes have the same name; rename one of them")
        if self.prior is not None and len(self.prior) != len(self.names):
            problems.append(
                f"class_prior: {len(self.prior)} weights for {len(self.names)} classes; give one weight per class"
            )
        elif self.prior is not None and not _is_distribution(self.prior):
            problems.append(
                f"class_prior: the weights add up to {sum(self.prior):g}; they must be at least 0 and add up to 1"
            )
        if self.optional and NO_CLASS in self.names:
            problems.append(
                f"classes: {NO_CLASS!r} is the name of a class, but of an optional class it means that there is none; rename the class"
            )
        return problems


class Text(Record):
    """Texts, given to the model as tokens and a mask of the positions that hold text (the sources `tokens` and `token_mask`)."""

    kind: Literal["text"] = "text"
    tokenizer: Literal["bytes"] = Field(
        default="bytes", description="bytes: one token per byte of the UTF-8 text, 0 to 255"
    )
    examples: tuple[str, ...] = Field(
        min_length=1, description="texts; if a request gives no text, one of them is drawn"
    )


class Item(Record):
    """An item of one kind of data, such as an image or a series."""

    kind: Literal["item"] = "item"
    data: DataSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the item."""
        return self.data.shape


Condition = Annotated[Classes | Values | Text | Item, Field(discriminator="kind")]


class Several(Record):
    """Several conditions. The name of a part is the role of the input that it fills."""

    kind: Literal["several"] = "several"
    parts: dict[str, Condition] = Field(min_length=1)


def _is_distribution(weights: tuple[float, ...]) -> bool:
    return all(weight >= 0 for weight in weights) and math.isclose(sum(weights), 1, rel_tol=1e-6)
