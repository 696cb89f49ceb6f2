"""The display of results: short texts, images and tables in notebooks, and columns for pandas, polars and Arrow."""

from __future__ import annotations

import base64
import html
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manifold_client.errors import InvalidType, InvalidValue, MissingLibrary, short, shown

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

SHOWN = 64  # images in a notebook
ROWS = 20  # rows in a notebook
TEXT = 80  # characters of a cell


class Tabular:
    """A result that can be a table."""

    def table(self) -> dict[str, list[Any]]:
        """Return the result as columns: a list of values by the name of each column."""
        raise InvalidType(f"table: {type(self).__name__} has no rows; read its fields instead")

    def to_pandas(self) -> pandas.DataFrame:
        """Return the result as a data frame of pandas. Raises MissingLibrary if pandas is not installed."""
        frame: pandas.DataFrame = _library("pandas", "to_pandas").DataFrame(self.table())
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return the result as a data frame of polars. Raises MissingLibrary if polars is not installed."""
        frame: polars.DataFrame = _library("polars", "to_polars").DataFrame(self.table(), strict=False)
        return frame

    def to_arrow(self) -> pyarrow.Table:
        """Return the result as a table of pyarrow.

        Raises MissingLibrary if pyarrow is not installed, and InvalidValue for a column with values of several types.
        """
        library = _library("pyarrow", "to_arrow")
        arrays = {}
        for name, values in self.table().items():
            try:
                arrays[name] = library.array(values)
            except (library.ArrowException, OverflowError, TypeError, ValueError) as error:
                raise InvalidValue(
                    f"to_arrow: the column {shown(name)} has no type of Arrow: {short(error)}; use to_pandas() or table()",
                    field=name,
                ) from None
        table: pyarrow.Table = library.table(arrays)
        return table


def _library(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingLibrary(
            f"{method}: the package {name} is not installed; run `pip install {name}`, or use table(), which needs no package"
        ) from None


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows by column. A value that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def html_table(table: Mapping[str, Sequence[Any]], note: str = "") -> str:
    """Return the first rows of a table as HTML, and a note below it. Every text is escaped."""
    count = max(map(len, table.values()), default=0)
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table)
    body = "".join(
        "<tr>" + "".join(f"<td>{_escaped(values[place])}</td>" for values in table.values()) + "</tr>"
        for place in range(min(count, ROWS))
    )
    more = f"<p>{ROWS} of {count} rows</p>" if count > ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}{f'<p>{html.escape(note)}</p>' if note else ''}"


def html_figure(png: bytes, caption: str) -> str:
    """Return an image with a caption as HTML. The caption is escaped."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def _escaped(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return html.escape(text if len(text) <= TEXT else f"{text[: TEXT - 1]}…")


def shape_of(value: Any) -> str:
    """Return the shape of an array or nested list, such as 16×20."""
    shape = getattr(value, "shape", None) or (len(value),)
    return "×".join(map(str, shape))


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, such as 1 row or 3 rows."""
    return f"{n} {noun if n == 1 else f'{noun}s'}"
