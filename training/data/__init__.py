"""The reading, splitting and encoding of data sets. The data sets themselves are in training.datasets. This package does not use torch."""

from manifold.training.data.parts import Arrays, Part
from manifold.training.data.splits import Data

__all__ = ["Arrays", "Data", "Part"]
