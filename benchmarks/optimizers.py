"""The bound of a VAE after equal numbers of epochs with each optimiser, at the best of several learning rates.

    python benchmarks/optimizers.py [--data mnist] [--epochs 5] [-o docs/images/optimizers.png]     # MANIFOLD_DATA names the folder of data

Every training has the same initial weights, order of items and noise. The loss of a learning rate is -ELBO on the selection split after the
last epoch (of the average of the weights); the test split is used for the chosen learning rate alone. The output is one JSON line for each
training. The picture shows -ELBO on the selection split by epoch at the chosen learning rates, and after the last epoch by learning rate.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from manifold.training import datasets, families, runs
from manifold.training.batches import in_order
from manifold.training.data import Data
from manifold.training.errors import Diverged
from manifold.training.train import train, trained_model

RATES = {"adam": (1e-3, 2e-3, 4e-3), "sgd": (0.1, 0.3, 1.0), "adagrad": (0.02, 0.04, 0.08)}
OPTIONS: dict[str, Any] = {
    "ema": 0.99,
    "iwae_k": 1,
}  # a short average, as the trainings are short; IWAE would take longer than the training
COLOURS = {"adam": "tab:blue", "sgd": "tab:red", "adagrad": "tab:green"}
BATCH = 1000


@torch.no_grad()
def test_elbo(model: Any, data: Data) -> float:
    """Return the ELBO on the test split, in nats an item, with one draw for each."""
    batches = in_order(data.test, BATCH, torch.Generator().manual_seed(0))
    return -sum(float(families.get("vae").evaluate(model, batch)["loss"].sum()) for batch in batches) / len(data.test)


def trained(data: Data, optimizer: Any, lr: float, epochs: int, seed: int) -> dict[str, Any]:
    """Train a VAE. Return -ELBO on the selection split by epoch, without entries if the loss was not finite, and the ELBO on the test split."""
    config = families.get("vae").Config(optimizer=optimizer, lr=lr, epochs=epochs, seed=seed, **OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        run = runs.TrainingRun(Path(folder) / "run", "vae", data.name, "cpu", config)
        try:
            train(run, data, device="cpu", quiet=True)
        except Diverged:
            return {"optimizer": optimizer, "lr": lr, "selection": [], "test_elbo": None}
        records = runs.read_log(run.folder / runs.LOG)
        curve = [record["selection/loss"] for record in records if "selection/loss" in record]
        return {
            "optimizer": optimizer, "lr": lr, "selection": [round(loss, 2) for loss in curve],
            "test_elbo": round(test_elbo(trained_model(run.resolved(data), data), data), 2),
        }  # fmt: skip


def last(result: dict[str, Any]) -> float:
    """Return the last loss on the selection split, or inf for a training that stopped."""
    return result["selection"][-1] if result["selection"] else math.inf


def draw(results: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """Draw the losses by epoch and by learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    for name, each in results.items():
        best = min(each, key=last)
        epochs = range(1, len(best["selection"]) + 1)
        left.plot(epochs, best["selection"], "o-", color=COLOURS[name], label=f"{name}, lr {best['lr']:g}")
        right.plot([one["lr"] for one in each], [last(one) for one in each], "o-", color=COLOURS[name], label=name)
    left.set(xlabel="epoch", ylabel="−ELBO on the selection split, nats", title="at the best learning rate")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="learning rate", xscale="log", title="after the last epoch")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, format="png", dpi=90)


def main() -> None:
    """Train with each optimiser and learning rate, print the figures and draw the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist", help="a data set of images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    data = datasets.load(asked.data)
    results: dict[str, list[dict[str, Any]]] = {}
    for name, rates in RATES.items():
        for lr in rates:
            results.setdefault(name, []).append(trained(data, name, lr, asked.epochs, asked.seed))
            print(json.dumps(results[name][-1]), flush=True)
    if asked.out:
        draw(results, f"{asked.data}: the same VAE, {asked.epochs} epochs", asked.out)


if __name__ == "__main__":
    main()
