"""The overhead of the training loop: samples/s of whole epochs, compared with the same step on one resident batch.

    python benchmarks/loop.py [DATA]

Both include binarisation, clipping and the moving average. Five rounds are interleaved; the result is the median ratio. The output is one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lightning_fabric import Fabric

from manifold.training import datasets, families, runs
from manifold.training.loop.steps import Loop

ROUNDS = 5


def main(name: str) -> None:
    data = datasets.load(name)
    family = families.get("vae")
    config = family.Config(**family.PRESETS["cpu"])
    run = runs.TrainingRun(Path(tempfile.mkdtemp()), "vae", name, "cpu", config)
    loop = Loop(run, data, Fabric(accelerator="cpu"))
    steps = loop.steps_per_epoch
    resident = loop.batch()
    for _ in range(20):
        loop.step(resident)
    ratios = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(steps):
            loop.step(resident)
        middle = time.perf_counter()
        for _ in range(steps):
            loop.step(loop.batch())
        ratios.append((middle - began) / (time.perf_counter() - middle))
    rate = steps * loop.batch_size / (time.perf_counter() - middle)
    print(
        json.dumps(
            {
                "loop_over_resident": round(statistics.median(ratios), 3),
                "all": [round(r, 3) for r in ratios],
                "samples_per_second": round(rate),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mnist")
