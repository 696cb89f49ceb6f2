"""Rate and distortion of VQ-VAE files on test images, compared with JPEG, WebP, JPEG XL and AVIF at several qualities, and with lossless files.

    python benchmarks/rate_distortion.py [--n 1000] [--out docs/images/rate-distortion.png]

It needs the extras `compress` and `codecs`, and a Pillow with AVIF (11.3 or later). The rate is in bits per dimension: bits of the files,
headers included, divided by the number of values. An image of 28x28 is too small for the header of a file, so two rates are given: one file
for each image, and one file for a hundred images. Such a sheet is a 10x10 grid; for lossy codecs every tile is padded to a multiple of 16
pixels by repeating its border, and for ours it is one .mfc file. The networks do not count, and neither do the programs of the codecs. PSNR is
computed from the mean squared error over all values of all images, in 8 bits. The first images of each split are read back from our files and
compared. The output is one JSON line for each data set, and the plot.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifold.evaluation import codecs
from manifold.runtime import compression, engine, imaging
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets
from manifold.training.data import Arrays

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Pixels = NDArray[np.uint8]  # (N, C, H, W)
Coded = tuple[int, Any]  # the size of a file in bytes, and its decoded picture (H, W) or (H, W, C)
MODELS = {"mnist": "mnist-vqvae", "fashion_mnist": "fashion-vqvae", "cifar10": "cifar10-vqvae"}
TILE = 16  # block size of a JPEG with chroma subsampling
SIDE = codecs.SIDE
COLOURS = {"JPEG": "tab:blue", "WebP": "tab:green", "JPEG XL": "tab:purple", "AVIF": "tab:orange", "PNG": "tab:gray"}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)


def by_pillow(name: str, **options: Any) -> Callable[[Any, float], Coded]:
    """Return the function that encodes and decodes a picture with a codec of Pillow, at a quality."""

    def code(picture: Any, quality: float) -> Coded:
        shown, file = Image.fromarray(picture), io.BytesIO()
        grey = {"subsampling": "4:0:0"} if name == "AVIF" and picture.ndim == 2 else {}
        shown.save(file, name, quality=int(quality), **options, **grey)
        return file.getbuffer().nbytes, np.asarray(Image.open(file).convert(shown.mode))

    return code


def by_libjxl(picture: Any, distance: float) -> Coded:
    """Encode and decode a picture with JPEG XL at a distance (Butteraugli; 0 is lossless, 25 the largest)."""
    content = imagecodecs.jpegxl_encode(picture, distance=distance, effort=7, numthreads=1)
    return len(content), imagecodecs.jpegxl_decode(content).reshape(picture.shape)


LOSSY: dict[
    str, tuple[Callable[[Any, float], Coded], tuple[float, ...]]
] = {  # by codec: how it codes, and its qualities
    "JPEG": (by_pillow("JPEG", optimize=True), (0, 3, 8, 18, 35, 60, 80, 90, 95)),
    "WebP": (by_pillow("WebP", method=6), (0, 3, 8, 18, 35, 60, 80, 90, 95)),
    "JPEG XL": (by_libjxl, (25, 16, 10, 7, 5, 3, 2, 1, 0.5)),
    "AVIF": (by_pillow("AVIF", speed=6), (0, 10, 20, 30, 40, 50, 65, 80, 90)),
}


def psnr(squared_error: float) -> float:
    """Return the PSNR in dB for 8 bits."""
    return float(10 * np.log10(255.0**2 / squared_error))


def squared_error(a: Any, b: Any) -> float:
    """Return the sum of squared errors."""
    return float(np.square(a.astype(np.float64) - b).sum())


def sheet(images: Pixels) -> Any:
    """Return a hundred images as one picture (H, W) or (H, W, C), with every tile padded to a multiple of 16."""
    extra = [-size % TILE for size in images.shape[2:]]
    (grid,) = codecs.sheets(np.pad(images, ((0, 0), (0, 0), (0, extra[0]), (0, extra[1])), mode="edge"))
    return picture(grid)


def picture(pixels: NDArray[np.uint8]) -> Any:
    """Return pixels (C, H, W) as (H, W) or (H, W, C)."""
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def tiles_of(decoded: Any, shape: tuple[int, ...]) -> Pixels:
    """Return the images (100, C, H, W) of a sheet."""
    channels, height, width = shape
    grid = decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1)
    high, wide = grid.shape[1] // SIDE, grid.shape[2] // SIDE
    tiles = grid.reshape(channels, SIDE, high, SIDE, wide).transpose(1, 3, 0, 2, 4)
    cut: Pixels = tiles.reshape(-1, channels, high, wide)[:, :, :height, :width]
    return cut


def hundreds(images: Pixels) -> Iterator[Pixels]:
    """Yield groups of a hundred images."""
    for start in range(0, len(images), SIDE * SIDE):
        yield images[start : start + SIDE * SIDE]


def one_by_one(images: Pixels, codec: str, quality: float) -> tuple[float, float]:
    """Return bits per dimension and PSNR, with one file for each image."""
    code, _ = LOSSY[codec]

    def measured(image: NDArray[np.uint8]) -> tuple[int, float]:
        size, decoded = code(picture(image), quality)
        return size, squared_error(decoded, picture(image))

    return _summed(measured, images, images.size)


def by_sheet(images: Pixels, codec: str, quality: float) -> tuple[float, float]:
    """Return bits per dimension and PSNR, with one file for a hundred images."""
    code, _ = LOSSY[codec]

    def measured(group: Pixels) -> tuple[int, float]:
        size, decoded = code(sheet(group), quality)
        return size, squared_error(tiles_of(decoded, group.shape[1:]), group)

    return _summed(measured, hundreds(images), images.size)


def _summed(measured: Callable[[Any], tuple[int, float]], items: Any, values: int) -> tuple[float, float]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes, errors = zip(*pool.map(measured, items), strict=True)
    return 8 * sum(sizes) / values, psnr(sum(errors) / values)


def ours(model: engine.Model, images: Pixels, decoded: int) -> tuple[float, float, float]:
    """Return bits per dimension with one file for each image, the same with files of a hundred, and PSNR.

    Raise RuntimeError if the first `decoded` images, codes and pixels, cannot be read back from their files.
    """
    spec = ImageSpec.of(model.manifest.spec, model.manifest.name)
    alone, together, error = 0, 0, 0.0
    for index, group in enumerate(hundreds(images)):
        edge = imaging.from_uint8(group, spec)
        made = compression.compress(model, edge)
        shown = imaging.to_uint8(model.sample(len(group), codes=made.codes).data, spec)
        files = [compression.compress(model, item[None]) for item in edge]
        if index * len(group) < decoded:
            data, codes = compression.decompress(model, made.content)
            one, _ = compression.decompress(model, files[0].content)
            same = np.array_equal(codes, made.codes) and np.array_equal(imaging.to_uint8(data, spec), shown)
            if not (same and np.array_equal(imaging.to_uint8(one, spec), shown[:1])):
                raise RuntimeError("the decoded codes or pixels differ from the written ones")
        alone += sum(len(file.content) for file in files)
        together += len(made.content)
        error += squared_error(shown, group)
    return 8 * alone / images.size, 8 * together / images.size, psnr(error / images.size)


def at(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Return the bits of a codec at a PSNR, linear in log bits between qualities; None outside the curve."""
    points = sorted((quality, bits) for bits, quality in curve)
    if not points[0][0] <= wanted <= points[-1][0]:
        return None
    return float(np.exp(np.interp(wanted, [p[0] for p in points], np.log([p[1] for p in points]))))


