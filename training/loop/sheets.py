"""The pictures of a run: samples (a grid of images, or rows) and loss curves. Training does not depend on them."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime.kinds import DataSpec
from manifold.runtime.repository import replacing
from manifold.training.runs import read_log

# units by the last word of a figure's name; other figures are in nats
UNITS = {
    "accuracy": "fraction",
    "logit": "logit",
    "norm": "norm",
}

CURVES, SECONDS = "curves.png", 30.0  # shortest time between two drawings, which take 0.2 s or more each


def save(items: NDArray[Any], spec: DataSpec, stem: Path) -> Path:
    """Write items (n, *shape): a PNG with a grid of images, or a CSV file of rows. Return its path, which is `stem` with a suffix."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_suffix(spec.suffix)
    with replacing(path) as temporary:
        temporary.write_bytes(spec.sheet(items, scale=2))
    return path


class Curves:
    """The loss curves of a running training. They are drawn at most once in `SECONDS`, and when the context ends, also by an error."""

    def __init__(self, log: Path, path: Path) -> None:
        self.log, self.path = log, path
        self.drawn = monotonic()
        self.behind = False

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error: object) -> None:
        self.draw()

    def grown(self) -> None:
        """Record that the log has a new epoch, and draw it if the last drawing is at least SECONDS old."""
        self.behind = True
        if monotonic() - self.drawn >= SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw the current log, if it is not yet drawn."""
        if self.behind:
            curves(self.log, self.path)
            self.drawn, self.behind = monotonic(), False


def curves(log: Path, path: Path) -> None:
    """Draw the losses of the training and the held-out items by step from the JSONL log, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    names = sorted({key.split("/", 1)[1] for record in records for key in record if "/" in key})
    if not names:  # training was rolled back to its beginning
        return
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for part in ("train", "selection", "calibration", "test"):
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
