"""The bits per dimension of images that lossless codecs store: PNG, WebP and JPEG XL, as single files or as sheets of 100 images.

They are the anchors of a model's bits per dimension, in the same unit: bits of the files, headers included, divided by the number of values.
The images are rounded to the levels that the model distinguishes, and images at 2, 4 or 16 levels are stored with 1, 2 or 4 bits for each
value where the codec can do so. JPEG XL needs imagecodecs, the extra `codecs`. Its license is BSD; pillow-jxl-plugin, which does the same, is
under the GPL.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from manifold.evaluation.extractors import Progress, Stage
from manifold.evaluation.images import RealImages, batch_size
from manifold.evaluation.report import Report, rounded
from manifold.runtime import extras
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.manifest.figures import BITS, STORED

Pixels = NDArray[np.uint8]  # (N, C, H, W), or (C, H, W) for one picture

SIDE = 10  # a sheet has SIDE x SIDE images
READ = 100  # number of images that are read at a time, or fewer if they are large
VALUES = 2**23  # largest number of values that are encoded for the anchors; they take about half a minute on two cores
MODULE = "imagecodecs"  # the module that encodes JPEG XL


@dataclass(frozen=True)
class Codec:
    """A lossless codec. `encode` stores a picture (C, H, W) with values at `levels` levels, with one of `options` or of `slow`."""

    library: Callable[[], str]
    options: tuple[dict[str, Any], ...]  # the best of them is taken
    encode: Callable[[Pixels, int, dict[str, Any]], bytes]
    slow: tuple[dict[str, Any], ...] = ()  # further options for smaller files, too slow for the anchors of every report


def _picture(pixels: Pixels) -> Any:
    """Return a picture (C, H, W) as (H, W) or (H, W, C)."""
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _depth(channels: int, levels: int) -> int:
    """Return the bits of one value: 1, 2 or 4 for grey pictures of 2, 4 or 16 levels, which use all values of so many bits; else 8."""
    return {2: 1, 4: 2, 16: 4}.get(levels, 8) if channels == 1 else 8


def _png(pixels: Pixels, levels: int, options: dict[str, Any]) -> bytes:
    depth, image = _depth(len(pixels), levels), Image.fromarray(_picture(pixels))
    if depth == 1:
        image = image.convert("1", dither=Image.Dither.NONE)
    elif depth < 8:
        step = 255 // (levels - 1)
        image = Image.fromarray(_picture(pixels) // step)
        image.putpalette([step * level for level in range(levels) for _ in "RGB"])
        options = {**options, "bits": depth}
    return _saved(image, "PNG", options)


def _webp(pixels: Pixels, levels: int, options: dict[str, Any]) -> bytes:
    return _saved(Image.fromarray(_picture(pixels)), "WEBP", {"lossless": True, **options})


def _saved(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def _jxl(pixels: Pixels, levels: int, options: dict[str, Any]) -> bytes:
    import imagecodecs

    depth = _depth(len(pixels), levels)
    values = pixels // (255 // (2**depth - 1))
    return bytes(
        imagecodecs.jpegxl_encode(_picture(values), lossless=True, bitspersample=depth, numthreads=1, **options)
    )


def _libjxl() -> str:
    import imagecodecs

    return f"{imagecodecs.jpegxl_version()}, imagecodecs {imagecodecs.__version__}"


def _pillow(*libraries: str) -> Callable[[], str]:
    def versions() -> str:
        named = [f"{library} {features.version(library)}" for library in libraries]
        return ", ".join([*named, f"Pillow {features.version('pil')}"])

    return versions


CODECS: dict[str, Codec] = {  # by the titles in STORED
    "PNG": Codec(_pillow("zlib"), ({"optimize": True},), _png),
    "WebP": Codec(_pillow("webp"), ({"method": 6},), _webp, ({"method": 6, "quality": 100},)),  # 20 times slower
    "JPEG XL": Codec(_libjxl, ({"effort": 7}, {"effort": 9}), _jxl),  # which effort is better depends on the images
}


def installed() -> list[str]:
    """Return the titles of the codecs whose libraries are installed."""
    return [title for title in CODECS if title != "JPEG XL" or find_spec(MODULE) is not None]


def missing() -> str | None:
    """Return a note about the figures of codecs whose library is not installed, with the extra to install; None if all are installed."""
    absent = [name for name, title in STORED.items() if title not in installed()]
    return f"{', '.join(absent)} is missing: {extras.advice(MODULE)}" if absent else None


def at_levels(images: Pixels, levels: int, seed: int | None = None) -> Pixels:
    """Round images to `levels` levels from 0 to 255: to the nearest, or with a seed up or down at random (dynamic binarisation for 2 levels)."""
    steps = images / 255 * (levels - 1)
    if seed is None:
        below = np.rint(steps)
    else:
        below = np.floor(steps + np.random.Generator(np.random.Philox(seed)).random(steps.shape))
    values: Pixels = np.rint(below.clip(max=levels - 1) * (255 / (levels - 1))).astype(np.uint8)
    return values


def sheets(images: Pixels, side: int = SIDE) -> Iterator[Pixels]:
    """Yield pictures (C, H, W) of `side` x `side` images. The last one has the rest, in rows of `side`; blank images fill its last row."""
    for start in range(0, len(images), side * side):
        group = images[start : start + side * side]
        blank = np.zeros((-len(group) % side, *group.shape[1:]), np.uint8)
        tiles = np.concatenate([group, blank])
        _, channels, height, width = tiles.shape
        rows = tiles.reshape(-1, side, channels, height, width).transpose(2, 0, 3, 1, 4)
        yield np.ascontiguousarray(rows.reshape(channels, -1, side * width))


def bits_per_dim(
    images: Pixels,
    codec: str,
    levels: int = 256,
    side: int | None = SIDE,
    progress: Progress | None = None,
    slow: bool = False,
) -> tuple[float, dict[str, Any]]:
    """Return the bits per dimension of images (N, C, H, W) stored by a codec, and the options of the codec that need the fewest bits.

    They are stored as sheets of `side` x `side` images, or as single files if `side` is None. The values must be at `levels` levels, as
    `at_levels` rounds them. `slow` also tries the slow options of the codec. Pictures are encoded in parallel.
    """
    found, pictures = CODECS[codec], list(images if side is None else sheets(images, side))
    every, sizes = (*found.options, *(found.slow if slow else ())), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for options in every:
            size = 0
            for each in pool.map(
                lambda picture, options=options: len(found.encode(picture, levels, options)), pictures
            ):
                size += each
            sizes.append(size)
            if progress:
                progress(len(sizes), len(every))
    best = int(np.argmin(sizes))
    return 8 * sizes[best] / images.size, every[best]


def anchors(
    images: RealImages, levels: int = 256, seed: int | None = None, stage: Stage | None = None
) -> dict[str, dict[str, Any]]:
    """Return the figures of the installed codecs for images at these levels, by the names in STORED: bits_per_dim and its protocol.

    All images are encoded if they have at most VALUES values, else as many whole sheets of the first ones as have. `seed` rounds to levels at
    random, see `at_levels`.
    """
    sheet = SIDE * SIDE
    n = min(images.n, max(sheet, VALUES // math.prod(images.shape) // sheet * sheet))
    size = batch_size(images, READ)
    parts = [np.asarray(images.batch(start, min(start + size, n)).pixels) for start in range(0, n, size)]
    pixels = at_levels(np.concatenate(parts), levels, seed)
    rest = f", the last one of {n % sheet}" if n % sheet else ""
    which = {"n": n, "images": "all" if n == images.n else f"the first {n} of {images.n}"}
    rounding = {} if levels == 256 else {"rounding": "nearest" if seed is None else f"at random, seed {seed}"}
    held = {}
    for name, title in STORED.items():
        if title not in installed():
            continue
        bits, options = bits_per_dim(pixels, title, levels, progress=stage(f"{title}, lossless") if stage else None)
        held[name] = {
            BITS: rounded(bits), "codec": f"{title}, lossless", "options": options, "library": CODECS[title].library(),
            "layout": f"sheets of {SIDE}x{SIDE} images{rest}, headers included", **which, "levels": levels, **rounding,
        }  # fmt: skip
    return held


def levels_of(spec: ImageSpec, observed: str) -> int:
    """Return the number of levels of x, of which a likelihood states -log p(x). `observed` is its description in the manifest."""
    return 2 if "binarised" in observed else spec.levels


def beside_bits(report: Report, spec: ImageSpec, test: RealImages, stage: Stage) -> None:
    """Add the anchors of a report's bits per dimension, computed on the same images at the same levels; nothing if it has no such figure."""
    detail = report.details.get(BITS)
    if BITS not in report.metrics or detail is None:
        return
    report.anchors |= anchors(test, levels_of(spec, detail["observed"]), stage=stage)
    if note := missing():
        report.warnings.append(note)
