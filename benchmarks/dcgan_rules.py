"""The rules of DCGAN (Radford et al., 2015, section 3): each is left out in turn, in an adversarial pair and in an autoencoder, with equal steps.

    python benchmarks/dcgan_rules.py DATA [--steps 1500] [-o docs/images/dcgan-rules.png]

DATA is mnist or fashion_mnist. Without `strides` the networks use pooling, and upsampling by repetition. Without `normalise` they have no batch
normalisation. Without `activations` the generator uses tanh and a plain sigmoid, and the discriminator ReLU. The shipped classifier of the data
set evaluates the images: the Fréchet distance of 2000 of them to the test split, the number of classes with at least half of their share, and the
share of images that it classifies with high confidence. The picture shows ten samples in a row and, for the autoencoder, test images with their
reconstructions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold.evaluation import frechet
from manifold.evaluation.statistics import Moments
from manifold.runtime import imaging, repository
from manifold.runtime.engine import Model, load
from manifold.runtime.operations import softmax
from manifold.training import datasets, families, runs
from manifold.training.data import Arrays, Data
from manifold.training.networks import dcgan
from manifold.training.train import train, trained_model

IMAGES, SHOWN, SURE = 2000, 10, 0.9
VARIANTS: dict[str, tuple[str, ...]] = {
    "all rules": dcgan.RULES,
    **{f"without {rule}": tuple(kept for kept in dcgan.RULES if kept != rule) for rule in dcgan.RULES},
    "none": ("",),
}
SAME: dict[str, Any] = {"body": "dcgan", "batch_size": 64, "epochs": 1}
PAIR = {"latent_dim": 64, "widths": (64, 32), "watch_steps": 0, "ema": 0.99, "lr": 2e-4}
AUTOENCODER = {
    "variational": False, "likelihood": "gaussian", "latent_dim": 16, "widths": (32, 64), "hidden": (128,), "references": 0, "lr": 1e-3, "clip_norm": 0.0,
}  # fmt: skip


def trained(family: str, data: Data, steps: int, options: dict[str, Any]) -> tuple[Any, float]:
    """Train a model. Return it, and the seconds that this took."""
    module = families.get(family)
    config = module.Config.model_validate({**SAME, **options, "epoch_steps": steps})
    with tempfile.TemporaryDirectory() as folder:
        run = runs.TrainingRun(Path(folder) / "run", family, data.name, "cpu", config)
        began = time.perf_counter()
        train(run, data, device="cpu", quiet=True, watch=False)
        return trained_model(run, data), time.perf_counter() - began


class Judge:
    """The classifier of the data set, with the feature statistics of the test split."""

    def __init__(self, data: Data) -> None:
        (name, *_), _ = repository.trained_on(data.name, Path("models"), "features")
        self.model: Model = load(repository.find(name, Path("models")), device="cpu")
        self.real = self._moments(self._features(data.inputs(data.test))["features"])

    def _features(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        parts = [self.model.run("features", {"data": images[i : i + 500]}) for i in range(0, len(images), 500)]
        return {name: np.concatenate([part[name] for part in parts]) for name in ("features", "logits")}

    def _moments(self, features: NDArray[Any]) -> Any:
        moments = Moments(features.shape[1])
        moments.add(features)
        return moments.gaussian()

    def __call__(self, images: NDArray[np.float32]) -> tuple[float, int, float]:
        """Return the Fréchet distance, the number of classes with half of their share, and the share of images classified with confidence."""
        features = self._features(images)
        probabilities = softmax(features["logits"])
        counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
        covered = int((counts >= 0.5 * len(images) / probabilities.shape[1]).sum())
        distance = frechet.distance(self.real, self._moments(features["features"]))
        return distance, covered, float((probabilities.max(axis=1) > SURE).mean())


def main() -> None:
    """Print both tables and draw the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=("mnist", "fashion_mnist"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    data = datasets.load(asked.data)
    judge = Judge(data)
    sheets: list[NDArray[np.uint8]] = []
    print(f"{asked.steps} steps of 64 images\n")
    print("| generator and discriminator | fd_classifier | classes | confident | seconds |\n|---|---|---|---|---|")
    for name, rules in VARIANTS.items():
        model, seconds = trained("gan", data, asked.steps, {**PAIR, "rules": rules})
        with torch.no_grad():
            images = families.get("gan").draw(model, IMAGES, torch.Generator().manual_seed(0))
        assert images is not None
        pixels = np.rint(images.numpy() * 255).astype(np.uint8)
        distance, covered, sure = judge((pixels / 255).astype(np.float32))
        print(f"| {name} | {distance:.1f} | {covered} of 10 | {sure:.2f} | {seconds:.0f} |", flush=True)
        sheets.append(pixels[:SHOWN])
    print("\n| autoencoder | test MSE | seconds |\n|---|---|---|")
    test = torch.from_numpy(data.inputs(Arrays.of(data.test)[:IMAGES]))
    sheets.append(Arrays.of(data.test).items[:SHOWN])
    for name, rules in VARIANTS.items():
        model, seconds = trained("vae", data, asked.steps, {**AUTOENCODER, "rules": rules})
        with torch.no_grad():
            mean, _ = model.encode(test.flatten(1))
            back = model.likelihood.mean(model.decode(mean)).view(test.shape)
        error = float(((back - test) ** 2).mean())
        print(f"| {name} | {error:.5f} | {seconds:.0f} |", flush=True)
        sheets.append(np.rint(back[:SHOWN].clamp(0, 1).numpy() * 255).astype(np.uint8))
    if asked.out:
        asked.out.write_bytes(imaging.to_png(imaging.grid(np.concatenate(sheets), columns=SHOWN, scale=2)))


if __name__ == "__main__":
    main()
