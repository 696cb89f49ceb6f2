"""The interface of a kind of data: everything that the rest of the project asks of images, rows and what may come.

A kind is one module of this package. It holds the spec of the items, and says how items are read from requests, written into answers, shown,
explained and checked. Arrays are float32 (n, *shape) in the units of a graph's inputs and outputs unless something else is said.
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
]  # of each item, where they are pictures; computed when they are written
Float64 = NDArray[np.float64]

BELOW_ONE = float(np.float32(1 - 2**-24))  # the largest float32 below 1


class Empty(BaseModel):
    """Model without fields, for a kind that adds none."""


@dataclass(frozen=True)
class Wire:
    """The fields of requests and answers that a kind brings. REST and gRPC use the same names."""

    many: str  # the field with the items of a request, such as images
    one: str  # the field with a single item, such as the end of an interpolation
    request: type[BaseModel]  # the fields of a request about several items
    single: type[BaseModel]  # the field of a single item
    answer: type[BaseModel]  # the fields of an answer with items
    options: type[BaseModel] = Empty  # how items of a request are read
    neighbour: type[BaseModel] = Empty  # an item of the training data in an explanation
    explanation: type[BaseModel] = Empty
    by_item: Mapping[str, str] = field(
        default_factory=dict
    )  # answer fields with an entry for each item: their singular
    media_types: tuple[str, ...] = ()  # of an answer as one file, beside JSON and .npy
    group: int | None = None  # items that are read in one go, where reading one takes long; None: any number


@dataclass(frozen=True)
class Reading:
    """Options that say how the items of a request are read."""

    options: Mapping[str, Any] = field(default_factory=dict)  # of the request, such as fit
    max_pixels: int = 16_000_000
    unknown: bool = False  # whether categories that training has never seen are allowed
    missing: bool = False  # whether values may be missing


@dataclass(frozen=True)
class Items:
    """The items of a request as arrays."""

    data: Float32  # (n, *shape)
    fitted: tuple[dict[str, Any], ...] = ()  # what was done to each item to fit it to the model, where that is known
    warnings: tuple[tuple[str, ...], ...] = ()  # of each item
    sizes: tuple[
        tuple[int, int], ...
    ] = ()  # width and height of each upright image before it was fitted, if it came as a file

    @classmethod
    def joined(cls, parts: Sequence[Items]) -> Items:
        """Return the items of several parts as those of one."""
        if len(parts) == 1:
            return parts[0]
        data = np.concatenate([part.data for part in parts])
        fitted = tuple(each for part in parts for each in part.fitted)
        warnings = tuple(each for part in parts for each in part.warnings)
        return cls(data, fitted, warnings, tuple(each for part in parts for each in part.sizes))


@dataclass(frozen=True)
class Evidence:
    """Evidence that explains the scores of n items."""

    nats: Array | None  # (n, parts), or (n, *shape) where the kind has no parts
    excess: Float64 | None = None  # (n, parts): nats above the usual
    latent: Float64 | None = None  # (n,): the latent's nats above the usual, if the score has such a term
    expected: Array | None = (
        None  # (n, *shape): parts as the others would have them; NaN in those that were not asked about
    )
    neighbours: Array | None = None  # (n, k, *shape): the nearest items of the training data
    known: Array | None = None  # (n, k, *shape): 0 where a value of a neighbour is missing
    distances: Array | None = None  # (n, k)
    scale: float | None = None  # nats that are drawn white on a map


class Kind(Record):
    """A kind of data. Class variables say what can be done with its items; no code outside this package asks for the class."""

    kind: str

    noun: ClassVar[str]  # what items are called
    wire: ClassVar[Wire]
    pictures: ClassVar[bool] = False  # items can be shown as pictures, which carry recipes
    in_files: ClassVar[bool] = False  # items come as rows of CSV and Parquet files
    nullable: ClassVar[bool] = False  # a value may be missing: it is NaN in the array
    unseen: ClassVar[bool] = False  # a value may be one that training never saw
    one_unit: ClassVar[bool] = False  # all values of an item have the same unit
    error_unit: ClassVar[str]  # of `errors`
    likelihoods: ClassVar[tuple[str, ...]] = ()  # names of likelihoods for such items, the default first
    suffix: ClassVar[str]  # of a sheet's file
    previewed: ClassVar[int] = 64  # samples in a preview

    @classmethod
    def of(cls, spec: Kind, subject: str) -> Self:
        """Return `spec` if it is of this kind. Raise InvalidValue if it is not: `subject` is made for this kind alone."""
        if not isinstance(spec, cls):
            raise InvalidValue(f"{subject}: holds {spec.noun}; {cls.noun} are needed", field="data")
        return spec

    # --- arrays -----------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item at a graph's inputs and outputs."""
        raise NotImplementedError

    @property
    def limits(self) -> tuple[float, float] | None:
        """The least and the largest value; None if every finite number is legal."""
        return None

    @property
    def mask_shape(self) -> tuple[int, ...] | None:
        """The shape of a mask of the values that are known, 1 or 0; None for a kind without masks."""
        return None

    @property
    def parts(self) -> tuple[str, ...] | None:
        """The names of the parts that nats are stated for, such as columns; None for a kind that is explained by a map."""
        return None

    @property
    def nats_shape(self) -> tuple[int, ...]:
        """The shape of an item's nats: one value for each part, or for each value of the item."""
        return self.shape if self.parts is None else (len(self.parts),)

    @property
    def nats_shapes(self) -> list[tuple[int, ...]]:
        """The shapes that an output with an item's nats may have."""
        return [self.nats_shape]

    def blocks(self) -> Iterator[slice]:
        """Yield the place of each part among the values of an item."""
        raise NotImplementedError

    def to_model(self, stored: Array) -> Float32:
        """Return items of a data set as a model's inputs."""
        return np.asarray(stored, np.float32)

    def reader_of(self, held: Kind) -> Callable[[Array], Float32] | None:
        """Return what makes this model's inputs of the stored items of a data set with the spec `held`; None if it holds other items."""
        return held.to_model if held == self else None

    @property
    def constants(self) -> Float32:
        """1 for the values that were the same in all training items, 0 for others, (*shape)."""
        return np.zeros(self.shape, np.float32)

    def errors(self, data: Array, back: Array) -> Float64:
        """Return the mean squared error (n,) of items `back` against `data`, in `error_unit`."""
        difference = np.asarray(data, np.float64) - back
        squares: Float64 = (difference.reshape(len(data), -1) ** 2).mean(axis=1)
        return squares

    def example(self, rows: int, generator: np.random.Generator) -> Float32:
        """Return legal items, drawn at random."""
        return np.minimum(generator.random((rows, *self.shape), np.float32), np.float32(BELOW_ONE))

    def plain(self) -> Float32:
        """Return one item (*shape) that is short to write."""
        return np.zeros(self.shape, np.float32)

    # --- requests ---------------------------------------------------------------------------------------------------------

    def read(self, given: Sequence[Any], how: Reading, field: str, start: int = 0) -> Items:
        """Read the items of a request's field. `start` is the index of the first one. Raises RequestError."""
        raise NotImplementedError

    def read_one(self, given: Any, how: Reading, field: str) -> Items:
        """Read a single item of a field of its own. Raises RequestError."""
        return self.read([given], how, field)

    def read_array(self, array: Array, field: str) -> Items:
        """Read the items of a body of numbers. Raises InvalidValue."""
        raise InvalidValue(f"{field}: {self.noun} do not come as a body of numbers; send {self.needed}", field=field)

    def read_masks(self, given: Sequence[Any], items: Items, how: Reading, start: int = 0) -> Array:
        """Read masks (n, *mask_shape), 1 where the item is known, for some of the items. Raises RequestError."""
        raise InvalidValue(f"masks: {self.noun} have none; leave them out", field="masks")

    def carry(self, given: Sequence[Any], field: str) -> list[dict[str, Any]]:
        """Return for each item of a request the fields of an answer that identify it: `id` and `passed`. Raises InvalidValue."""
        return [{} for _ in given]

    def fill(self, given: Sequence[Any], data: Array, probabilities: Array) -> dict[str, Any]:
        """Return the fields of an answer with the items of a request whose missing values are filled in. Only for nullable kinds."""
        raise NotImplementedError

    @property
    def needed(self) -> str:
        """The form in which a request must send items, as text for errors."""
        return self.wire.many

    @property
    def valid(self) -> list[str] | None:
        """The names that an error lists as valid parts of an item."""
        return None if self.parts is None else list(self.parts)

    # --- answers ----------------------------------------------------------------------------------------------------------

    def write(
        self, items: Array, encoding: str, recipes: Recipes | None, picture: Callable[[bytes], Any]
    ) -> dict[str, Any]:
        """Return the fields of an answer with items. `picture` turns the bytes of a file into the value of a field; `recipes` gives what made each item."""
        raise NotImplementedError

    def write_array(self, items: Array) -> Array:
        """Return items as a binary answer has them."""
        return items

    def write_file(self, items: Array, media_type: str, recipes: Recipes | None) -> bytes:
        """Return items as one file of one of the kind's media types."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """Return what a client needs to know of the items."""
        return self.model_dump(mode="json", exclude_none=True)

    # --- explanations and pictures ----------------------------------------------------------------------------------------

    def explain(self, evidence: Evidence, given: Sequence[Any]) -> list[dict[str, Any]]:
        """Return an explanation for each item; `given` are the items as the request has them."""
        raise NotImplementedError

    def sheet(self, items: Array, recipes: Sequence[Mapping[str, Any]] | None = None, *, scale: int = 1) -> bytes:
        """Return one file, with the suffix of the kind, that shows all items."""
        raise NotImplementedError

    def preview(self, made: Array, real: Array) -> bytes:
        """Return a PNG that shows what a model makes beside real items."""
        raise NotImplementedError

    # --- files of rows ----------------------------------------------------------------------------------------------------

    def chunks(self, source: IO[bytes], form: str, rows: int, also: Sequence[str] = ()) -> Iterator[Chunk]:
        """Yield the columns of a file of rows, and the further columns `also` if it has them. Only for kinds with `in_files`."""
        raise NotImplementedError

    def header(self, source: IO[bytes], form: str) -> list[str]:
        """Return the names of the columns of a file of rows. Only for kinds with `in_files`."""
        raise NotImplementedError

    @property
    def carried(self) -> Carry:
        """The columns that rows bring into the output and no model looks at."""
        return Carry()

    @property
    def known_anomalies(self) -> Truth | None:
        """The rule that says which rows of a file are known anomalies, if there is one."""
        return None

    def encode(self, table: Mapping[str, Array], *, missing: bool) -> EncodedTable:
        """Return columns as model inputs; unknown categories are allowed. Only for kinds with `in_files`."""
        raise NotImplementedError

    def given(self, table: Mapping[str, Array], places: Array) -> list[dict[str, Any]]:
        """Return some rows of a table as a request would have them. Only for kinds with `in_files`."""
        raise NotImplementedError
