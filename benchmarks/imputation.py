"""Half an image known, the other half drawn: what the choice among candidates is worth (runtime.operations.complete).

    python benchmarks/imputation.py [--images 100] [--seed 1] [-o docs/imputed.png]

Test images of the shipped mnist-pixelcnn, of which the upper, the left or the lower half is known. The sampler goes from the top left to the
bottom right: with one candidate a class, what is known further down has a say in the choice of the class alone; each candidate more gives it one
in the pixels. Prints, by candidates a class, how often the class that was drawn along is the true one, and how many nats the whole image is less
likely by than the one it was made of (0: as likely as the truth). The picture has, for ten images, the image, and for each half what is known
(the rest grey) and two draws with the most candidates.
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
CANDIDATES = (1, 8, 32)
GREY = 0.4


def halves(size: int) -> dict[str, NDArray[np.float32]]:
    """Masks (1, 1, size, size), 1 where an image is known."""
    row, column = np.indices((size, size))
    known = {"upper": row < size // 2, "left": column < size // 2, "lower": row >= size // 2}
    return {name: mask[None, None].astype(np.float32) for name, mask in known.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    model = engine.load(Path("models") / NAME, device="cpu")
    part = Arrays.of(datasets.load("mnist-14").test)
    images = np.rint(part.items[: asked.images].astype(np.float32) / 255)  # two levels, as the model knows them
    labels = part.labels[: asked.images]
    true = log_likelihood(model, images)
    sheet = [images[:SHOWN]]
    print(
        "| known | candidates a class | class is the true one | nats from the image | s an image |\n|---|---|---|---|---|"
    )
    for name, half in halves(images.shape[-1]).items():
        mask = half.repeat(len(images), axis=0)
        sheet.append(np.where(half > 0, images[:SHOWN], np.float32(GREY)))
        for candidates in CANDIDATES:
            began = time.perf_counter()
            made = model.impute(images, mask, seed=asked.seed, candidates=candidates)
            seconds = (time.perf_counter() - began) / len(images)
            assert made.classes is not None and np.array_equal(made.data * mask, images * mask)
            right, behind = np.mean(made.classes == labels), np.mean(true - log_likelihood(model, made.data))
            print(f"| {name} half | {candidates} | {right:.2f} | {behind:.1f} | {seconds:.2f} |", flush=True)
        again = model.impute(images[:SHOWN], mask[:SHOWN], seed=asked.seed + 1, candidates=CANDIDATES[-1])
        sheet += [made.data[:SHOWN], again.data]
    if asked.out:
        pixels = np.rint(np.concatenate(sheet) * 255).astype(np.uint8)
        asked.out.write_bytes(imaging.to_png(imaging.grid(pixels, columns=SHOWN, scale=3)))


def log_likelihood(model: engine.Model, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """log p(x) of images (n, 1, H, W), log Σ p(x, y) over the classes, in nats (n,)."""
    return np.asarray(
        np.logaddexp.reduce(model.runner.drive(operations.class_energies(model.manifest, images)), axis=1)
    )


if __name__ == "__main__":
    main()
