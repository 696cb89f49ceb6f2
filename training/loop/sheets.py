"""The pictures of a run: samples (a grid of images, or rows) and loss curves. Training does not depend on them."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.errors import ManifoldError
from manifold.runtime.kinds import DataSpec, Kind
from manifold.runtime.repository import replacing
from manifold.training.runs import read_log

# units by the last word of a figure's name; other figures are in nats
UNITS = {
    "accuracy": "fraction",
    "logit": "logit",
    "norm": "norm",
}

SAMPLES = "samples"  # the folder of the samples in a run's folder
DRAWN, SCALE, GAP = 64, 2, 2  # number of samples; size of a pixel and distance of images in a grid of them
CURVES, SECONDS = "curves.png", 30.0  # shortest time between two drawings, which take 0.2 s or more each


def path_of(run: Path, phase: str, epoch: int, spec: DataSpec) -> Path:
    """Return the path of the samples after an epoch."""
    return run / SAMPLES / f"{phase}-{epoch:04d}{spec.suffix}"


def save(items: NDArray[Any], spec: DataSpec, path: Path) -> None:
    """Write items (n, *shape): a PNG with a grid of images, or a CSV file of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(spec.sheet(items, scale=SCALE))


def first_row(path: Path, spec: Kind) -> NDArray[np.uint8] | None:
    """Return the images (n, C, H, W) in the first row of a grid that `save` wrote. None if there is no grid of such images at the path."""
    if not path.exists():
        return None
    channels, height, width = spec.shape
    try:
        found = imaging.read_pixels(path.read_bytes(), "RGB" if channels == 3 else "L", max_pixels=sys.maxsize)
    except ManifoldError:  # a file of another program, or a damaged one
        return None
    high, wide = height * SCALE, width * SCALE
    across, rest = divmod(found.shape[1] + GAP, wide + GAP)
    if rest or not across or (found.shape[0] + GAP) % (high + GAP):
        return None
    starts = range(0, found.shape[1], wide + GAP)
    images = np.stack([found[:high:SCALE, start : start + wide : SCALE] for start in starts])
    return images.reshape(len(images), height, width, channels).transpose(0, 3, 1, 2)


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
