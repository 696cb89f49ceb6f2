"""Completion of images of which half is known: the benefit of drawing several candidates (runtime.operations.complete).

    python benchmarks/imputation.py [--images 50] [--candidates 1 8] [--seed 1] [-o docs/images/imputed.png]

The images are test images of the shipped mnist-pixelcnn. Their upper, left or lower half is known. The sampler draws pixels from the top left to
the bottom right: with one candidate for each class, known pixels further down affect only the choice of the class; with more candidates
they also affect the drawn pixels. The script prints, for each number of candidates, how often the drawn class is the true one, and how many nats
less likely the completed image is than the original (0: equally likely). The picture shows for ten images the original, and for each half
the known part (the rest grey) and two completions with the most candidates.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import engine, imaging, operations
from manifold.training import datasets
from manifold.training.data import Arrays

NAME, SHOWN = "mnist-pixelcnn", 10
GREY = 0.4


def halves(size: int) -> dict[str, NDArray[np.float32]]:
    """Return masks (1, 1, size, size) with 1 for the known pixels."""
    row, column = np.indices((size, size))
    known = {"upper": row < size // 2, "left": column < size // 2, "lower": row >= size // 2}
    return {name: mask[None, None].astype(np.float32) for name, mask in known.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    model = engine.load(Path("models") / NAME, device="cpu")
    part = Arrays.of(datasets.load(model.manifest.data_name or "").test)
    images = np.rint(part.items[: asked.images].astype(np.float32) / 255)  # two levels, as the model was trained
    labels = part.labels[: asked.images]
    true = log_likelihood(model, images)
    sheet = [images[:SHOWN]]
    print(
        "| known | candidates per class | share of true classes | nats below the original | seconds per image |\n|---|---|---|---|---|"
    )
    for name, half in halves(images.shape[-1]).items():
        mask = half.repeat(len(images), axis=0)
        sheet.append(np.where(half > 0, images[:SHOWN], np.float32(GREY)))
        for candidates in asked.candidates:
            began = time.perf_counter()
            made = model.impute(images, mask, seed=asked.seed, candidates=candidates)
            seconds = (time.perf_counter() - began) / len(images)
            assert made.classes is not None and np.array_equal(made.data * mask, images * mask)
            right, behind = np.mean(made.classes == labels), np.mean(true - log_likelihood(model, made.data))
            print(f"| {name} half | {candidates} | {right:.2f} | {behind:.1f} | {seconds:.2f} |", flush=True)
        again = model.impute(images[:SHOWN], mask[:SHOWN], seed=asked.seed + 1, candidates=asked.candidates[-1])
        sheet += [made.data[:SHOWN], again.data]
    if asked.out:
        pixels = np.rint(np.concatenate(sheet) * 255).astype(np.uint8)
        asked.out.write_bytes(imaging.to_png(imaging.grid(pixels, columns=SHOWN, scale=3)))


def log_likelihood(model: engine.Model, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log p(x) of images (n, 1, H, W), that is log Σ p(x, y) over the classes, in nats (n,)."""
    energies = model.runner.drive(operations.class_energies(model.manifest, images))
    return np.asarray(np.logaddexp.reduce(energies, axis=1))


if __name__ == "__main__":
    main()
