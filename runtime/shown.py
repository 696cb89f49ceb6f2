"""The display of results: a short text, and a picture or a table in notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.errors import InvalidValue, cut
from manifold.runtime.tabular import Tabular

if TYPE_CHECKING:
    from manifold.runtime.kinds import Kind

PICTURES = 64  # images that a notebook shows
ROWS = 20  # rows that a notebook shows


class ShownItems(Tabular):
    """Items that show themselves: images as a grid, rows as a table."""

    data: NDArray[Any]  # (n, *shape), in the units of the model
    spec: Kind | None

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        """Yield the items, each as `self[place]` returns it."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> Any:
        """Return one item: an image as uint8 (H, W[, 3]), a row by column, or the array of an item of another kind."""
        place = range(len(self))[place]  # raises IndexError, which also ends a loop
        one = replace(self, data=self.data[place : place + 1])  # type: ignore[type-var]
        spec = self.spec
        shown: Any = (
            one.images()
            if spec is not None and spec.pictures
            else one.rows()
            if spec is not None and spec.in_files
            else one.data
        )
        return shown[0]

    def images(self) -> NDArray[np.uint8]:
        """Return images as uint8 (n, H, W), or (n, H, W, 3) in colour. Raises InvalidValue for other kinds of items."""
        spec = self._kind()
        if not spec.pictures:
            raise InvalidValue(f"images: the items are {spec.noun}; use rows()", field="images")
        pixels = np.rint(np.asarray(spec.write_array(self.data), np.float64) * 255).astype(np.uint8)  # (n, C, H, W)
        return pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1)

    def rows(self) -> list[dict[str, Any]]:
        """Return rows as values by column. Raises InvalidValue for other kinds of items."""
        spec = self._kind()
        if not spec.in_files:
            raise InvalidValue(f"rows: the items are {spec.noun}; use images()", field="rows")
        written: list[dict[str, Any]] = spec.write(self.data, "array", None, bytes)[spec.wire.many]
        return written

    def table(self) -> dict[str, list[Any]]:
        """Return rows by column. Raises InvalidValue for other kinds of items."""
        spec = self._kind()
        if not spec.in_files:
            use = "images()" if spec.pictures else "data"
            raise InvalidValue(f"table: the items are {spec.noun}, which have no columns; use {use}", field="table")
        return columns(self.rows())

    def save(self, path: str | Path) -> None:
        """Write all items to a file: images as a grid (PNG), rows as CSV. Raises InvalidValue for another suffix."""
        spec = self._kind()
        if Path(path).suffix.lower() != spec.suffix:
            raise InvalidValue(
                f"path: {cut(str(path))} has the wrong suffix; {spec.noun} are saved as {spec.suffix}", field="path"
            )
        try:
            Path(path).write_bytes(spec.sheet(self.data))
        except OSError as error:
            folder = Path(path).parent
            why = f"there is no folder {folder}" if not folder.exists() else f"it cannot be written: {error.strerror}"
            todo = "create it first" if not folder.exists() else "give another path"
            raise InvalidValue(f"path: {cut(str(path))}: {why}; {todo}", field="path") from None

    def _kind(self) -> Kind:
        if self.spec is None:
            raise InvalidValue("data: the kind of the items is not known; read `data`", field="data")
        return self.spec

    def __repr__(self) -> str:
        said = [f"{'items' if self.spec is None else self.spec.noun} of shape {self.data.shape}"]
        if (seed := getattr(self, "seed", None)) is not None:
            said.append(f"seed {seed}")
        if (errors := getattr(self, "errors", None)) is not None and len(errors):
            said.append(f"mean error {float(np.mean(errors)):.4g}")
        return f"<{type(self).__name__}: {', '.join(said)}>"

    def _repr_png_(self) -> bytes | None:
        """Return the first images as a grid; None if the items are not images."""
        return self.spec.sheet(self.data[:PICTURES]) if self.spec is not None and self.spec.pictures else None

    def _repr_html_(self) -> str | None:
        """Return the first rows as a table; None if the items are not rows."""
        if self.spec is None or not self.spec.in_files:
            return None
        written = self.spec.write(self.data[:ROWS], "array", None, bytes)[self.spec.wire.many]
        return html_table(columns(written), len(self.data))


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows by column. A value that a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def html_table(table: Mapping[str, Sequence[Any]], total: int) -> str:
    """Return the first rows of a table of `total` rows as HTML. Every text is escaped."""
    shown = min(ROWS, max(map(len, table.values()), default=0))
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table)
    lines = ("".join(f"<td>{_escaped(values[place])}</td>" for values in table.values()) for place in range(shown))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    more = f"<p>{shown} of {total} rows</p>" if total > shown else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _escaped(value: Any) -> str:
    return html.escape(cut("" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)))


def shape_of(value: Any) -> str:
    """Return the shape of an array, or the shapes of arrays by name, such as 16×20."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shape_of(each)}" for name, each in value.items())
    return "×".join(map(str, np.shape(value)))
