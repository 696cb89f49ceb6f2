"""Pictures of a run: sample sheets and loss curves. Never needed to train."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import codecs, rows
from runtime.repository import replacing
from runtime.spec import DataSpec, ImageSpec
from training.runs import read_log

UNITS = {
    "accuracy": "fraction",
    "logit": "logit",
    "norm": "norm",
}  # by the last word of a figure's name; the others are nats


def save(items: NDArray[Any], spec: DataSpec, stem: Path) -> Path:
    """A sheet of items (n, *shape): a PNG grid of images, or a CSV of rows. Returns the path, `stem` with its suffix."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(spec, ImageSpec):
        path = stem.with_suffix(".png")
        pixels = np.clip(np.rint(items * 255), 0, 255).astype(np.uint8)  # families draw in [0, 1]
        with replacing(path) as temporary:
            temporary.write_bytes(codecs.to_png(codecs.grid(pixels, scale=2)))
        return path
    path = stem.with_suffix(".csv")
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, spec.names)
        writer.writeheader()
        writer.writerows(rows.decode(items, spec))
    return path


def curves(log: Path, path: Path) -> None:
    """Training and test loss by step, from the JSONL log, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    names = sorted({key.split("/", 1)[1] for record in records for key in record if "/" in key})
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for part in ("train", "test"):
            points = [(record["step"], record[f"{part}/{name}"]) for record in records if f"{part}/{name}" in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=part)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.set_ylabel(UNITS.get(name.rpartition("_")[2], "nats"))
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
