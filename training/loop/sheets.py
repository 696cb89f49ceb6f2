"""Pictures of a run: sample sheets and loss curves. Never needed to train."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.kinds import DataSpec
from manifold.runtime.repository import replacing
from manifold.training.runs import read_log

UNITS = {
    "accuracy": "fraction",
    "logit": "logit",
    "norm": "norm",
}  # by the last word of a figure's name; the others are nats

CURVES, SECONDS = "curves.png", 30.0  # a drawing takes 0.2 s, and more on a busy machine


def save(items: NDArray[Any], spec: DataSpec, stem: Path) -> Path:
    """Write a sheet of items (n, *shape): a PNG grid of images, or a CSV of rows. Return the path, `stem` with its suffix."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_suffix(spec.suffix)
    with replacing(path) as temporary:
        temporary.write_bytes(spec.sheet(items, scale=2))
    return path


class Curves:
    """The loss curves of a run while it trains. They are drawn at most once in `SECONDS`, and when the context ends, however it ends."""

    def __init__(self, log: Path, path: Path) -> None:
        self.log, self.path = log, path
        self.drawn = monotonic()
        self.behind = False

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error: object) -> None:
        self.draw()

    def grown(self) -> None:
        """Note that the log has another epoch, and draw it if the last drawing is old."""
        self.behind = True
        if monotonic() - self.drawn >= SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw what the log has now, if it is not drawn yet."""
        if self.behind:
            curves(self.log, self.path)
            self.drawn, self.behind = monotonic(), False


def curves(log: Path, path: Path) -> None:
    """Draw training and test loss by step, from the JSONL log, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    names = sorted({key.split("/", 1)[1] for record in records for key in record if "/" in key})
    if not names:  # training went back to its beginning
        return
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
