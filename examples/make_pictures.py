"""The script that makes the example pictures. Models of this repository draw them.

python examples/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import manifold

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
SEED = 1


def drawn(model: str, name: str, item: int) -> NDArray[np.uint8]:
    """Return one sample of a class as pixels (28, 28), 0 to 255. `item` is its index under SEED."""
    samples = manifold.load(MODELS / model).sample(1, seed=SEED, first=item, classes=name)
    return np.rint(samples.data[0, 0] * 255).astype(np.uint8)


def on_paper(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture as a scan would show it: dark on light, in 96x96 pixels, with a margin."""
    large = np.asarray(Image.fromarray(pixels).resize((84, 84), Image.Resampling.BICUBIC))
    return np.pad(235 - (large * (200 / 255)), 6, constant_values=235).astype(np.uint8)


def main(folder: Path = HERE) -> None:
    """Write the four pictures into a folder."""
    pictures = {
        "digit.png": drawn("mnist-cgan", "7", 0),
        "digit-3.png": drawn("mnist-cgan", "3", 1),
        "digit-on-paper.png": on_paper(drawn("mnist-cgan", "2", 2)),
        "shoe.png": drawn("fashion-cgan", "sneaker", 0),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name)


if __name__ == "__main__":
    main()
