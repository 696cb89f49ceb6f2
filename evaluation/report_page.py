"""The HTML page of a report: figures, grids of images, the distance curve and the protocol. The page loads no other files."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.evaluation.cells import cell, directed, metric_rows, title, whole
from manifold.evaluation.page import page, plot, table
from manifold.evaluation.report import Pictures, Values
from manifold.runtime import codecs, imaging
from manifold.runtime.manifest.figures import DISTANCES

Array = NDArray[Any]

COLUMNS = 8  # number of columns in a grid of images
PAIRS = 16  # number of samples that are shown with their nearest training images


def to_html(report: Values, pictures: Pictures) -> str:
    """Return the report's HTML page."""
    return page(title(report), _parts(report, pictures))


def _parts(report: Values, pictures: Pictures) -> Iterator[str]:
    yield f"<h1>{html.escape(title(report))}</h1>"
    yield from (f'<p class="warn">{html.escape(warning)}</p>' for warning in report["warnings"])
    yield table(("metric", "value", "real images"), metric_rows(report))
    yield from _sheets(report, pictures)
    if len(report["curve"]) > 2:
        yield "<h2>Distance by number of images</h2>" + _curve(report)
    yield "<h2>Protocol</h2>" + table(("", ""), [(key, whole(value)) for key, value in report["protocol"].items()])
    if report["details"]:
        yield table(("metric", "protocol"), [(key, whole(value)) for key, value in report["details"].items()])


def _sheets(report: Values, pictures: Pictures) -> Iterator[str]:
    samples = pictures.samples
    if samples is not None and len(samples):
        yield _figure(samples, f"The first {len(samples)} images, not selected")
    if pictures.by_class:
        yield "<h2>By class</h2>"
        yield _classes(report["by_class"], pictures.by_class)
    if pictures.originals is not None and pictures.reconstructions is not None:
        pairs = _pairs(pictures.originals, pictures.reconstructions)
        yield "<h2>Reconstructions</h2>" + _figure(pairs, "Test images, each with its reconstruction on its right")
    if pictures.neighbours is not None and samples is not None:
        pairs = _pairs(samples[: len(pictures.neighbours)][:PAIRS], pictures.neighbours[:PAIRS])
        caption = "Samples, each with the nearest training image (by pixel distance) on its right"
        yield "<h2>Memorisation</h2>" + _figure(pairs, caption)


def _pairs(left: Array, right: Array) -> Array:
    """Return images (2n, C, H, W): each image of `left`, followed by the one of `right` with the same index."""
    return np.stack([left, right], axis=1).reshape(-1, *left.shape[1:])


def _classes(rows: list[dict[str, Any]], sheets: dict[str, Array]) -> str:
    """Return a table with one row for each class. The last cell is a grid of its images."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
    body = "".join(_class_row(row, keys, sheets.get(row["class"])) for row in rows)
    return f"<table><tr>{head}<th>images that the extractor assigns to the class</th></tr>{body}</table>"


def _class_row(row: dict[str, Any], keys: list[str], images: Array | None) -> str:
    cells = "".join(f"<td>{html.escape(cell(row.get(key)))}</td>" for key in keys)
    sheet = _image(images, len(images)) if images is not None and len(images) else ""
    return f"<tr>{cells}<td>{sheet}</td></tr>"


def _image(images: Array, columns: int) -> str:
    scale = max(1, round(40 / images.shape[2]))
    content = codecs.to_base64(imaging.to_png(imaging.grid(images, columns=columns, scale=scale)))
    return f'<img alt="" src="data:image/png;base64,{content}">'


def _figure(images: Array, caption: str) -> str:
    return f"<figure>{_image(images, COLUMNS)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _curve(report: Values) -> str:
    """Return a plot of the distance against 1/N, with the extrapolated line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes, values = np.asarray(report["curve"]).T
    name = next(name for name in DISTANCES if name in report["metrics"])
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(1 / sizes, values, "o", ms=4, label="measured")
    slope, constant = np.polyfit(1 / sizes, values, 1)
    ends = np.asarray([0, 1 / sizes.min()])
    axes.plot(ends, constant + slope * ends, "-", lw=1, label=f"extrapolated to {constant:.4g}")
    axes.set_xlabel("1 / number of images")
    axes.set_ylabel(directed(name))
    axes.grid(alpha=0.3)
    axes.legend()
    return plot(figure, f"{name} against 1/N")
