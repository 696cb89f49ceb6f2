"""Unrolled steps against mode dropping, on the ring of eight Gaussians (Metz et al., 2016, section 3.1), with 0, 5 and 10 steps.

    python benchmarks/unrolled.py [--steps 10000] [--seeds 3] [-o docs/images/unrolled.png]

Everything but the number of unrolled steps is the same. A mode is covered if at least 1% of 2000 samples lie within 30 of its standard
deviations (the samples of a generator during training are less narrow than the data). `within 3 sd` is the share of samples that lie as close as real
ones. The script prints a table, and draws the samples of the first seed at several steps of training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.tables.schema import NumericColumn
from manifold.training import datasets, families, runs
from manifold.training.data import Arrays, Data
from manifold.training.datasets import ring
from manifold.training.train import train, trained_model

UNROLLED = (0, 5, 10)
SAMPLES, LOOKS = 2000, 5
OPTIONS = {
    "latent_dim": 64, "hidden": (128, 128), "dropout": 0.0, "batch_size": 256, "lr": 1e-3, "discriminator_lr": 1e-4, "ema": 0.0, "watch_steps": 0,
}  # fmt: skip


def points(run: runs.TrainingRun, data: Data) -> NDArray[np.float64]:
    """Draw samples (N, 2) in the units of the ring."""
    model = trained_model(run, data)
    with torch.no_grad():
        drawn = families.get("gan").draw(model, SAMPLES, torch.Generator().manual_seed(1))
    assert drawn is not None
    return decoded(drawn.numpy(), data)


def decoded(items: NDArray[np.float32], data: Data) -> NDArray[np.float64]:
    """Convert encoded rows to the units of the ring."""
    columns = [column for column in TableSpec.of(data.spec, data.name).columns if isinstance(column, NumericColumn)]
    values: NDArray[np.float64] = items * [column.scale for column in columns] + [column.mean for column in columns]
    return values


def judged(points: NDArray[np.float64]) -> tuple[int, float]:
    """Return the number of covered modes, and the share of samples within three deviations of one."""
    angles = 2 * np.pi * np.arange(ring.MODES) / ring.MODES
    centres = ring.RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    nearest = distances.argmin(axis=1)
    near = distances.min(axis=1)
    counts = np.bincount(nearest[near < 30 * ring.DEVIATION], minlength=ring.MODES)
    return int((counts >= 0.01 * len(points)).sum()), float((near < 3 * ring.DEVIATION).mean())


def main() -> None:
    """Train each model and print the modes that it covers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    data = datasets.load("ring")
    pictures: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    print("| unrolled steps | modes of 8, by seed | within 3 sd | seconds |\n|---|---|---|---|")
    for unrolled in UNROLLED:
        modes, near, began = [], [], time.perf_counter()
        for seed in range(asked.seeds):
            looks = []
            with tempfile.TemporaryDirectory() as folder:
                part = asked.steps // LOOKS
                options = {**OPTIONS, "unrolled": unrolled, "seed": seed, "epochs": LOOKS, "epoch_steps": part}
                config = families.get("gan").Config.model_validate(options)
                run = runs.TrainingRun(Path(folder) / "run", "gan", "ring", "cpu", config)
                for look in range(LOOKS):
                    train(run, data, resume=look > 0, stop_after=part, device="cpu", quiet=True, watch=False)
                    looks.append(((look + 1) * part, points(run, data)))
            covered, share = judged(looks[-1][1])
            modes.append(covered)
            near.append(share)
            if seed == 0:
                pictures[unrolled] = looks
        seconds = (time.perf_counter() - began) / asked.seeds
        print(
            f"| {unrolled} | {', '.join(map(str, modes))} | {', '.join(f'{share:.2f}' for share in near)} | {seconds:.0f} |",
            flush=True,
        )
    if asked.out:
        draw(pictures, decoded(Arrays.of(data.test).items[:SAMPLES], data), asked.out)


def draw(pictures: dict[int, list[tuple[int, NDArray[np.float64]]]], real: NDArray[np.float64], path: Path) -> None:
    """Draw a row for each number of unrolled steps, with the data at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * (LOOKS + 1), 2.1 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), LOOKS + 1, squeeze=False)
    for row, (unrolled, looks) in zip(axes, pictures.items(), strict=True):
        for cell, (step, points) in zip(row, [*looks, (0, real)], strict=True):
            cell.scatter(points[:, 0], points[:, 1], s=1, alpha=0.3, color="tab:green" if step == 0 else "tab:blue")
            cell.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), xticks=[], yticks=[], aspect="equal")
            cell.set_title(f"step {step}" if step else "data", fontsize=8)
        row[0].set_ylabel(f"{unrolled} unrolled")
    figure.savefig(path, format="png", dpi=80)


if __name__ == "__main__":
    main()
