"""Lossless compression of test images with models, compared with PNG, WebP and, if Pillow can write it, JPEG XL.

    python benchmarks/lossless.py mnist-vae mnist-pixelcnn [--models models] [--n 1000] [--alone 20]

The images are those of the model's test split, rounded to the levels of the model (two levels: binarised at 1/2), and all codecs get the same
rounded images; PNG writes two levels with one bit a pixel. Two rates are given: one file for each image, and one file for a hundred images, which
is a 10x10 grid for the other codecs. Headers count, the model does not. `model` is -log2 p(x) of the same images by the task score: the
likelihood of an exact model with the class summed out, or the bound of a VAE. `net` is the growth of the stack of bits: files without headers,
the start of bits back, and rounding to words. All files are read back and compared. The output is one JSON line and one row of a table a model.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from manifold.runtime import engine
from manifold.runtime.compression import lossless
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets
from manifold.training.data import Arrays

Pixels = NDArray[np.uint8]  # (N, C, H, W)
SIDE = 10
SHEET = SIDE * SIDE
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
    "JXL": {"lossless": True, "effort": 9},
}


def codecs() -> list[str]:
    """Return the formats that this installation of Pillow can write."""
    Image.init()
    known = {"WebP": features.check("webp"), "JXL": "JXL" in Image.SAVE}
    return [name for name in OPTIONS if known.get(name, True)]


def size_of(picture: Pixels, codec: str, levels: int) -> int:
    """Return the size in bytes of a picture (C, H, W). Raise RuntimeError if it does not come back exactly."""
    shown = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    file = io.BytesIO()
    (shown.convert("1") if codec == "PNG" and levels == 2 else shown).save(file, codec, **OPTIONS[codec])
    if not np.array_equal(np.asarray(Image.open(file).convert(shown.mode)), np.asarray(shown)):
        raise RuntimeError(f"{codec}: the pixels differ")
    return file.getbuffer().nbytes


def sheet(images: Pixels) -> Pixels:
    """Return a hundred images as one picture (C, H, W)."""
    _, channels, height, width = images.shape
    rows = images.reshape(SIDE, SIDE, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(rows.reshape(channels, SIDE * height, SIDE * width))


def sheets(images: Pixels) -> Iterator[Pixels]:
    """Yield groups of a hundred images."""
    for start in range(0, len(images), SHEET):
        yield images[start : start + SHEET]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the seconds of a call."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def ours(model: engine.Model, groups: list[Pixels]) -> dict[str, float]:
    """Return bits and seconds an image of files with these groups. Raise RuntimeError if pixels do not come back exactly."""
    n, totals = sum(map(len, groups)), {"bits": 0.0, "net": 0.0, "write": 0.0, "read": 0.0}
    for group in groups:
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
    spec, levels = ImageSpec.of(model.manifest.spec, model.name), lossless.levels_of(model)
    data = datasets.load(model.manifest.data_name or "")
    images = lossless.rounded(Arrays.of(data.test).items[:n].astype(np.uint8), levels)
    single = images[:alone]
    many, few = ours(model, list(sheets(images))), ours(model, [image[None] for image in single])
    found = {
        "model": model.name, "data": data.name, "shape": spec.shape, "levels": levels, "images": len(images), "likelihood": by_model(model, images),
        **{f"sheet_{name}": value for name, value in many.items()}, **{f"file_{name}": value for name, value in few.items()},
    }  # fmt: skip
    for codec in codecs():
        whole = [size_of(sheet(group), codec, levels) for group in sheets(images) if len(group) == SHEET]
        found[f"sheet_{codec}"] = 8 * sum(whole) / (SHEET * len(whole)) if whole else None
        found[f"file_{codec}"] = 8 * sum(size_of(image, codec, levels) for image in single) / len(single)
    return found


def main() -> None:
    """Print one JSON line for each model, and a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", metavar="MODEL")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--n", type=int, default=1000, help="images of each test split")
    parser.add_argument("--alone", type=int, default=20, help="images with a file of their own")
    options = parser.parse_args()
    others = [[f"{kind}_{codec}" for codec in codecs()] for kind in ("sheet", "file")]
    columns = ["likelihood", "sheet_net", "sheet_bits", *others[0], "file_bits", *others[1]]
    rows = []
    for name in options.names:
        found = measured(engine.load(options.models / name, device="cpu"), options.n, options.alone)
        print(json.dumps(found), flush=True)
        seconds = [f"{1000 * found[f'sheet_{way}']:.1f}" for way in ("write", "read")]
        rows.append([name, *("-" if found[c] is None else f"{found[c]:.1f}" for c in columns), *seconds])
    print("| " + " | ".join(["model", *columns, "ms to write", "ms to read"]) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
