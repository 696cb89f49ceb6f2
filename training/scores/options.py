"""The options of families whose artifacts score items by where they lie."""

from __future__ import annotations

from pydantic import Field

from manifold.training.recipes import Recipe


class ScoreOptions(Recipe):
    """Options of placement and score."""

    references: int = Field(
        2000, ge=0
    )  # training items that the artifact carries, for distances to the nearest; 0: none
    neighbours: int = Field(5, ge=1)  # k, the number of nearest references that a distance is a mean over
    score: str = "auto"  # a term, or several combined: fisher:TERM,TERM or min-p:TERM,TERM; auto: by the data
