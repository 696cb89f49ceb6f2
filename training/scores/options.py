"""The options of families whose artifacts score items by their position in latent space."""

from __future__ import annotations

from pydantic import Field

from manifold.training.recipes import Recipe


class ScoreOptions(Recipe):
    """The options of the anomaly score."""

    references: int = Field(2000, ge=0)  # number of training items in the artifact, for nearest neighbours; 0: none
    neighbours: int = Field(5, ge=1)  # k: a distance is the mean over the k nearest references
    score: str = "auto"  # a term, or a combination: fisher:TERM,TERM or min-p:TERM,TERM; auto: chosen by the data
