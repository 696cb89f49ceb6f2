"""Lossless compression of test images with models, compared with PNG, WebP and, if imagecodecs is installed (the extra `codecs`), JPEG XL.

    python benchmarks/lossless.py mnist-vae mnist-pixelcnn [--models models] [--n 1000] [--alone 20]

The images are the first ones of the model's test split, rounded to the levels of the model (two levels: binarised at 1/2), and all codecs get
the same rounded images. evaluation.codecs states their bit depths and options; the best options count, slow ones included. Two rates are given:
one file for each image, and one file for a hundred images, which is a sheet of 10x10 images for the other codecs. Headers count, the model does
not.

`likelihood` is -log2 p(x) of the same images by the task score, with the fixed draws of the artifact: the likelihood of an exact model with the
class summed out, or the bound of a VAE. `net` is the growth of the stack of bits: files without headers, the start of bits back, and rounding
to words. Models' files are read back and compared; tests do the same for the other codecs. The output is one JSON line and one row of a table
for each model.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manifold.evaluation import codecs
from manifold.evaluation.codecs import SIDE, Pixels
from manifold.runtime import engine
from manifold.runtime.compression import lossless
from manifold.runtime.manifest.figures import STORED
from manifold.training import datasets
from manifold.training.data import Arrays

LAYOUTS = {"sheet": SIDE, "file": None}  # images in a row of a sheet; None for single files
KEYS = {
    name.removesuffix("_sheets"): title for name, title in STORED.items()
}  # titles of codecs by their names in columns


def installed() -> dict[str, str]:
    """Return the titles of the installed codecs by their names in columns, such as jxl."""
    return {key: title for key, title in KEYS.items() if title in codecs.installed()}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the seconds of a call."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def ours(model: engine.Model, images: Pixels, together: int) -> dict[str, float]:
    """Return bits and seconds an image of files of `together` images. Raise RuntimeError if pixels do not come back exactly."""
    n, totals = len(images), {"bits": 0.0, "net": 0.0, "write": 0.0, "read": 0.0}
    for start in range(0, n, together):
        group = images[start : start + together]
        written, seconds = timed(lambda group=group: lossless.compress(model, group))  # type: ignore[misc]
        back, reading = timed(lambda content=written.content: lossless.decompress(model, content))  # type: ignore[misc]
        if not np.array_equal(back, group):
            raise RuntimeError(f"{model.name}: the pixels differ")
        for name, value in (("bits", 8 * len(written.content)), ("net", written.net_bits), ("write", seconds), ("read", reading)):  # fmt: skip
            totals[name] += value / n
    return totals


def by_model(model: engine.Model, images: Pixels) -> float:
    """Return -log2 p(x) an image, by the evidence of the task score."""
    scoring = model.manifest.scoring
    assert scoring is not None
    # the image in [0, 1]; models of this repository have no other range
    scores = model.score((images / 255).astype(np.float32)).terms
    bound = next(term.name for term in scoring.terms if term.likelihood)
    return float(scores[bound].mean() / np.log(2))


def measured(model: engine.Model, n: int, alone: int) -> dict[str, Any]:
    """Return the figures of a model, bits and seconds an image."""
    levels = lossless.levels_of(model)
    data = datasets.load(model.manifest.data_name or "")
    images = codecs.at_levels(Arrays.of(data.test).items[:n].astype(np.uint8), levels)
    shape = images.shape[1:]
    found = {
        "model": model.name, "data": data.name, "shape": shape, "levels": levels, "images": len(images), "likelihood": by_model(model, images),
    }  # fmt: skip
    for layout, side in LAYOUTS.items():
        stored = images if side else images[:alone]
        figures = ours(model, stored, side**2 if side else 1)
        found |= {f"{layout}_{name}": value for name, value in figures.items()}
        for key, title in installed().items():
            bits, _ = codecs.bits_per_dim(stored, title, levels, side, slow=True)
            found[f"{layout}_{key}"] = bits * math.prod(shape)
    return found


def main() -> None:
    """Print one JSON line for each model, and a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", metavar="MODEL")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--n", type=int, default=1000, help="images of each test split")
    parser.add_argument("--alone", type=int, default=20, help="images with a file of their own")
    options = parser.parse_args()
    if note := codecs.missing():
        print(note, file=sys.stderr)
    others = [[f"{layout}_{key}" for key in installed()] for layout in LAYOUTS]
    columns = ["likelihood", "sheet_net", "sheet_bits", *others[0], "file_bits", *others[1]]
    rows = []
    for name in options.names:
        found = measured(engine.load(options.models / name, device="cpu"), options.n, options.alone)
        print(json.dumps(found), flush=True)
        seconds = [f"{1000 * found[f'sheet_{way}']:.1f}" for way in ("write", "read")]
        rows.append([name, *(f"{found[column]:.1f}" for column in columns), *seconds])
    print("| " + " | ".join(["model", *columns, "ms to write", "ms to read"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
