"""Data sets as parts: how they are fetched, split and encoded. No set is known here; those are in training.datasets. No torch."""

from manifold.training.data.parts import Arrays, Part
from manifold.training.data.splits import Data

__all__ = ["Arrays", "Data", "Part"]
