"""The variance of gradient estimators in a model with closed forms, and for a VAE before and after training.

    python benchmarks/gradient_variance.py [--data mnist] [--epochs 5] [-o docs/images/gradient-variance.png]   # MANIFOLD_DATA names the folder

The model is x given z ~ N(z, 1) with z ~ N(0, 1) at x = X. q moves from the prior (t = 0) to the posterior N(X/2, 1/2) (t = 1): μ = t X/2, and
log σ is interpolated. The picture shows the exact variances as lines, those of DRAWN draws as dots, and below them the report of
`manifold gradient-variance` for a VAE. The output is one JSON line for t = 0 and t = 1, and the report.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifold.training import datasets, estimators, families, runs
from manifold.training import gradient_variance as variances
from manifold.training.gradient_variance import LABELS, SYMBOLS
from manifold.training.train import train

X = 5.0
DRAWN = 10_000
COLOURS = dict(zip(LABELS, ("tab:orange", "tab:blue", "tab:red", "tab:purple", "tab:green"), strict=True))


def place(t: float) -> tuple[float, float]:
    """Return μ and σ of q at t."""
    return t * X / 2, math.exp(t * math.log(0.5) / 2)


def conjugate(panels: Any) -> None:
    """Draw the variances in the model with closed forms."""
    times, few = np.linspace(0, 0.999, 200), np.linspace(0, 0.95, 11)
    noise = torch.randn((DRAWN, 1), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name, label in LABELS.items():
        lines = np.array([estimators.exact(X, *place(t))[name] for t in times])
        draws = [estimators.ESTIMATORS[name](estimators.conjugate(X, *place(t), noise)) for t in few]
        for at, panel in enumerate(panels):
            panel.plot(times, lines[:, at], color=COLOURS[name], label=label)
            panel.plot(few, [float(each[at].var(0)) for each in draws], ".", color=COLOURS[name])
    for panel, symbol in zip(panels, SYMBOLS.values(), strict=True):
        panel.set(yscale="log", ylim=(1e-2, 2e4), xlabel="q from the prior (0) to the posterior (1)", ylabel="variance")
        panel.set_title(f"{symbol}, x = {X:g}: lines exact, dots {DRAWN} draws", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8, ncols=2)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw both models."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("variance of the gradient of the ELBO by one draw")
    panels = figure.subplots(2, 2)
    conjugate(panels[0])
    for panel, (key, symbol) in zip(panels[1], SYMBOLS.items(), strict=True):
        variances.bars(panel, report, key)
        panel.set_title(f"{symbol}, VAE on {report['data']}: mean over items and dimensions", fontsize=9)
    panels[1][0].legend(fontsize=8)
    figure.savefig(path, format="png", dpi=90)


def main() -> None:
    """Train a VAE, measure the variances, print them and draw the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist", help="a data set of images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    for t in (0.0, 1.0):
        print(json.dumps({"x": X, "t": t, "exact": estimators.exact(X, *place(t))}), flush=True)
    config = families.get("vae").Config.model_validate(
        {"epochs": asked.epochs, "seed": asked.seed, "ema": 0.99, "iwae_k": 1}
    )
    with tempfile.TemporaryDirectory() as folder:
        run = runs.TrainingRun(Path(folder) / "run", "vae", asked.data, "cpu", config)
        train(run, datasets.load(asked.data), device="cpu", quiet=True)
        report = variances.measure(run, items=asked.items, draws=asked.draws, seed=asked.seed)
    print(json.dumps({name: value for name, value in report.items() if name != "run"}))
    print(variances.to_markdown(report))
    if asked.out:
        draw(report, asked.out)


if __name__ == "__main__":
    main()
