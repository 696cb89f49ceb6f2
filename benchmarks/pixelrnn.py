"""PixelRNNs and the gated PixelCNN after equal CPU time of training, on images of 14x14 pixels with two levels.

    python benchmarks/pixelrnn.py [--data mnist-14] [--minutes 15] [--only row] [--runs FOLDER]     # MANIFOLD_DATA names the folder of data

The CPU time of a step is measured first, and the number of steps is chosen so that all trainings take the same time. The learning rate falls to a
hundredth over them. Each model is then exported, and its sampler, which is one ONNX graph, draws 64 images. The output is one JSON line for each
model: parameters, steps, -log p(x) on the test split in nats, and CPU seconds of the training and of 64 images. With --runs the runs are kept, and
trainings that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from manifold.runtime.engine import load
from manifold.training import datasets, export, families, runs
from manifold.training.data import Data
from manifold.training.train import train, trained_model

EPOCHS, TRIAL = 10, 50  # an epoch is a tenth of the training; number of steps that are timed
COMMON: dict[str, Any] = {"levels": 2, "schedule": "cosine", "lr": 2e-3, "epochs": EPOCHS, "stored": "float16"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gated": ("pixelcnn", {"channels": 32, "layers": 5, "batch_size": 64, "dropout": 0.2}),
    "row": ("pixelrnn", {"body": "row", "channels": 32, "layers": 2, "batch_size": 16}),
    "diagonal": ("pixelrnn", {"body": "diagonal", "channels": 16, "layers": 2, "batch_size": 16}),
}
IMAGES, ROUNDS = 64, 3


def run_of(folder: Path, name: str, data: Data, steps: int) -> runs.TrainingRun:
    """Return the run of a model with this number of steps in an epoch."""
    family, options = MODELS[name]
    config = families.get(family).Config.model_validate({**COMMON, **options, "epoch_steps": steps})
    return runs.TrainingRun(folder, family, data.name, "cpu", config)


def seconds_a_step(name: str, data: Data) -> float:
    """Return the CPU time of a step of training, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for place, count in enumerate((1, 1, 1 + TRIAL)):  # the first one warms up
            begin = time.process_time()
            run = run_of(Path(folder) / str(place), name, data, 10**6)
            train(run, data, stop_after=count, device="cpu", quiet=True)
            found.append(time.process_time() - begin)
    return (found[2] - found[1]) / TRIAL  # the difference leaves out the start and the figures at the end


def measured(name: str, data: Data, minutes: float, folder: Path) -> dict[str, Any]:
    """Train a model for a number of CPU minutes, and return its figures."""
    place = folder / name
    begin = time.process_time()
    if not (place / runs.METRICS).exists():
        steps = max(1, round(minutes * 60 / seconds_a_step(name, data) / EPOCHS))
        begin = time.process_time()
        train(run_of(place, name, data, steps), data, device="cpu", quiet=True)
    seconds = time.process_time() - begin
    run = runs.open_run(place)
    metrics = {metric["name"]: metric["value"] for metric in json.loads((place / runs.METRICS).read_text())}
    weights = sum(parameter.numel() for parameter in trained_model(run.resolved(data), data).parameters())
    with tempfile.TemporaryDirectory() as models:
        artifact = load(export.export(run, name, Path(models), data=data), device="cpu")
        times = []
        for seed in range(1 + ROUNDS):  # the first one warms up
            begin = time.process_time()
            artifact.sample(IMAGES, seed=seed)
            times.append(time.process_time() - begin)
    return {
        "model": name, "parameters": weights, "steps": run.config.epoch_steps * EPOCHS, "training_seconds": round(seconds, 1),
        **{key: value for key, value in metrics.items() if key.startswith(("nll", "bits"))},
        "seconds_for_64_images": round(min(times[1:]), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist-14")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.load(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            print(json.dumps(measured(name, data, arguments.minutes, arguments.runs or Path(temporary))), flush=True)


if __name__ == "__main__":
    main()
