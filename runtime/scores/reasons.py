"""Reasons: why an item is as strange as it is.

For rows: nats by column above what is usual, each column's share of the whole excess with the latent's beside them, what the other columns
would have led one to expect, and the nearest normal rows. For images: a map of nats by pixel, and the nearest normal items.

What is usual is the mean over the calibration items. A column is expected as the model fills it in from the others (operations.impute): the
reconstruction of the whole row would lean towards the very value that is in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, operations
from manifold.runtime.errors import cut
from manifold.runtime.inputs import Classes
from manifold.runtime.manifest import Manifest, Scoring
from manifold.runtime.operations import CAN, Run, Scores, Steps
from manifold.runtime.scores.scoring import Calibrated
from manifold.runtime.spec import ImageSpec, NumericColumn, TableSpec
from manifold.runtime.tables import rows

Array = NDArray[Any]
Float64 = NDArray[np.float64]

EXPECTED = 5  # columns of a row, those with the largest excess, for which is said what was expected


@dataclass(frozen=True)
class Reasons:
    """What is known about n items, at the graph's edge."""

    nats: Array | None  # (n, columns) or (n, *shape)
    excess: Float64 | None = None  # (n, columns), nats above the usual; of rows
    latent: Float64 | None = None  # (n,), the latent's nats above the usual, where the score has such a term
    expected: Array | None = None  # (n, width), NaN in columns that were not asked about
    neighbours: Array | None = None  # (n, k, *shape), the nearest normal items
    known: Array | None = None  # (n, k, width), 0 where a neighbour's value is missing
    distances: Array | None = None  # (n, k)


def scored(
    manifest: Manifest, data: Array, calibrated: Calibrated, *, explain: bool, classes: Classes | None = None
) -> Steps[tuple[Scores, Reasons | None]]:
    """Scores of items, and where they are asked for and the artifact has nats to tell, their reasons."""
    scores = yield from operations.score(manifest, data, classes=classes)
    if not explain or scores.surprise is None:
        return scores, None
    return scores, (yield from find(manifest, data, scores, calibrated, classes=classes))


def find(
    manifest: Manifest, data: Array, scores: Scores, calibrated: Calibrated, *, classes: Classes | None = None
) -> Steps[Reasons]:
    """Reasons for items (n, *shape) with their scores."""
    about, spec = manifest.scoring, manifest.data
    assert about is not None
    found: dict[str, Any] = {"nats": scores.surprise}
    if isinstance(spec, TableSpec) and scores.surprise is not None:
        usual = np.zeros(len(spec.columns)) if about.surprise_mean is None else np.asarray(about.surprise_mean)
        found["excess"] = scores.surprise.astype(np.float64) - usual
        if about.latent is not None and about.latent in calibrated.scores:
            found["latent"] = scores.terms[about.latent] - calibrated.scores[about.latent].mean()
        if CAN["impute"](manifest):
            found["expected"] = yield from _expected(manifest, data, found["excess"], classes)
    if "neighbours" in manifest.tasks and len(data):
        outputs = yield Run("neighbours", {"data": data})
        found |= {"neighbours": outputs["nearest"], "known": outputs.get("known"), "distances": outputs["distance"]}
    return Reasons(**found)


def _expected(manifest: Manifest, data: Array, excess: Float64, classes: Classes | None) -> Steps[Array]:
    """The strangest columns of each row as the others would have them, (n, width); NaN elsewhere."""
    spec = manifest.data
    assert isinstance(spec, TableSpec)
    blocks = [block for _, block in spec.blocks()]
    places = np.argsort(-excess, axis=1, kind="stable")[:, :EXPECTED]
    item, place = np.nonzero(np.take_along_axis(excess, places, axis=1) > 0)
    column = places[item, place]
    expected = np.full(data.shape, np.nan, np.float32)
    if not len(item):
        return expected
    asked = data[item]
    for at, which in enumerate(column):
        asked[at, blocks[which]] = np.nan
    told = classes
    if isinstance(classes, np.ndarray):
        told = np.broadcast_to(np.atleast_2d(classes), (len(data), classes.shape[-1]))[item]
    elif isinstance(classes, Sequence) and not isinstance(classes, str):
        told = [classes[int(at)] for at in item]
    filled = yield from operations.impute(manifest, asked, classes=told)
    for at, which in enumerate(column):
        expected[item[at], blocks[which]] = filled.data[at, blocks[which]]
    return expected


