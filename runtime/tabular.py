"""Results as tables: columns for pandas, polars and Arrow, none of which is needed before a result is converted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manifold.runtime import extras
from manifold.runtime.errors import InvalidValue, Unavailable, reason, shown

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Tabular:
    """A result that can be a table."""

    def table(self) -> dict[str, list[Any]]:
        """Return the result as columns: a list of values by the name of each column."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """Return the result as a data frame of pandas. Raises Unavailable if pandas is not installed."""
        frame: pandas.DataFrame = _library("pandas", "to_pandas").DataFrame(self.table())
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return the result as a data frame of polars. Raises Unavailable if polars is not installed."""
        frame: polars.DataFrame = _library("polars", "to_polars").DataFrame(self.table(), strict=False)
        return frame

    def to_arrow(self) -> pyarrow.Table:
        """Return the result as a table of pyarrow.

        Raises Unavailable if pyarrow is not installed, and InvalidValue for a column with values of several types.
        """
        library = _library("pyarrow", "to_arrow")
        arrays = {}
        for name, values in self.table().items():
            try:
                arrays[name] = library.array(values)
            except (library.ArrowException, OverflowError, TypeError, ValueError) as error:
                raise InvalidValue(
                    f"to_arrow: the column {shown(name)} has no type of Arrow: {reason(error)}; use to_pandas() or table()",
                    field=name,
                ) from None
        table: pyarrow.Table = library.table(arrays)
        return table


def _library(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        known = name == "pyarrow"  # the others belong to no extra that users install
        todo = extras.advice(name, ("tables",)) if known else f"{name} is not installed; run `pip install {name}`"
        raise Unavailable(f"{method}: {todo}. Or use table(), which needs no package", field=method) from None
