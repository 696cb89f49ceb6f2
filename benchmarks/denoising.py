"""Denoising autoencoders and VAEs compared with the median filter and the Gaussian filter, by the PSNR of test images.

    python benchmarks/denoising.py [--data mnist] [--epochs 15] [--runs FOLDER] [-o docs/images/denoised.png]

The family `denoising` is trained for each corruption, as an autoencoder and as a VAE. The size of the median filter and the standard deviation of
the Gaussian filter are chosen by the PSNR on the selection split, for each corruption. All methods get the same corrupted test images. PSNR is the
mean over images of 10 log10(1 / mse) in dB, with its standard error. The picture shows ten test images for the corruptions of SHOWN: clean,
corrupted, by the median filter, by the autoencoder and by the VAE. MANIFOLD_DATA names the folder of the data sets.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from manifold.runtime import imaging
from manifold.training import datasets, families, runs
from manifold.training.data import Arrays, Data, Part
from manifold.training.families.denoising import corrupted, psnr
from manifold.training.train import train, trained_model

Array = NDArray[np.float32]

CORRUPTIONS = (("gaussian", 0.25), ("gaussian", 0.5), ("salt-and-pepper", 0.3))
SHOWN = CORRUPTIONS[1:]  # in the picture
KINDS = {"autoencoder": False, "VAE": True}  # the option `variational`
OPTIONS: dict[str, Any] = {"latent_dim": 32, "hidden": (512, 256), "schedule": "cosine", "references": 0, "iwae_k": 1}
SIZES, WIDTHS = (
    (2, 3, 4, 5, 7),
    (0.5, 0.75, 1.0, 1.25, 1.5),
)  # sides of the median filter, deviations of the Gaussian filter
COLUMNS, SEED = 10, 1


def noisy(part: Part, kind: str, level: float, seed: int) -> tuple[Array, Array]:
    """Return the clean and the corrupted images of a split, (N, 1, H, W) in [0, 1]."""
    clean = Arrays.of(part).items.astype(np.float32) / 255
    generator = torch.Generator().manual_seed(seed)
    return clean, corrupted(kind, level, torch.from_numpy(clean), generator).numpy()


def quality(images: Array, clean: Array) -> tuple[float, float]:
    """Return the mean PSNR in dB and its standard error."""
    values = psnr(torch.from_numpy(images).flatten(1).double(), torch.from_numpy(clean).flatten(1).double())
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def median(images: Array, size: float) -> Array:
    """Return the images after a median filter with a square of this side."""
    filtered: Array = ndimage.median_filter(images, size=(1, 1, int(size), int(size)))
    return filtered


def blurred(images: Array, width: float) -> Array:
    """Return the images after a Gaussian filter with this standard deviation in pixels."""
    filtered: Array = ndimage.gaussian_filter(images, sigma=(0, 0, width, width))
    return filtered


def chosen(apply: Callable[[Array, float], Array], options: tuple[float, ...], pair: tuple[Array, Array]) -> float:
    """Return the option of a filter with the highest PSNR on a pair of clean and corrupted images."""
    clean, given = pair
    return max(options, key=lambda option: quality(apply(given, option), clean)[0])


def denoiser(data: Data, kind: str, level: float, variational: bool, epochs: int, folder: Path) -> Any:
    """Return a trained model. A finished run in the folder is used again."""
    family = families.get("denoising")
    options = {**OPTIONS, "epochs": epochs, "corruption": kind, "level": level, "variational": variational}
    name = f"{data.name}-{kind}-{level:g}-{'vae' if variational else 'autoencoder'}"
    run = runs.TrainingRun(folder / name, "denoising", data.name, "cpu", family.Config.model_validate(options))
    if not (run.folder / runs.METRICS).exists():
        train(run, data, device="cpu", quiet=True)
    return trained_model(run.resolved(data), data)


@torch.no_grad()
def denoised(model: Any, images: Array) -> Array:
    """Return the reconstructions of corrupted images, as /reconstruct computes them."""
    parts = [model.decoded(model.encode(model.settled(part))[0]) for part in torch.from_numpy(images).split(500)]
    found: Array = torch.cat(parts).numpy()
    return found


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("mnist", "fashion_mnist"), default="mnist")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--runs", type=Path, help="folder to keep the runs; by default they are removed")
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    data = datasets.load(asked.data)
    assert data.selection is not None
    rows = []
    print("| corruption | corrupted | median filter | Gaussian filter | autoencoder | VAE |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.runs or Path(scratch)
        for kind, level in CORRUPTIONS:
            clean, given = noisy(data.test, kind, level, SEED)
            validation = noisy(data.selection, kind, level, SEED + 1)
            size, width = chosen(median, SIZES, validation), chosen(blurred, WIDTHS, validation)
            made = {"median": median(given, size), "gaussian": blurred(given, width)}
            for name, variational in KINDS.items():
                model = denoiser(data, kind, level, variational, asked.epochs, folder)
                made[name] = denoised(model, given)
            cells = ["{:.2f} ± {:.2f}".format(*quality(images, clean)) for images in (given, *made.values())]
            cells[1] += f" (side {size:g})"
            cells[2] += f" (σ {width:g})"
            print(f"| {kind} {level:g} | {' | '.join(cells)} |", flush=True)
            if (kind, level) in SHOWN:
                first = [Arrays.of(data.test).labels.tolist().index(label) for label in range(COLUMNS)]
                rows += [each[first] for each in (clean, given, made["median"], made["autoencoder"], made["VAE"])]
    if asked.out:
        pixels = np.rint(np.concatenate(rows).clip(0, 1) * 255).astype(np.uint8)
        asked.out.write_bytes(imaging.to_png(imaging.grid(pixels, columns=COLUMNS, scale=2)))


if __name__ == "__main__":
    main()
