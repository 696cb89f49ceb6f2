"""The types of arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class ArrowStream(Protocol):
    """A table with the Arrow PyCapsule interface, such as those of pyarrow, polars and pandas from version 2.2 on."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule with a stream of record batches."""


class Frame(Protocol):
    """A data frame of pandas."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    @property
    def iloc(self) -> Any:
        """The values by position."""


# a PIL image; an array (H, W) or (H, W, 3), uint8, bool or floats in 0..1; the path of a file; or the bytes of a file
AnyImage: TypeAlias = Image.Image | NDArray[Any] | str | os.PathLike[str] | bytes
# one image, a list of images, or an array (n, H, W) or (n, H, W, 3)
Images: TypeAlias = AnyImage | Sequence[AnyImage]
# values by column, or values in the order of the model's columns
Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
# one row by column, a list of rows, an array (n, columns), or a data frame
Rows: TypeAlias = Mapping[str, Any] | Sequence[Row] | NDArray[Any] | ArrowStream | Frame
# numbers in nested lists of one shape, or an array
Numbers: TypeAlias = NDArray[Any] | Sequence[Any]
# a class by name or index, "random", a list with one for each item, or weights by name
ClassChoice: TypeAlias = str | int | Sequence[str | int] | NDArray[Any] | Mapping[str, float]
# numbers that a model takes by name, such as guidance: one for all items, or one for each
Inputs: TypeAlias = Mapping[str, float | np.integer[Any] | np.floating[Any] | Numbers]

Fit: TypeAlias = Literal["contain", "strict"]
Encoding: TypeAlias = Literal["png", "array"]
Method: TypeAlias = Literal["slerp", "lerp"]

# the functional syntax allows a key "class"
Condition = TypedDict(
    "Condition",
    {"images": Images, "rows": Rows, "class": ClassChoice, "values": Numbers, "texts": Sequence[str]},
    total=False,
)
Condition.__doc__ = "A condition: one of class, values, texts, images and rows."
Conditions: TypeAlias = Mapping[str, Condition]  # by name

End = TypedDict(
    "End",
    {
        "image": AnyImage,
        "row": Row,
        "latent": Numbers,
        "named_latent": Mapping[str, Numbers],
        "seed": int,
        "first": int,
        "class": str | int | Mapping[str, float],
        "condition": Numbers,
        "conditions": Conditions,
    },
    total=False,
)
End.__doc__ = "One end of an interpolation: one of image, row, latent, named_latent and seed; a class or conditions may stand beside it."


class Costs(TypedDict):
    """The costs of errors, all in the same unit, and the share of anomalies among the rows."""

    false_positive: float
    false_negative: float
    prevalence: float
