"""A ring of eight narrow Gaussians in the plane, made here, after Metz et al., 2016, section 3.1. The class names the Gaussian."""

from __future__ import annotations

import numpy as np

from manifold.training.data import Data, tables
from manifold.training.data.schema import ColumnSettings

NAME = "ring"
LICENCE = ""  # made by this file
MODES, RADIUS, DEVIATION, ROWS = 8, 2.0, 0.02, 20_000


def load() -> Data:
    """Return the set, split by a permutation."""
    generator = np.random.Generator(np.random.Philox(0))
    mode = generator.integers(0, MODES, ROWS)
    angle = 2 * np.pi * mode / MODES
    noise = DEVIATION * generator.standard_normal((2, ROWS))
    table = {"x": RADIUS * np.cos(angle) + noise[0], "y": RADIUS * np.sin(angle) + noise[1], "mode": mode}
    protocol = {"made": f"{MODES} Gaussians of deviation {DEVIATION} on a circle of radius {RADIUS:g}"}
    return tables.from_table(
        NAME, table, protocol, ColumnSettings(kinds={"x": "numeric", "y": "numeric"}), label="mode"
    )
