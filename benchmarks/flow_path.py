"""The path from noise to picture of a flow, recorded for the guided view "From noise to picture" of the page.

    python benchmarks/flow_path.py [MODEL] [-o service/http/pages/static/data/path.json]

The path is the one that /sample follows with 8 midpoint steps and guidance 1. After each step the script keeps the state, and the picture that the
network expects at the end (the state plus the remaining time times the prediction). The service does not offer the task `denoise`, so the page cannot
compute this live. The script stops if its last states differ from the images of /sample.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifold.runtime import engine

SEED, ITEMS, STEPS = 12, 3, 8
CLASSES = ("2", "5", "8")
LEVELS = 16  # grey levels of the recording, as a picture of noise does not compress
TOLERANCE = 1e-3
Float32 = NDArray[np.float32]


def recorded(model: engine.Model) -> tuple[list[Float32], list[Float32], Float32]:
    """Return the states and the expected pictures after 0 to STEPS steps, each (n, C, H, W), and the images of /sample."""
    made = model.sample(ITEMS, seed=SEED, classes=list(CLASSES), steps=STEPS, guidance=1.0)
    state = np.asarray(made.latents, np.float32)
    names = model.manifest.classes or ()
    condition = np.eye(len(names), dtype=np.float32)[[names.index(name) for name in CLASSES]]

    def velocity(at: Float32, time: float) -> Float32:
        given = {"noisy": at, "time": np.full(len(at), time, np.float32), "condition": condition}
        found: Float32 = model.run("denoise", given)["prediction"]
        return found

    states, expected = [state], []
    for step in range(STEPS):
        time = step / STEPS
        first = velocity(state, time)
        expected.append(state + np.float32(1 - time) * first)
        middle = velocity(state + np.float32(0.5 / STEPS) * first, time + 0.5 / STEPS)
        state = state + np.float32(1 / STEPS) * middle
        states.append(state)
    return states, [*expected, state], np.asarray(made.data, np.float32)


def sheet(frames: list[Float32]) -> str:
    """Return a PNG in base64, with a row for each item and a column for each frame of grey values in [-1, 1]."""
    grid = np.concatenate([np.concatenate(list(frame[:, 0]), axis=0) for frame in frames], axis=1)
    levels = np.rint((grid.clip(-1, 1) + 1) / 2 * (LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(levels, "P")
    picture.putpalette([round(level * 255 / (LEVELS - 1)) for level in range(LEVELS) for _ in range(3)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, bits=4)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", type=Path, default=Path("models/mnist-flow/2"), help="folder of an artifact"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("service/http/pages/static/data/path.json"))
    options = parser.parse_args()
    model = engine.load(options.model)
    states, expected, made = recorded(model)
    difference = float(np.abs(((states[-1] + 1) / 2).clip(0, 1) - made).max())
    print(f"largest difference from the images of /sample: {difference:.2g}")
    if difference > TOLERANCE:
        raise SystemExit(
            f"the path is not that of /sample: they differ by {difference:.2g}, at most {TOLERANCE} is allowed"
        )
    height, width = made.shape[2:]
    record = {
        "model": model.manifest.name, "version": model.manifest.version, "seed": SEED, "steps": STEPS, "guidance": 1, "classes": CLASSES,
        "width": width, "height": height, "states": sheet(states), "expected": sheet(expected),
    }  # fmt: skip
    options.output.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
