"""The gain of a prior that is fitted after training: the result of "From variational to deterministic autoencoders" (Ghosh et al., 2020, table 1)
with our own features, on the shipped autoencoder and VAE.

    python benchmarks/priors.py [--n 10000]

An autoencoder is not trained for N(0, I), and its artifact has no such prior; it is added here for the table alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from manifold.evaluation import extractors, frechet, metrics, reference
from manifold.evaluation.images import Generated, ImageArray, pixels_of
from manifold.evaluation.markdown import table
from manifold.runtime import engine
from manifold.runtime.manifest import NormalPrior
from manifold.training.judging import real_data

PRIORS = {"normal": "N(0, I)", "gaussian": "full Gaussian", "mixture": "mixture of 10"}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    real = real_data("mnist")
    extractor = extractors.load(extractors.for_data("mnist", options.models), options.models, device="cpu")
    real_statistics = reference.of_source(extractor, real.test, "test")
    assert real_statistics.features is not None
    rows = []
    for name in ("mnist-autoencoder", "mnist-vae"):
        model = engine.load(options.models / name, device="cpu")
        latent = model.manifest.space
        assert latent is not None
        priors = {**latent.priors, "normal": NormalPrior()}
        model.runner.manifest = model.manifest.model_copy(
            update={"latent": latent.model_copy(update={"priors": priors})}
        )
        back = model.reconstruct(model.manifest.spec.to_model(real.test.at(np.arange(real.test.n)))).data
        sources = {"reconstructions": ImageArray.of(pixels_of(model, back))} | {
            label: Generated(model, options.n, 0, prior) for prior, label in PRIORS.items()
        }
        for label, source in sources.items():
            features = extractors.extract(extractor, source)
            kid = metrics.kernel_distance(real_statistics.features.rows, features.rows, 0)
            precision, recall = metrics.precision_recall(real_statistics.features.rows, features.rows)
            distance = frechet.distance(real_statistics.gaussian, features.gaussian)
            rows.append(
                [
                    name,
                    label,
                    f"{distance:.2f}",
                    f"{kid.value:.3f} ± {kid.error:.2g}",
                    f"{precision:.3f}",
                    f"{recall:.3f}",
                ]
            )
    print(table(("model", "latents", extractor.distance_name, "kid", "precision", "recall"), rows))
    floor = frechet.expected_floor(real_statistics.gaussian.spectrum, options.n, real_statistics.n or options.n)
    print(
        f"a perfect generator: {floor:.3f} (closed form); numpy {np.__version__}; extractor {extractor.name} {extractor.sha256[:12]}"
    )


if __name__ == "__main__":
    main()