def describe(
    reasons: Reasons, spec: ImageSpec | TableSpec, scoring: Scoring, given: Sequence[rows.Row] = ()
) -> list[dict[str, Any]]:
    """An explanation for each item; `given` are the rows as they came, images need none."""
    near = _neighbours(reasons, spec)
    if isinstance(spec, ImageSpec):
        pictures = _maps(reasons, spec, scoring)
        return [{"map": picture, **extra} for picture, extra in zip(pictures, near, strict=True)]
    return [{**_of_row(reasons, spec, item, row), **near[item]} for item, row in enumerate(given)]


def _of_row(reasons: Reasons, spec: TableSpec, item: int, given: rows.Row) -> dict[str, Any]:
    """Columns by excess, each with its share of all that is above the usual; shares and the latent's add up to 1."""
    assert reasons.excess is not None and reasons.nats is not None
    excess = reasons.excess[item]
    latent = 0.0 if reasons.latent is None else float(reasons.latent[item])
    whole = float(np.maximum(excess, 0).sum()) + max(latent, 0.0)
    values = rows.values(given, spec, missing=True)
    wanted: dict[str, Any] = {}
    if reasons.expected is not None:
        (wanted,) = rows.decode(np.nan_to_num(reasons.expected[item : item + 1]), spec)
    columns = []
    for place, (column, block) in enumerate(spec.blocks()):
        asked = reasons.expected is not None and not np.isnan(reasons.expected[item, block.start])
        expected = wanted[column.name] if asked else None
        columns.append({
            "column": column.name, "value": _shown(column, values[place]), "nats": float(reasons.nats[item, place]), "excess": float(excess[place]),
            "share": max(float(excess[place]), 0.0) / whole if whole else None, "expected": expected,
            "direction": _direction(column, values[place], expected),
        })  # fmt: skip
    return {
        "columns": sorted(columns, key=lambda column: -column["excess"]),
        "latent_share": max(latent, 0.0) / whole if whole and reasons.latent is not None else None,
    }


def _shown(column: Any, value: Any) -> Any:
    """Return a value as it came, but cut where it is a text that is no category."""
    return cut(value) if isinstance(value, str) and value not in getattr(column, "categories", ()) else value


def _direction(column: Any, value: Any, expected: Any) -> str | None:
    """`high` or `low`, of numbers."""
    if not isinstance(column, NumericColumn) or expected is None or value is None:
        return None
    return "high" if value > expected else "low"


def _maps(reasons: Reasons, spec: ImageSpec, scoring: Scoring) -> list[str | None]:
    """Pictures of nats by pixel; white is as strange as one pixel in a thousand."""
    if reasons.nats is None:
        return [None] * (0 if reasons.distances is None else len(reasons.distances))
    by_pixel = reasons.nats.reshape(len(reasons.nats), -1, spec.height, spec.width).mean(axis=1, keepdims=True)
    scaled = by_pixel / (scoring.surprise_scale or float(by_pixel.max()) or 1.0)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return [codecs.to_base64(codecs.to_png(item)) for item in pixels]


def _neighbours(reasons: Reasons, spec: ImageSpec | TableSpec) -> list[dict[str, Any]]:
    """The nearest normal items as the wire has them, nearest first; nothing where the artifact shows none."""
    if reasons.neighbours is None or reasons.distances is None:
        n = 0 if reasons.nats is None else len(reasons.nats)
        return [{} for _ in range(n)]
    found = []
    for item, distances in enumerate(reasons.distances.tolist()):
        near = reasons.neighbours[item]
        shown: list[dict[str, Any]]
        if isinstance(spec, ImageSpec):
            pixels = codecs.to_uint8(near, spec)
            shown = [{"image": codecs.to_base64(codecs.to_png(each))} for each in pixels]
        else:
            shown = [{"row": row} for row in rows.decode(near, spec)]
            for row, known in zip(shown, [] if reasons.known is None else reasons.known[item], strict=False):
                for column, block in spec.blocks():
                    if not known[block.start]:
                        row["row"][column.name] = None
        found.append({"neighbours": [{"distance": d, **each} for d, each in zip(distances, shown, strict=True)]})
    return found
