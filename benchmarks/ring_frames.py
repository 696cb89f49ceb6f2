"""Mode collapse on the ring of eight Gaussians, recorded for the guided view "Mode collapse on the ring" of the page.

    python benchmarks/ring_frames.py [--steps 4000] [-o service/http/pages/static/data/ring.json]

Two GANs are trained, which differ in the number of unrolled steps only (see unrolled.py). After each of FRAMES parts of the training, the script
keeps the points that the generator makes from the same latents, and the number of modes that 2000 points cover.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from unrolled import OPTIONS, judged, points

from manifold.training import datasets, families, runs
from manifold.training.data import Data
from manifold.training.datasets import ring
from manifold.training.train import train

FRAMES, POINTS = 40, 110  # number of frames, and of points in each; with more points the file would exceed MAX_BYTES
MAX_BYTES = 120_000
RUNS = {0: "Plain GAN", 10: "Unrolled GAN"}  # titles by the number of unrolled steps


def recorded(unrolled: int, data: Data, steps: int) -> dict[str, Any]:
    """Train a GAN and return its frames."""
    part = steps // FRAMES
    options = {**OPTIONS, "unrolled": unrolled, "seed": 0, "epochs": FRAMES, "epoch_steps": part}
    config = families.get("gan").Config.model_validate(options)
    frames, covered = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = runs.TrainingRun(Path(folder) / "run", "gan", ring.NAME, "cpu", config)
        for frame in range(FRAMES):
            train(run, data, resume=frame > 0, stop_after=part, device="cpu", quiet=True, watch=False)
            made = points(run, data)
            frames.append(made[:POINTS].round(2).tolist())
            covered.append(judged(made)[0])
    chosen = ("unrolled", "latent_dim", "hidden", "batch_size", "lr", "discriminator_lr", "seed")
    stated = config.model_dump(mode="json")
    return {
        "title": RUNS[unrolled],
        "config": {name: stated[name] for name in chosen},
        "steps": [part * (frame + 1) for frame in range(FRAMES)],
        "covered": covered,
        "points": frames,
    }


def main() -> None:
    """Train both GANs and write the recording."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("-o", "--out", type=Path, default=Path("service/http/pages/static/data/ring.json"))
    asked = parser.parse_args()
    data = datasets.load(ring.NAME)
    angles = 2 * np.pi * np.arange(ring.MODES) / ring.MODES
    modes = ring.RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = {"modes": modes.round(2).tolist(), "runs": [recorded(unrolled, data, asked.steps) for unrolled in RUNS]}
    content = json.dumps(found, separators=(",", ":")).encode()
    if len(content) > MAX_BYTES:
        raise SystemExit(f"the recording has {len(content)} bytes, more than {MAX_BYTES}; lower FRAMES or POINTS")
    asked.out.write_bytes(content)
    for run in found["runs"]:
        print(f"{run['title']}: modes covered {', '.join(map(str, run['covered']))}")
    print(f"{asked.out}: {len(content)} bytes")


if __name__ == "__main__":
    main()
