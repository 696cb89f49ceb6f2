"""Tables: rows of numbers and categories. In a model they are float32 (n, width): the encoded columns, concatenated."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import IO, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from manifold.runtime import imaging
from manifold.runtime.errors import InvalidValue, cut
from manifold.runtime.kinds.base import Array, Evidence, Float32, Items, Kind, Reading, Recipes, Wire
from manifold.runtime.problems import word
from manifold.runtime.tables import columns, files, rows
from manifold.runtime.tables.columns import EncodedTable
from manifold.runtime.tables.files import Chunk
from manifold.runtime.tables.formulas import no_formula
from manifold.runtime.tables.schema import Carry, CategoricalColumn, Column, NumericColumn
from manifold.runtime.tables.truth import Truth
from manifold.runtime.tables.values import DEFAULT, MISSING, Notation, number, spelling

Row = dict[str, Any] | list[Any]
PREVIEWED_COLUMNS = 60  # largest number of plots in a preview; laying out hundreds of them takes minutes
ACROSS = 6  # plots in one line of a preview


class RowRequest(BaseModel):
    """The rows of a request."""

    rows: list[Row] | None = Field(
        default=None, description="[n] rows: objects by column name, or arrays in column order"
    )


class RowSingle(BaseModel):
    """One row."""

    row: Row | None = Field(default=None, description="A row: an object by column name, or an array in column order.")


class RowAnswer(BaseModel):
    """The rows of an answer."""

    rows: list[dict[str, Any]] | None = Field(default=None, description="[n] rows: objects by column name")


class RowNeighbour(BaseModel):
    """A row in an explanation."""

    row: dict[str, Any] | None = Field(default=None, description="A training row near the item.")


class ColumnReason(BaseModel):
    """The contribution of one column to the score of a row."""

    column: str = Field(description="Name of the column.")
    value: str | float | int | bool | None = Field(description="Value of the column in the row.")
    nats: float = Field(description="-log p of the value, given the latent of the row")
    excess: float = Field(description="nats above the mean of the calibration rows")
    share: float | None = Field(
        description="part of the total excess; together with latent_share, all shares add up to 1"
    )
    expected: str | float | int | None = Field(
        description="the value predicted from the other columns; only for the columns with the largest excess"
    )
    direction: Literal["high", "low"] | None = Field(
        description="numbers only: whether the value is above or below the expected one"
    )


class RowExplanation(BaseModel):
    """The explanation of the score of a row."""

    columns: list[ColumnReason] | None = Field(
        default=None, description="rows only: the columns, the largest excess first"
    )
    latent_share: float | None = Field(
        default=None, description="rows only: part of the total excess that comes from an unusual latent"
    )


class TableSpec(Kind):
    """A spec of rows. In a model they are float32 (B, width): the encoded columns, concatenated.

    If an input accepts missing values, they are NaN: such a column adds no nats and gives no information to the encoder.
    """

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...] = Field(min_length=1)
    ignored: dict[str, str] = Field(
        default_factory=dict, description="columns that rows may have but the model does not use, each with the reason"
    )
    missing: tuple[str, ...] | None = Field(
        default=None,
        description="texts that stand for a missing value, compared without regard to case; an empty text always does. By default "
        + ", ".join(filter(None, MISSING)),
    )
    decimal: Literal[".", ","] | None = Field(
        default=None, description="decimal separator, if a file does not show another one; a point by default"
    )
    truth: Truth | None = Field(default=None, description="rule that marks the known anomalies in a file")
    id: str | None = Field(default=None, description="the column that identifies a row; it is copied to the output")
    passed: tuple[str, ...] | None = Field(default=None, description="other columns that are copied to the output")

    noun: ClassVar[str] = "rows"
    wire: ClassVar[Wire] = Wire(
        many="rows", one="row", request=RowRequest, single=RowSingle, answer=RowAnswer, neighbour=RowNeighbour, explanation=RowExplanation,
        by_item={"rows": "row"},
    )  # fmt: skip
    in_files: ClassVar[bool] = True
    nullable: ClassVar[bool] = True
    unseen: ClassVar[bool] = True
    error_unit: ClassVar[str] = "of scaled columns"
    likelihoods: ClassVar[tuple[str, ...]] = ("columns",)
    suffix: ClassVar[str] = ".csv"
    previewed: ClassVar[int] = 5000

    @model_validator(mode="after")
    def _check(self) -> TableSpec:
        if len(set(self.names)) != len(self.names) or set(self.names) & set(self.ignored):
            raise ValueError(
                "columns: two columns, or a column and an ignored one, have the same name; rename one of them"
            )
        if learned := [name for name in self.carried.names if name in self.names]:
            raise ValueError(
                f"{learned[0]}: the model uses this column, so it cannot be copied to the output; choose one of both"
            )
        if other := [name for name in self.carried.names if name not in self.ignored]:
            raise ValueError(
                f"{other[0]}: this column is copied to the output but not listed in `ignored`; list it there"
            )
        if len(set(self.carried.passed)) != len(self.carried.passed):
            raise ValueError(f"passed: a column is listed twice in {list(self.carried.passed)}; list it once")
        return self

    @property
    def carried(self) -> Carry:
        """The id column and the other columns that are copied to the output."""
        return Carry(self.id, self.passed or ())

    @property
    def known_anomalies(self) -> Truth | None:
        """The rule that was recorded by `fit`."""
        return self.truth

    # --- arrays ---

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape (width,)."""
        return (sum(column.width for column in self.columns),)

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns, in order."""
        return [column.name for column in self.columns]

    @cached_property
    def known(self) -> frozenset[str]:
        """The names that a row may contain, including ignored columns."""
        return frozenset((*self.names, *self.ignored))

    @cached_property
    def notation(self) -> Notation:
        """The notation of the table: texts that stand for a missing value, and the decimal separator."""
        return Notation.of(MISSING if self.missing is None else self.missing, self.decimal or ".")

    @cached_property
    def run(self) -> tuple[NumericColumn, ...]:
        """The columns, if all are numeric and have no transform, as those of vectors; otherwise none."""
        plain = [each for each in self.columns if isinstance(each, NumericColumn) and each.transform == "identity"]
        return tuple(plain) if len(plain) == len(self.columns) else ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.names)

    @cached_property
    def placed(self) -> tuple[tuple[NumericColumn | CategoricalColumn, slice], ...]:
        """The columns, each with its position among the encoded columns."""
        ends = [0, *accumulate(column.width for column in self.columns)]
        return tuple(zip(self.columns, map(slice, ends, ends[1:]), strict=True))

    def blocks(self) -> Iterator[slice]:
        """Yield the position of each column among the encoded columns."""
        return (block for _, block in self.placed)

    def reader_of(self, held: Kind) -> Callable[[Array], Float32] | None:
        """Return a function that takes the columns of this table from stored rows; None if the rows have other columns.

        Models of earlier versions leave out constant columns, which the data sets now contain, and clip numbers that are now compressed.
        """
        if self == held or not isinstance(held, TableSpec):
            return super().reader_of(held)
        stored = {column.name: (column, block) for column, block in held.placed}
        if not set(self.names) <= set(stored) or not set(stored) <= {*self.names, *self.ignored}:
            return None
        if any(column not in (stored[column.name][0], _clipped(stored[column.name][0])) for column in self.columns):
            return None
        places = np.concatenate([np.arange(held.shape[0])[stored[name][1]] for name in self.names])
        most = np.full(self.shape, np.inf, np.float32)
        for column, block in self.placed:
            if isinstance(column, NumericColumn) and column.beyond is None:
                most[block] = column.clip
        return lambda items: np.clip(held.to_model(items)[:, places], -most, most)

    @property
    def constants(self) -> Float32:
        """A mask (width,): 1 for columns with a single category, 0 for others."""
        constants = np.zeros(self.shape, np.float32)
        for column, block in self.placed:
            constants[block] = isinstance(column, CategoricalColumn) and column.width == 1
        return constants

    def example(self, count: int, generator: np.random.Generator) -> Float32:
        """Return random rows with values that occurred in training."""
        return rows.example(self, count, generator)

    def outside(self, made: Array) -> dict[str, float]:
        """Return the share of numbers outside the range of training, for each column in which there are any."""
        free, held = (rows.decode(made, self, held=each) for each in (False, True))
        shares = {
            column.name: float(np.mean([one[column.name] != other[column.name] for one, other in zip(free, held, strict=True)]))
            for column in self.columns
        }  # fmt: skip
        return {name: share for name, share in shares.items() if share}

    def plain(self) -> Float32:
        """Return a row of means and first categories."""
        row = np.zeros(self.shape, np.float32)
        for column, block in self.placed:
            if isinstance(column, CategoricalColumn):
                row[block.start] = 1
        return row

    # --- requests ---

    def read(self, given: Sequence[Row], how: Reading, field: str, start: int = 0) -> Items:
        """Read rows: objects by column name, or arrays in column order."""
        data, warnings = rows.encode(given, self, unknown=how.unknown, missing=how.missing, field=field)
        return Items(data, (), tuple(map(tuple, warnings)))

    def rows_of(self, array: Array, field: str) -> list[Any]:
        """Return an array of numbers (n, columns), or (columns,) for one row, as rows with their values in column order. NaN is a missing value."""
        given = array[None] if array.ndim == 1 else array
        if given.ndim != 2 or given.shape[1] != len(self.columns) or not len(given):
            raise InvalidValue(
                f"{field}: the shape is {cut(str(list(array.shape)))}; send [n, {len(self.columns)}]: one number for each column, in their order",
                field=field,
            )
        if given.dtype.kind not in "iuf":
            raise InvalidValue(f"{field}: an array of {given.dtype}; send numbers", field=field)
        rows_of_numbers: list[Any] = given.tolist()
        return rows_of_numbers

    @property
    def needed(self) -> str:
        """The form of rows, with the names of the columns."""
        return f"rows with the columns {', '.join(self.names)}"

    def carry(self, given: Sequence[Row], field: str) -> list[dict[str, Any]]:
        """Return `id` and `passed` of each row, if the row has them. Rows that are arrays have neither."""
        if not self.carried.names:
            return [{} for _ in given]
        carried = []
        for index, row in enumerate(given):
            had = row if isinstance(row, Mapping) else {}
            values = {
                name: _carried(had[name], f"{field}[{index}].{name}") for name in self.carried.names if name in had
            }
            fields: dict[str, Any] = {} if self.id is None else {"id": values.get(self.id)}
            if self.passed:
                fields["passed"] = {name: values[name] for name in self.carried.passed if name in values}
            carried.append(fields)
        return carried

    def fill(self, given: Sequence[Row], data: Array, probabilities: Array) -> dict[str, Any]:
        """Return rows with their missing values filled in, and the probabilities of the missing categories."""
        filled, chances = [], []
        for row, made, whole in zip(given, rows.decode(data, self), probabilities, strict=True):
            known = dict(zip(self.names, rows.values(row, self, missing=True), strict=True))
            filled.append({name: made[name] if value is None else value for name, value in known.items()})
            chances.append({
                column.name: dict(zip(column.categories, whole[block].tolist(), strict=True))
                for column, block in self.placed if known[column.name] is None and isinstance(column, CategoricalColumn)
            })  # fmt: skip
        return {"rows": filled, "probabilities": chances}

    # --- answers ---

    def write(
        self, items: Array, encoding: str, recipes: Recipes | None, picture: Callable[[bytes], Any]
    ) -> dict[str, Any]:
        """Return rows as objects by column name."""
        return {"rows": rows.decode(items, self)}

    # --- explanations and pictures ---

    def explain(self, evidence: Evidence, given: Sequence[Row]) -> list[dict[str, Any]]:
        """Return, for each row, its columns sorted by excess, and its nearest neighbours."""
        near = self._near(evidence)
        return [{**self._reasons(evidence, item, row), **near[item]} for item, row in enumerate(given)]

    def _reasons(self, evidence: Evidence, item: int, given: Row) -> dict[str, Any]:
        """Return the columns sorted by excess, each with its share of the total excess. The shares and that of the latent add up to 1."""
        assert evidence.excess is not None and evidence.nats is not None
        excess = evidence.excess[item]
        latent = 0.0 if evidence.latent is None else float(evidence.latent[item])
        whole = float(np.maximum(excess, 0).sum()) + max(latent, 0.0)
        values = rows.values(given, self, missing=True)
        wanted: dict[str, Any] = {}
        if evidence.expected is not None:
            (wanted,) = rows.decode(np.nan_to_num(evidence.expected[item : item + 1]), self)
        reasons = []
        for place, (column, block) in enumerate(self.placed):
            asked = evidence.expected is not None and not np.isnan(evidence.expected[item, block.start])
            expected = wanted[column.name] if asked else None
            reasons.append({
                "column": column.name, "value": _shown(column, values[place]), "nats": float(evidence.nats[item, place]),
                "excess": float(excess[place]), "share": max(float(excess[place]), 0.0) / whole if whole else None, "expected": expected,
                "direction": _direction(column, values[place], expected),
            })  # fmt: skip
        return {
            "columns": sorted(reasons, key=lambda reason: -reason["excess"]),
            "latent_share": max(latent, 0.0) / whole if whole and evidence.latent is not None else None,
        }

    def _near(self, evidence: Evidence) -> list[dict[str, Any]]:
        """Return the nearest training rows of each row, with None for their missing values; empty if the artifact has no training rows."""
        if evidence.neighbours is None or evidence.distances is None:
            return [{} for _ in range(0 if evidence.nats is None else len(evidence.nats))]
        near = []
        for item, distances in enumerate(evidence.distances.tolist()):
            decoded = rows.decode(evidence.neighbours[item], self)
            for row, known in zip(decoded, [] if evidence.known is None else evidence.known[item], strict=False):
                row |= {column.name: None for column, block in self.placed if not known[block.start]}
            pairs = zip(distances, decoded, strict=True)
            near.append({"neighbours": [{"distance": distance, "row": row} for distance, row in pairs]})
        return near

    def sheet(self, items: Array, recipes: Sequence[Mapping[str, Any]] | None = None, *, scale: int = 1) -> bytes:
        """Return a CSV file of the rows. Texts that a spreadsheet would take for formulas get an apostrophe."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(map(no_formula, self.names))
        for row in rows.decode(items, self):
            writer.writerow(no_formula(value) if isinstance(value, str) else value for value in row.values())
        return text.getvalue().encode()

    def preview(self, made: Array, real: Array, name: str = "sampled") -> bytes:
        """Return a PNG with the distribution of each column in real rows and in those called `name`. Needs matplotlib.

        If there are more than PREVIEWED_COLUMNS columns, this number of them is shown, at equal distances.
        """
        if len(self.columns) > PREVIEWED_COLUMNS:
            chosen = [
                self.placed[at] for at in np.linspace(0, len(self.columns) - 1, PREVIEWED_COLUMNS).astype(int).tolist()
            ]
            few = TableSpec(columns=tuple(column for column, _ in chosen), missing=self.missing)
            places = np.concatenate([np.arange(block.start, block.stop) for _, block in chosen])
            return few.preview(made[:, places], real[:, places], name)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        across = min(len(self.columns), ACROSS)
        down = -(-len(self.columns) // across)
        figure = Figure(figsize=(2.6 * across, 2.4 * down), layout="constrained")
        FigureCanvasAgg(figure)
        every = np.ravel(figure.subplots(down, across))
        tables = {"real": rows.decode(real, self), name: rows.decode(made, self)}
        for axes in every[len(self.columns) :]:
            axes.set_axis_off()
        for axes, column in zip(every, self.columns, strict=False):
            axes.set_title(column.name, fontsize=9)
            axes.tick_params(labelsize=7)
            present = {
                name: [row[column.name] for row in table if row[column.name] is not None]
                for name, table in tables.items()
            }
            _plot(axes, column, present)
        figure.axes[0].legend(fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        return imaging.with_few_colours(buffer.getvalue())

    # --- files of rows ---

    def chunks(self, source: IO[bytes], form: str, rows: int, also: Sequence[str] = ()) -> Iterator[Chunk]:
        """Yield the columns of a CSV or Parquet file, `rows` rows at a time, with the columns in `also` that the file has."""
        return files.chunks(source, form, self, rows=rows, also=also)

    def header(self, source: IO[bytes], form: str) -> list[str]:
        """Return the names of the columns of a CSV or Parquet file."""
        return files.header(source, form, self)

    def encode(self, table: Mapping[str, Array], *, missing: bool) -> EncodedTable:
        """Convert columns into encoded rows; invalid rows are listed."""
        return columns.encode(table, self, unknown=True, missing=missing)

    def given(self, table: Mapping[str, Array], places: Array) -> list[dict[str, Any]]:
        """Return rows by column. Numbers are numbers, even if an invalid value elsewhere made the column a column of texts."""
        picked = {
            column.name: [_plain(value, column, self.notation) for value in table[column.name][places].tolist()]
            for column in self.columns
        }
        return [dict(zip(picked, values, strict=True)) for values in zip(*picked.values(), strict=True)]


def _clipped(column: NumericColumn | CategoricalColumn) -> NumericColumn | CategoricalColumn:
    """Return the column in the variant that clips numbers beyond `clip`."""
    return column.model_copy(update={"beyond": None}) if isinstance(column, NumericColumn) else column


def _plain(value: Any, column: NumericColumn | CategoricalColumn, notation: Notation) -> Any:
    """Return a valid value in its JSON form: None if it is missing, a number for numeric columns."""
    if rows.is_absent(value, column, notation):
        return None
    if isinstance(column, NumericColumn):
        return value if isinstance(value, int | float) else number(value, notation)
    return value if isinstance(value, bool | int | float | str) else spelling(value)


def _carried(value: Any, place: str) -> Any:
    """Return a value that is copied to the output. Raise InvalidValue for a list, an object, or a text that is too long."""
    if not isinstance(value, str | int | float | bool | None):
        raise InvalidValue(
            f"{place}: {word(value)} cannot be copied to the output; send a text, a number, a boolean or null",
            field=place,
        )
    if isinstance(value, str) and len(value.encode()) > files.CELL_BYTES:
        raise InvalidValue(
            f"{place}: a text of {len(value.encode())} bytes; the limit is {files.CELL_BYTES}", field=place
        )
    return value


def _shown(column: Any, value: Any) -> Any:
    """Return a value in the form of the request; a text that is not a category is cut."""
    return cut(value) if isinstance(value, str) and value not in getattr(column, "categories", ()) else value


def _direction(column: Any, value: Any, expected: Any) -> str | None:
    """Return `high` or `low` for a number with an expected value, also if its column was constant in training; None for equal and other values."""
    if expected is None or value is None or column.width > 1:
        return None
    if isinstance(column, CategoricalColumn):
        value, expected = number(value, DEFAULT), number(expected, DEFAULT)
        if value is None or expected is None or value == expected:
            return None  # texts have no direction
    return None if value == expected else "high" if value > expected else "low"


def _plot(axes: Any, column: NumericColumn | CategoricalColumn, values: dict[str, list[Any]]) -> None:
    """Draw the distribution of one column for each table."""
    if isinstance(column, NumericColumn):
        every = np.concatenate([np.zeros(0), *values.values()])
        if not len(every):
            return
        low, high = np.quantile(every, [0.0, 0.995])
        for name, numbers in values.items():
            axes.hist(numbers, np.linspace(low, high, 40), histtype="step", label=name)
        return
    for shift, (name, chosen) in zip((-0.2, 0.2), values.items(), strict=True):
        heights = [chosen.count(category) for category in column.categories]
        axes.bar(np.arange(column.width) + shift, heights, 0.4, label=name)
    if column.width <= 12:
        axes.set_xticks(np.arange(column.width), column.categories)
    else:
        axes.set_xlabel(f"{column.width} categories", fontsize=7)
