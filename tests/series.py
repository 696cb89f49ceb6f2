"""Series: channels of numbers at regular steps. The project does not have this kind of data; this one file adds it.

tests/test_kinds.py copies the file beside the other kinds and serves an artifact of it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from manifold.runtime import codecs
from manifold.runtime.kinds.base import Array, Evidence, Items, Kind, Reading, Recipes, Wire


class Request(BaseModel):
    """The series of a request."""

    series: list[Any] | None = Field(default=None, description="[n][steps][channels]")
    resample: Literal["no", "linear"] = "no"


class Single(BaseModel):
    """One series of an answer."""

    one_series: list[Any] | None = None


class SeriesSpec(Kind):
    """A data spec of series, float32 (B, steps, channels)."""

    kind: Literal["series"] = "series"
    steps: int = Field(ge=1)
    channels: int = Field(ge=1)

    noun: ClassVar[str] = "series"
    wire: ClassVar[Wire] = Wire(
        many="series",
        one="one_series",
        request=Request,
        single=Single,
        answer=Request,
        by_item={"series": "one_series"},
    )
    one_unit: ClassVar[bool] = True
    error_unit: ClassVar[str] = "of values"
    likelihoods: ClassVar[tuple[str, ...]] = ("gaussian",)
    suffix: ClassVar[str] = ".csv"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (T, C)."""
        return (self.steps, self.channels)

    def read(self, given: Sequence[Any], how: Reading, field: str, start: int = 0) -> Items:
        """Read nested lists."""
        data = codecs.floats(given, self.shape, field)
        return Items(data, (), ((),) * len(data))

    def read_array(self, array: Array, field: str) -> Items:
        """Read an array (n, T, C)."""
        return self.read(list(array), Reading(), field)

    def write(
        self, items: Array, encoding: str, recipes: Recipes | None, picture: Callable[[bytes], Any]
    ) -> dict[str, Any]:
        """Return the numbers."""
        return {"series": items}

    def explain(self, evidence: Evidence, given: Sequence[Any]) -> list[dict[str, Any]]:
        """Return no fields besides the score."""
        return [{} for _ in given]

    def sheet(self, items: Array, recipes: Sequence[Mapping[str, Any]] | None = None, *, scale: int = 1) -> bytes:
        """Return a CSV file with one line for each step."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(
            [i, t, *step] for i, item in enumerate(items) for t, step in enumerate(item.tolist())
        )
        return text.getvalue().encode()
