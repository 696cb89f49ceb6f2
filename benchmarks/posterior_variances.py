"""The posterior's standard deviations of a VAE with and without the KL term (beta 1 and 0): the same networks, data, seed and steps.

    python benchmarks/posterior_variances.py [--data mnist] [--epochs 30] [-o docs/images/posterior-variances.png]

`manifold train vae --data mnist --set epochs=30 --set beta=0` trains the same model as a run of its own. After each epoch the script computes
the standard deviation of q(z_j | x) for every latent dimension j and test image x. The output is one JSON line for each beta with the figures
of the last epoch on the test split: the ELBO (always with the whole KL), its two parts, the standard deviations, and how far the posterior's
means spread over the images. The picture also shows samples of the prior N(0, I).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets, families, runs
from manifold.training.batches import in_order
from manifold.training.data import Data
from manifold.training.families.vae import VAE
from manifold.training.train import train, trained_model

BETAS = (1.0, 0.0)
COLOURS = {1.0: "tab:blue", 0.0: "tab:red"}
NAMES = {1.0: "β = 1, with the KL term", 0.0: "β = 0, without the KL term"}
BAND = (5, 50, 95)  # percentiles over the test images
DRAWN, COLUMNS = 40, 10
BATCH = 1000


@dataclass
class Course:
    """The figures of one training."""

    bands: list[NDArray[np.float64]]  # for each epoch the percentiles BAND of sigma by dimension, (3, L)
    figures: dict[str, Any]  # after the last epoch
    samples: NDArray[np.uint8]  # means of p(x | z) for z of N(0, I), (DRAWN, C, H, W)


@torch.no_grad()
def posteriors(model: VAE, data: Data) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means and the standard deviations (N, L) of q(z | x) for the test split."""
    pairs = [model.posterior(batch) for batch in in_order(data.test, BATCH, torch.Generator())]
    means = torch.cat([mean for mean, _ in pairs])
    variances = torch.cat([log_variance for _, log_variance in pairs if log_variance is not None])
    return means.double().numpy(), (0.5 * variances.double()).exp().numpy()


@torch.no_grad()
def bound(model: VAE, data: Data, seed: int) -> dict[str, float]:
    """Return the ELBO of the test split and its parts, in nats for each image. The KL has the weight 1."""
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    for batch in in_order(data.test, BATCH, generator):
        for name, values in families.get("vae").evaluate(model, batch).items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum()) / len(data.test)
    return {"elbo": -sums["loss"], "reconstruction": sums["reconstruction"], "kl": sums["kl"]}


def course(data: Data, beta: float, epochs: int, seed: int, latent_dim: int) -> Course:
    """Train a VAE and return its figures."""
    family = families.get("vae")
    config = family.Config(epochs=epochs, beta=beta, seed=seed, latent_dim=latent_dim)
    steps = len(data.train) // config.batch_size
    bands = []
    with tempfile.TemporaryDirectory() as folder:
        run = runs.TrainingRun(Path(folder) / "run", "vae", data.name, "cpu", config)
        for epoch in range(epochs):
            train(run, data, resume=epoch > 0, stop_after=steps, device="cpu", quiet=True, watch=False)
            model: Any = trained_model(run.resolved(data), data)
            means, sigmas = posteriors(model, data)
            bands.append(np.percentile(sigmas, BAND, axis=0))
        drawn = family.draw(model, DRAWN, torch.Generator().manual_seed(seed))
    assert drawn is not None
    figures = {
        "beta": beta, **{name: round(value, 2) for name, value in bound(model, data, seed).items()},
        "sigma_percentiles_5_50_95": [float(f"{value:.3g}") for value in np.percentile(sigmas, BAND)],
        "sigma_median_by_dimension": [float(f"{value:.3g}") for value in np.sort(bands[-1][1])],
        "sd_of_means_by_dimension": [float(f"{value:.3g}") for value in np.sort(means.std(axis=0))],
    }  # fmt: skip
    return Course(bands, figures, imaging.to_uint8(drawn.numpy(), ImageSpec.of(data.spec, f"data: {data.name}")))


def draw(courses: dict[float, Course], data: str, path: Path) -> None:
    """Draw sigma over the epochs, sigma by dimension after the last one, and samples of the prior."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.6), layout="constrained")
    figure.suptitle(f"{data}: the same VAE, trained with and without the KL term")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.35, 1))
    over, last = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    for beta, each in courses.items():
        medians = np.stack([band[1] for band in each.bands])  # (epochs, L)
        epochs = np.arange(1, len(medians) + 1)
        over.plot(epochs, medians, color=COLOURS[beta], lw=0.8, alpha=0.6)
        over.plot([], [], color=COLOURS[beta], label=NAMES[beta])
        order = np.argsort(each.bands[-1][1])
        low, middle, high = each.bands[-1][:, order]
        places = np.arange(1, len(order) + 1)
        last.errorbar(
            places, middle, [middle - low, high - middle], fmt="o", ms=4, capsize=2, lw=1, color=COLOURS[beta], label=NAMES[beta]
        )  # fmt: skip
    for panel in (over, last):
        panel.axhline(1, color="black", ls="--", lw=1, label="prior N(0, I): σ = 1")
        panel.set(yscale="log", ylabel="σ of q(z | x)")
        panel.grid(alpha=0.3)
    over.set(xlabel="epoch", title="median of σ over the test images, one line for each dimension")
    last.set(
        xlabel="latent dimension, by median of σ", title="after the last epoch: median and 5% to 95% of the images"
    )
    last.set_xticks(places)
    over.legend(loc="best", fontsize=9)
    for place, (beta, each) in enumerate(courses.items()):
        panel = figure.add_subplot(grid[1, place])
        sheet = imaging.grid(each.samples, columns=COLUMNS)
        panel.imshow(sheet[0] if len(sheet) == 1 else sheet.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        parts = "ELBO {elbo:.1f} nats = −{reconstruction:.1f} (reconstruction) − {kl:.1f} (KL)".format(**each.figures)
        panel.set(xticks=[], yticks=[], title=f"β = {beta:g}: decoded samples of the prior N(0, I)", xlabel=parts)
    figure.savefig(path, format="png", dpi=90)


def main() -> None:
    """Train with each beta, print the figures and draw the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist", help="a data set of images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latent-dim", type=int, default=20)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    data = datasets.load(asked.data)
    courses = {}
    for beta in BETAS:
        courses[beta] = course(data, beta, asked.epochs, asked.seed, asked.latent_dim)
        print(json.dumps(courses[beta].figures), flush=True)
    if asked.out:
        draw(courses, asked.data, asked.out)


if __name__ == "__main__":
    main()