def measure(name: str, artifact: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of one data set: ours, the curves of lossy codecs, and lossless codecs, each with single files and with sheets."""
    model = engine.load(artifact, device="cpu")
    items = Arrays.of(datasets.load(name).test).items
    images = items[: min(asked.n, len(items)) // SIDE**2 * SIDE**2]  # whole sheets
    alone, together, quality = ours(model, images, asked.decoded)
    found: dict[str, Any] = {"data": name, "model": model.manifest.name, "images": len(images), "psnr_pooled": quality}
    for kind, rate, way, side in (("file", alone, one_by_one, None), ("sheet", together, by_sheet, SIDE)):
        curves = {codec: [way(images, codec, each) for each in qualities] for codec, (_, qualities) in LOSSY.items()}
        lossless = {codec: codecs.bits_per_dim(images, codec, side=side)[0] for codec in codecs.CODECS}
        found[kind] = {"ours": rate, "lossy": curves, "lossless": lossless}
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return the rates at the PSNR of our model, rounded. A codec without such a quality has its smallest rate, with its PSNR."""
    shown: dict[str, Any] = {key: found[key] for key in ("data", "model", "images")} | {
        "psnr_pooled": round(found["psnr_pooled"], 2)
    }
    for kind in ("file", "sheet"):
        rates: dict[str, Any] = {"ours": round(found[kind]["ours"], 4)}
        for codec, curve in found[kind]["lossy"].items():
            bits = at(curve, found["psnr_pooled"])
            rates[codec] = round(bits, 3) if bits else {"least": [round(value, 3) for value in min(curve)]}
        shown[kind] = rates | {f"{codec}, lossless": round(bits, 3) for codec, bits in found[kind]["lossless"].items()}
    return shown


def draw(every: list[dict[str, Any]], path: Path) -> None:
    """Draw a column for each data set, and a row for single files and for sheets."""
    figure, panels = plt.subplots(2, len(every), figsize=(5 * len(every), 8.6), layout="constrained", squeeze=False)
    for row, kind in zip(panels, ("file", "sheet"), strict=True):
        for panel, found in zip(row, every, strict=True):
            for codec, curve in found[kind]["lossy"].items():
                panel.plot(*zip(*sorted(curve), strict=True), "o-", ms=3, color=COLOURS[codec], label=codec)
            for codec, bits in found[kind]["lossless"].items():
                panel.axvline(bits, ls=":", color=COLOURS[codec], label=f"{codec}, lossless")
            panel.plot(
                found[kind]["ours"], found["psnr_pooled"], "*", ms=15, color="tab:red", label="Manifold's VQ-VAE"
            )
            files = "one file for each image" if kind == "file" else "one file for a hundred images"
            panel.set(
                xscale="log", xlabel="bits per dimension, headers included", ylabel="PSNR (dB)", title=f"{found['data']}, {files}"
            )  # fmt: skip
            low, high = panel.get_xlim()
            ticks = [tick for tick in TICKS if low <= tick <= high]
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Print the rates at equal PSNR, and draw the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1000, help="images of each test split, rounded down to hundreds")
    parser.add_argument("--decoded", type=int, default=1000)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/rate-distortion.png"))
    asked = parser.parse_args()
    every = []
    for name, artifact in MODELS.items():
        every.append(measure(name, asked.models / artifact, asked))
        print(json.dumps(summary(every[-1])), flush=True)
    draw(every, asked.out)


if __name__ == "__main__":
    main()
