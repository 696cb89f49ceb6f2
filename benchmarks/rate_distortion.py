"""Rate and distortion of VQ-VAE files on whole test splits, compared with JPEG and WebP at several qualities.

    python benchmarks/rate_distortion.py [--n 10000] [--out docs/images/rate-distortion.png]

An image of 28x28 is too small for a JPEG's header, so two rates are given: one file for each image, and one file for a hundred images (for JPEG
and WebP a 10x10 grid of images, with every tile padded to a multiple of 16 pixels by repeating its border; for ours one .mfc file). Headers
count for all codecs; the networks do not count, and neither do the programs of JPEG and WebP. PSNR is computed from the mean squared error over
all pixels of all images, in 8 bits. The first thousand images of each split are read back from their files and compared. The output is one JSON
line for each data set, and the plot.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifold.runtime import compression, engine, imaging
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets
from manifold.training.data import Arrays

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Pixels = NDArray[np.uint8]  # (N, C, H, W)
MODELS = {"mnist": "mnist-vqvae", "fashion_mnist": "fashion-vqvae", "cifar10": "cifar10-vqvae"}
QUALITIES = (0, 1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 95)
OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WebP": {"method": 6}}
TILE = 16  # block size of a JPEG with chroma subsampling
SIDE = 10


def psnr(squared_error: float) -> float:
    """Return the PSNR in dB for 8 bits."""
    return float(10 * np.log10(255.0**2 / squared_error))


def squared_error(a: Pixels, b: Pixels) -> float:
    """Return the sum of squared errors."""
    return float(np.square(a.astype(np.float64) - b).sum())


def through(picture: NDArray[np.uint8], codec: str, quality: int) -> tuple[int, NDArray[np.uint8]]:
    """Encode and decode a picture (C, H, W). Return the size of the file in bytes, and the decoded pixels."""
    shown = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    file = io.BytesIO()
    shown.save(file, codec, quality=quality, **OPTIONS[codec])
    back = np.asarray(Image.open(file).convert(shown.mode))
    return file.getbuffer().nbytes, back[None] if back.ndim == 2 else back.transpose(2, 0, 1)


def sheet(images: Pixels) -> NDArray[np.uint8]:
    """Return a hundred images as one picture (C, H, W), with every tile padded to a multiple of 16."""
    extra = [-size % TILE for size in images.shape[2:]]
    tiles = np.pad(images, ((0, 0), (0, 0), (0, extra[0]), (0, extra[1])), mode="edge")
    _, channels, height, width = tiles.shape
    rows = tiles.reshape(SIDE, SIDE, channels, height, width).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(rows.reshape(channels, SIDE * height, SIDE * width))


def tiles_of(picture: NDArray[np.uint8], shape: tuple[int, ...]) -> Pixels:
    """Return the images (100, C, H, W) of a grid."""
    channels, height, width = shape
    high, wide = picture.shape[1] // SIDE, picture.shape[2] // SIDE
    tiles = picture.reshape(channels, SIDE, high, SIDE, wide).transpose(1, 3, 0, 2, 4)
    return tiles.reshape(-1, channels, high, wide)[:, :, :height, :width]


def hundreds(images: Pixels) -> Iterator[Pixels]:
    """Yield groups of a hundred images."""
    for start in range(0, len(images), SIDE * SIDE):
        yield images[start : start + SIDE * SIDE]


def one_by_one(images: Pixels, codec: str, quality: int) -> tuple[float, float]:
    """Return bits per image and PSNR, with one file for each image."""
    made = [through(image, codec, quality) for image in images]
    error = squared_error(np.stack([back for _, back in made]), images)
    return 8 * sum(size for size, _ in made) / len(images), psnr(error / images.size)


def by_sheet(images: Pixels, codec: str, quality: int) -> tuple[float, float]:
    """Return bits per image and PSNR, with one file for a hundred images."""
    size, error = 0, 0.0
    for group in hundreds(images):
        bits, back = through(sheet(group), codec, quality)
        size += bits
        error += squared_error(tiles_of(back, images.shape[1:]), group)
    return 8 * size / len(images), psnr(error / images.size)


def ours(model: engine.Model, images: Pixels, decoded: int) -> tuple[float, float, float]:
    """Return bits per image with one file each, bits per image with files of a hundred, and PSNR.

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
    return 8 * alone / len(images), 8 * together / len(images), psnr(error / images.size)


def at(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Return the bits of a codec at a PSNR, linear in log bits between qualities; None outside the curve."""
    points = sorted((quality, bits) for bits, quality in curve)
    if not points[0][0] <= wanted <= points[-1][0]:
        return None
    return float(np.exp(np.interp(wanted, [p[0] for p in points], np.log([p[1] for p in points]))))


def curves(images: Pixels, way: Callable[[Pixels, str, int], tuple[float, float]]) -> dict[str, list[tuple[float, float]]]:  # fmt: skip
    """Return (bits, PSNR) of each codec for all qualities."""
    return {codec: [way(images, codec, quality) for quality in QUALITIES] for codec in OPTIONS}


def main() -> None:
    """Print bits, PSNR and ratios, and draw the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000, help="images of each test split, rounded down to hundreds")
    parser.add_argument("--decoded", type=int, default=1000)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/rate-distortion.png"))
    options = parser.parse_args()
    figure, panels = plt.subplots(1, len(MODELS), figsize=(15, 4.6), layout="constrained")
    for panel, (name, artifact) in zip(panels, MODELS.items(), strict=True):
        model = engine.load(options.models / artifact, device="cpu")
        items = Arrays.of(datasets.load(name).test).items
        images = items[: min(options.n, len(items)) // SIDE**2 * SIDE**2]  # whole grids
        alone, together, quality = ours(model, images, options.decoded)
        summary: dict[str, Any] = {"data": name, "images": len(images), "psnr": round(quality, 2)}
        for kind, rate, way, line in (("file", alone, one_by_one, "-"), ("sheet", together, by_sheet, "--")):
            lines = curves(images, way)
            summary[f"{kind}_bits"] = round(rate, 1)
            for (codec, curve), colour in zip(lines.items(), ("tab:blue", "tab:green"), strict=True):
                bits = at(curve, quality)
                summary[f"{kind}_{codec}_bits"] = bits and round(bits, 1)
                summary[f"{kind}_{codec}_over_ours"] = bits and round(bits / rate, 2)
                if bits is None:
                    summary[f"{kind}_{codec}_least"] = [round(value, 2) for value in min(curve)]
                panel.plot(*zip(*sorted(curve), strict=True), line, color=colour, label=f"{codec}, one {kind}")
            panel.plot(rate, quality, "*" if kind == "file" else "P", ms=13, color="tab:red", label=f"ours, one {kind}")  # fmt: skip
        panel.set(
            xscale="log", xlabel="bits per image, headers included", ylabel="PSNR (dB)", title=f"{name}: {artifact}"
        )
        panel.set_xticks(ticks := [200, 500, 1000, 2000, 5000], [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        print(json.dumps(summary), flush=True)
    panels[0].legend(fontsize=8)
    figure.savefig(options.out, dpi=90)


if __name__ == "__main__":
    main()
