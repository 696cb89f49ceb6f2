"""The interface of a kind of data, such as images or rows. The rest of the project uses a kind only through this interface.

A kind is one module of this package. It contains the spec of the items, and defines how items are read from requests, written into responses,
shown, explained and checked. Arrays are float32 (n, *shape) in the units of model inputs and outputs, unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from manifold.runtime.errors import InvalidValue
from manifold.runtime.records import Record
from manifold.runtime.tables.schema import Carry

if TYPE_CHECKING:
    from manifold.runtime.tables.columns import EncodedTable
    from manifold.runtime.tables.files import Chunk
    from manifold.runtime.tables.truth import Truth

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Recipes = Callable[
    [], Sequence[Mapping[str, Any]]
]  # returns the recipe of each item; called only when pictures are written
Float64 = NDArray[np.float64]

BELOW_ONE = float(np.float32(1 - 2**-24))  # the largest float32 below 1


class Empty(BaseModel):
    """A message without fields, for a kind that adds none."""


@dataclass(frozen=True)
class Wire:
    """The fields of a kind in requests and responses. REST and gRPC use the same names."""

    many: str  # name of the field with several items, such as images
    one: str  # name of the field with a single item, such as the end of an interpolation
    request: type[BaseModel]  # fields of a request with several items
    single: type[BaseModel]  # field of a single item
    answer: type[BaseModel]  # fields of a response with items
    options: type[BaseModel] = Empty  # fields with options for reading the items of a request
    neighbour: type[BaseModel] = Empty  # fields of a training item in an explanation
    explanation: type[BaseModel] = Empty  # fields of an explanation
    by_item: Mapping[str, str] = field(
        default_factory=dict
    )  # response fields with one entry per item, and their names in the singular
    media_types: tuple[str, ...] = ()  # formats for a response as one file, in addition to JSON and .npy
    group: int | None = (
        None  # largest number of items that are read at once, if reading one takes long; None for no limit
    )


@dataclass(frozen=True)
class Reading:
    """The options for reading the items of a request."""

    options: Mapping[str, Any] = field(default_factory=dict)  # options in the request, such as fit
    max_pixels: int = 16_000_000
    unknown: bool = False  # whether categories that did not occur in training are allowed
    missing: bool = False  # whether missing values are allowed


@dataclass(frozen=True)
class Items:
    """The items of a request as arrays."""

    data: Float32  # (n, *shape)
    fitted: tuple[dict[str, Any], ...] = ()  # for each item, the steps that fitted it to the model, if any
    warnings: tuple[tuple[str, ...], ...] = ()  # for each item
    sizes: tuple[
        tuple[int, int], ...
    ] = ()  # width and height of each upright image before fitting, for images from files

    @classmethod
    def joined(cls, parts: Sequence[Items]) -> Items:
        """Return several parts joined into one."""
        if len(parts) == 1:
            return parts[0]
        data = np.concatenate([part.data for part in parts])
        fitted = tuple(each for part in parts for each in part.fitted)
        warnings = tuple(each for part in parts for each in part.warnings)
        return cls(data, fitted, warnings, tuple(each for part in parts for each in part.sizes))


@dataclass(frozen=True)
class Evidence:
    """The evidence that explains the scores of n items."""

    nats: Array | None  # (n, parts), or (n, *shape) if the kind has no parts
    excess: Float64 | None = None  # (n, parts): nats above the mean of the calibration items
    latent: Float64 | None = None  # (n,): nats of the latent above their mean, if the score has such a term
    expected: Array | None = (
        None  # (n, *shape): values of parts predicted from the other parts; NaN for parts that were not predicted
    )
    neighbours: Array | None = None  # (n, k, *shape): the nearest items of the training data
    known: Array | None = None  # (n, k, *shape): 0 where a value of a neighbour is missing
    distances: Array | None = None  # (n, k)
    scale: float | None = None  # nats that are shown as white on a map


class Kind(Record):
    """A kind of data. Class variables say what its items support; code outside this package never checks the class itself."""

    kind: str

    noun: ClassVar[str]  # name of several items, such as "images"
    wire: ClassVar[Wire]
    pictures: ClassVar[bool] = False  # true if items can be shown as pictures, which contain recipes
    in_files: ClassVar[bool] = False  # true if items are rows of CSV and Parquet files
    nullable: ClassVar[bool] = False  # true if a value may be missing; it is NaN in the array
    unseen: ClassVar[bool] = False  # true if a value may be one that did not occur in training
    one_unit: ClassVar[bool] = False  # true if all values of an item have the same unit
    error_unit: ClassVar[str]  # unit of `errors`
    likelihoods: ClassVar[tuple[str, ...]] = ()  # names of the likelihoods for such items, the default first
    suffix: ClassVar[str]  # file suffix of the result of `sheet`
    previewed: ClassVar[int] = 64  # number of samples in a preview

    @classmethod
    def of(cls, spec: Kind, subject: str) -> Self:
        """Return `spec` if it is of this kind. Raise InvalidValue if it is not; the message starts with `subject`."""
        if not isinstance(spec, cls):
            raise InvalidValue(f"{subject}: the items are {spec.noun}, but {cls.noun} are needed", field="data")
        return spec

    # --- arrays -----------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item as model input and output."""
        raise NotImplementedError

    @property
    def forms(self) -> list[list[int | str]]:
        """The shapes that an array of items can have; `n` stands for the number of items."""
        return [["n", *self.shape], list(self.shape)]

    @property
    def limits(self) -> tuple[float, float] | None:
        """The smallest and the largest value; None if every finite number is valid."""
        return None

    @property
    def mask_shape(self) -> tuple[int, ...] | None:
        """The shape of a mask, which is 1 for known values and 0 for others; None for a kind without masks."""
        return None

    @property
    def parts(self) -> tuple[str, ...] | None:
        """The names of the parts with their own nats, such as columns; None for a kind that is explained by a map."""
        return None

    @property
    def nats_shape(self) -> tuple[int, ...]:
        """The shape of the nats of an item: one value for each part, or for each value of the item."""
        return self.shape if self.parts is None else (len(self.parts),)

    @property
    def nats_shapes(self) -> list[tuple[int, ...]]:
        """The shapes that an output with the nats of an item may have."""
        return [self.nats_shape]

    def blocks(self) -> Iterator[slice]:
        """Yield the position of each part among the values of an item."""
        raise NotImplementedError

    def to_model(self, stored: Array) -> Float32:
        """Convert stored items of a data set into model inputs."""
        return np.asarray(stored, np.float32)

    def reader_of(self, held: Kind) -> Callable[[Array], Float32] | None:
        """Return a function that converts stored items of a data set with the spec `held` into inputs of this model; None if they do not fit."""
        return held.to_model if held == self else None

    @property
    def constants(self) -> Float32:
        """A mask (*shape): 1 for values that were equal in all training items, 0 for others."""
        return np.zeros(self.shape, np.float32)

    def errors(self, data: Array, back: Array) -> Float64:
        """Return the mean squared error (n,) between the items `data` and `back`, in `error_unit`."""
        difference = np.asarray(data, np.float64) - back
        squares: Float64 = (difference.reshape(len(data), -1) ** 2).mean(axis=1)
        return squares

    def outside(self, made: Array) -> dict[str, float]:
        """Return the share of values outside the range of training, which answers clip, for each part in which there are any."""
        return {}

    def example(self, count: int, generator: np.random.Generator) -> Float32:
        """Return valid random items."""
        return np.minimum(generator.random((count, *self.shape), np.float32), np.float32(BELOW_ONE))

    def plain(self) -> Float32:
        """Return a simple item (*shape), for examples in documentation."""
        return np.zeros(self.shape, np.float32)

    # --- requests ---------------------------------------------------------------------------------------------------------

    def read(self, given: Sequence[Any], how: Reading, field: str, start: int = 0) -> Items:
        """Read the items in a field of a request. `start` is the index of the first one. Raises RequestError."""
        raise NotImplementedError

    def read_one(self, given: Any, how: Reading, field: str) -> Items:
        """Read the item in a field with a single item. Raises RequestError."""
        return self.read([given], how, field)

    def rows_of(self, array: Array, field: str) -> list[Any] | None:
        """Return a body that is an array as the items of a request, for a kind whose items have such a form; None for others. Raises InvalidValue."""
        return None

    def read_array(self, array: Array, field: str) -> Items:
        """Read the items of a body that is an array of numbers. Raises InvalidValue."""
        raise InvalidValue(
            f"{field}: {self.noun} are not read from an array of numbers; send {self.needed}", field=field
        )

    def read_masks(self, given: Sequence[Any], items: Items, how: Reading, start: int = 0) -> Array:
        """Read the masks (n, *mask_shape) of some of the items, 1 for known values. Raises RequestError."""
        raise InvalidValue(f"masks: {self.noun} have no masks; remove the field", field="masks")

    def carry(self, given: Sequence[Any], field: str) -> list[dict[str, Any]]:
        """Return, for each item of a request, the response fields that identify it: `id` and `passed`. Raises InvalidValue."""
        return [{} for _ in given]

    def fill(self, given: Sequence[Any], data: Array, probabilities: Array) -> dict[str, Any]:
        """Return response fields with the items of a request, their missing values filled in. Only for nullable kinds."""
        raise NotImplementedError

    @property
    def needed(self) -> str:
        """The form in which a request must send items, for error messages."""
        return self.wire.many

    @property
    def valid(self) -> list[str] | None:
        """The names that an error lists as valid parts of an item; None if there are no parts."""
        return None if self.parts is None else list(self.parts)

    # --- answers ----------------------------------------------------------------------------------------------------------

    def write(
        self, items: Array, encoding: str, recipes: Recipes | None, picture: Callable[[bytes], Any]
    ) -> dict[str, Any]:
        """Return response fields with items. `picture` converts the bytes of a file into a field value; `recipes` returns the recipe of each item."""
        raise NotImplementedError

    def write_array(self, items: Array) -> Array:
        """Return items in the form of a binary response."""
        return items

    def write_file(self, items: Array, media_type: str, recipes: Recipes | None) -> bytes:
        """Return items as one file, in one of the media types of the kind."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """Return the description of the items for clients."""
        return self.model_dump(mode="json", exclude_none=True)

    # --- explanations and pictures ----------------------------------------------------------------------------------------

    def explain(self, evidence: Evidence, given: Sequence[Any]) -> list[dict[str, Any]]:
        """Return an explanation for each item. `given` are the items in the form of the request."""
        raise NotImplementedError

    def sheet(self, items: Array, recipes: Sequence[Mapping[str, Any]] | None = None, *, scale: int = 1) -> bytes:
        """Return one file that shows all items (a grid of images, or a table). Its type is that of `suffix`."""
        raise NotImplementedError

    def preview(self, made: Array, real: Array, name: str = "sampled") -> bytes:
        """Return a PNG that shows items, such as those made by a model, under a `name`. `real` are real items to compare with."""
        raise NotImplementedError

    # --- files of rows ----------------------------------------------------------------------------------------------------

    def chunks(self, source: IO[bytes], form: str, rows: int, also: Sequence[str] = ()) -> Iterator[Chunk]:
        """Yield the columns of a file of rows in chunks, with the additional columns `also` if the file has them. Only for kinds with `in_files`."""
        raise NotImplementedError

    def header(self, source: IO[bytes], form: str) -> list[str]:
        """Return the names of the columns of a file of rows. Only for kinds with `in_files`."""
        raise NotImplementedError

    @property
    def carried(self) -> Carry:
        """The columns that are copied from rows to the output and are not used by a model."""
        return Carry()

    @property
    def known_anomalies(self) -> Truth | None:
        """The rule that marks the known anomalies in a file; None if there is none."""
        return None

    def encode(self, table: Mapping[str, Array], *, missing: bool) -> EncodedTable:
        """Convert columns into model inputs; unknown categories are allowed. Only for kinds with `in_files`."""
        raise NotImplementedError

    def given(self, table: Mapping[str, Array], places: Array) -> list[dict[str, Any]]:
        """Return some rows of a table in the form of a request. Only for kinds with `in_files`."""
        raise NotImplementedError
