"""Codes of autoencoders compared with the prior that they were trained for, and a picture of models with two latent dimensions.

    python benchmarks/aae_manifold.py MODEL... [--models models] [-o docs/images/aae-manifold.png]

Each MODEL is the name of an artifact in the folder of models. For each, the script prints how well the posterior means of the test items follow the
prior: the largest Kolmogorov-Smirnov distance of a dimension, and the accuracy of a new classifier that is trained to tell them from draws of the
prior (a classifier two-sample test, Lopez-Paz and Oquab, 2017, arXiv 1610.06545; one half is chance). Half of the items, and as many draws, train
the classifier, the others judge it. For a VAE, codes are also drawn from the posterior, because its prior belongs to these. Each column of the
picture shows above the decoded points of a grid over the plane, and below the codes of test items, coloured by class, over contour lines of the
prior. MANIFOLD_DATA names the folder of the data sets.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.runtime import imaging
from manifold.runtime.engine import Model, load
from manifold.runtime.inputs import draw_latents
from manifold.training import datasets
from manifold.training.data import Data
from manifold.training.data.parts import batches
from manifold.training.exporting import priors
from manifold.training.networks.code_priors import largest_gap

Array = NDArray[Any]

SIDE = 20  # number of grid points along an axis
REACH = {"normal": 3.0, "trained": 5.0}  # half of the side of the square that is shown, by the prior
WIDTH, STEPS, RATE = 256, 3000, 1e-3  # units, training steps and learning rate of the classifier


def prior_of(model: Model) -> str:
    """Return the name of the prior of the training, which is the first one."""
    assert model.manifest.space is not None
    return next(iter(model.manifest.space.priors))


def codes(model: Model, data: Data, drawn: bool) -> Array:
    """Return the posterior means (N, L) of the test items, or one draw from each posterior."""
    generator, found = np.random.default_rng(0), []
    for held in batches(data.test, 1000):
        outputs = model.run("encode", {"data": data.inputs(held)})
        place = outputs["mean"]
        if drawn:
            place = place + np.exp(0.5 * outputs["log_variance"]) * generator.standard_normal(place.shape)
        found.append(place.astype(np.float32))
    return np.concatenate(found)


def told_apart(first: Array, second: Array, seed: int = 0) -> float:
    """Return the accuracy on the second halves of a network that was trained on the first halves to tell both samples (N, L) apart."""
    torch.manual_seed(seed)
    order = torch.randperm(len(first))
    pair = [torch.from_numpy(sample)[order] for sample in (first, second)]
    half = len(first) // 2
    x, y = torch.cat([sample[:half] for sample in pair]), torch.arange(2).repeat_interleave(half).float()
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1)
    )  # fmt: skip
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    for _ in range(STEPS):
        at = torch.randint(len(x), (256,))
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(x[at])[:, 0], y[at]).backward()
        optimiser.step()
    with torch.no_grad():
        wrong, right = ((network(sample[half:])[:, 0] > 0).float().mean() for sample in pair)
    return float(1 - wrong + right) / 2


def draw(models: list[Model], data: Data, path: Path) -> None:
    """Draw the decoded planes and the codes of models with two latent dimensions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(models), 9.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(models), squeeze=False)
    for (above, below), model in zip(panels.T, models, strict=True):
        reach = REACH[prior_of(model)]
        axis = np.linspace(-reach, reach, SIDE)
        plane = np.stack(np.meshgrid(axis, axis[::-1]), -1).reshape(-1, 2).astype(np.float32)
        pixels = np.rint(model.sample(len(plane), latents=plane).data * 255).astype(np.uint8)
        above.imshow(imaging.grid(pixels, columns=SIDE)[0], cmap="gray", vmin=0, vmax=255)
        above.set(xticks=[], yticks=[], title=f"{model.manifest.name}: decoded from −{reach:g} to {reach:g}")
        places = codes(model, data, False)
        labels = data.test.labels
        points = below.scatter(*places.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=2, linewidths=0)
        fine = np.linspace(-reach, reach, 161)
        grid = np.stack(np.meshgrid(fine, fine), -1)
        assert model.manifest.space is not None
        density = priors.log_density(model.manifest.space.priors[prior_of(model)], grid.reshape(-1, 2)).reshape(
            161, 161
        )
        below.contour(
            fine, fine, density, levels=density.max() - np.asarray([4.5, 2.0, 0.5]), colors="black", linewidths=0.7
        )
        below.set(
            xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title="codes of the test items, and the prior"
        )
    figure.colorbar(points, ax=panels[1, -1], ticks=range(10), shrink=0.7, label="class")
    figure.savefig(path, format="png", dpi=80)


def main() -> None:
    """Print the figures and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="MODEL")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    models = [load(asked.models / name, device="cpu") for name in asked.names]
    data = datasets.load(models[0].manifest.data_name or "")
    print("| model | codes | largest distance of a dimension | accuracy of a new classifier |\n|---|---|---|---|")
    for model in models:
        roles = model.manifest.tasks["encode"].roles
        for drawn in (False, True)[: 2 if "log_variance" in roles else 1]:
            places = codes(model, data, drawn)
            drawings = draw_latents(model.manifest, prior_of(model), 0, 0, len(places), 0, 1.0)
            gap = largest_gap(torch.from_numpy(places), torch.from_numpy(drawings))
            kind = "draws from the posterior" if drawn else "posterior means"
            print(f"| {model.manifest.name} | {kind} | {gap:.3f} | {told_apart(places, drawings):.3f} |", flush=True)
    if asked.out:
        draw(models, data, asked.out)


if __name__ == "__main__":
    main()
