"""Whether recipes that were chosen by the distance to a test split look better on it than on a split that was not looked at.

    python benchmarks/choices.py --n 10000       # about a minute per model; MANIFOLD_DATA names the folder of the data sets

The recipes of the shipped adversarial networks were chosen by the distance to the test split, before data sets had a selection split. The
calibration split was used neither for their training nor for the choice. Each model's KID is measured against equally many images of both
splits. VAEs beside them show the difference between the two splits themselves: mnist-vae has the options of the preset.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from manifold.evaluation import extractors, metrics
from manifold.evaluation.images import Generated
from manifold.runtime import engine, repository
from manifold.training import judging

MODELS = {
    "mnist": ("mnist-cgan", "mnist-dcgan", "mnist-gan", "mnist-vae", "mnist-cvae"),
    "fashion_mnist": ("fashion-cgan", "fashion-vae"),
    "cifar10": ("cifar10-cgan", "cifar10-dcgan", "cifar10-vae"),
}


def main() -> None:
    """Print the KID of each model against both splits as a table in Markdown."""
    parser = argparse.ArgumentParser(description="Compare distances to the test and to the calibration split.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of models")
    parser.add_argument("--n", type=int, default=10_000, help="number of images to generate for each model")
    options = parser.parse_args()
    print("| model | kid, test | kid, calibration | ratio |\n|---|---|---|---|")
    for data, names in MODELS.items():
        real = judging.real_data(data)
        extractor = extractors.load(f"{data.removesuffix('_mnist')}-classifier", options.models)
        count = min(real.test.n, real.calibration.n)
        splits = [extractors.extract(extractor, split.picked(count, 0)).rows for split in (real.test, real.calibration)]
        for name in names:
            model = engine.load(repository.find(name, options.models))
            made = extractors.extract(extractor, Generated(model, options.n, 0)).rows
            test, other = (metrics.kernel_distance(split, made, 0) for split in splits)
            print(
                f"| {name} | {test.value:.4f} ± {test.error:.4f} | {other.value:.4f} ± {other.error:.4f} | {other.value / test.value:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
