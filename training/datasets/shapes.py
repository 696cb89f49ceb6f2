"""A set of small colour pictures whose factors are known: one shape on black, every combination of factors once.

In the manner of dSprites (Matthey et al., 2017), with colour. No factor is ambiguous: the shapes have no symmetry within the range of
rotations, and positions keep them inside the picture.
"""

from __future__ import annotations

import itertools

import numpy as np

from manifold.runtime.kinds.image import ImageSpec
from manifold.training.data import Arrays, Data
from manifold.training.data.parts import Array
from manifold.training.data.splits import split

NAME = "shapes"
LICENCE = ""  # made by this file
HELD_OUT = TESTED = 1000  # items for calibration, and for the test part

SIDE = 32
OVER = 2  # times as fine a grid is drawn, and averaged
SHAPES = ("square", "ellipse", "triangle")
FACTORS: dict[str, tuple[float, ...]] = {
    "shape": tuple(range(len(SHAPES))),
    "scale": (0.16, 0.21, 0.26),  # half the extent, of the picture's side
    "rotation": tuple(np.arange(6) * 15.0),  # degrees; a square is itself again at 90
    "x": tuple(np.linspace(0.34, 0.66, 6).round(3)),  # of the side
    "y": tuple(np.linspace(0.34, 0.66, 6).round(3)),
    "hue": (0.0, 0.25, 0.5, 0.75),  # of the colour circle
}
FACTOR_NAMES = tuple(FACTORS)


def load() -> Data:
    """Return the set, split by a permutation with seed 0."""
    items, factors = make()
    order = np.random.Generator(np.random.Philox(0)).permutation(len(items))
    every = Arrays(items[order], factors[order, 0].astype(np.int64), factors[order])
    cut = len(items) - TESTED
    return split(
        NAME,
        ImageSpec(height=SIDE, width=SIDE, channels=3, background=0.0),
        every[:cut],
        every[cut:],
        HELD_OUT,
        classes=SHAPES,
        factors=FACTOR_NAMES,
        made="every combination of factors once",
        order="permutation, Philox seed 0",
    )


def make() -> tuple[Array, Array]:
    """Return images uint8 (N, 3, SIDE, SIDE) and factors float32 (N, 6), the last factor fastest."""
    hues = np.asarray([_rgb(hue) for hue in FACTORS["hue"]])  # (hues, 3)
    images, factors = [], []
    for values in itertools.product(*(FACTORS[name] for name in FACTOR_NAMES[:-1])):
        mask = _mask(int(values[0]), *values[1:])
        images.append(np.rint(255 * hues[:, :, None, None] * mask).astype(np.uint8))
        factors += [(*values, hue) for hue in FACTORS["hue"]]
    return np.concatenate(images), np.asarray(factors, np.float32)


def _mask(shape: int, scale: float, rotation: float, x: float, y: float) -> Array:
    """Return how much of each pixel the shape covers, (SIDE, SIDE)."""
    fine = SIDE * OVER
    places = (np.arange(fine) + 0.5) / fine
    dx, dy = places[None, :] - x, places[:, None] - y
    angle = np.deg2rad(rotation)
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / scale
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / scale
    match SHAPES[shape]:
        case "square":
            inside = np.maximum(np.abs(u), np.abs(v)) <= 0.8
        case "ellipse":
            inside = u**2 + (v / 0.55) ** 2 <= 1
        case _:  # a triangle with its tip up
            inside = (v <= 0.7) & (np.abs(u) <= (v + 0.95) * 0.55)
    cover: Array = inside.reshape(SIDE, OVER, SIDE, OVER).mean(axis=(1, 3))
    return cover


def _rgb(hue: float) -> tuple[float, float, float]:
    import colorsys

    return colorsys.hsv_to_rgb(hue, 0.8, 1.0)
